"""The curve as a picture: what was logged, its trend, the forecast, and the states it went through."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from stallwatch.detector.core.learning import STOPPED_STATES
from stallwatch.detector.core.magnitudes import within
from stallwatch.detector.importers.log import Floats
from stallwatch.detector.report.curve import envelope, span_of_values, trend
from stallwatch.detector.report.outcome import Outcome, StateEntry
from stallwatch.detector.report.text import STATE_WORDS, cost_words, count

# Okabe and Ito's palette: told apart with every kind of colour vision, and in grey by their lightness.
_INK, _MUTED, _GRID = "#1f2430", "#6b7280", "#e5e7eb"
_RAW, _TREND, _EVALUATION, _FORECAST, _RATE = "#9db8d2", "#0b4f8a", "#d55e00", "#0b4f8a", "#6b7280"
_STATE_COLOURS = {
    "warming_up": "#e5e7eb",
    "improving": "#009e73",
    "slow": "#56b4e9",
    "plateau": "#e69f00",
    "oscillating": "#cc79a7",
    "diverging": "#b2182b",
}
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": "#c4c9d2",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "svg.fonttype": "path",
    "svg.hashsalt": "stallwatch",
}
_BELOW: dict[str, Any] = {
    "loc": "outside lower center",
    "ncols": 6,
    "frameon": False,
    "fontsize": 9,
    "handlelength": 1.0,
    "columnspacing": 1.6,
    "borderpad": 0.1,
}
# One picture holds so many runs; an HTML page holds all of them, each as a picture of its own.
_MOST_IN_ONE = 12


def draw(outcomes: Sequence[Outcome], file: Path) -> None:
    """Write the picture of one run, or of several below each other, as the file's name asks for."""
    with mpl.rc_context(rc=_STYLE):  # type: ignore[arg-type]  # the names are literals to mypy
        suffix = file.suffix.lower()
        if suffix == ".html":
            file.write_text(_page(outcomes), encoding="utf-8")
        elif suffix == ".svg":
            file.write_text(_svg(_figure(outcomes[:_MOST_IN_ONE])), encoding="utf-8")
        else:
            figure = _figure(outcomes[:_MOST_IN_ONE])
            FigureCanvasAgg(figure)
            figure.savefig(file, dpi=144, metadata={"Software": "stallwatch"})


def _figure(outcomes: Sequence[Outcome]) -> Figure:
    figure = Figure(figsize=(10.5, 5.6 * len(outcomes)), facecolor="white", layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.14, h_pad=0.1, hspace=0.02)  # type: ignore[call-arg]  # matplotlib types only the common arguments
    parts = figure.subfigures(len(outcomes), 1, squeeze=False)
    for part, outcome in zip(parts[:, 0], outcomes, strict=True):
        has_rate = bool(np.isfinite(outcome.log.points.learning_rate).any())
        heights = [1.0, 0.045, 0.2] if has_rate else [1.0, 0.045]
        axes = part.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        _curve(axes[0], outcome)
        _ribbon(axes[1], outcome)
        if has_rate:
            _learning_rate(axes[2], outcome)
        axes[-1].set_xlabel(_axis_label(outcome))
        axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=outcome.last_step > 8))
        axes[-1].xaxis.set_major_formatter(FuncFormatter(_position_format(outcome.last_step)))
        part.legend(handles=_state_patches(outcome), **_BELOW)
        for upper in axes[:-1]:
            upper.tick_params(labelbottom=False)
    return figure


def _axis_label(outcome: Outcome) -> str:
    if outcome.log.axis not in outcome.log.columns:
        return "record"
    return "epoch" if outcome.log.axis == "epoch" else "optimizer step"


def _state_patches(outcome: Outcome) -> list[Patch]:
    states = dict.fromkeys(entry.state for entry in outcome.states)
    return [Patch(color=_STATE_COLOURS[state], label=STATE_WORDS[state]) for state in states]


