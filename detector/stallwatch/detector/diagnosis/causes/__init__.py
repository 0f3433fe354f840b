"""The causes of a stall: an explicit table, one file each."""

from __future__ import annotations

from stallwatch.detector.diagnosis.causes import lr_too_low, noise_floor
from stallwatch.detector.diagnosis.weighing import Weigh

CAUSES: dict[str, Weigh] = {
    each.KIND: each.weigh
    for each in (
        lr_too_low,
        noise_floor,
    )
}
STANDALONE: tuple[str, ...] = ()
"""Causes that are findings of their own when their invariant is broken."""

__all__ = ["CAUSES", "STANDALONE"]
