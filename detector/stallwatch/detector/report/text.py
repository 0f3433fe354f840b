"""The verdict for people at a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.learning import STOPPED_STATES
from stallwatch.detector.printable import printable
from stallwatch.detector.report.outcome import SEVERITIES, Outcome

if TYPE_CHECKING:
    from rich.console import Console

# More runs than this are compared in the table only.
_DETAILED_RUNS = 4
_COMPARED_RUNS = 8
STATE_WORDS = {
    "warming_up": "too early to say",
    "improving": "improving",
    "slow": "improving slowly",
    "plateau": "plateau",
    "oscillating": "oscillating",
    "diverging": "diverging",
}
_STATE_STYLES = {
    "warming_up": "dim",
    "improving": "green",
    "slow": "cyan",
    "plateau": "yellow",
    "oscillating": "yellow",
    "diverging": "red",
}
_SEVERITY_STYLES = {"info": "cyan", "warning": "yellow", "critical": "red"}
_NEXT = {
    "warming_up": "Wait for more points: nothing can be said yet.",
    "improving": "Let it run.",
    "slow": "Decide whether the rate above is worth its cost.",
}


def show(outcomes: Sequence[Outcome], console: Console, *, verbose: bool = False) -> None:
    """One run in full; several as a table and what differs, with the details of few; `verbose` adds how each was read."""
    if len(outcomes) > 1:
        _table(outcomes, console)
        _differences(outcomes, console)
    if len(outcomes) > _DETAILED_RUNS:
        console.print("[dim]Details: name fewer runs, or use --json.[/]")
        return
    for outcome in outcomes:
        if len(outcomes) > 1:
            console.print()
        _details(outcome, console)
        if verbose:
            _reading(outcome, console)


def _reading(outcome: Outcome, console: Console) -> None:
    """What was taken from where."""
    log = outcome.log
    console.print("  [dim]How the log was read[/]")
    for role, column in log.columns.items():
        console.print(f"    {role.replace('_', ' ')}: '{escape(column)}'", soft_wrap=True)
    if log.evaluations.metrics:
        console.print(f"    metrics: {escape(', '.join(log.evaluations.metrics))}", soft_wrap=True)
    if log.extra:
        console.print(f"    other losses, not judged: {escape(', '.join(log.extra))}", soft_wrap=True)
    for line in log.details:
        console.print(f"    {escape(line)}", soft_wrap=True)


def _differences(outcomes: Sequence[Outcome], console: Console) -> None:
    """In what the runs are not the same, where there is room for it."""
    from rich import box
    from rich.table import Table

    from stallwatch.detector.report.compare import differing_settings

    if len(outcomes) > _COMPARED_RUNS:
        return
    rows, more = differing_settings(outcomes)
    if not rows:
        return
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title="What differs", title_justify="left"
    )
    table.add_column("")
    for outcome in outcomes:
        table.add_column(escape(outcome.log.name), overflow="fold")
    for name, values in rows.items():
        table.add_row(escape(name), *map(escape, values))
    console.print(table)
    if more:
        console.print(f"[dim]and {more} more[/]")


def escape(text: str) -> str:
    """Text of a log, which neither rich nor the terminal takes for more than that."""
    from rich.markup import escape as without_markup

    return without_markup(printable(text))


def count(value: float) -> str:
    """A position or a number of steps: 12,000 or 3.25."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.4g}"


def percent(share: float) -> str:
    """A share with the digits that matter."""
    value = 100 * share
    return (
        f"{value:.0f} %"
        if abs(value) >= 10
        else f"{value:.1f} %"
        if abs(value) >= 0.1 or value == 0
        else f"{value:.2g} %"
    )


def duration(hours: float) -> str:
    """Hours, or minutes when there are few."""
    return (
        f"{hours:,.1f} h"
        if hours >= 1
        else f"{hours * 60:.1f} min"
        if hours >= 1 / 60
        else f"{hours * 3600:.0f} s"
    )


def forecast_words(outcome: Outcome) -> str | None:
    """What to expect, with its interval; None when there is no forecast."""
    forecast = outcome.final.forecast if outcome.final is not None else None
    if forecast is None or outcome.horizon_end is None:
        return None
    ahead = count(outcome.horizon_end - outcome.final_step)
    change = forecast.relative_improvement
    word = "lower" if change >= 0 else "higher"
    return (
        f"{percent(abs(change))} {word} loss over the next {ahead} {outcome.log.axis}s "
        f"(95 %: {percent(forecast.low)} to {percent(forecast.high)} lower)"
    )


def cost_words(outcome: Outcome) -> str | None:
    """What the time without learning cost; None when there was none."""
    if not outcome.flat_stretches:
        return None
    steps = count(sum(end - start for start, end in outcome.flat_stretches))
    words = f"{percent(outcome.flat_share)} of the run without learning: {steps} {outcome.log.axis}s"
    hours = outcome.flat_hours
    total = outcome.hours
    if hours is not None and total:
        words += f", {duration(hours)} of {duration(total)}"
    return words