def _curve(axes: Axes, outcome: Outcome) -> None:
    log, points = outcome.log, outcome.log.points
    finite = np.isfinite(points.loss)
    # As the analysis takes them; no axis reaches much further.
    steps, losses = points.step[finite], within(points.loss[finite])
    evaluations = log.evaluations if log.judged == "loss" else None
    _shade(axes, outcome)
    raw = envelope(steps, losses)
    label = f"{log.judged_column} as logged"
    if raw.is_band:
        axes.fill_between(
            raw.step, raw.low, raw.high, color=_RAW, alpha=0.55, linewidth=0, label=f"{label} (90 % of it)"
        )
    else:
        marker = "o" if raw.step.size <= 30 else None
        axes.plot(
            raw.step, raw.low, color=_RAW, linewidth=0.9, marker=marker, markersize=3, label=label, zorder=2
        )
    if steps.size >= 20:
        axes.plot(*trend(steps, losses), color=_TREND, linewidth=2.0, label="trend", zorder=4)
    if evaluations is not None and np.isfinite(evaluations.loss).any():
        marker = "o" if evaluations.loss.size <= 60 else None
        name = log.columns.get("eval_loss", "evaluation loss")
        axes.plot(
            *(evaluations.step, evaluations.loss),
            color=_EVALUATION, linewidth=1.2, marker=marker, markersize=3, label=name, zorder=3,
        )  # fmt: skip
    ahead = _forecast(axes, outcome)
    _scale(axes, outcome, losses, evaluations.loss if evaluations is not None else np.zeros(0), ahead)
    _mark(axes, points.step[~finite])
    axes.set_ylabel(log.judged_column)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(log.name, loc="left", fontsize=13, pad=24)
    axes.text(0, 1.02, _headline(outcome), transform=axes.transAxes, fontsize=10, color=_MUTED, va="bottom")
    axes.legend(loc="upper right", frameon=True, framealpha=0.92, edgecolor="none", fontsize=9)


def _shade(axes: Axes, outcome: Outcome) -> None:
    """Where learning had stopped, each stretch from the estimate of its onset, with a line there."""
    reached = outcome.first_step - 1
    for entry, end in _stretches(outcome):
        if entry.state not in STOPPED_STATES:
            continue
        colour, onset = _STATE_COLOURS[entry.state], max(entry.since_step, outcome.first_step)
        axes.axvspan(max(onset, reached), end, color=colour, alpha=0.15, linewidth=0, zorder=0)
        if onset > reached:
            axes.axvline(onset, color=colour, linewidth=1.3, linestyle=(0, (4, 3)), zorder=3)
        reached = end


def _stretches(outcome: Outcome) -> list[tuple[StateEntry, float]]:
    """Each state with where it ended."""
    ends = [entry.from_step for entry in outcome.states[1:]] + [outcome.last_step]
    return list(zip(outcome.states, ends, strict=True))


def _forecast(axes: Axes, outcome: Outcome) -> tuple[float, ...]:
    """The band of the forecast; returns the levels that should be seen."""
    final, end = outcome.final, outcome.horizon_end
    if final is None or final.forecast is None or end is None or end <= outcome.final_step:
        return ()
    forecast = final.forecast
    expected, best, worst = (
        final.level - abs(final.level) * share
        for share in (forecast.relative_improvement, forecast.high, forecast.low)
    )
    ahead = np.array([outcome.final_step, end])
    axes.fill_between(
        ahead,
        [final.level, best],
        [final.level, worst],
        color=_FORECAST,
        alpha=0.16,
        linewidth=0,
        label="forecast, 95 %",
    )
    axes.plot(ahead, [final.level, expected], color=_FORECAST, linewidth=1.6, linestyle=(0, (2, 2)), zorder=4)
    return (expected,)


