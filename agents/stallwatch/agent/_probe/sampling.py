"""When to take the readings that cost a pass over the parameters."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Literal

MAX_PERIOD = 1 << 20
_FILL = 0.9
"""Share of the budget that is planned with: the rest is for what was measured too low."""


class SamplePeriod:
    """Steps between sampled records: a base times a power of two, so that ranks agree on steps without a word.

    With "auto", the base comes from the size of the model and the power of two from what sampling was measured to cost,
    such that it takes at most half of the overhead budget, and no more than hooks and threads leave of it. Ranks may come to other powers; then every step that the
    sparser one samples is sampled by the denser one too.
    """

    def __init__(self, sample_every: int | Literal["auto"], parameters: int, budget: float) -> None:
        self.automatic = sample_every == "auto"
        self._base = _base(parameters) if sample_every == "auto" else int(sample_every)
        self._budget = budget
        self._advised = 1
        self._measured = 1
        self._costs: deque[float] = deque(maxlen=3)
        self._cpu_costs: deque[float] = deque(maxlen=3)
        self._steps: deque[float] = deque(maxlen=31)
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

    def observe_cost(
        self,
        seconds: float,
        cpu_seconds: float = 0.0,
        step_cpu_seconds: float = 0.0,
        other_cpu_seconds: float = 0.0,
    ) -> None:
        """Notes what a sampled step cost, and backs off as far as the budget asks.

        Both shares count, that of time and that of CPU: a rank that mostly waits has little CPU time to take a share of.

        Args:
            seconds: What the sample took of the training thread's time.
            cpu_seconds: CPU time of the sample.
            step_cpu_seconds: CPU time that the process takes for a step.
            other_cpu_seconds: CPU time that hooks and the agent's own threads take for a step, sampling aside.
        """
        self._costs.append(seconds)
        self._cpu_costs.append(cpu_seconds)
        if not self.automatic or not self._steps:
            return
        share = self._budget / 2
        needed = min(self._costs) / (share * max(median(self._steps), 1e-6))
        if step_cpu_seconds > 0:
            left = _FILL * self._budget - other_cpu_seconds / step_cpu_seconds
            share = min(share, max(left, self._budget / 8))
            needed = max(needed, min(self._cpu_costs) / (share * step_cpu_seconds))
        factor = 1
        while self._base * factor < needed and self._base * factor < MAX_PERIOD:
            factor *= 2
        # Denser again only when clearly affordable, or the period would flap.
        if factor > self._measured or factor * 4 <= self._measured:
            self._measured = factor
        self._apply()

    def advise(self, factor: int) -> None:
        """Obeys the detector's wish for a sparser period, within limits."""
        self._advised = 1
        while self._advised < min(factor, 1024):
            self._advised *= 2
        self._apply()

    def _apply(self) -> None:
        self.steps = min(self._base * max(self._measured, self._advised), MAX_PERIOD)


def _base(parameters: int) -> int:
    if parameters < 10_000_000:
        return 16
    return 32 if parameters < 1_000_000_000 else 64
