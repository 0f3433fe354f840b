"""The table of outcomes: JSON for machines, Markdown for people, and the part of docs/reliability.md between its marks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from chaos.catalogue import FAULTS
from chaos.fault import Loss
from chaos.measure import Outcome

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEAD = ("fault", "what is done", "steps lost", "counted twice", "training slow-down: median step, whole",
        "recovery, seconds", "findings kept", "parameters identical")  # fmt: skip


def write(outcomes: Sequence[Outcome], folder: Path, docs: Path | None = None) -> None:
    """Write results.json and results.md into `folder`, and the table into `docs`."""
    order = {name: index for index, name in enumerate(FAULTS)}
    outcomes = sorted(outcomes, key=lambda each: order[each.fault.name])
    (folder / "results.json").write_text(json.dumps([each.as_dict() for each in outcomes], indent=1))
    text = markdown(outcomes)
    (folder / "results.md").write_text(text)
    if docs is not None:
        before, _, rest = docs.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        docs.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The whole table, and its sum."""
    lines = [HEAD, ["---"] * len(HEAD), *(_row(each) for each in outcomes)]
    held = sum(not each.problems() for each in outcomes)
    steps = sum(each.steps for each in outcomes if each.fault.loss is Loss.NONE)
    total = (
        f"{held} of {len(outcomes)} faults kept every promise. {steps:,} steps of ranks were to arrive whatever happened; "
        f"{sum(each.lost or 0 for each in outcomes if each.fault.loss is Loss.NONE)} were lost and "
        f"{sum(each.doubled or 0 for each in outcomes)} counted twice, while {sum(each.repeated for each in outcomes):,} batches came "
        "again."
    )
    missing = sorted(FAULTS.keys() - {each.fault.name for each in outcomes})
    rest = f" Not measured yet: {', '.join(f'`{name}`' for name in missing)}." if missing else ""
    return "\n".join(
        [*("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines), "", total + rest, ""]
    )


def _row(outcome: Outcome) -> tuple[str, ...]:
    fault = outcome.fault
    if outcome.trouble:
        return (fault.name, fault.says, "failed", *["-"] * (len(HEAD) - 3))
    heard = fault.loss is not Loss.ALL
    return (
        fault.name,
        fault.says,
        _lost(outcome),
        str(outcome.doubled),
        "-" if outcome.slowdown is None else f"{outcome.slowdown:.2f}, {outcome.longer:.2f}",
        f"{outcome.recovery_seconds:.1f}" if outcome.recovery_seconds is not None else "-",
        f"{outcome.kept} of {outcome.found}" if heard else "-",
        "yes" if outcome.identical else "NO",
    )


def _lost(outcome: Outcome) -> str:
    if outcome.fault.loss is Loss.ALL:
        return "all: nobody takes them"
    if outcome.fault.loss is Loss.COUNTED:
        return f"{outcome.lost}, of which {outcome.dropped} counted and shown"
    if outcome.fault.loss is Loss.UNSENT:
        return f"{outcome.lost}, not yet sent"
    return str(outcome.lost)
