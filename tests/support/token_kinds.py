"""A tokens file with one token of each kind that a matrix of refusals needs, about the runs `mine/*` and `theirs/*`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stallwatch.detector.auth import tokens

MINE, THEIRS = "mine/run:1", "theirs/run:2"


@dataclass(frozen=True)
class Kind:
    """What one token may do."""

    name: str
    scopes: tuple[str, ...]
    runs: tuple[str, ...] = ("*",)
    expired: bool = False
    listed: bool = True
    """Whether the file has it."""


KINDS = (
    Kind("unlisted", ("write", "read", "administer"), listed=False),
    Kind("expired", ("write", "read", "administer"), expired=True),
    Kind("write", ("write",), ("mine/*",)),
    Kind("write-all", ("write",)),
    Kind("write-theirs", ("write",), ("theirs/*",)),
    Kind("read", ("read",), ("mine/*",)),
    Kind("read-all", ("read",)),
    Kind("read-theirs", ("read",), ("theirs/*",)),
    Kind("admin", ("administer",), ("mine/*",)),
    Kind("admin-all", ("administer",)),
    Kind("admin-theirs", ("administer",), ("theirs/*",)),
)


def write_tokens(path: Path) -> dict[str, str]:
    """Write the file; return the tokens by kind, of which none is in the file."""
    made = {kind.name: tokens.new_secret() for kind in KINDS}
    lines = []
    for kind in KINDS:
        if kind.listed:
            lines += [
                "[[token]]",
                f'name = "{kind.name}"',
                f'hash = "{tokens.hash_of(made[kind.name])}"',
                f"scopes = {list(kind.scopes)}",
                f"runs = {list(kind.runs)}",
                *(["expires = 2020-01-01"] if kind.expired else []),
            ]
    path.write_text("\n".join(lines) + "\n")
    assert not any(secret in path.read_text() for secret in made.values())
    return made
