"""A loss curve as SVG: for the overview, and for readers without JavaScript."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stallwatch.detector.analysis.series import SeriesPoint

# Presentation attributes only: the policy of the page forbids styles inside. The colour has enough contrast on white and black.
_COLOUR = "#3d82d8"


def curve_svg(points: Sequence[SeriesPoint], width: int = 120, height: int = 32) -> str:
    """The curve, stretched over the picture."""
    shape = path(points, width, height)
    line = (
        f'<path d="{shape}" fill="none" stroke="{_COLOUR}" stroke-width="1.5" stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
        if shape
        else ""
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none">{line}</svg>'
    )


def path(points: Sequence[SeriesPoint], width: int, height: int, margin: float = 2.0) -> str:
    """The path's data; empty where there is no curve. A curve that spans decades is drawn on a logarithmic scale."""
    known = [point for point in points if math.isfinite(point.value)]
    if len(known) < 2:
        return ""
    values = [point.value for point in known]
    if min(values) > 0 and max(values) > 20 * min(values):
        values = [math.log(value) for value in values]
    low, high = min(values), max(values)
    first, last = known[0].step, known[-1].step
    across = (width - 2 * margin) / max(last - first, 1)
    down = (height - 2 * margin) / (high - low) if high > low else 0.0
    corners = [
        f"{margin + (point.step - first) * across:.1f},{margin + (high - value) * down:.1f}"
        for point, value in zip(known, values, strict=True)
    ]
    return "M" + "L".join(corners)
