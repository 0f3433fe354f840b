"""Runs of the same model go flat at the same loss, or the same epoch, whatever the settings. Benign until something else is found.

Decided from other runs of the family: two or more that are flat at the same loss, the more they differ in learning rate or
batch the more it says, since then neither of them holds the loss up. What all of them share does: data, labels, loss, model.
That may be a fault as well, and the family cannot tell which one. So this cause gives way to any fault that would be the answer
by itself, and counts as benign where an invariant is broken. A run that got clearly below shows that the level is no floor.

Not to be confused with `noise_floor` (the loss is all but gone, or the schedule at its end: then runs end at the same place
because they are done) and `capacity_limit` (the same, seen from one run).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.family import Peer
from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import inverse
from stallwatch.detector.diagnosis.health import flatness, nothing_broken, progress
from stallwatch.detector.diagnosis.relatives import (
    Relatives,
    differences,
    got_through,
    names,
    relatives,
    spread,
)
from stallwatch.detector.diagnosis.timeline import at_schedule_end, near_onset
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "common_plateau"
_LEAST = 2
"""Other runs that it takes: one may be there by chance."""
_FULL = math.log(10)
"""Surprise at a run that is as near as 5 % of what was learnt: from there on coincidence is excluded."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    found = relatives(vitals)
    if found is None or vitals.loss is None or vitals.loss.state not in ("plateau", "slow"):
        return None
    if len(found.same) >= _LEAST:
        return _weighing(vitals, found, found.same, _at_the_same_loss(found))
    # A schedule that all of them share ends the fall at the same epoch: that says nothing of what they have in common besides.
    scheduled = vitals.rate.falling or near_onset(vitals, vitals.rate.since) or at_schedule_end(vitals)
    if len(found.together) >= _LEAST and not scheduled:
        return _weighing(vitals, found, found.together, _at_the_same_time(found))
    return None


def _at_the_same_loss(found: Relatives) -> tuple[Term, ...]:
    sure = min(found.surprise / _FULL, 1.0)
    level = found.own.level
    elsewhere = len(found.above) / (len(found.above) + len(found.same))
    return (
        Term(
            # Runs that share their settings share whatever is wrong with them: alone, this is not enough for an answer.
            sure * (0.35 + ramp(len(found.same), 0, 4, 1.0)),
            f"{len(found.same)} other runs of the family are flat at the same loss, {level:.4g} +- {found.tolerance:.2g} "
            f"({names(found.same)})",
        ),
        *_settings(found, found.same, sure),
        Term(
            -ramp(elsewhere, 0.3, 0.7, 2.5),
            f"{len(found.above)} others are flat at another loss ({names(found.above)})",
        ),
        *_through(found),
    )


def _at_the_same_time(found: Relatives) -> tuple[Term, ...]:
    return (
        Term(
            # What learns at the same pace stops at about the same time: alone, this is no answer either.
            0.5,
            f"{len(found.together)} other runs of the family went flat after as many samples, if not at the same loss "
            f"({names(found.together)})",
        ),
        *_settings(found, found.together, 0.3),
        *_through(found),
    )


def _settings(found: Relatives, peers: tuple[Peer, ...], sure: float) -> tuple[Term, ...]:
    """What the runs differ in cannot be what holds them up."""
    compared = (found.own, *peers)
    rates = [each.peak_learning_rate for each in compared]
    batches = [each.effective_batch for each in compared]
    optimizers = sorted({each.optimizer for each in compared if each.optimizer})
    return (
        Term(sure * log_ramp(spread(rates), 1.5, 10, 2.5), f"at learning rates {_range(rates)}"),
        Term(sure * log_ramp(spread(batches), 1.5, 8, 1.5), f"at effective batches {_range(batches)}"),
        Term(sure * (len(optimizers) > 1), f"with {' and '.join(optimizers)}"),
    )


def _through(found: Relatives) -> tuple[Term, ...]:
    return (Term(-1.0 * bool(found.through), got_through(found)),)


def _weighing(vitals: Vitals, found: Relatives, peers: tuple[Peer, ...], own: tuple[Term, ...]) -> Weighing:
    left = progress(vitals)
    done = (
        Term(
            -1.5 * at_schedule_end(vitals),
            "the learning rate is at the end of its schedule: runs of one schedule end together",
        ),
        Term(
            -log_ramp(inverse(left), 12, 100, 3.0),
            f"the loss is down to {100 * left:.2g} % of where it started: what is left is near the same in every run",
        ),
        Term(
            -ramp(left, 0.9, 0.98, 4.0),
            f"with {100 * left:.0f} % of the loss still there, nothing has been learnt",
        ),
    )
    return Weighing(
        kind=KIND,
        terms=(*own, *done, *flatness(vitals), *nothing_broken(vitals)),
        reason=_reason(found, peers, own),
        advice=_advice(found, peers),
        experiment="overfit one small batch with this model: if it stays at this level too, model, labels or loss are at fault; "
        "if it does not, look at the data.",
        yields=True,
    )


def _reason(found: Relatives, peers: tuple[Peer, ...], own: tuple[Term, ...]) -> str:
    said = ", ".join(each.text for each in own[:4] if each.nats > 0)
    through = f"; {got_through(found)}" if found.through else ""
    varied = any(differences(found.own, each) for each in peers)
    ending = "" if varied else "; they differ in nothing that is known but the seed"
    return f"{said[:1].upper()}{said[1:]}{ending}{through}."


def _advice(found: Relatives, peers: tuple[Peer, ...]) -> tuple[str, ...]:
    if found.through:
        best = found.through[0]
        different = differences(found.own, best)
        take = (
            f"Take over what {best.run} does: {' and '.join(different)}."
            if different
            else f"{best.run} got through by its seed alone: start several, and go on with those that get below "
            f"{found.own.level:.4g}; a longer warm-up or another initialisation makes it less of a lottery."
        )
        return (take, f"Stop the runs that are flat, or restart them from a checkpoint of {best.run}.")
    stop = (
        "Stop tuning what these runs differ in: it is not what holds them up."
        if any(differences(found.own, each) for each in peers)
        else "Vary the learning rate and the batch in the next runs: the seed is not what holds these up."
    )
    return (
        stop,
        "Look at what they share: the data and their labels, the loss, the model, the code that feeds it.",
    )


def _range(values: list[float]) -> str:
    known = [each for each in values if each > 0]
    return f"from {min(known):.3g} to {max(known):.3g}" if known else ""
