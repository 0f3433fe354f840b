"""The axis of a log as the analysis wants it, whole numbers from 0 up, and the way back."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from stallwatch.detector.importers.log import Floats, Integers, TrainingLog

_BEFORE_NUMBER = re.compile(r"\b(step|steps)(?= (?:about )?[\d~])", re.IGNORECASE)
_AFTER_NUMBER = re.compile(r"(?<=[\d,.] )(step|steps)\b")
_PER = re.compile(r"(?<=\bper )step\b")


@dataclass(frozen=True, slots=True)
class Positions:
    """Where on the axis the observations stand."""

    unit: str
    """What the whole numbers count: `step`, `epoch` or `record`."""
    known: Floats
    """Axis values by record, ascending; empty where the whole numbers are the axis values themselves."""
    shift: float = 0.0

    @staticmethod
    def of(log: TrainingLog) -> Positions:
        """Axis values are taken as they are when they are whole; else records are counted."""
        steps = np.concatenate([log.points.step, log.evaluations.step])
        if not steps.size or np.all(steps == np.floor(steps)):
            return Positions(log.axis, np.zeros(0), shift=float(min(steps.min(initial=0.0), 0.0)))
        return Positions("record", np.unique(log.points.step))

    def encode(self, steps: Floats) -> Integers:
        """Axis values to whole numbers; one between two records counts as the later one."""
        if self.known.size:
            return np.minimum(np.searchsorted(self.known, steps), self.known.size - 1).astype(np.int64)
        return (steps - self.shift).astype(np.int64)

    def decode(self, step: float) -> float:
        """A whole number, or something between two, to the axis; beyond the last record at its mean pace."""
        if not self.known.size:
            return step + self.shift
        last = self.known.size - 1
        if step <= last:
            return float(np.interp(step, np.arange(self.known.size), self.known))
        pace = (self.known[-1] - self.known[0]) / max(last, 1)
        return float(self.known[-1] + (step - last) * pace)

    def words(self, sentence: str) -> str:
        """The sentence with what is counted called by its name."""
        if self.unit == "step":
            return sentence
        for pattern in (_BEFORE_NUMBER, _AFTER_NUMBER, _PER):
            sentence = pattern.sub(self._renamed, sentence)
        return sentence

    def _renamed(self, match: re.Match[str]) -> str:
        word = match.group(0)
        renamed = self.unit + word[4:]
        return renamed.capitalize() if word[0].isupper() else renamed