def _scale(axes: Axes, outcome: Outcome, losses: Floats, evaluated: Floats, ahead: tuple[float, ...]) -> None:
    low, high, logarithmic = span_of_values(losses, np.concatenate([evaluated, np.array(ahead)]))
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(low, high)
    if losses.size and losses[0] > high:
        entered = float(
            outcome.log.points.step[np.isfinite(outcome.log.points.loss)][int(np.argmax(losses <= high))]
        )
        words = f"starts at {losses[0]:.3g}"
        axes.annotate(
            words, (entered, high), (8, -4), textcoords="offset points", va="top", fontsize=9, color=_MUTED
        )
    end = max(outcome.last_step, outcome.horizon_end or 0.0)
    # A band longer than a third of the run would say more of the future than of the run.
    end = min(end, outcome.last_step + 0.3 * (outcome.last_step - outcome.first_step))
    width = end - outcome.first_step or 1.0
    axes.set_xlim(outcome.first_step - 0.01 * width, end + 0.01 * width)


def _mark(axes: Axes, broken: Floats) -> None:
    """Where the loss was not finite."""
    if broken.size:
        bottom = axes.get_ylim()[0]
        axes.plot(
            broken,
            np.full(broken.size, bottom),
            "x",
            color=_STATE_COLOURS["diverging"],
            clip_on=False,
            label="NaN or inf",
        )


def _ribbon(axes: Axes, outcome: Outcome) -> None:
    """A strip that shows what was called live, when it was called."""
    for entry, end in _stretches(outcome):
        axes.axvspan(entry.from_step, end, color=_STATE_COLOURS[entry.state], linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("called", rotation=0, ha="right", va="center", fontsize=9, color=_MUTED)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _learning_rate(axes: Axes, outcome: Outcome) -> None:
    points = outcome.log.points
    axes.plot(points.step, points.learning_rate, color=_RATE, linewidth=1.3)
    axes.set_ylabel("learning\nrate", fontsize=9)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.grid(axis="y", color=_GRID, linewidth=0.8)


def _headline(outcome: Outcome) -> str:
    words = STATE_WORDS[outcome.state].capitalize()
    if outcome.state != "warming_up":
        words += f" since {outcome.log.axis} {count(outcome.states[-1].since_step)}"
    cost = cost_words(outcome)
    return f"{words}  ·  {cost}" if cost else words


def _position_format(last: float) -> Callable[[float, object], str]:
    """Steps with one unit for the whole axis."""
    for size, suffix in ((2e9, "G"), (2e6, "M"), (5e4, "k")):
        if last >= size:
            unit = {"G": 1e9, "M": 1e6, "k": 1e3}[suffix]
            return lambda value, _: f"{value / unit:,g}{suffix if value else ''}"
    return lambda value, _: f"{value:,.6g}"


def _svg(figure: Figure) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "stallwatch"})
    return text.getvalue()


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 2rem auto; max-width: 64rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1f2430; }}
section {{ margin: 0 0 3rem; }}
svg {{ width: 100%; height: auto; }}
p {{ margin: 0.25rem 0 0.25rem 0.5rem; }}
.severity {{ font-weight: 600; }} .warning {{ color: #8a5a00; }} .critical {{ color: #b2182b; }} .info {{ color: #2a6f97; }}
footer {{ color: #6b7280; font-size: 0.85rem; }}
</style>
</head>
<body>
{sections}
<footer>stallwatch analyze</footer>
</body>
</html>
"""


def _page(outcomes: Sequence[Outcome]) -> str:
    title = outcomes[0].log.name if len(outcomes) == 1 else f"{len(outcomes)} training runs"
    return _PAGE.format(title=html.escape(title), sections="\n".join(map(_section, outcomes)))


def _section(outcome: Outcome) -> str:
    svg = _svg(_figure([outcome]))
    # A page may hold several pictures: only the drawing itself, without the declarations of a file of its own.
    drawing = svg[svg.index("<svg") :].replace(
        "<svg ", f'<svg role="img" aria-label="{html.escape(outcome.log.name)}" ', 1
    )
    lines = [f"<p>{html.escape(outcome.summary_reason)}</p>"]
    lines += [
        f'<p><span class="severity {f.severity}">{f.kind}</span> ({f.status}): {html.escape(f.reason)}</p>'
        for f in outcome.findings
    ]
    return f"<section>\n{drawing}\n" + "\n".join(lines) + "\n</section>"
