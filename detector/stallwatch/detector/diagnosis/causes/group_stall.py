"""One group of samples (a class, a modality, a bin of difficulty) has stopped learning, or never began, while others learn.

Decided from the losses of groups (`Agent.log(groups=...)`): one that stands at twice the level of the others or more, and has
come down by much less of where it started. A group that is merely harder comes down with the others. Not to be confused with
`label_noise`: there the group's loss rises above where it started, for a model that is sure of itself is surely wrong about
wrong labels; a rare class does that as well, but only to what its rarity costs.
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import SeriesVitals, Vitals
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "group_stall"
_LEAST_POINTS = 32
_FLAT_SIGMAS = 3.0


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    group = outstanding(vitals)
    if group is None:
        return None
    others = level_of_others(vitals, group)
    kept, others_kept = group.level / group.start, _kept(vitals, group)
    ratio = group.level / others if others > 0 else math.inf
    total = sum(each.share * each.level for each in vitals.groups)
    weight = group.share * group.level / total if total > 0 else math.nan
    error = _FLAT_SIGMAS * group.slope_error
    falls, rises = group.slope < -max(error, 0.1), group.slope > max(error, 0.1)
    surplus = kept if group.level > 1.3 * rarity(group) else math.nan
    terms = (
        Term(
            # A group that has come down is merely harder than the others, at whatever level it ends.
            log_ramp(min(ratio, 1e3), 1.5, 3.0, 3.0) * ramp(kept, 0.4, 0.8, 1.0),
            f"the loss of '{group.name}' is {group.level:.4g}, that of the others {others:.4g}",
        ),
        Term(
            ramp(kept - others_kept, 0.2, 0.6, 3.5),
            f"it has kept {100 * kept:.0f} % of where it started, the others {100 * others_kept:.0f} %",
        ),
        Term(
            1.0 * (not falls),
            "it no longer falls",
        ),
        Term(
            ramp(weight, 0.3, 0.7, 1.0),
            f"it is {100 * group.share:.0f} % of the samples and {100 * weight:.0f} % of the loss",
        ),
        Term(
            -3.0 * falls,
            "it still falls",
        ),
        Term(
            -1.5 * rises,
            "it rises",
        ),
        Term(
            -log_ramp(surplus, 1.03, 1.2, 5.0),
            f"it has risen to {kept:.2f} times where it started: the model is sure, and wrong about it",
        ),
    )
    if not any(term.nats > 0 for term in terms[:2]):
        return None
    never = kept > 0.85 and others_kept < 0.6 and ratio > 2 and not falls and not rises
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"The group '{group.name}' ({100 * group.share:.0f} % of the samples) has stopped learning: its loss is {group.level:.4g}, {100 * kept:.0f} % of where it started, that of the others {others:.4g}, {100 * others_kept:.0f} %.",
        advice=(
            f"Draw '{group.name}' more often, or weigh its loss up by about {min(1 / max(group.share * len(vitals.groups), 1e-3), 100):.2g} times.",
            f"Look at inputs and labels of '{group.name}': a modality that does not reach the model, or preprocessing that spoils it.",
        ),
        experiment=f"train 200 steps on '{group.name}' alone: if its loss falls, the others crowd it out; if not, its inputs or labels are at fault.",
        decisive=bool(never and not surplus > 1.1),
    )


def outstanding(vitals: Vitals) -> SeriesVitals | None:
    """The group with the highest loss, of at least two with enough points."""
    known = [
        each for each in vitals.groups if each.points >= _LEAST_POINTS and each.start > 0 and each.level > 0
    ]
    return max(known, key=lambda each: each.level) if len(known) > 1 else None


def level_of_others(vitals: Vitals, group: SeriesVitals) -> float:
    """Mean loss of all other groups' samples."""
    others = [each for each in vitals.groups if each.name != group.name]
    share = sum(each.share for each in others)
    return sum(each.share * each.level for each in others) / share if share > 0 else math.nan


def rarity(group: SeriesVitals) -> float:
    """The loss of a class that is only ever predicted by how often it comes."""
    return -math.log(group.share) if 0 < group.share < 1 else math.nan


def _kept(vitals: Vitals, group: SeriesVitals) -> float:
    """What the others have kept of where they started."""
    others = [each for each in vitals.groups if each.name != group.name and each.start > 0]
    share = sum(each.share for each in others)
    return sum(each.share * each.level / each.start for each in others) / share if share > 0 else math.nan
