"""What a sampled step cost, so that the period can be kept within its share of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stallwatch.agent._probe.hooks import Guard
    from stallwatch.agent._probe.sampling import SamplePeriod


class SampleCost:
    """The account of the sample at hand, and of the steps since the one before."""

    def __init__(self, guard: Guard, period: SamplePeriod, background_seconds: Callable[[], float]) -> None:
        self._guard = guard
        self._period = period
        self._background_seconds = background_seconds
        self._seconds = self._cpu = self._all_seconds = 0.0
        self._settled = (0, 0.0, 0.0)

    def add(self, seconds: float, cpu_seconds: float) -> None:
        """A part of the sample took so long, and so much of the CPU."""
        self._seconds += seconds
        self._cpu += cpu_seconds

    def settle(self, step: int, in_hooks: float) -> None:
        """Tell the period what this sample cost, and what the steps since the sample before took of the CPU.

        `in_hooks` are seconds that the sample's own hooks took, which are in nobody's account yet.
        """
        self._guard.seconds += in_hooks
        seconds, cpu_seconds = self._seconds + in_hooks, self._cpu + in_hooks
        self._seconds = self._cpu = 0.0
        self._all_seconds += seconds
        # What everything else takes. The hook at hand is not in the guard's account yet, the last time as little as now.
        cpu, own = process_time(), self._guard.seconds - self._all_seconds + self._background_seconds()
        step_before, cpu_before, own_before = self._settled
        self._settled = (step, cpu, own)
        steps = step - step_before
        known = cpu_before and steps > 0
        step_cpu = (cpu - cpu_before - cpu_seconds) / steps if known else 0.0
        other = max(own - own_before, 0.0) / steps if known else 0.0
        self._period.observe_cost(seconds, cpu_seconds, step_cpu, other)
