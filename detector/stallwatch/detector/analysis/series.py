"""The series a run keeps for its charts, in memory that grows with the logarithm of its length."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.core.observations import EvaluationObservation, StepObservation
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.views import STEP_PHASES
from stallwatch.detector.signals.history import BlockHistory

_BUFFERED = 64
_CAPACITY = 128
_MEDIANS = ("step_seconds", *(f"{phase}_seconds" for phase in STEP_PHASES))
_MAX_METRICS = 16
_GROUP = 8
"""Steps that are pooled before they reach a history, for series that nobody needs step by step."""


@dataclass(frozen=True, slots=True)
class SeriesPoint:
    """The mean of a series around a step."""

    step: int
    value: float
    weight: float


@dataclass(slots=True)
class Pool:
    """Points of a few consecutive steps that become one."""

    group: int
    count: int = 0
    steps: int = 0
    values: float = 0.0


@dataclass(slots=True)
class SeriesBook:
    """All series of a run. Steps are buffered and reduced many at a time."""

    series: dict[str, BlockHistory] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    """The group of steps that is still open, per pooled series."""
    buffer: list[StepObservation] = field(default_factory=list)

    def step(self, observation: StepObservation) -> None:
        """Take one aligned step."""
        self.buffer.append(observation)
        if len(self.buffer) >= _BUFFERED:
            self.flush()

    def evaluation(self, observation: EvaluationObservation) -> None:
        """Take one evaluation: its loss, and its metrics by their own names."""
        self._add("evaluation_loss", observation.step, observation.loss)
        for name, value in observation.metrics.items():
            full = f"evaluation_{name}"
            if (
                full in self.series
                or sum(key.startswith("evaluation_") for key in self.series) <= _MAX_METRICS
            ):
                self._add(full, observation.step, value)

    def sampled(self, observation: SampledObservation) -> None:
        """Take one sampled step: norms of gradient, update and parameters."""
        with np.errstate(invalid="ignore"):
            self._add("gradient_norm_local", observation.step, _norm(observation.local_gradient_square))
            self._add("gradient_norm_reduced", observation.step, _norm(observation.reduced_gradient_square))
            self._add("update_norm", observation.step, _norm(observation.update_square))
            self._add("parameter_norm", observation.step, _norm(observation.parameter_square))

    def add(self, name: str, step: int, value: float) -> None:
        """Take one point of a series of another name."""
        self._add(name, step, value)

    def flush(self) -> None:
        """Reduce the buffered steps."""
        steps, self.buffer = self.buffer, []
        for group in _same_ranks(steps):
            world = group[0].world_size
            numbers = [o.step for o in group]
            loss_sum = np.stack([o.loss_sum for o in group])
            samples = np.stack([o.samples for o in group])
            logged = ~np.isnan(loss_sum)
            weight = np.where(logged, np.nan_to_num(samples), 0.0).sum(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                self._extend("loss", numbers, np.where(logged, loss_sum, 0.0).sum(axis=1) / weight)
            total = np.nan_to_num(samples).sum(axis=1) * (world / len(group[0].ranks))
            self._pool("effective_batch_size", numbers, np.where(total > 0, total, np.nan))
            self._extend(
                "learning_rate",
                numbers,
                np.array([o.learning_rates[0] if o.learning_rates else np.nan for o in group]),
            )
            rows = np.stack([getattr(o, name) for name in _MEDIANS for o in group])
            for name, medians in zip(_MEDIANS, _row_medians(rows).reshape(-1, len(group)), strict=True):
                self._pool(name, numbers, medians)
                if name == "step_seconds":
                    with np.errstate(invalid="ignore", divide="ignore"):
                        self._pool(
                            "samples_per_second", numbers, np.where(medians > 0, total / medians, np.nan)
                        )

    def names(self) -> tuple[str, ...]:
        """The series that have points."""
        self.flush()
        return tuple(sorted(self.series))

    def query(self, name: str, from_step: int | None, to_step: int | None, points: int) -> list[SeriesPoint]:
        """At most `points` points within [from_step, to_step], both included."""
        self.flush()
        history = self.series.get(name)
        if history is None or history.last < 0:
            return []
        low = history.first if from_step is None else from_step
        high = history.last if to_step is None else to_step
        return [SeriesPoint(*row) for row in history.query(low, high, points)]

    def last(self, name: str) -> float | None:
        """The newest value of a series; None when it has none."""
        points = self.query(name, None, None, 1 << 30)[-1:]
        return points[0].value if points else None

    def _extend(self, name: str, steps: list[int], values: NDArray[np.float64]) -> None:
        for step, value in zip(steps, values.tolist(), strict=True):
            self._add(name, step, value)

    def _pool(self, name: str, steps: list[int], values: NDArray[np.float64]) -> None:
        """Add the mean over each group of steps; a group is closed by a step of another one."""
        pool = self.pools.get(name)
        for step, value in zip(steps, values.tolist(), strict=True):
            if value - value != 0.0:  # not finite
                continue
            group = step // _GROUP
            if pool is None or pool.group != group:
                if pool is not None:
                    self._add(name, pool.steps // pool.count, pool.values / pool.count, pool.count)
                pool = self.pools[name] = Pool(group)
            pool.count += 1
            pool.steps += step
            pool.values += value

    def _add(self, name: str, step: int, value: float, weight: float = 1.0) -> None:
        if value - value == 0.0:  # finite
            history = self.series.get(name)
            if history is None:
                history = self.series[name] = BlockHistory(capacity=_CAPACITY)
            history.add(step, value, weight)


def _same_ranks(steps: list[StepObservation]) -> list[list[StepObservation]]:
    groups: list[list[StepObservation]] = []
    for observation in steps:
        if (
            groups
            and groups[-1][0].ranks == observation.ranks
            and groups[-1][0].world_size == observation.world_size
        ):
            groups[-1].append(observation)
        else:
            groups.append([observation])
    return groups


def _row_medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of each row over its known values; NaN where none is."""
    ordered = np.sort(values, axis=1)  # NaN sort last
    known = np.count_nonzero(~np.isnan(values), axis=1)
    rows = np.arange(values.shape[0])
    low = ordered[rows, np.maximum((known - 1) // 2, 0)]
    high = ordered[rows, np.minimum(known // 2, values.shape[1] - 1)]
    return np.where(known > 0, (low + high) / 2, np.nan)


def _norm(squares: NDArray[np.float64]) -> float:
    known = squares[np.isfinite(squares)]
    return float(np.sqrt(known.mean())) if known.size else float("nan")
