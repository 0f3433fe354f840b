"""From evidence to a state, with persistence: a state changes only when several looks agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stallwatch.detector.core.learning import STOPPED_STATES

if TYPE_CHECKING:
    from stallwatch.detector.signals.loss_config import LossConfig
    from stallwatch.detector.signals.loss_look import Evidence

_DOUBTED = 0.6
"""Below this probability a plateau is taken back."""
_SLOW_MULTIPLE = 5.0
"""An expected gain below this many material gains is slow."""

_LASTING = 0.01
"""A plateau that lasts gains less than this share of the loss in as much time again."""
_RISING_SHARE = 0.1
"""A rise must last for this share of the age, which outlives the swings of red noise."""


def _onset(state: str, evidence: Evidence) -> tuple[int, float]:
    """Where a state that was called at this look began, and one standard error of that, in steps."""
    if state == "plateau":
        # Where the curve is known more finely than what matters, its bend is where it is seen to bend.
        unresolved = max(2 * evidence.posterior.level_error, 0.1 * evidence.gain)
        begun, spread = evidence.posterior.onset(min(evidence.gain, unresolved))
        start = max(evidence.origin + round(begun * evidence.age), evidence.above_until)
        return min(start, evidence.step), max(spread, 0.02) * evidence.age
    if state == "diverging":
        return min(evidence.rise_from, evidence.step), 0.02 * evidence.age
    return evidence.step, 0.05 * evidence.age


@dataclass(slots=True)
class StateMachine:
    """The state and the looks that speak for leaving it."""

    state: str = "warming_up"
    since: int = 0
    """Estimate of the step at which the state began."""
    since_error: float = 0.0
    plateau_from: int = -1
    """Step of the first look of the present unbroken row that found a plateau; -1 when there is none."""
    plateau_looks: int = 0
    falling_looks: int = 0
    rising_from: int = -1
    rising_looks: int = 0
    swing_looks: int = 0

    def reopen(self, step: int) -> None:
        """The settings changed."""
        self.plateau_from, self.plateau_looks, self.falling_looks = -1, 0, 0
        self.rising_from, self.rising_looks, self.swing_looks = -1, 0, 0
        if self.state != "warming_up":
            self.state, self.since, self.since_error = "improving", step, 0.0

    def break_off(self, step: int) -> None:
        """The loss is no number any more."""
        self.reopen(step)
        self.state, self.since, self.since_error = "diverging", step, 0.0

    def update(self, evidence: Evidence, config: LossConfig) -> None:
        """Take one look."""
        self.falling_looks = self.falling_looks + 1 if self._moving(evidence) else 0
        if self._flat(evidence, config):
            if self.plateau_from < 0:
                self.plateau_from = evidence.step
            self.plateau_looks += 1
        # One look in twenty sees a fall where there is none: a plateau that was called needs more to be taken back.
        patience = config.confirmations if self.state == "plateau" else 1
        if evidence.plateau_probability < _DOUBTED or self.falling_looks >= patience:
            self.plateau_from, self.plateau_looks = -1, 0
        if not evidence.rising:
            self.rising_from, self.rising_looks = -1, 0
        else:
            self.rising_from = evidence.step if self.rising_from < 0 else self.rising_from
            self.rising_looks += 1
        bouncing = evidence.swing is not None or evidence.alternating < -0.4
        self.swing_looks = self.swing_looks + 1 if bouncing else 0
        state = self._decide(evidence, config)
        if state != self.state:
            self.state = state
            self.since, self.since_error = _onset(state, evidence)

    def confidence(self, evidence: Evidence) -> float:
        """Probability that the state is right."""
        if self.state == "plateau":
            # Real plateaus stay flat as often as this says when "flat" means: by less than 1 % in as much time again.
            lasting = max(evidence.gain, _LASTING * abs(evidence.level))
            return min(evidence.plateau_probability, evidence.posterior.probability_gain_below(lasting, 1.0))
        if self.state in {"improving", "slow"}:
            return 1 - evidence.plateau_probability
        if self.state == "diverging":
            return max(0.5, 1 - math.exp(-max(evidence.rise_sigma, 0.0)))
        if self.state == "oscillating":
            return 1 - evidence.swing.probability if evidence.swing else 0.9
        return 0.5

    def _decide(self, evidence: Evidence, config: LossConfig) -> str:
        stopped = self._stopped(evidence, config)
        if stopped is not None:
            return stopped
        probability = evidence.plateau_probability
        surest_gain = -evidence.trend.interval(0.9)[1] * evidence.horizon
        if probability < 0.5 and (surest_gain > 0 or probability < 0.1):
            return "slow" if evidence.expected_gain < _SLOW_MULTIPLE * evidence.gain else "improving"
        if self.state in STOPPED_STATES and self.plateau_looks == 0:
            return "slow"
        return self.state

    def _stopped(self, evidence: Evidence, config: LossConfig) -> str | None:
        """The state of a run that no longer learns; None while it may."""
        risen_for = evidence.step - self.rising_from
        if self.rising_looks >= config.confirmations and risen_for >= _RISING_SHARE * evidence.age:
            return "diverging"
        if self.state == "diverging" and not self._recovered(evidence):
            return "diverging"
        if self.swing_looks >= config.confirmations and evidence.expected_gain <= evidence.gain:
            return "oscillating"
        flat_for = evidence.step - self.plateau_from
        if self.plateau_looks >= config.confirmations and flat_for >= config.persistence_share * evidence.age:
            return "plateau"
        return None

    @staticmethod
    def _recovered(evidence: Evidence) -> bool:
        """Whether a loss that had risen is back near its best, or surely on its way there."""
        back = evidence.rise <= max(2 * evidence.gain, 2 * evidence.rise / max(evidence.rise_sigma, 1e-9))
        latest = evidence.latest
        falling = latest is not None and latest.interval(0.9)[1] < 0
        return back or falling or evidence.plateau_probability < 0.1

    @staticmethod
    def _moving(evidence: Evidence) -> bool:
        """Whether what follows the break still falls, materially and significantly."""
        trend = evidence.after_break
        if trend is None:
            return False
        return -trend.slope * evidence.horizon > evidence.crawl and trend.interval(0.9)[1] < 0

    def _flat(self, evidence: Evidence, config: LossConfig) -> bool:
        mature = config.total_steps is None or evidence.run_age >= config.mature_share * config.total_steps
        return (
            evidence.plateau_probability >= 1 - config.false_alarm_rate
            and not self._moving(evidence)
            and evidence.settled >= config.settle_share * evidence.run_age
            and evidence.age >= config.hold_share * evidence.run_age
            and evidence.run_age >= config.fewest_steps
            and mature
        )
