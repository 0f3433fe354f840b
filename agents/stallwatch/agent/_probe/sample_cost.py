"""What a sampled step takes of the training thread's time, so that the period can be kept within its share of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stallwatch.agent._probe.hooks import Guard
    from stallwatch.agent._probe.sampling import SamplePeriod


class SampleCost:
    """The account of the sample at hand, and of the steps since the one before.

    Args:
        guard: Knows the seconds spent in all hooks.
        period: Is told.
        over_budget: Called once, with a sentence, when the agent takes more than its budget and cannot take less.
    """

    def __init__(self, guard: Guard, period: SamplePeriod, over_budget: Callable[[str], None]) -> None:
        self._guard = guard
        self._period = period
        self._over_budget: Callable[[str], None] | None = over_budget
        self._seconds = self._all_seconds = 0.0
        self._settled: tuple[int, float] | None = None

    def add(self, seconds: float) -> None:
        """A part of the sample took so long."""
        self._seconds += seconds

    def settle(self, step: int, in_hooks: float, *, counts: bool) -> None:
        """Tells the period what this sample cost, and what hooks took in the steps since the sample before.

        Args:
            step: The sampled step.
            in_hooks: Seconds that the sample's own hooks took, which are in nobody's account yet.
            counts: Whether the sample is one of many: those that read the whole model at first and after a change are not.
        """
        self._guard.seconds += in_hooks
        seconds, self._seconds = self._seconds + in_hooks, 0.0
        self._all_seconds += seconds
        # The hook at hand is not in the guard's account yet, the last time as little as now.
        hooks = self._guard.seconds - self._all_seconds
        settled, self._settled = self._settled, (step, hooks)
        # Up to the first sample, much is done for the first time.
        if settled is None or step <= settled[0] or not counts:
            return
        self._period.observe_cost(seconds, max(hooks - settled[1], 0.0) / (step - settled[0]))
        over = self._period.over_budget() if self._over_budget is not None else None
        if over is not None and self._over_budget is not None:
            share, step_seconds, hook_seconds, cost = over
            say, self._over_budget = self._over_budget, None
            say(
                f"the agent takes {100 * share:.2g} % of a step of {1000 * step_seconds:.3g} ms "
                f"({1e6 * hook_seconds:.0f} us of it in hooks, and {1000 * cost:.2g} ms every {self._period.steps} steps), "
                "which is over its budget: turn readings off by name (see attach), or sample less with sample_every"
            )
