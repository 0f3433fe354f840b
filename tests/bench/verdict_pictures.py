"""Pictures of how far the verdicts can be trusted: the reliability diagram, and the runs with most wrong cuts."""

from __future__ import annotations

import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from PIL import Image
from verdict_curves import Curve, Score, States, cuts_and_looks

from stallwatch.detector.core.learning import STOPPED_STATES, LossAssessment

# Okabe and Ito's palette, as in the plots of `stallwatch analyze`.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0b4f8a", "#e69f00", "#009e73", "#b2182b", "#9db8d2"
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c4c9d2",
    "axes.titlesize": 9,
}
_POINTS = 250
_WORST = 6


def _save(figure: Figure, path: Path) -> None:
    """As a picture of few colours, which is a third as large."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return middle - half, middle + half


def reliability(
    path: Path, curves: list[Curve], looks: dict[str, list[tuple[float, LossAssessment]]]
) -> None:
    """What was said against what came: the probability of a plateau at every cut, and the confidence of those called."""
    pairs = [pair for curve in curves for pair in cuts_and_looks(curve, looks[curve.name])]
    called = [(look.confidence, cut.flat) for cut, look in pairs if look.state == "plateau"]
    every = [(look.plateau_probability, cut.flat) for cut, look in pairs]
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
        _reliability(axes[0], every, np.array([0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0]))
        axes[0].set_title(f"Every cut of every run ({len(every):,})", loc="left")
        axes[0].set_xlabel("probability of a plateau, as said at the cut")
        _reliability(axes[1], called, np.array([0, 0.6, 0.8, 0.9, 0.95, 1.0]))
        axes[1].set_title(f"Cuts at which a plateau stood called ({len(called):,})", loc="left")
        axes[1].set_xlabel("confidence of the call")
        axes[0].set_ylabel("share that stayed flat")
        _save(figure, path)


def _reliability(axis: Any, said: list[tuple[float, bool]], edges: np.ndarray) -> None:
    axis.plot([0, 1], [0, 1], color="#c4c9d2", linewidth=1, linestyle="--")
    probability, flat = np.array([p for p, _ in said]), np.array([f for _, f in said])
    bins = np.clip(np.digitize(probability, edges) - 1, 0, len(edges) - 2)
    for index in range(len(edges) - 1):
        inside = bins == index
        total, hits = int(inside.sum()), int(flat[inside].sum())
        if total < 3:
            continue
        at, share = float(probability[inside].mean()), hits / total
        low, high = wilson(hits, total)
        axis.vlines(at, low, high, color=_BLUE, linewidth=1.2)
        axis.plot(at, share, "o", color=_BLUE, markersize=5)
        side = -1 if at > 0.5 else 1
        axis.annotate(
            f"{total}", (at, share), (6 * side, -3), textcoords="offset points", fontsize=7.5, color="#6b7280",
            ha="right" if side < 0 else "left",
        )  # fmt: skip
    axis.set_xlim(-0.03, 1.03)
    axis.set_ylim(-0.03, 1.03)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def worst_misses(path: Path, curves: list[Curve], found: Score, calls: dict[str, States]) -> None:
    """The runs with most wrong cuts, the stretches called stopped, and what the truth was at each cut."""
    counts = Counter(name for name, _, _ in found.wrong)
    by_name = {curve.name: curve for curve in curves}
    worst = [by_name[name] for name, _ in counts.most_common(_WORST)]
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(9, 5), layout="constrained", squeeze=False)
        for axis in axes.ravel()[len(worst) :]:
            axis.set_visible(False)
        for axis, curve in zip(axes.ravel(), worst, strict=False):
            _miss(
                axis,
                curve,
                calls[curve.name],
                {share for name, share, _ in found.wrong if name == curve.name},
            )
        figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        _save(figure, path)


def _miss(axis: Any, curve: Curve, states: States, wrong: set[float]) -> None:
    position = np.array([point[0] for point in curve.points])
    value = np.array([point[1] for point in curve.points])
    finite = np.isfinite(value)
    position, value = position[finite], value[finite]
    group = max(1, len(value) // _POINTS)
    whole = len(value) // group * group
    x, y = (column[:whole].reshape(-1, group).mean(axis=1) for column in (position, value))
    end = float(position.max())
    for index, (entered, state) in enumerate(states):
        if state in STOPPED_STATES:
            left = states[index + 1][0] if index + 1 < len(states) else end
            axis.axvspan(entered, left, color=_ORANGE, alpha=0.25, linewidth=0)
    axis.plot(x, y, color=_BLUE, linewidth=0.9)
    late = y[max(1, len(y) // 20) :]
    low, high = float(late.min()), float(late.max())
    margin = 0.12 * (high - low) or 0.01 * abs(high) or 1.0
    axis.set_ylim(low - 2 * margin, high + margin)
    for cut in curve.cuts:
        if cut.truth is None:
            continue
        axis.plot(
            cut.position, low - margin, "X" if cut.share in wrong else "o", markersize=6 if cut.share in wrong else 4,
            color=_RED if cut.truth == "flat" else _GREEN, clip_on=False,
        )  # fmt: skip
    axis.set_title(f"{curve.family}, {curve.name[-8:]}", loc="left")
    axis.tick_params(labelsize=7.5)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(5))


def _legend() -> list[Line2D]:
    def mark(marker: str, colour: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, color=colour, linestyle="none", label=label)

    return [
        Line2D([], [], color=_ORANGE, alpha=0.4, linewidth=8, label="called stopped"),
        mark("o", _RED, "truly flat"),
        mark("o", _GREEN, "truly falling"),
        mark("X", "#6b7280", "called wrongly"),
    ]
