"""What is known of the samples: how often the same ones come again, how they look, how far the ranks' losses are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.vitals import DataVitals
from stallwatch.detector.signals.trace import Trace

_REMEMBERED = 1 << 12
"""Steps whose inputs are remembered."""
_SPREAD_STEPS = 64


@dataclass(slots=True)
class DataTracker:
    """Follows the inputs of the lowest rank that tells them."""

    seen: dict[int, int] = field(default_factory=dict)
    """Checksum of the inputs of a step, and the latest step that had them; the oldest are forgotten."""
    gaps: list[int] = field(default_factory=list)
    """Steps since the same inputs came before, of the latest steps; 0 for inputs that are new."""
    batch: float = math.nan
    input_mean: Trace = field(default_factory=Trace)
    input_deviation: Trace = field(default_factory=Trace)
    spreads: list[float] = field(default_factory=list)

    def take(self, step: StepObservation) -> None:
        """One step."""
        samples = float(step.samples.sum())
        if samples > 0:
            whole = samples * step.world_size / max(len(step.ranks), 1)
            self.batch = whole if math.isnan(self.batch) else 0.9 * self.batch + 0.1 * whole
        known = step.input_fingerprint[step.input_fingerprint >= 0]
        if known.size:
            self._recognise(step.step, int(known[0]))
        with np.errstate(invalid="ignore", divide="ignore"):
            losses = step.loss_sum / step.samples
        losses = losses[np.isfinite(losses)]
        if losses.size > 1 and np.median(losses) != 0:
            spread = float(losses.std() / abs(np.median(losses)))
            self.spreads = [*self.spreads[1 - _SPREAD_STEPS :], spread]

    def _recognise(self, step: int, checksum: int) -> None:
        before = self.seen.pop(checksum, -1)
        self.seen[checksum] = step
        if len(self.seen) > _REMEMBERED:
            del self.seen[next(iter(self.seen))]
        self.gaps.append(step - before if 0 <= before < step else 0)
        if len(self.gaps) > 2 * _REMEMBERED:
            del self.gaps[:_REMEMBERED]

    def sample(self, sample: SampledObservation) -> None:
        """One sampled step."""
        for trace, values in (
            (self.input_mean, sample.input_mean),
            (self.input_deviation, sample.input_deviation),
        ):
            known = values[np.isfinite(values)]
            if known.size:
                trace.add(sample.step, float(known.mean()))

    def vitals(self, dataset_size: int, until: float) -> DataVitals:
        """What is known now."""
        epoch = dataset_size / self.batch if dataset_size and self.batch > 0 else math.nan
        # An epoch, where its length is known; otherwise the later half of what was seen.
        window = int(min(epoch, len(self.gaps))) if epoch > 0 else len(self.gaps) // 2
        latest = self.gaps[-window:] if window else []
        repeats = [gap for gap in latest if gap]
        period = math.nan
        if len(repeats) > 0.8 * len(latest) and len(latest) > 8:
            value, count = np.unique(repeats, return_counts=True)
            # Reshuffled epochs bring the same batches after varying gaps, whose mean is the epoch.
            period = float(value[count.argmax()] if count.max() > 0.5 * len(repeats) else np.mean(repeats))
        return DataVitals(
            epoch_steps=epoch,
            period_steps=period,
            distinct_share=1 - sum(0 < gap < window for gap in latest) / len(latest) if latest else math.nan,
            input_mean=self.input_mean.level(until),
            input_deviation=self.input_deviation.level(until),
            rank_spread=float(np.median(self.spreads)) if self.spreads else math.nan,
        )
