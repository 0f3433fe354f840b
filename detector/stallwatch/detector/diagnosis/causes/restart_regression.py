"""Training stepped back at a restart: weights or the optimizer's state were lost, or an old checkpoint was taken.

Decided from the loss after a restart against what it was at the very step that the job went back to (a resume that repeats
steps repeats their losses, and is in order), and from the optimizer's own count of steps, which begins anew when its state was
not restored (for Adam and its kin). Restarts that all go back to the same step, without a checkpoint since, are
named as well. Momentum of plain SGD has no count. In logs, a restart is where steps go back. Not to be confused with
`distribution_shift` (no restart).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Restart, Vitals
from stallwatch.detector.diagnosis.timeline import near_onset
from stallwatch.detector.diagnosis.weighing import Term, Weighing, ramp

KIND = "restart_regression"
_MEDIAN_ERROR = 1.25 / math.sqrt(32)
"""Standard error of the median of 32 losses, in their deviations."""
_KEPT = 0.25
"""A state that has fewer steps than this share of those before is not the one that was."""
_STEPS = 64
"""Steps of an optimizer's state below which there was nothing to lose."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    if not vitals.restarts:
        return None
    latest = _worst(vitals)
    excess, sigma = excess_at(latest)
    lost = lost_state(latest)
    relevance = _relevance(vitals, latest)
    same = [each for each in vitals.restarts[-3:] if abs(each.step - vitals.restarts[-1].step) <= 1]
    stuck = len(same) == 3 and all(each.step_before > each.step + 1 for each in same)
    worse = [each for each in vitals.restarts if excess_at(each)[1] > 5 and excess_at(each)[0] > 0.08]
    goes_back = latest.step_before - latest.step
    terms = (
        Term(
            relevance * min(ramp(sigma, 3.0, 8.0, 5.0), ramp(excess, 0.04, 0.15, 5.0)),
            f"the loss after the restart at step {latest.step:,} is {latest.loss_after:.4g}, and was {latest.loss_there:.4g} at these steps before",
        ),
        Term(
            5.0 * lost * relevance,
            f"the optimizer's state begins anew (step {latest.state_step_after:,}, {latest.state_step_before:,} before)",
        ),
        Term(
            1.5 * near_onset(vitals, latest.step),
            f"the loss stopped falling at step {vitals.loss.since_step if vitals.loss else 0:,}",
        ),
        Term(
            1.5 * (len(worse) > 1),
            f"so it was at {len(worse)} of {len(vitals.restarts)} restarts",
        ),
        Term(
            4.0 * stuck,
            f"the last {len(same)} restarts all went back to step {latest.step:,}: no checkpoint was written since",
        ),
        Term(
            -3.0 * (not lost and not stuck and sigma < 2),
            f"the loss went on from where it was ({latest.loss_after:.4g}, {latest.loss_there:.4g} before)",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    best = max(terms, key=lambda term: term.nats)
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"Training stepped back at a restart: {best.text}"
        + (f"; {goes_back:,} steps were repeated." if goes_back > 1 else "."),
        advice=(
            "Save and load the optimizer's state_dict with the model's, and the scheduler's and the scaler's with them."
            if lost
            else "Load the latest checkpoint, and check that model, optimizer and scheduler all come from it.",
            "Warm the learning rate up over some hundred steps after the restart, for the moments have to be gathered anew."
            if lost
            else f"Write checkpoints more often than every {max(goes_back, 1):,} steps.",
        ),
        experiment="evaluate the checkpoint right after loading it: the loss must be the one it was saved with.",
        decisive=bool(relevance > 0.5 and (lost or _fell_back(latest, excess, sigma))),
        since_step=latest.step,
    )


def _fell_back(restart: Restart, excess: float, sigma: float) -> bool:
    """Whether the loss is above what it was there by more than samples in another order make."""
    gained = restart.first_loss - restart.loss_there
    lost = (restart.loss_after - restart.loss_there) / gained if gained > 0 else math.nan
    return sigma > 8 and excess > 0.15 and lost > 0.1


def excess_at(restart: Restart) -> tuple[float, float]:
    """How far the loss after a restart is above what it was there: as a share of it, and in standard errors."""
    there = restart.loss_there
    gap = restart.loss_after - there
    error = restart.noise * _MEDIAN_ERROR * math.sqrt(2)
    if math.isnan(gap) or not abs(there) > 0:
        return math.nan, math.nan
    return gap / abs(there), gap / error if error > 0 else math.nan


def lost_state(restart: Restart) -> bool:
    """Whether the weights came back and the optimizer's state did not."""
    before, after = restart.state_step_before, restart.state_step_after
    if before < _STEPS or after < 0 or after >= _KEPT * before:
        return False
    if restart.step >= _KEPT * restart.step_before and restart.step > _STEPS:
        return after < _KEPT * restart.step  # the count of steps went on, that of the state did not
    # Both begin anew: a job from scratch, unless its weights are those of before.
    middle = (restart.loss_before + restart.first_loss) / 2
    return restart.first_loss > 1.2 * restart.loss_before and restart.loss_after < middle


def _worst(vitals: Vitals) -> Restart:
    """The latest restart, or the latest that lost something."""
    for each in reversed(vitals.restarts):
        if lost_state(each) or excess_at(each)[0] > 0.04:
            return each
    return vitals.restarts[-1]


def _relevance(vitals: Vitals, restart: Restart) -> float:
    """1 while the restart can still be what holds the run up; falls to 0 once as many steps again have passed since."""
    done = max(restart.step_before - vitals.evidence_from, 64)
    passed = vitals.step - restart.step
    loss = vitals.loss
    above = loss is not None and loss.level > restart.loss_before + 2 * restart.noise * _MEDIAN_ERROR
    if above and restart.loss_after > restart.loss_before:
        return 1.0
    return min(max(2.0 - passed / done, 0.0), 1.0)
