"""Real training curves with hindsight: reading them, calling them live, and scoring the calls.

The folder holds `manifest.csv`, `hindsight.csv`, `run_summary.csv` and `runs/<id>.csv`. Truth and score are those of the
folder's own judge: "flat" where the loss goes nowhere for the rest of a run that never picks up again, "falling" where it
still falls by 2 % and by one standard deviation of its noise, and not only because the learning rate is cut later.
"""

from __future__ import annotations

import bisect
import csv
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stallwatch.detector.core.learning import STOPPED_STATES, LossAssessment, LossPoint
from stallwatch.detector.core.observations import EvaluationObservation
from stallwatch.detector.signals.loss import LossSignal
from stallwatch.detector.signals.loss_config import LossConfig

States = list[tuple[float, str]]
"""The position at which each state was entered, and the state."""


@dataclass(frozen=True)
class Cut:
    """One moment of a run, and what came after it."""

    share: float
    position: float
    truth: str | None
    """`flat`, `falling`, or None where neither is certain."""
    flat: bool
    """Whether it stayed flat, by hindsight, over the rest or over the next quarter of the run."""
    level: float | None
    level_later: float | None
    """Smoothed loss now and a quarter of the run later."""


@dataclass(frozen=True)
class Curve:
    """One run: what a log said, in its order, and its cuts."""

    name: str
    family: str
    points: list[tuple[float, float, float | None]]
    """Position, loss and learning rate."""
    rows: list[tuple[float, float, float | None, bool]]
    """The same with evaluations between them: the last field says which."""
    cuts: list[Cut]
    axis: str
    """What positions count: `step` or `epoch`."""

    @property
    def whole(self) -> bool:
        """Whether positions are ascending whole numbers; otherwise the ordinal of the record stands for the step."""
        positions = [point[0] for point in self.points]
        pairs = itertools.pairwise(positions)
        return all(value.is_integer() for value in positions) and all(a <= b for a, b in pairs)


@dataclass(frozen=True)
class Score:
    """How good a set of calls is."""

    precision: float
    recall: float
    false_alarm_share: float
    """Runs without any flat part on which there was a call while they were falling."""
    median_delay: float | None
    """From the start of the flat part to the call, as a share of the run."""
    wrong: tuple[tuple[str, float, str], ...]
    """Run, share of the run and truth of every cut that was called wrongly."""


def number(text: str | None) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_curves(folder: Path) -> list[Curve]:
    """All runs of a folder."""
    with (folder / "run_summary.csv").open() as handle:
        classes = {row["id"]: row["cls"] for row in csv.DictReader(handle)}
    cuts: dict[str, list[Cut]] = defaultdict(list)
    with (folder / "hindsight.csv").open() as handle:
        for row in csv.DictReader(handle):
            cuts[row["id"]].append(_cut(row, classes[row["id"]]))
    with (folder / "manifest.csv").open() as handle:
        return [_curve(folder, row, cuts[row["id"]]) for row in csv.DictReader(handle) if row["id"] in cuts]


def _cut(row: dict[str, str], kind: str) -> Cut:
    now, change = number(row["smooth_t"]), number(row["rel_impr_25"])
    later = None
    if now is not None and change is not None and row["h25_truncated"] != "1":
        later = now - change * abs(now)
    flat = row["flat"] == "1"
    truth = None
    best, sigma = number(row["rel_impr_best"]), number(row["impr_best_sigma"])
    until = number(row["rel_impr_until_drop"])
    if flat:
        truth = "flat" if float(row["t"]) <= 0.7 and kind in {"flatline", "worsening"} else None
    elif best is not None and sigma is not None and best >= 0.02 and sigma >= 1:
        truth = "falling" if until is None or until >= 0.01 else None
    return Cut(float(row["t"]), float(row["x_t"]), truth, flat or row["flat25"] == "1", now, later)


def _curve(folder: Path, row: dict[str, str], cuts: list[Cut]) -> Curve:
    with (folder / "runs" / f"{row['id']}.csv").open() as handle:
        lines = list(csv.DictReader(handle))
    axis = "epoch" if row["cadence"] == "epoch" and "epoch" in lines[0] else "step"
    rate, rows = None, []
    for line in lines:
        position = number(line.get(axis))
        rate = number(line.get("lr")) if number(line.get("lr")) is not None else rate
        if position is None:
            continue
        evaluation = number(line.get("eval_loss")) if row["primary"] != "eval_loss" else None
        if evaluation is not None:
            rows.append((position, evaluation, None, True))
        if line.get(row["primary"]):
            rows.append((position, float(line[row["primary"]]), rate, False))
    points = [(position, value, rate) for position, value, rate, other in rows if not other]
    return Curve(row["id"], row["family"], points, rows, cuts, axis)


