"""Ranks that stand out, for how long they have, and when that is long enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.across_ranks import SIGMA
from stallwatch.detector.checks.cpu_waits import CpuWaits
from stallwatch.detector.checks.spells import Spells
from stallwatch.detector.checks.straggler_config import StragglerConfig
from stallwatch.detector.checks.straggler_windows import Look, saved_seconds

_FEW, _SOME = 5, 8
_STILL = 0.8
"""Share of the windows of an excess in which it must show; one in five may have been drowned by noise."""
_HALF_MEDIAN, _HALF_MAD = 0.6745, 0.3990
"""Median and median absolute deviation of a half-normal distribution, in standard deviations of the whole one."""
_QUICK_WEIGHT = 10
_SAVED_WEIGHT = 0.2
_SAVES = 0.3
"""Part of the least excess by which steps have to be shorter without the suspects of a few ranks."""


@dataclass(slots=True)
class Suspect:
    """A rank that has stood out lately."""

    since: int
    """Step at which its excess began."""
    windows: int
    """Windows since then, as far as they were kept."""
    seconds: float
    """Wall time of these."""
    excess: float
    """Running mean of its excess, seconds."""
    step_seconds: float
    """Running mean of the whole step's length."""
    phases: list[float]
    """Running means of its excess by phase, seconds."""
    saved: float
    """Running mean of what steps would be shorter without it."""
    latest: float = 0.0
    z: float = 0.0
    quiet: int = 0
    """Windows in a row in which it was less than half of what it was."""
    cpu_wait_share: float = 0.0
    """Share of its time that it waits for a CPU more than the others."""
    named: bool = False

    @property
    def share(self) -> float:
        """Its excess as a share of the step."""
        return self.excess / self.step_seconds


@dataclass(slots=True)
class Standing:
    """Which ranks stand out now, over how many windows, and by how much."""

    out: NDArray[np.int64]
    windows: NDArray[np.int64]
    excess: NDArray[np.float64]
    z: NDArray[np.float64]


def standing(
    means: list[NDArray[np.float64]],
    leads: list[NDArray[np.float64]],
    look: Look,
    error_of_block: float,
    config: StragglerConfig,
) -> Standing:
    """Look at the latest windows together, a few and then more of them.

    Args:
        means: Excess of every rank by window, oldest first, the present one last.
        leads: Share of steps behind the others, likewise.
        look: The present window.
        error_of_block: Standard error of the mean of `config.windows` windows.
        config: The check's settings.
    """
    size = look.mean.size
    floor = max(config.excess_share * look.step_seconds, config.excess_seconds)
    bar = config.bar(int(np.count_nonzero(np.isfinite(look.mean))))
    best_z, best_excess, best_windows = np.zeros(size), np.zeros(size), np.zeros(size, np.int64)
    for count in config.lengths():
        if len(means) < count:
            break
        latest = np.stack(means[-count:])
        mean = latest.mean(axis=0)
        error = max(error_of_block * (config.windows / count) ** 0.5, 1e-3 * look.step_seconds)
        z = np.minimum(mean / error, _over_ranks(mean, config.spread_share * look.step_seconds))
        shows = (latest > floor / 2).sum(axis=0) >= _STILL * count
        leads_enough = np.mean(leads[-count:], axis=0) >= config.lead_share
        with np.errstate(invalid="ignore"):
            better = (mean > floor) & (z > bar) & shows & leads_enough & (best_windows == 0)
        best_z[better], best_excess[better], best_windows[better] = z[better], mean[better], count
    out = np.flatnonzero(best_windows)
    return Standing(out, best_windows[out], best_excess[out], best_z[out])


