"""Addresses of pages. A run's name may hold `/` and `:`, and a finding's id `#`: each is quoted as one segment."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

_BELOW = frozenset({"findings", "ranks"})


def _segment(text: object) -> str:
    return quote(str(text), safe="")


def run_address(run: str) -> str:
    """A run's page."""
    return f"/runs/{_segment(run)}"


def finding_address(run: str, identity: str) -> str:
    """A finding's page."""
    return f"{run_address(run)}/findings/{_segment(identity)}"


def rank_address(run: str, rank: int) -> str:
    """A rank's page."""
    return f"{run_address(run)}/ranks/{rank}"


def picture_address(run: str, updated_at: float) -> str:
    """The small loss curve of a run; another address every so many seconds, so that it is drawn anew no more often."""
    return f"{run_address(run)}/loss.svg?at={int(updated_at // 15)}"


def runbook_address(kind: str) -> str:
    """The page that explains a kind."""
    return f"/runbooks/{_segment(kind)}"


def api_address(run: str) -> str:
    """The run in the API."""
    return f"/api/v1/runs/{_segment(run)}"


@dataclass(frozen=True, slots=True)
class Place:
    """What a path below /runs names."""

    run: str
    part: str = ""
    """`findings`, `ranks`, `loss.svg`, or empty for the run itself."""
    name: str = ""


def parse(path: str) -> Place:
    """The place of a still quoted path below /runs; slashes of a name may be plain where that leaves no doubt."""
    segments = path.strip("/").split("/")

    def join(parts: list[str]) -> str:
        return "/".join(map(unquote, parts))

    if len(segments) >= 3 and segments[-2] in _BELOW:
        return Place(join(segments[:-2]), segments[-2], unquote(segments[-1]))
    if len(segments) >= 2 and segments[-1] == "loss.svg":
        return Place(join(segments[:-1]), "loss.svg")
    return Place(join(segments))
