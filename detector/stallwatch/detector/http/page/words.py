"""Numbers, times and names as people read them."""

from __future__ import annotations

import math
from datetime import datetime, timezone

NOTHING = "-"


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many digits that matter."""
    if value is None or not math.isfinite(value):
        return NOTHING if value is None else str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.{digits}g}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if abs(value) >= 2 * size or (unit == "s" and abs(value) >= 1):
            return f"{value / size:.3g} {unit}"
    return f"{1e3 * value:.3g} ms" if value else "0 s"


def ago(elapsed: float) -> str:
    """How long ago, in whole units."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if elapsed >= size:
            return f"{int(elapsed // size)} {unit} ago"
    return f"{max(0, int(elapsed))} s ago"


def moment(at: float) -> str:
    """A point in time, in UTC."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC") if at > 0 else NOTHING


def percent(share: float | None) -> str:
    """A share of one as a percentage."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.3g} %"


def plain(name: str) -> str:
    """A name of the vocabulary as words."""
    return name.replace("_", " ")


def ranks(numbers: tuple[int, ...], most: int = 12) -> str:
    """Rank numbers, ranges folded: `0-3, 7`; as many ranges as `most`."""
    ranges: list[list[int]] = []
    for each in sorted(set(numbers)):
        if ranges and each == ranges[-1][1] + 1:
            ranges[-1][1] = each
        else:
            ranges.append([each, each])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in ranges]
    left = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {left} more" if left > 0 else "")