def _over_ranks(mean: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """How far ranks stand out from the spread over ranks; with few ranks that says nothing, and steps must decide.

    The spread is that of the half that waits longest: up to half of the ranks may be slow, as when a node of two is.
    """
    known = np.sort(mean[np.isfinite(mean)])
    if known.size < _FEW:
        return np.full(mean.size, np.inf)
    if known.size < _SOME:
        center = float(np.median(known))
        spread = SIGMA * float(np.median(np.abs(known - center)))
    else:
        half = known[: (known.size + 1) // 2]
        middle = float(np.median(half))
        spread = float(np.median(np.abs(half - middle))) / _HALF_MAD
        center = middle + _HALF_MEDIAN * spread
    return np.asarray((mean - center) / max(spread, least))


@dataclass(slots=True)
class Suspects:
    """All suspects by rank, and the spells of those that were none."""

    by_rank: dict[int, Suspect] = field(default_factory=dict)
    saved: float = math.nan
    """Running mean of what steps would be shorter without all of them, seconds; kept among few ranks only."""
    spells: Spells = field(default_factory=Spells)

    def follow(self, look: Look, config: StragglerConfig) -> None:
        """Take a window: who goes on, and who has stopped."""
        floor = max(config.excess_share * look.step_seconds, config.excess_seconds)
        for rank in sorted(self.by_rank):
            suspect = self.by_rank[rank]
            value = float(look.mean[rank])
            if not np.isfinite(value):
                continue
            suspect.windows += 1
            suspect.seconds += look.seconds
            suspect.latest = value
            if value < max(0.5 * suspect.excess, floor / 2):
                suspect.quiet += 1
            else:
                suspect.quiet = 0
                weight = 1.0 / min(suspect.windows, _QUICK_WEIGHT)
                suspect.excess += weight * (value - suspect.excess)
                suspect.step_seconds += weight * (look.step_seconds - suspect.step_seconds)
                for phase, new in enumerate(look.phases[:, rank].tolist()):
                    suspect.phases[phase] += weight * (new - suspect.phases[phase])
            if suspect.quiet >= (config.resolve_windows if suspect.named else max(config.windows // 2, 2)):
                # One that was named and went away by itself is one to be slow to believe again, too.
                self.spells.add(suspect.share, suspect.seconds)
                del self.by_rank[rank]

    def settle(self, step: int, look: Look, waits: CpuWaits, config: StragglerConfig) -> None:
        """Name those that have lasted long enough.

        Among few ranks, one that is behind most of the others but not the last does not hold anybody up. Among many, the last
        one of a step is a matter of chance, and how far a rank stands out from the spread over ranks has decided.
        """
        few = int(np.count_nonzero(np.isfinite(look.mean))) < _SOME
        if few:
            self._weigh(look)
        for rank in sorted(self.by_rank):
            suspect = self.by_rank[rank]
            waited = waits.beyond_others(rank, suspect.since, step)
            if waited is not None:
                suspect.cpu_wait_share = waited
            # It may have shrunk since it first stood out.
            floor = max(config.excess_share * suspect.step_seconds, config.excess_seconds)
            matters = suspect.excess >= floor and (not few or self.saved >= _SAVES * floor)
            if not suspect.named and not suspect.quiet and matters:
                suspect.named = suspect.seconds >= self._needed(
                    suspect, waited, known=waits.knows(rank), config=config
                )

    def _weigh(self, look: Look) -> None:
        if not self.by_rank:
            self.saved = math.nan
            return
        saved = saved_seconds(look, tuple(sorted(self.by_rank)))
        self.saved = saved if math.isnan(self.saved) else self.saved + _SAVED_WEIGHT * (saved - self.saved)

    def _needed(
        self, suspect: Suspect, waited: float | None, *, known: bool, config: StragglerConfig
    ) -> float:
        """Seconds that an excess has to last."""
        outlasted = config.spell_factor * self.spells.longest(suspect.share)
        if suspect.phases[0] >= config.drastic_share * suspect.step_seconds:
            return outlasted
        if waited is None:
            # Where waiting for a CPU is told, the next heartbeat will tell.
            return max(config.contended_seconds if known else config.settle_seconds, outlasted)
        own = suspect.share - waited
        return max(0.0 if own >= config.own_share * suspect.share else config.contended_seconds, outlasted)

    @property
    def named(self) -> list[int]:
        """Ranks that hold the others up, the worst first."""
        named = [rank for rank, suspect in self.by_rank.items() if suspect.named]
        return sorted(named, key=lambda rank: (-self.by_rank[rank].excess, rank))
