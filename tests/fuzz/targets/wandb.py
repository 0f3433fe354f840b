"""Exports of W&B's charts: several runs in one CSV."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from fuzz.logs import read
from fuzz.targets import delimited

MAX_BYTES = 4_096
_HEADER = '"Step","a - train/loss","a - train/loss__MIN","a - train/loss__MAX","b - train/loss","b - train/loss__MIN","b - train/loss__MAX"'


def seeds() -> Iterator[bytes]:
    """Two runs of one chart; and one whose step is its own."""
    yield f"{_HEADER}\n0,2,2,2,3,3,3\n10,1.5,1.5,1.5,,,\n20,1,1,1,2,2,2\n".encode()
    yield b"a - _step,a - loss,a - loss__MIN,a - loss__MAX\n1,2,2,2\n2,1,1,1\n"
    yield b'"relative","x - y - eval/loss","x - y - eval/loss__MIN","x - y - eval/loss__MAX"\n1,text,2,2\n2,1,1,1\n'


def one(data: bytes) -> None:
    """Read by the header's words, or as any CSV."""
    read("wandb_export.csv", data)


def mutate(data: bytes, random: Random) -> bytes:
    """A cell, a line or a column."""
    return delimited.mutate(b"\0" + data, random)[1:]