def _details(outcome: Outcome, console: Console) -> None:
    from rich.padding import Padding
    from rich.table import Table

    log, entry = outcome.log, outcome.states[-1]
    axis, points = log.axis, log.points.loss.size
    console.print(f"[bold]{escape(log.name)}[/]")
    console.print(f"  [dim]{escape(log.file)}[/]", soft_wrap=True)
    unit = "point" if points == 1 else "points"
    place = f"{axis}s {count(outcome.first_step)} to {count(outcome.last_step)}"
    console.print(f"  [dim]{points:,} {unit} of '{escape(log.judged_column)}', {place}[/]")
    since = "" if entry.state == "warming_up" else f" since {axis} {count(entry.since_step)}"
    if since and entry.from_step > entry.since_step:
        since += f" [dim](called at {count(entry.from_step)})[/]"
    console.print(f"[bold {_STATE_STYLES[entry.state]}]{STATE_WORDS[entry.state].capitalize()}[/]{since}")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("Why", escape(outcome.summary_reason))
    for label, words in (("Forecast", forecast_words(outcome)), ("Cost", cost_words(outcome))):
        if words:
            grid.add_row(label, words)
    advice = _advice(outcome)
    for index, line in enumerate(advice):
        grid.add_row("Next" if index == 0 else "", escape(line))
    for note in log.notes:
        grid.add_row("Note", f"[dim]{escape(note)}[/]")
    console.print(Padding(grid, (0, 0, 0, 2)))
    latest: dict[str, list[Finding]] = {}
    for finding in outcome.findings:
        latest.setdefault(finding.kind, []).append(finding)
    for findings in latest.values():
        _finding(findings, outcome, console)
    if outcome.rules:
        _rules(outcome, console)


def _rules(outcome: Outcome, console: Console) -> None:
    """What the rules of another tool said, those that said nothing in one line."""
    axis = outcome.log.axis
    console.print("  [dim]Rules of another tool, for comparison[/]")
    for rule in outcome.rules:
        if rule.hits and rule.first_step is not None and rule.last_step is not None:
            times = "once" if rule.hits == 1 else f"{rule.hits:,} times"
            console.print(
                f"    {rule.rule}: {times}, {axis}s {count(rule.first_step)} to {count(rule.last_step)}; the last: {escape(rule.text)}"
            )
    silent = [rule.rule for rule in outcome.rules if not rule.hits]
    if silent:
        console.print(f"    [dim]Nothing: {', '.join(silent)}[/]")


def _advice(outcome: Outcome) -> list[str]:
    firing = [finding for finding in outcome.findings if finding.status == "firing"]
    ranked = sorted(firing, key=lambda finding: -SEVERITIES.index(finding.severity))
    lines = list(dict.fromkeys(line for finding in ranked for line in finding.advice))[:3]
    if not lines and outcome.state in _NEXT:
        lines = [_NEXT[outcome.state]]
    return lines


def _finding(findings: Sequence[Finding], outcome: Outcome, console: Console) -> None:
    """The latest finding of a kind, with how often there was one."""
    from rich.padding import Padding

    finding = findings[-1]
    ended = "" if finding.resolved_step is None else f", over at {count(finding.resolved_step)}"
    place = f"{outcome.log.axis} {count(finding.since_step)}, called at {count(finding.detected_step)}{ended}"
    if len(findings) > 1:
        place += f"; the last of {len(findings)}"
    style = _SEVERITY_STYLES[finding.severity] if finding.status == "firing" else "dim"
    console.print(f"  [{style}]{finding.severity:<8} [bold]{finding.kind}[/bold][/] [dim]{place}[/]")
    if finding.reason != outcome.summary_reason:
        console.print(Padding(escape(finding.reason), (0, 0, 0, 11)))
    for cause in finding.causes[:3]:
        words = f"[dim]because[/] {cause.kind} ({percent(cause.confidence)}): {escape(cause.reason)}"
        console.print(Padding(words, (0, 0, 0, 11)))


def _table(outcomes: Sequence[Outcome], console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("since", "end", "loss", "forecast", "flat"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("findings", overflow="fold")
    names = Counter(outcome.log.name for outcome in outcomes)
    for outcome in outcomes:
        final, log = outcome.final, outcome.log
        forecast = final.forecast if final is not None and outcome.horizon_end is not None else None
        style = _STATE_STYLES[outcome.state]
        table.add_row(
            # Logs in one folder bear its name: their files tell them apart.
            escape(log.name if names[log.name] == 1 else log.file),
            f"[{style}]{STATE_WORDS[outcome.state]}[/]",
            count(outcome.states[-1].since_step),
            count(outcome.last_step) + ("" if outcome.log.axis == "step" else " ep"),
            f"{final.level:.4g}" if final is not None else "",
            percent(-forecast.relative_improvement) if forecast is not None else "",
            percent(outcome.flat_share) if outcome.flat_stretches else "",
            _kinds(outcome.findings),
        )
    console.print(table)
    stopped = sum(outcome.state in STOPPED_STATES for outcome in outcomes)
    console.print(f"{len(outcomes)} runs, {stopped} of them no longer learning at their end.")


def _kinds(findings: Sequence[Finding]) -> str:
    kinds = dict.fromkeys((finding.kind, finding.severity, finding.status) for finding in findings)
    shown = [
        f"[{_SEVERITY_STYLES[severity]}]{kind}[/]" if status == "firing" else f"[dim]{kind}[/]"
        for kind, severity, status in kinds
    ]
    return ", ".join(shown)
