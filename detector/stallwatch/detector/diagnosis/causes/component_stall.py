"""One term of a composite loss does not come down, or rises, while the others fall.

Decided from the terms that were logged (`Agent.log(components=...)`): one with a material share of their sum that has kept most
of where it started, or has risen, while others have lost much of theirs; and from a term that came alive near the onset. Terms
that are traded for others on purpose (the divergence of a variational model, the two sides of an adversarial one) rise as
well: it is called under a loss that has stopped falling only. Not to be confused with `group_stall` (samples, not terms).
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import SeriesVitals, Vitals
from stallwatch.detector.diagnosis.evidence import stopped
from stallwatch.detector.diagnosis.timeline import near_onset
from stallwatch.detector.diagnosis.weighing import Term, Weighing, ramp

KIND = "component_stall"
_LEAST_POINTS = 32
_BEFORE = 4
"""Points of the course before a term came alive that the loss is compared with."""
_NEVER = 0.85
"""What is kept of where it started by a term that has never learnt."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    known = [each for each in vitals.components if each.points >= _LEAST_POINTS]
    if len(known) < 2 or not stopped(vitals):
        return None
    term = max(known, key=lambda each: _score(each, vitals))
    others = [each for each in known if each.name != term.name and abs(each.start) > 0]
    if not others:
        return None
    best = min(others, key=_kept)
    fallen = _kept(best)
    kept = _kept(term)
    rises = term.slope > max(3 * term.slope_error, 0.1)
    falls = term.slope < -max(3 * term.slope_error, 0.1)
    alive = term.alive_since if _came_between(vitals, term) else -1
    behind = kept - fallen
    terms = (
        Term(
            ramp(term.share, 0.1, 0.4, 2.0) * (behind > 0.2),
            f"'{term.name}' is {100 * term.share:.0f} % of the sum",
        ),
        Term(
            ramp(min(behind, 2.0), 0.2, 0.6, 3.5) * (term.share > 0.05),
            f"it has kept {100 * kept:.0f} % of where it started, '{best.name}' {100 * fallen:.0f} %",
        ),
        Term(
            1.0 * (rises and term.share > 0.1),
            "it rises",
        ),
        Term(
            4.0 * (alive >= 0),
            f"it came alive at step {term.alive_since:,}, and the loss has not been below where it stood then",
        ),
        Term(
            -3.0 * falls,
            "it still falls",
        ),
        Term(
            -ramp(fallen, 0.6, 0.9, 3.0) * (alive < 0),
            f"the others have kept {100 * fallen:.0f} % as well",
        ),
    )
    if not any(each.nats > 0 for each in terms):
        return None
    how = "rises" if rises else "came alive" if alive >= 0 else "has stopped improving"
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"One term of the loss {how}: '{term.name}' is {term.level:.4g}, {100 * term.share:.0f} % of the sum, and started at {term.start:.4g}; '{best.name}' is down to {100 * fallen:.0f} %.",
        advice=(
            f"Weigh '{term.name}' so that its gradient is about as large as that of '{best.name}', or bring it in gradually.",
            f"Look at whether '{term.name}' can be reached at all: its target, its head, a detach() on the way.",
        ),
        experiment=f"train 200 steps on '{term.name}' alone: if it falls, the other terms hold it back; if not, its own path is at fault.",
        decisive=bool(kept > _NEVER and fallen < 0.5 and term.share > 0.3 and not falls and term.start > 0),
        since_step=alive,
    )


def _kept(each: SeriesVitals) -> float:
    """What is left of where it started; above 1 when it has risen."""
    return each.level / each.start if each.start > 0 else 2.0 if each.level > 0 else 1.0


def _came_between(vitals: Vitals, each: SeriesVitals) -> bool:
    """Whether a term came alive as the loss stopped falling, or stopped it: it stands above where it stood then."""
    if each.alive_since < 0:
        return False
    before = [loss for step, loss in vitals.course if step < each.alive_since][-_BEFORE:]
    below = bool(before and vitals.loss and vitals.loss.level < min(before))
    return near_onset(vitals, each.alive_since) or bool(len(before) == _BEFORE and not below)


def _score(each: SeriesVitals, vitals: Vitals) -> float:
    """How much a term stands in the way: its share, times what it has kept."""
    alive = _came_between(vitals, each)
    return each.share * min(_kept(each), 2.0) + (1.0 if alive else 0.0)
