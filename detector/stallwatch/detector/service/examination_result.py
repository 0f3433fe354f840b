"""The form of what `stallwatch doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """What one look found."""

    name: str
    status: str
    """`ok`, `warning` or `problem`."""
    says: str
    fix: str = ""