def follow(curve: Curve, config: LossConfig) -> list[tuple[float, LossAssessment]]:
    """Every assessment of a curve, called live: knowing only what came before."""
    whole, ordinal = curve.whole, -1
    span = curve.points[-1][0] - curve.points[0][0] if curve.points else 0.0
    counted = whole and curve.axis == "step" and span >= 10 * config.fewest_steps
    signal = LossSignal(config=config if counted else replace(config, fewest_steps=0))
    out: list[tuple[float, LossAssessment]] = []
    for position, value, rate, is_evaluation in curve.rows:
        if is_evaluation:
            signal.update(EvaluationObservation(int(position) if whole else max(ordinal, 0), value, 1.0))
            continue
        ordinal += 1
        point = LossPoint(int(position) if whole else ordinal, value, 1.0, rate)
        out.extend((position, look) for look in signal.update(point))
    return out


def cuts_and_looks(
    curve: Curve, looks: list[tuple[float, LossAssessment]]
) -> Iterator[tuple[Cut, LossAssessment]]:
    """Every cut with the latest assessment at it."""
    positions = [position for position, _ in looks]
    for cut in curve.cuts:
        index = bisect.bisect_right(positions, cut.position) - 1
        if index >= 0:
            yield cut, looks[index][1]


def entries(looks: Iterable[tuple[float, LossAssessment]]) -> States:
    """Where each state was entered."""
    states: States = []
    for position, look in looks:
        if not states or states[-1][1] != look.state:
            states.append((position, look.state))
    return states


def _from_flags(points: list[tuple[float, float, float | None]], flags: list[bool]) -> States:
    states: States = []
    for (position, _, _), flag in zip(points, flags, strict=True):
        state = "plateau" if flag else "improving"
        if not states or states[-1][1] != state:
            states.append((position, state))
    return states


def reduce_lr(curve: Curve) -> States:
    """PyTorch's ReduceLROnPlateau with its defaults: ten records without a new best by 1e-4."""
    best, bad, flags = math.inf, 0, []
    for _, value, _ in curve.points:
        best, bad = (value, 0) if value < best * (1 - 1e-4) else (best, bad + 1)
        flags.append(bad > 10)
    return _from_flags(curve.points, flags)


def early_stopping(curve: Curve) -> States:
    """Lightning's EarlyStopping with its defaults: three records without a new best, and then for good."""
    best, bad, flags = math.inf, 0, []
    for _, value, _ in curve.points:
        best, bad = (value, 0 if bad < 3 else bad) if value < best else (best, bad + 1)
        flags.append(bad >= 3)
    return _from_flags(curve.points, flags)


def loss_not_decreasing(curve: Curve) -> States:
    """SageMaker Debugger's LossNotDecreasing with its defaults: not down by 0.1 % against ten records before."""
    values = [value for _, value, _ in curve.points]
    flags = [
        index >= 10 and values[index - 10] - value < abs(values[index - 10]) * 1e-3
        for index, value in enumerate(values)
    ]
    return _from_flags(curve.points, flags)


BASELINES: dict[str, Callable[[Curve], States]] = {
    "reduce_lr": reduce_lr,
    "early_stopping": early_stopping,
    "loss_not_decreasing": loss_not_decreasing,
}


def called_at(states: States, position: float) -> bool:
    """Whether learning counts as stopped at a position."""
    state = None
    for entered, name in states:
        if entered <= position:
            state = name
    return state in STOPPED_STATES


def score(curves: list[Curve], calls: dict[str, States]) -> Score:
    """Precision and recall over cuts, every run weighing the same; false alarms over runs; delay of the first call."""
    hits = false = missed = 0.0
    alarms, delays, wrong = [], [], []
    for curve in curves:
        judged = [cut for cut in curve.cuts if cut.truth]
        if not judged:
            continue
        states, weight = calls[curve.name], 1 / len(judged)
        verdicts = [(cut, called_at(states, cut.position)) for cut in judged]
        hits += weight * sum(called for cut, called in verdicts if cut.truth == "flat")
        missed += weight * sum(not called for cut, called in verdicts if cut.truth == "flat")
        false += weight * sum(called for cut, called in verdicts if cut.truth == "falling")
        wrong += [
            (curve.name, cut.share, str(cut.truth))
            for cut, called in verdicts
            if called != (cut.truth == "flat")
        ]
        flat = [cut.position for cut in judged if cut.truth == "flat"]
        if not flat:
            alarms.append(any(called for _, called in verdicts))
        if len(flat) >= 3:
            delay = _delay(curve, states, flat[0])
            delays += [] if delay is None else [delay]
    return Score(
        hits / (hits + false) if hits + false else 0.0,
        hits / (hits + missed) if hits + missed else 0.0,
        sum(alarms) / max(len(alarms), 1),
        statistics.median(delays) if delays else None,
        tuple(wrong),
    )


def _delay(curve: Curve, states: States, start: float) -> float | None:
    if called_at(states, start):
        return 0.0
    span = max(cut.position for cut in curve.cuts) / 0.9
    calls = [entered for entered, name in states if name in STOPPED_STATES and entered >= start - 0.1 * span]
    return max(0.0, (min(calls) - start) / span) if calls else None
