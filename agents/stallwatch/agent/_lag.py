"""How old an applied gradient is: the anchor at the optimizer compared with what the latest backwards left. Background thread."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stallwatch.agent._probe.anchor import ELEMENTS, AnchorReadings, Reading

if TYPE_CHECKING:
    import torch

HISTORY = 16
"""Steps back that are compared."""
UNKNOWN, EDITED, CARRIED = -1, -2, -3
_FORMATS = {"float32": "f", "float64": "d", "float16": "e"}
_TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Relative error that scaling leaves: some units in the last place."""
_NAN = math.nan

Vector = tuple[float, ...]


def vector(reading: Reading | None, dtype: torch.dtype) -> Vector | None:
    """The numbers of a reading; None when there are none, or none that is finite and not zero."""
    if reading is None:
        return None
    if isinstance(reading, bytes):
        values = _decode(reading, str(dtype).removeprefix("torch."))
    else:
        values = tuple(reading.double().tolist())
    return values if any(values) and all(map(math.isfinite, values)) else None


def _decode(data: bytes, dtype: str) -> Vector:
    if dtype == "bfloat16":
        # The upper half of a float32.
        return tuple(
            struct.unpack("<f", b"\0\0" + data[place : place + 2])[0] for place in range(0, len(data), 2)
        )
    form = _FORMATS.get(dtype)
    return struct.unpack(f"={ELEMENTS}{form}", data) if form else ()


def factor(applied: Vector, produced: Vector, tolerance: float) -> float:
    """The positive number that `applied` is `produced` times, or NaN when it is no multiple."""
    size = sum(value * value for value in produced)
    scale = sum(a * p for a, p in zip(applied, produced, strict=True)) / size
    if not scale > 0:
        return _NAN
    largest = max(abs(value) for value in applied)
    off = max(abs(a - scale * p) for a, p in zip(applied, produced, strict=True))
    return scale if off <= tolerance * largest else _NAN


class LagTracker:
    """Takes the readings of each step in order."""

    def __init__(self) -> None:
        self._epoch = -1
        self._produced: deque[Vector | None] = deque(maxlen=HISTORY)
        self._local: deque[Vector | None] = deque(maxlen=HISTORY + 1)
        self._applied: Vector | None = None
        self._lag = UNKNOWN

    def take(self, readings: AnchorReadings | None) -> tuple[int, float]:
        """Returns the age of the applied gradient in steps, and its factor to the one that the backward left."""
        if readings is None:
            return UNKNOWN, _NAN
        if readings.epoch != self._epoch:
            self.__init__()  # type: ignore[misc]
            self._epoch = readings.epoch
        tolerance = _TOLERANCES.get(str(readings.dtype).removeprefix("torch."), 1e-5)
        produced = vector(readings.produced, readings.dtype)
        applied = vector(readings.applied, readings.dtype)
        self._local.appendleft(_sum([vector(each, readings.dtype) for each in readings.local]))
        lag, scale = self._compare(applied, produced, tolerance)
        if lag == 0 and self._is_carried(readings):
            lag = CARRIED
        self._produced.appendleft(produced)
        self._applied, self._lag = applied, lag
        return lag, scale

    def _is_carried(self, readings: AnchorReadings) -> bool:
        """Whether what the optimizer applied last was still there when this step's backwards began to add to it."""
        if not readings.carried or self._applied is None:
            return False
        before = [vector(each, readings.dtype) for each in readings.carried]
        # None of later micro-batches: cleared between them after all.
        return before[0] == self._applied and None not in before

    def _compare(
        self, applied: Vector | None, produced: Vector | None, tolerance: float
    ) -> tuple[int, float]:
        if applied is None:
            return UNKNOWN, _NAN
        if produced is not None:
            scale = factor(applied, produced, tolerance)
            if not math.isnan(scale):
                return 0, scale
        # Gradients that were clipped element by element, or of which only the sign is left, repeat by chance.
        telling = len({abs(value) for value in applied if value}) > 1
        if telling and applied == self._applied:
            # Once more the same: a step older than it was.
            return max(self._lag, 0) + 1, _NAN
        if produced is None:
            return UNKNOWN, _NAN
        for back, before in enumerate(self._produced, start=1):
            if telling and before is not None and not math.isnan(factor(applied, before, tolerance)):
                return back, _NAN
        return EDITED, _NAN

    def local_anchors(self) -> list[float]:
        """The local anchors of the latest steps, newest first, one after another; NaN where not known."""
        unknown = (_NAN,) * ELEMENTS
        return [value for each in self._local for value in (each or unknown)]


def _sum(vectors: Sequence[Vector | None]) -> Vector | None:
    known = [each for each in vectors if each is not None]
    if not known or len(known) != len(vectors):
        return None
    return tuple(map(sum, zip(*known, strict=True)))
