"""What happened when: the onset of the stall against events, restarts, jumps and the learning rate's schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stallwatch.detector.core.observations import EventObservation
from stallwatch.detector.core.vitals import LevelShift, Vitals
from stallwatch.detector.diagnosis.evidence import stopped

_NO_CHANGES = frozenset(
    {
        "lr",
        "learning_rate",
        "lr_change",
        "restart",
        "resume",
        "checkpoint",
        "save",
        "eval",
        "evaluation",
        "epoch",
    }
)
"""Kinds of events that change nothing about the training, or are judged by other evidence."""
_LEAST_WINDOW = 16.0
_WITHOUT_JUMP = 0.6
_SHARE = 0.03
_LATE = 0.35
"""Share of a run for which a schedule's rate is low at its planned end: 20 % for a cosine to zero, 10 % for a line."""
_PLANNED = 0.9
"""Share of the planned steps after which a low rate is what was planned."""
_LOWERED = 0.7
_LEAST_POINTS = 4
"""Points of the course on either side of a cut; each is a mean of neighbours."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The learning rate was lowered at once."""

    step: int
    factor: float
    """The new rate as a share of the old one."""
    steps: float
    """Steps on either side that are compared."""
    fall_before: float
    """By how much the loss fell over so many steps before, as a share of what it was at the cut."""
    fall_after: float
    """By how much it has fallen over so many steps since."""


def window(vitals: Vitals) -> float:
    """Steps around the onset within which something may have set it off: twice the error of its date."""
    loss = vitals.loss
    if loss is None:
        return math.nan
    return max(2 * loss.since_step_error, _SHARE * loss.steps_observed, _LEAST_WINDOW)


def near_onset(vitals: Vitals, step: int) -> bool:
    """Whether the loss stopped falling at about this step."""
    loss = vitals.loss
    return bool(
        loss is not None and stopped(vitals) and step >= 0 and abs(loss.since_step - step) <= window(vitals)
    )


def coincidence(vitals: Vitals, happenings: int) -> float:
    """Probability that the nearest of so many happenings, at random steps, is as near to the onset; NaN without a stall."""
    loss = vitals.loss
    if loss is None or not stopped(vitals) or happenings < 1:
        return math.nan
    share = min(2 * window(vitals) / max(loss.steps_observed, 1), 1.0)
    return 1.0 - (1.0 - share) ** happenings


def changes(vitals: Vitals) -> list[EventObservation]:
    """Events that may have changed the training and are not judged elsewhere, oldest first."""
    return [each for each in vitals.events if each.kind not in _NO_CHANGES]


def change_at_onset(vitals: Vitals) -> tuple[EventObservation | None, float]:
    """The change nearest to the onset, if it is near, and the evidence that it is no coincidence, in nats."""
    found = changes(vitals)
    if not found or vitals.loss is None:
        return None, 0.0
    since = vitals.loss.since_step
    nearest = min(found, key=lambda each: abs(each.step - since))
    chance = coincidence(vitals, len(found))
    if not near_onset(vitals, nearest.step) or not chance > 0:
        return None, 0.0
    # The onset is only known as well as the noise allows: without a jump of the loss at it, this says less.
    jumped = any(abs(each.step - nearest.step) <= _LEAST_WINDOW for each in vitals.shifts)
    return nearest, min(math.log(1 / chance), 4.0) * (1.0 if jumped else _WITHOUT_JUMP)


def lasting(vitals: Vitals, before: float, after: float) -> float:
    """The part of a rise of the loss that is still there: 1 is all of it, 0 none; NaN when unknown."""
    loss = vitals.loss
    if loss is None or not after > before:
        return math.nan
    return min(max((loss.level - before) / (after - before), 0.0), 1.0)


def latest_rise(vitals: Vitals) -> LevelShift | None:
    """The latest jump of the loss upwards."""
    rises = [each for each in vitals.shifts if each.after > each.before]
    return rises[-1] if rises else None


def cut(vitals: Vitals) -> Cut | None:
    """The latest jump of the learning rate when it went down, with what the loss did before and since.

    None while too little of the course lies on either side.
    """
    rate = vitals.rate
    if rate.since < 0 or not rate.now <= _LOWERED * rate.before:
        return None
    steps = min(rate.since - vitals.evidence_from, vitals.step - rate.since)
    before = [loss for step, loss in vitals.course if rate.since - steps <= step < rate.since]
    after = [loss for step, loss in vitals.course if rate.since <= step <= rate.since + steps]
    if len(before) < _LEAST_POINTS or len(after) < _LEAST_POINTS or vitals.loss is None:
        return None
    quarter = max(len(before) // 4, 1)
    begin, at = _mean(before[:quarter]), _mean(before[-quarter:])
    end = _mean(after[-max(len(after) // 4, 1) :])
    size = abs(at)
    if not size > 0:
        return None
    resolved = 2 * vitals.loss.noise / math.sqrt(quarter)
    if begin - at < resolved:  # what the noise allows as well is no fall
        begin = at
    return Cut(rate.since, rate.now / rate.before, float(steps), (begin - at) / size, (at - end) / size)


def at_schedule_end(vitals: Vitals) -> bool:
    """Whether the learning rate is low because its schedule is at its end, as planned.

    It came down smoothly, and has been low for no longer than schedules are at their ends; where the run has declared
    its steps, they are nearly done.
    """
    rate = vitals.rate
    if not rate.ratio <= 0.1 or rate.low_since < 0:
        return False
    total = vitals.declaration.total_steps if vitals.declaration else 0
    if total:
        return vitals.step >= _PLANNED * total
    cut_down = rate.since >= rate.low_since - 1 and rate.now < _LOWERED * rate.before
    observed = vitals.step - vitals.evidence_from
    return not cut_down and vitals.step - rate.low_since <= _LATE * observed


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
