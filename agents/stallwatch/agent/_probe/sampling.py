"""When to take the readings that cost a pass over the parameters."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Literal

LONGEST_PERIOD = 32
"""Steps between samples at most, where steps take `SHORT_STEP_SECONDS` or more: what only samples show is then seen within a
minute or two. Where even that is over budget, `SamplePeriod.over_budget` says so."""
SHORT_STEP_SECONDS = 0.005
"""Of shorter steps as many more are between two samples as keeps the samples as far apart in time."""
_FILL = 0.9
"""Share of the budget that is planned with: the rest is for what was measured too low."""
_LEAST = 0.25
"""Share of the budget that sampling may take whatever the hooks take: without samples some faults are never seen."""
_SLACK = 0.8
"""Of the cost at which the period would grow again: below it, the period shrinks."""
_COSTS = 3
_STEPS = 31
_MOST_ADVISED = 1024


class SamplePeriod:
    """Steps between sampled records: a base times a power of two, so that ranks agree on steps without a word.

    With "auto", the base comes from the size of the model and the power of two from what sampling was measured to take of the
    training thread's time, such that hooks and samples stay within the budget: a share of the time of a step, however much or
    little of it the process computes. The period changes by a factor of two a sample at most and never grows beyond
    `LONGEST_PERIOD` steps. Ranks may come to other powers; then every step that the sparser one samples is sampled by the
    denser one too.
    """

    def __init__(self, sample_every: int | Literal["auto"], parameters: int, budget: float) -> None:
        self.automatic = sample_every == "auto"
        self._base = _base(parameters) if sample_every == "auto" else int(sample_every)
        self._budget = budget
        self._advised = 1
        self._measured = 1
        self._costs: deque[float] = deque(maxlen=_COSTS)
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._hooks: deque[float] = deque(maxlen=_COSTS)
        self.steps = self._base

    @property
    def base(self) -> int:
        """Steps between samples at most often; the period is this times a power of two."""
        return self._base

    def hits(self, step: int) -> bool:
        """Whether this step is sampled."""
        return step % self.steps == 0

    def observe_step(self, seconds: float) -> None:
        """Notes how long a step without sampling took."""
        self._steps.append(seconds)

    def observe_cost(self, seconds: float, hook_seconds: float) -> None:
        """Notes what a sampled step cost, and moves towards the period that the budget allows.

        The least of the latest costs counts: on a machine that others use, too, larger ones hold their time.

        Args:
            seconds: What the sample took of the training thread's time.
            hook_seconds: What hooks and calls take of it at every step, sampling aside.
        """
        self._costs.append(seconds)
        self._hooks.append(hook_seconds)
        if not self.automatic or not self._steps:
            return
        step = self._step_seconds()
        share = max(_FILL * self._budget - min(self._hooks) / step, _LEAST * self._budget)
        needed = min(self._costs) / (share * step)
        longest = LONGEST_PERIOD * max(SHORT_STEP_SECONDS / step, 1.0)
        period = self._base * self._measured
        if period < min(needed, longest):
            self._measured *= 2
        elif self._measured > 1 and (needed < _SLACK * period / 2 or period >= 2 * longest):
            self._measured //= 2
        self._apply()

    def over_budget(self) -> tuple[float, float, float, float] | None:
        """What the agent takes, when that is more than it may although the period can grow no more.

        Returns:
            Share of a step's time in all; seconds of a step, of the hooks in it, and of a sample. None while the budget is kept or
            little is known.
        """
        if not self.automatic or len(self._costs) < _COSTS or len(self._steps) < _STEPS:
            return None
        step, hooks, cost = self._step_seconds(), min(self._hooks), min(self._costs)
        share = (hooks + cost / self.steps) / step
        longest = LONGEST_PERIOD * max(SHORT_STEP_SECONDS / step, 1.0)
        if share <= self._budget or 2 * self._base * self._measured <= longest:
            return None
        return share, step, hooks, cost

    def advise(self, factor: int) -> None:
        """Obeys the detector's wish for a sparser period, within limits."""
        self._advised = 1
        while self._advised < min(factor, _MOST_ADVISED):
            self._advised *= 2
        self._apply()

    def _step_seconds(self) -> float:
        return max(median(self._steps), 1e-6)

    def _apply(self) -> None:
        self.steps = self._base * max(self._measured, self._advised)


def _base(parameters: int) -> int:
    return 16 if parameters < 10_000_000 else 32
