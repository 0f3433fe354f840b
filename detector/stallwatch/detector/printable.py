"""Text of others made fit for a terminal: what would move the cursor, colour, hide or rename something is shown as a code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_UNSAFE = re.compile(
    # Control characters but line end and tab, and the marks that turn the direction of text around.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""A text without them: ESC becomes `\x1b`, as it would in Python."""
    return _UNSAFE.sub(_code, text)


def printable_values(value: Any) -> Any:
    """The same for every text, key or value, inside decoded JSON."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): printable_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable_values(item) for item in value]
    return value


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
