"""Every epoch replays the same order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.observations import AttemptObservation, RunDeclaration, StepObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Verdict

_ROOM = 1024
"""Steps remembered by their inputs; of longer epochs a part that is drawn by the inputs themselves."""
_LOSSES = 4096
_INPUTS, _LOSS = "inputs", "loss"


@dataclass(frozen=True, slots=True)
class RepeatedOrderConfig:
    """Settings of the repeated order check."""

    shortest_period: int = 4
    """An epoch of fewer steps has hardly an order."""
    matches: int = 8
    """Steps that must have come back at the same distance."""
    tolerance: float = 0.1
    """Share of the steps that may not have: an epoch's last batch, a step that was not reported."""
    shortest_loss_period: int = 32
    """The same for the loss: what takes turns by the step (tasks, sequence lengths) is shorter."""
    correlation: float = 0.4
    """Between the loss's changes from step to step and those one epoch earlier."""
    z: float = 8.0
    """How many standard errors that correlation must be above 0: there is one lag in thousands to find it at by chance."""
    look_steps: int = 64
    """The loss is looked at so often."""

    def __post_init__(self) -> None:
        if (
            self.shortest_period < 2
            or self.matches < 2
            or self.shortest_loss_period < 8
            or self.look_steps < 1
        ):
            raise ValueError(
                "shortest_period and matches must be at least 2, shortest_loss_period at least 8 and look_steps at least 1"
            )
        if not 0 <= self.tolerance < 0.5 or not 0 < self.correlation < 1 or not self.z > 0:
            raise ValueError("tolerance must be below 0.5, correlation between 0 and 1, and z above 0")


@dataclass(slots=True)
class Recurrence:
    """Where inputs were seen last, and how long they have been coming back at one distance."""

    last: dict[int, int] = field(default_factory=dict)
    """Step at which inputs, by their hash, were last seen."""
    level: int = 0
    """Only hashes with so many zero bits at the end are remembered."""
    period: int = 0
    began: int = 0
    """Step of the first return at this distance."""
    matched: int = 0
    missed: int = 0

    def see(self, mark: int, step: int, tolerance: float) -> bool:
        """Take the inputs of a step; whether they belong to those that are remembered."""
        if mark & ((1 << self.level) - 1):
            return False
        before = self.last.pop(mark, None)
        self.last[mark] = step
        if len(self.last) > _ROOM:
            self.level += 1
            low = (1 << self.level) - 1
            self.last = {each: seen for each, seen in self.last.items() if not each & low}
        distance = step - before if before is not None else 0
        if self.period and distance == self.period:
            self.matched += 1
            return True
        self.missed += 1
        if not self.period or self.missed > 1 + tolerance * (self.matched + self.missed):
            self.period, self.began = max(distance, 0), step
            self.matched, self.missed = int(distance > 0), 0
        return True


