"""Runs and findings as text, from the API's JSON: the same sentences as everywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stallwatch.detector.printable import printable_values

STYLES = {"critical": "bold red", "warning": "bold yellow", "info": "cyan"}
WIDTH_WITHOUT_TERMINAL = 110
GAPS_SHOWN = 5
"""The latest ones."""
ONE_LINE = 10_000
"""Wider than any row: a line stays one for `grep` and `cut`."""


def console(width: int = WIDTH_WITHOUT_TERMINAL) -> Console:
    """Standard output, so wide where it is no terminal; rich heeds NO_COLOR and leaves colours out of pipes."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=width)


def runs_table(runs: list[dict[str, Any]]) -> Table:
    """One line a run."""
    runs = printable_values(runs)
    table = Table(box=None, pad_edge=False)
    table.add_column("RUN", overflow="fold")
    table.add_column("STATE")
    for name in ("STEP", "RANKS", "LOSS"):
        table.add_column(name, justify="right")
    table.add_column("FINDINGS", overflow="fold")
    table.add_column("REPORTED", justify="right")
    for run in runs:
        findings = Text(", ").join(
            Text(finding["kind"], STYLES.get(finding["severity"], "")) for finding in run["findings"]
        )
        table.add_row(
            run["run"],
            words(run["state"]),
            str(max(run["step"], 0)),
            str(run["world_size"]),
            number(run["loss"]["value"]),
            findings,
            ago(run["updated_at"]),
        )
    return table


def run_report(
    run: Mapping[str, Any], resolved: list[dict[str, Any]], gaps: Sequence[Mapping[str, Any]] = ()
) -> RenderableType:
    """Everything there is to say of a run."""
    run, resolved = printable_values(run), printable_values(resolved)
    parts: list[RenderableType] = [_headline(run), Padding(_numbers(run), (0, 0, 0, 2))]
    if not run["findings"]:
        parts.append(Text("No finding is firing."))
    parts.extend(finding_report(finding) for finding in run["findings"])
    if resolved:
        parts.append(Text("\nResolved:"))
        parts.extend(
            Padding(
                Text(f"{one['kind']}, steps {one['since_step']} to {one['resolved_step']}: {one['reason']}"),
                (0, 0, 0, 2),
            )
            for one in resolved
        )
    if gaps:
        left_out = len(gaps) - GAPS_SHOWN
        parts.append(Text())
        parts.extend(Text(f"{gap['text']}.") for gap in gaps[-GAPS_SHOWN:])
        if left_out > 0:
            parts.append(Text(f"and in {left_out} earlier places: /api/v1/runs/{run['run']}/gaps"))
    return Group(*parts)


def finding_report(finding: Mapping[str, Any]) -> RenderableType:
    """A finding: what, since when, where, why, what to do."""
    head = Text("\n")
    head.append(finding["severity"], STYLES.get(finding["severity"], ""))
    head.append(f" {finding['kind']} ", "bold")
    head.append(f"since step {finding['since_step']}{_where(finding)}")
    body: list[RenderableType] = [Text(finding["reason"])]
    body.extend(
        Text(f"cause ({cause['confidence']:.0%}): {cause['kind']}: {cause['reason']}")
        for cause in finding["causes"]
    )
    body.extend(Text(f"> {advice}") for advice in finding["advice"])
    return Group(head, *(Padding(line, (0, 0, 0, 2)) for line in body))


def finding_line(finding: Mapping[str, Any]) -> str:
    """A finding in one line."""
    finding = printable_values(finding)
    return (
        f"{finding['status']} {finding['severity']} {finding['kind']} since step {finding['since_step']}"
        f"{_where(finding)}: {finding['reason']}"
    )


def ago(moment: float) -> str:
    """How long ago a Unix time was."""
    seconds = max(0.0, time.time() - moment)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def number(value: float | None) -> str:
    """A number in four digits; a dash for none."""
    return "-" if value is None else f"{value:.4g}"


def words(name: str) -> str:
    """A name of the API as words."""
    return name.replace("_", " ")


def _headline(run: Mapping[str, Any]) -> Text:
    head = Text(run["run"], "bold")
    head.append(f": {words(run['state'])}", "bold")
    since = run["state_since_step"]
    head.append(
        f" since step {max(since, 0)}, now at step {max(run['step'], 0)}, {run['world_size']} ranks, ",
        "not bold",
    )
    head.append(f"reported {ago(run['updated_at'])}", "not bold")
    return head


def _numbers(run: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(run):
        table.add_row(name, value)
    return table


def _facts(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    loss = run["loss"]
    yield "loss", number(loss["value"])
    if loss["slope_per_step"] is not None:
        yield "slope", f"{loss['slope_per_step']:.3g} a step"
    if (forecast := loss["forecast"]) is not None and forecast["relative_improvement"] is not None:
        interval = ""
        if forecast["low"] is not None and forecast["high"] is not None:
            interval = f" ({forecast['low']:.2%} to {forecast['high']:.2%})"
        yield (
            "forecast",
            f"{forecast['relative_improvement']:.2%} better in {forecast['horizon_steps']} steps{interval}",
        )
    for name in ("epoch", "effective_batch_size", "gradient_noise_scale", "batch_over_critical"):
        if run[name] is not None:
            yield words(name), number(run[name])
    # A service of before this field leaves it out.
    if run.get("sample_period"):
        waiting = ", ".join(run.get("waiting_checks", ()))
        yield (
            "sampled",
            f"every {run['sample_period']} steps" + (f"; waiting for samples: {waiting}" if waiting else ""),
        )


def _where(finding: Mapping[str, Any]) -> str:
    ranks, layers = finding["ranks"], finding["layers"]
    where = ""
    if ranks:
        shown = ", ".join(map(str, ranks[:16])) + (f" and {len(ranks) - 16} more" if len(ranks) > 16 else "")
        where += f", rank{'s' if len(ranks) > 1 else ''} {shown}"
    if layers:
        where += f", {', '.join(layers[:4])}" + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
    return where
