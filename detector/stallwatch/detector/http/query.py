"""What was asked for: the path and the parameters of a request, checked."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.datastructures import QueryParams
from starlette.requests import Request

STATUSES = ("firing", "resolved", "all")
DEFAULT_POINTS = 500
MAX_POINTS = 10_000
LARGEST_STEP = 2**63 - 1
_PARTS = frozenset({"events", "findings", "gaps", "ranks", "series", "states"})


class QueryError(Exception):
    """The request asks for what cannot be."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field


@dataclass(frozen=True, slots=True)
class Target:
    """The resource that a path names."""

    run: str
    part: str = ""
    """One of those below a run, or empty for the run itself."""
    name: str = ""


def parse_target(path: str) -> Target:
    """The target of a still quoted path below `/api/v1/runs/`.

    A run's name may hold slashes. Quoted ones (%2F) are always part of it; plain ones work too, unless the name ends
    like another resource.
    """
    return split_path(path, named=frozenset({"series"}), parts=_PARTS)


def split_path(path: str, *, named: AbstractSet[str], parts: AbstractSet[str]) -> Target:
    """The target of a still quoted path: a run, one of its `parts`, or one thing among the `named` ones below it."""
    segments = path.strip("/").split("/")
    if len(segments) >= 3 and segments[-2] in named:
        return Target(_join(segments[:-2]), segments[-2], unquote(segments[-1]))
    if len(segments) >= 2 and segments[-1] in parts:
        return Target(_join(segments[:-1]), segments[-1])
    return Target(_join(segments))


def raw_path(request: Request) -> str:
    """The path as it was sent: Starlette has unquoted its own, and a run's name may hold a slash."""
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    path: str = raw.decode("ascii", "replace")
    return path.partition("?")[0]


def parse_status(parameters: QueryParams) -> str:
    """`status`, `all` when not given."""
    status = parameters.get("status", "all")
    if status not in STATUSES:
        raise QueryError(
            422,
            "invalid_parameter",
            f"status is {status!r}: it must be one of {', '.join(STATUSES)}",
            "status",
        )
    return status


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a series."""

    from_step: int | None
    to_step: int | None
    points: int


def parse_window(parameters: QueryParams) -> Window:
    """`from_step`, `to_step` and `points`."""
    first = _integer(parameters, "from_step", 0, LARGEST_STEP)
    last = _integer(parameters, "to_step", 0, LARGEST_STEP)
    if first is not None and last is not None and first > last:
        raise QueryError(
            422,
            "invalid_parameter",
            f"from_step is {first} and to_step {last}: it must not be below",
            "to_step",
        )
    points = _integer(parameters, "points", 1, MAX_POINTS)
    return Window(first, last, DEFAULT_POINTS if points is None else points)


def parse_count(parameters: QueryParams, name: str, default: int, most: int) -> int:
    """How many, from 1 on; `default` when not given."""
    count = _integer(parameters, name, 1, most)
    return default if count is None else count


def check_parameters(parameters: QueryParams, allowed: tuple[str, ...]) -> None:
    """Refuse a parameter that would be ignored: it is a typing error more often than not."""
    for name in parameters:
        if name not in allowed:
            known = f"the parameters are {', '.join(allowed)}" if allowed else "there are none here"
            raise QueryError(400, "unknown_parameter", f"there is no parameter {name!r}: {known}", name)


def _integer(parameters: QueryParams, name: str, least: int, most: int) -> int | None:
    text = parameters.get(name)
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise QueryError(
            422,
            "invalid_parameter",
            f"{name} is {text!r}: it must be a whole number from {least} to {most}",
            name,
        )
    return int(text)


def _join(segments: list[str]) -> str:
    return "/".join(unquote(segment) for segment in segments)
