"""Text cells into numbers, keeping apart what was not logged (an empty cell) from what was logged as not a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from stallwatch.detector.importers.log import Floats, Integers

# What programs write for "no value". A literal nan is not among them: the training wrote that.
_NOTHING = frozenset({"", "-", "--", "none", "null", "na", "n/a", "<na>"})
# A count of milliseconds since 1970 passed this in 1973; a count of seconds will not for three thousand years.
_MILLISECONDS_FROM = 1e11


class CellError(ValueError):
    """A cell that holds text where a number belongs."""

    def __init__(self, index: int, text: str) -> None:
        super().__init__(text)
        self.index = index
        self.text = text


@dataclass(frozen=True, slots=True)
class Column:
    """The cells of one column that hold something."""

    row: Integers
    value: Floats

    @staticmethod
    def joined(parts: Iterable[Column]) -> Column:
        """Pieces of a column read one after the other."""
        pieces = tuple(parts)
        return Column(np.concatenate([p.row for p in pieces]), np.concatenate([p.value for p in pieces]))


def number(text: str) -> float:
    """A decimal number; raises ValueError for anything else."""
    return float(text)


def moment(text: str) -> float:
    """Seconds, from a number or from an ISO 8601 date and time (UTC unless it says otherwise)."""
    try:
        value = float(text)
    except ValueError:
        stamp = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=timezone.utc)).timestamp()
    return value / 1000 if value > _MILLISECONDS_FROM else value


def seconds(values: Floats) -> Floats:
    """`moment` for numbers."""
    return np.where(values > _MILLISECONDS_FROM, values / 1000, values)


def parse_column(
    texts: Iterable[object],
    first_row: int = 0,
    parse: Callable[[str], float] = number,
    torn: list[CellError] | None = None,
) -> Column:
    """Cells from `first_row` on; raises `CellError` at the first that is neither a number nor empty.

    With `torn`, such cells are left out and their errors collected there.
    """
    rows: list[int] = []
    values: list[float] = []
    for index, cell in enumerate(texts, first_row):
        # Only a library that has read the number itself leaves a float, and NaN is then its sign for an empty cell.
        if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
            continue
        text = str(cell)
        try:
            value = parse(text)
        except ValueError:
            if text.strip().lower() in _NOTHING:
                continue
            error = CellError(index, text)
            if torn is None:
                raise error from None
            torn.append(error)
            continue
        rows.append(index)
        values.append(value)
    return Column(np.array(rows, dtype=np.int64), np.array(values, dtype=np.float64))


def are_torn(bad: int, good: int) -> bool:
    """Whether so few cells or lines are bad that they were torn, rather than the column or file being something else."""
    return 0 < bad < good
