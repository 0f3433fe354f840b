"""One rank holds the others up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.across_ranks import onset, trimmed_mean
from stallwatch.detector.checks.cpu_waits import CpuWaits
from stallwatch.detector.checks.straggler_config import StragglerConfig
from stallwatch.detector.checks.straggler_suspects import Standing, Suspect, Suspects, standing
from stallwatch.detector.checks.straggler_windows import Look, Noise, Windows, saved_seconds
from stallwatch.detector.checks.straggler_words import verdict
from stallwatch.detector.checks.wording import ranks_text
from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import AttemptObservation, RunDeclaration, StepObservation
from stallwatch.detector.core.verdicts import Verdict

__all__ = ["Straggler", "StragglerConfig"]


@dataclass(slots=True)
class Straggler:
    """Finds the rank that the others wait for, since when, in which phase and what it costs.

    In synchronous training the slow rank is the one that waits least: everybody else waits for it. A rank's excess is the
    median wait of its peers less its own. Means over windows of ten steps are looked at five to eighteen windows together;
    they must stand out from what such means of this run vary by, from the spread over ranks, and from a floor, by more
    standard errors the more ranks there are. Where waits are not measured (accelerators without synchronising timers), input
    and forward times are compared instead.

    On a machine with more threads than cores the scheduler holds one rank back for seconds, then another. The kernel's count
    of how long a thread waited for a CPU tells that apart: what it explains has to last for half a minute, what it does not
    explain need not wait; and every excess has to outlast those of its size that this run has seen go away.

    It cannot see a slow rank among ranks that are all slow in turn (that is noise, or uneven data), excesses below 5 % of the
    step, nor tell a slow link from a slow process when only the wait shows it. Leave-one-out slowdown
    after Lin et al., arXiv 2505.05713.
    """

    kind: ClassVar[str] = "straggler"
    consumes: ClassVar[tuple[type, ...]] = (
        StepObservation,
        AttemptObservation,
        LivenessObservation,
        RunDeclaration,
    )

    config: StragglerConfig = field(default_factory=StragglerConfig)
    sharded: bool = False
    windows: Windows = field(default_factory=Windows)
    means: list[NDArray[np.float64]] = field(default_factory=list)
    """Excess of every rank in the latest windows, seconds."""
    leads: list[NDArray[np.float64]] = field(default_factory=list)
    phases: list[NDArray[np.float64]] = field(default_factory=list)
    spans: list[float] = field(default_factory=list)
    """Wall time of the latest windows."""
    past: list[NDArray[np.float32]] = field(default_factory=list)
    """Excess per step and rank of the latest windows, for finding where it began."""
    past_steps: list[list[int]] = field(default_factory=list)
    noise: Noise = field(default_factory=Noise)
    suspects: Suspects = field(default_factory=Suspects)
    waits: CpuWaits = field(default_factory=CpuWaits)
    hosts: dict[int, str] = field(default_factory=dict)
    said: tuple[int, ...] = ()
    said_share: float = 0.0

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, LivenessObservation):
            self.waits.take(observation)
        elif isinstance(observation, RunDeclaration):
            self.hosts = dict(observation.hosts)
        elif isinstance(observation, AttemptObservation):
            self._reset(observation.world_size)
        elif isinstance(observation, StepObservation):
            return self._step(observation)
        return None

    def _step(self, step: StepObservation) -> Verdict | None:
        if step.world_size < 2 or step.parallelism in (Parallelism.LOCAL, Parallelism.SINGLE):
            return None
        if step.world_size != self.windows.world_size:
            self._reset(step.world_size)
        self.sharded = step.parallelism is Parallelism.SHARDED
        if not self.windows.store(step):
            return None
        look = self.windows.look(sharded=self.sharded)
        return None if look is None else self._judge(step.step, look)

    def _reset(self, world_size: int) -> None:
        self.windows.reset(world_size, self.config.window_steps)
        self.means, self.leads, self.phases, self.spans = [], [], [], []
        self.past, self.past_steps = [], []
        self.noise, self.suspects = Noise(), Suspects()
        self.waits.forget()
        self.said, self.said_share = (), 0.0

    def _judge(self, step: int, look: Look) -> Verdict | None:
        config = self.config
        keep = max(config.longest_windows, 2 * config.windows)
        self.means = [*self.means[1 - keep :], look.mean]
        self.leads = [*self.leads[1 - keep :], look.lead]
        self.phases = [*self.phases[1 - config.windows :], look.phases]
        self.spans = [*self.spans[1 - keep :], look.seconds]
        kept = self._remembered()
        self.past = [*self.past[1 - kept :], look.excess.astype(np.float32)]
        self.past_steps = [*self.past_steps[1 - kept :], look.steps]
        self.noise.learn(self.means, config.windows, look.step_seconds)
        latest = np.stack(self.means[-config.windows :])
        error = self.noise.of_block(look.error / config.windows**0.5, latest, look.step_seconds)
        self.suspects.follow(look, config)
        self._suspect(standing(self.means, self.leads, look, error, config), look)
        self.suspects.settle(step, look, self.waits, config)
        return self._conclude(step, look)

    def _remembered(self) -> int:
        """Windows kept step by step: fewer the more ranks there are."""
        ranks = self.windows.world_size
        return 24 if ranks <= 16 else 12 if ranks <= 1024 else 7

    def _suspect(self, out: Standing, look: Look) -> None:
        for rank, count, excess, z in zip(
            out.out.tolist(), out.windows.tolist(), out.excess.tolist(), out.z.tolist(), strict=True
        ):
            saved = saved_seconds(look, (rank,))
            suspect = self.suspects.by_rank.get(rank)
            if suspect is None:
                suspect = self.suspects.by_rank[rank] = self._new(rank, look, count, excess, saved)
            suspect.saved += 0.1 * (saved - suspect.saved)
            suspect.z = z

    def _new(self, rank: int, look: Look, count: int, excess: float, saved: float) -> Suspect:
        series = np.concatenate([past[:, rank] for past in self.past]).astype(np.float64)
        steps = np.concatenate(self.past_steps)
        since = onset(series, steps.tolist())
        # The windows it was found by may have begun before it did.
        after = series[(steps >= since) & np.isfinite(series)]
        phases = np.mean([each[:, rank] for each in self.phases], axis=0)
        return Suspect(
            since=since,
            windows=count,
            seconds=sum(self.spans[-count:]),
            excess=float(trimmed_mean(after[:, None])[0])
            if after.size >= self.config.window_steps
            else excess,
            step_seconds=look.step_seconds,
            phases=[float(value) if np.isfinite(value) else 0.0 for value in phases],
            saved=saved,
        )

    def _conclude(self, step: int, look: Look) -> Verdict | None:
        named = self.suspects.named
        ranks = tuple(sorted(named))
        if not named:
            if not self.said:
                return None
            said, self.said, self.said_share = self.said, (), 0.0
            steps = self.config.resolve_windows * self.config.window_steps
            return Verdict(
                kind=self.kind,
                firing=False,
                step=step,
                reason=f"No rank has held the others up for {steps} steps; before it was {ranks_text(said)}.",
                ranks=said,
            )
        worst = self.suspects.by_rank[named[0]]
        # Windows in which it is ending mix both: what it was stays said.
        ending = worst.quiet > 0 or worst.latest < 0.67 * worst.excess
        if ranks == self.said and (ending or 0.67 < worst.share / self.said_share < 1.5):
            return None
        self.said, self.said_share = ranks, worst.share
        return verdict(
            step,
            named,
            self.suspects.by_rank,
            self.hosts,
            worst.saved if len(named) == 1 else saved_seconds(look, ranks),
            self.config,
            by_wait=look.by_wait,
            bar=self.config.bar(self.windows.world_size),
        )
