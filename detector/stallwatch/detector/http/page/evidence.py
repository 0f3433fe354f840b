"""The evidence of a finding as tables: single numbers, lists of the same length side by side, and long texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stallwatch.detector.core.verdicts import EvidenceValue
from stallwatch.detector.http.page import words

_ROWS = 64
_TEXT_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Columns:
    """Lists of the same length, as one table."""

    header: tuple[str, ...]
    textual: tuple[bool, ...]
    """Which of them hold text."""
    rows: tuple[tuple[str, ...], ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it, in the order in which the check gave it."""

    values: tuple[tuple[str, str], ...]
    tables: tuple[Columns, ...]
    texts: tuple[tuple[str, str], ...]


def evidence(found: Mapping[str, EvidenceValue], causes: Sequence[str] = ()) -> Evidence:
    """Sort evidence by what shows it best.

    Args:
        found: As the check gave it.
        causes: Kinds that were weighed, the first one first: what was said for and against them is shown with their names.
    """
    values: list[tuple[str, str]] = []
    texts: list[tuple[str, str]] = []
    lists: dict[object, list[tuple[str, Sequence[EvidenceValue]]]] = {}
    names = {f"cause_{place}_evidence": f"for and against {kind}" for place, kind in enumerate(causes, 1)}
    for name, value in found.items():
        if name in names and isinstance(value, tuple):
            if value:
                lists[name] = [(names[name], value)]
            continue
        if isinstance(value, tuple):
            if len(value) > 1:
                lists.setdefault(len(value), []).append((name, value))
            else:
                values.append((label(name), text(name, value[0]) if value else "none"))
        elif isinstance(value, str) and ("\n" in value or len(value) > _TEXT_CHARACTERS):
            texts.append((label(name), value))
        else:
            values.append((label(name), text(name, value)))
    return Evidence(tuple(values), tuple(map(_table, lists.values())), tuple(texts))


def label(name: str) -> str:
    """An evidence's name as words, without the unit that its value shows."""
    return words.plain(name.replace("_seconds", ""))


def text(name: str, value: EvidenceValue) -> str:
    """A value, in the unit that its name tells."""
    if value is None:
        return words.NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if "_seconds" in name:
            return words.seconds(value)
        if name.endswith(("share", "_shares")) and 0 <= value <= 1:
            return words.percent(value)
        return words.number(value)
    return (
        ", ".join(text(name, each) for each in value) if isinstance(value, tuple) else value or words.NOTHING
    )


def _table(columns: Sequence[tuple[str, Sequence[EvidenceValue]]]) -> Columns:
    length = len(columns[0][1])
    rows = tuple(
        tuple(text(name, values[index]) for name, values in columns) for index in range(min(length, _ROWS))
    )
    textual = tuple(any(isinstance(each, str) for each in values) for _, values in columns)
    return Columns(tuple(label(name) for name, _ in columns), textual, rows, max(length - _ROWS, 0))