@dataclass(slots=True)
class RepeatedOrder:
    """Finds that epochs replay one order of samples: `set_epoch` forgotten, or a fixed seed of the shuffling.

    The checksums of all ranks' inputs, step by step, come back at one constant distance over two epochs (over one, where it
    is the length of an epoch by the declared size of the data set: a run that went back to an earlier state replays once).
    Where augmentation hides that, the changes of the loss from step to step do: they correlate with those one epoch earlier,
    and with those of no other distance. Memory is bounded: of long epochs, only steps whose hash falls into a fixed part of
    all hashes are remembered.

    Data that is read in a fixed order on purpose looks the same, hence `info`. Epochs of three batches or fewer, inputs that
    do not change, and replays after a restart are not called. Row 18 of the failure table; pytorch 31771.
    """

    kind: ClassVar[str] = "repeated_order"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, AttemptObservation, RunDeclaration)

    config: RepeatedOrderConfig = field(default_factory=RepeatedOrderConfig)
    recurrence: Recurrence = field(default_factory=Recurrence)
    dataset_size: int = 0
    batch: float = 0.0
    """Running mean of the samples of a step, all ranks together."""
    losses: list[float] = field(default_factory=list)
    """Mean losses of the latest steps."""
    loss_step: int = -1
    """Step of the latest of them."""
    until_look: int = 0
    loss_period: int = 0
    loss_looks: int = 0
    """Looks in a row at which the loss repeated itself at that distance."""
    loss_correlation: float = 0.0
    firing: bool = False
    by: str = ""
    since: int = 0
    period: int = 0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, RunDeclaration):
            self.dataset_size = observation.dataset_size
            return None
        if isinstance(observation, AttemptObservation):
            # A restart replays what came after its checkpoint.
            self.recurrence, self.losses, self.loss_step = Recurrence(), [], -1
            self.loss_period = self.loss_looks = self.until_look = 0
            self.firing, self.by = False, ""
            return None
        if not isinstance(observation, StepObservation):
            return None
        total = float(observation.samples.sum()) * observation.world_size / len(observation.ranks)
        self.batch += (total - self.batch) / 64 if self.batch else total
        return self._inputs(observation) or self._loss(observation)

    def _epoch(self) -> float:
        """Steps of an epoch by what was declared; 0 when unknown."""
        return self.dataset_size / self.batch if self.dataset_size and self.batch > 0 else 0.0

    def _inputs(self, step: StepObservation) -> Verdict | None:
        prints = step.input_fingerprint
        if not prints.size or (prints == -1).any():
            return None
        mark = int.from_bytes(blake2b(prints.tobytes(), digest_size=8).digest(), "little")
        recurrence = self.recurrence
        if not recurrence.see(mark, step.step, self.config.tolerance):
            return None
        period = recurrence.period
        replayed = step.step - recurrence.began + 1
        if self.firing:
            if (
                self.by == _INPUTS
                and period != self.period
                and recurrence.missed + recurrence.matched >= self.config.matches
            ):
                return self._over(step.step)
            return None
        epoch = self._epoch()
        known = bool(epoch) and abs(period - epoch) <= max(1.0, 0.02 * epoch)
        if (
            period >= self.config.shortest_period
            and recurrence.matched >= self.config.matches
            and replayed >= (1 if known else 2) * period
        ):
            return self._say(step.step, _INPUTS, period, recurrence.began, replayed / period)
        return None

    def _loss(self, step: StepObservation) -> Verdict | None:
        loss = step.mean_loss()
        if not math.isfinite(loss):
            return None
        if step.step != self.loss_step + 1:
            # With a gap, distances in the list are no longer distances in steps.
            self.losses = []
        self.loss_step = step.step
        self.losses.append(loss)
        if len(self.losses) > _LOSSES:
            del self.losses[: _LOSSES // 4]
        self.until_look -= 1
        if self.until_look > 0:
            return None
        # Longer series take longer to look at, and change less between two looks.
        self.until_look = max(self.config.look_steps, len(self.losses) // 8)
        period, correlation = self._echo()
        if not period:
            self.loss_looks = 0
            return self._over(step.step) if self.firing and self.by == _LOSS else None
        self.loss_looks = self.loss_looks + 1 if abs(period - self.loss_period) <= 0 else 1
        self.loss_period, self.loss_correlation = period, correlation
        if self.firing or self.loss_looks < 2:
            return None
        since = step.step - len(self.losses) + 1 + period
        return self._say(step.step, _LOSS, period, since, (len(self.losses) - period) / period)

    def _echo(self) -> tuple[int, float]:
        """The distance at which the loss repeats itself, and the correlation; 0 when there is none."""
        changes = _changes(np.array(self.losses))
        count, shortest = changes.size, self.config.shortest_loss_period
        longest = count // 3
        if longest < shortest:
            return 0, 0.0
        power = np.abs(np.fft.rfft(changes, 2 * count)) ** 2
        energy = float(np.dot(changes, changes)) / count
        if not energy > 0:
            return 0, 0.0
        lags = np.arange(2 * longest + 1)
        correlation = np.fft.irfft(power)[: lags.size] / (count - lags) / energy
        window = correlation[2 : longest + 1]
        best = float(window.max())
        # Multiples of the period echo as strongly: the shortest of the strong ones is the period.
        period = 2 + int(np.argmax(window >= 0.75 * best))
        value = float(correlation[period])
        epoch = self._epoch()
        if epoch and abs(period - epoch) > max(1.5, 0.02 * epoch):
            return 0, 0.0
        others = np.abs(np.delete(correlation[2 : longest + 1], _near_multiples(period, longest)))
        if (
            period < shortest
            or value < self.config.correlation
            or value * math.sqrt(count - period) < self.config.z
            or correlation[2 * period] < 0.5 * value
            # Waves (schedules, warm restarts) are alike at neighbouring distances as well.
            # ... and one epoch's noise is a little like itself at any distance, the more so the shorter it is.
            or (others.size and float(others.max()) > max(0.5, 4.5 / math.sqrt(period)) * value)
        ):
            return 0, 0.0
        return period, value

    def _over(self, step: int) -> Verdict:
        self.firing = False
        return Verdict(
            kind=self.kind,
            firing=False,
            step=step,
            since_step=self.since,
            reason=f"Samples no longer come back after {self.period:,} steps, up to step {step:,}.",
        )

    def _say(self, step: int, by: str, period: int, since: int, epochs: float) -> Verdict:
        self.firing, self.by, self.since, self.period = True, by, since, period
        epoch = self._epoch()
        evidence: dict[str, EvidenceValue] = {
            "decided_by": by,
            "period_steps": period,
            "epochs_replayed": epochs,
            "epoch_steps": epoch or None,
        }
        if by == _INPUTS:
            share = self.recurrence.matched / max(self.recurrence.matched + self.recurrence.missed, 1)
            evidence["matching_share"] = share
            how = f"{100 * share:.3g} % of the inputs compared are those of {period:,} steps before, on all ranks"
            score, threshold = float(self.recurrence.matched), float(self.config.matches)
        else:
            evidence["correlation"] = self.loss_correlation
            how = (
                f"the loss moves from step to step as it did {period:,} steps before (correlation "
                f"{self.loss_correlation:.2f})"
            )
            score, threshold = self.loss_correlation, self.config.correlation
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=since,
            confidence=0.97 if by == _INPUTS else 0.85,
            score=score,
            threshold=threshold,
            reason=f"The samples come in the same order again every {period:,} steps, {epochs:.1f} epochs long since step "
            f"{since:,}: {how}.",
            evidence=evidence,
            advice=(
                (
                    "Call sampler.set_epoch(epoch) on the DistributedSampler at the start of every epoch: without it the shuffling "
                    "is the same each time."
                ),
                (
                    "If the loader shuffles by itself, let its seed or generator change from epoch to epoch; if the fixed order is "
                    "meant, nothing is wrong."
                ),
            ),
        )


def _changes(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Changes from step to step in units of their own spread thereabouts, wild ones cut off."""
    changes = np.diff(losses)
    parts: list[NDArray[np.float64]] = []
    for low in range(0, changes.size, 64):
        part = changes[low : low + 64]
        if part.size < 32 and parts:
            part = changes[low - 32 : low + 64]
            sigma = 1.4826 * float(np.median(np.abs(part)))
            part = changes[low : low + 64]
        else:
            sigma = 1.4826 * float(np.median(np.abs(part)))
        parts.append(np.clip(part / sigma, -3.0, 3.0) if sigma > 0 else np.zeros(part.size))
    return np.concatenate(parts) if parts else changes


def _near_multiples(period: int, longest: int) -> NDArray[np.int64]:
    """Places, in a row of lags that begins at 2, of the multiples of a period and their neighbours."""
    centres = np.arange(period, longest + 2, period)
    near = np.unique(np.concatenate([centres - 1, centres, centres + 1])) - 2
    return near[(near >= 0) & (near < longest - 1)]
