"""What is known of the samples: how often the same ones come again, how they look, how far the ranks' losses are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from stallwatch.detector.core.observations import StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.vitals import DataVitals, LevelShift
from stallwatch.detector.signals.trace import Trace
from stallwatch.detector.stats.robust import median

_REMEMBERED = 1 << 12
"""Steps whose inputs are remembered."""
_SPREAD_STEPS = 64
_SIDE = 8
"""Samples on either side of a jump of the inputs."""
_JUMP_SIGMAS = 6.0
"""In deviations of single samples: the medians of eight differ by so much by chance in one run of millions."""
_JUMP_SHARE = 0.2
"""And in deviations of the inputs themselves: batches of a different kind differ visibly, not just significantly."""


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
    latest: list[tuple[int, float, float]] = field(default_factory=list)
    """Step, mean and deviation of the inputs, of the latest samples."""
    jump: LevelShift | None = None

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
        if losses.size > 1 and (middle := median(losses)) != 0:
            spread = float(losses.std() / abs(middle))
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
        self._look(sample)
        for trace, values in (
            (self.input_mean, sample.input_mean),
            (self.input_deviation, sample.input_deviation),
        ):
            known = values[np.isfinite(values)]
            if known.size:
                trace.add(sample.step, float(known.mean()))

    def _look(self, sample: SampledObservation) -> None:
        """Whether the inputs have become others, and stayed so for eight samples."""
        known = np.isfinite(sample.input_mean) & np.isfinite(sample.input_deviation)
        if not known.any():
            return
        mean, deviation = sample.input_mean[known].mean(), sample.input_deviation[known].mean()
        self.latest = [*self.latest[1 - 2 * _SIDE :], (sample.step, float(mean), float(deviation))]
        if len(self.latest) < 2 * _SIDE:
            return
        values = np.array([each[1:] for each in self.latest])
        old, new = np.median(values[:_SIDE], axis=0), np.median(values[_SIDE:], axis=0)
        # Within either half, so that the jump itself is no noise.
        halves = np.concatenate([np.diff(values[:_SIDE], axis=0), np.diff(values[_SIDE:], axis=0)])
        noise = np.maximum(np.median(np.abs(halves), axis=0) * 1.4826 / math.sqrt(2), 1e-12)
        size = np.abs(new - old)
        clear = (size > _JUMP_SIGMAS * noise) & (size > _JUMP_SHARE * max(old[1], 1e-12))
        if clear.any() and (self.jump is None or self.latest[0][0] > self.jump.step):
            which = int((size / noise * clear).argmax())
            self.jump = LevelShift(
                step=self.latest[_SIDE][0],
                before=float(old[which]),
                after=float(new[which]),
                sigma=float(size[which] / noise[which]),
            )

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
            input_jump=self.jump,
            steps_seen=len(self.gaps),
            rank_spread=float(np.median(self.spreads)) if self.spreads else math.nan,
        )
