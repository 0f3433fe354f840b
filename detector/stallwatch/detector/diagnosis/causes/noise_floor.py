"""What is left is noise: the run has learnt what these data and this model give, and is done. Benign.

Decided from gradients that point nowhere any more (along neither the steps nor those of other ranks), steps of ordinary size,
an evaluation that is as flat, and nothing broken; from a learning rate at the end of its schedule, a loss that is all but gone,
an accuracy near 100 %. On logs only the last three and the evaluation are known. What the model cannot fit looks like noise
to it: from `capacity_limit` it differs by how much of the loss is gone, which is a convention and no law. Not to be confused
with `lr_too_low` (the gradient still points somewhere, or the rate was cut while the loss was falling).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import inverse, stopped
from stallwatch.detector.diagnosis.health import flatness, lowest_reached, nothing_broken, progress
from stallwatch.detector.diagnosis.timeline import at_schedule_end, cut
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "noise_floor"


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    if not stopped(vitals):
        return None
    rate, left = vitals.rate, progress(vitals)
    accuracy = _accuracy(vitals)
    came = cut(vitals)
    gained = came.fall_after if came else math.nan
    own = (
        Term(
            5.0 * at_schedule_end(vitals),
            f"the learning rate is at the end of its schedule ({rate.now:.2g}, {100 * rate.ratio:.2g} % of its peak)",
        ),
        Term(
            2.0 * bool(came and came.factor < 0.5 and gained > max(0.02, 0.5 * came.fall_before)),
            f"the loss has made use of the last cut of the learning rate, by {100 * gained:.2g} %, and is flat since",
        ),
        Term(
            log_ramp(inverse(left), 12, 100, 3.0),
            f"the loss is down to {100 * left:.2g} % of where it started",
        ),
        Term(
            ramp(accuracy, 0.96, 0.99, 4.0),
            f"the accuracy is {100 * accuracy:.4g} %",
        ),
        Term(
            -ramp(left, 0.35, 0.8, 3.0),
            f"{100 * left:.0f} % of the loss is still there",
        ),
    )
    shared = flatness(vitals)
    if not any(term.nats > 0 for term in (*own, *shared)):
        return None
    best = max((*own, *shared), key=lambda term: term.nats)
    return Weighing(
        kind=KIND,
        terms=(*own, *shared, lowest_reached(vitals), *nothing_broken(vitals)),
        reason=f"What is left is noise, and the run is done at these settings: {best.text}.",
        advice=(
            "Stop here: the schedule has done its work, and more steps at this rate change nothing."
            if at_schedule_end(vitals)
            else "Stop here, or lower the learning rate tenfold for a last gain from averaging out the noise.",
            "More data, a larger model or other regularisation are the ways to a lower floor, not more steps.",
        ),
        experiment="lower the learning rate tenfold for 200 steps: a small drop that ends at once is the noise averaging out.",
    )


def _accuracy(vitals: Vitals) -> float:
    """The highest accuracy there is, as a share; NaN without one. Named so, and in percent above 1.5."""
    found = [
        each.level / 100 if each.level > 1.5 else each.level
        for each in vitals.metrics
        if "acc" in each.name.lower() and 0 <= each.level <= 100
    ]
    return max(found, default=math.nan)
