"""Tables of the outcomes: JSON for machines, Markdown for people, and the part of docs/faults.md between its marks."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from faults.catalogue import SCENARIOS
from faults.judge import Outcome, Verdict

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NOTHING = "-"


def write(outcomes: Sequence[Outcome], folder: Path, docs: Path | None = None) -> None:
    """Write results.json and results.md into `folder`, and the table into `docs`."""
    folder.mkdir(parents=True, exist_ok=True)
    order = {name: index for index, name in enumerate(SCENARIOS)}
    outcomes = sorted(
        outcomes, key=lambda each: (order[each.case.scenario.name], each.case.ranks, each.case.seed)
    )
    results = [outcome.as_dict() for outcome in outcomes]
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    text = markdown(outcomes)
    (folder / "results.md").write_text(text)
    if docs is not None:
        before, _, rest = docs.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        docs.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The whole report."""
    return "\n".join([*_summary(outcomes), "", *_scenarios(outcomes), "", *_confusion(outcomes), ""])


def _summary(outcomes: Sequence[Outcome]) -> list[str]:
    """A row a kind."""
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.case.scenario.kind or "(healthy)"].append(outcome)
    rows = []
    for kind, group in by_kind.items():
        found = [outcome for outcome in group if outcome.found is not None]
        named = [outcome.rank_right for outcome in found if outcome.rank_right is not None]
        rows.append(
            (
                f"`{kind}`" if kind[0] != "(" else kind,
                len({outcome.case.scenario.name for outcome in group}),
                len(group),
                NOTHING if kind[0] == "(" else len(found),
                f"{sum(named)} of {len(named)}" if named else NOTHING,
                _middle(outcome.delay_steps for outcome in found),
                _middle(outcome.delay_seconds for outcome in found),
                sum(len(outcome.extra) for outcome in group),
                sum(outcome.verdict is Verdict.RIGHT for outcome in group),
            )
        )
    head = ("kind", "scenarios", "jobs", "found", "rank right", "steps to the call: median, most",
            "seconds: median, most", "untrue findings", "within the bars")  # fmt: skip
    return _table(head, rows)


def _scenarios(outcomes: Sequence[Outcome]) -> list[str]:
    """A row a scenario."""
    by_name: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_name[outcome.case.scenario.name].append(outcome)
    rows = []
    for name, group in by_name.items():
        scenario = group[0].case.scenario
        verdicts = Counter(outcome.verdict.value for outcome in group)
        extra = Counter(finding["kind"] for outcome in group for finding in outcome.extra)
        rows.append(
            (
                name,
                scenario.says,
                f"`{scenario.kind}`" if scenario.kind else "nothing",
                ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()),
                _middle(outcome.delay_steps for outcome in group),
                _middle(outcome.delay_seconds for outcome in group),
                ", ".join(f"{count} `{kind}`" for kind, count in extra.most_common()) or NOTHING,
            )
        )
    head = ("scenario", "what is done", "expected", "outcome", "steps", "seconds", "untrue findings")
    return _table(head, rows)


def _confusion(outcomes: Sequence[Outcome]) -> list[str]:
    """What was injected against what was said, in jobs."""
    said: dict[str, Counter[str]] = defaultdict(Counter)
    jobs: Counter[str] = Counter()
    for outcome in outcomes:
        kind = outcome.case.scenario.kind or "(healthy)"
        jobs[kind] += 1
        kinds = {
            finding["kind"]
            for finding in outcome.said
            if finding["severity"] != "info" or finding["kind"] == kind
        }
        said[kind].update(kinds or {"(nothing)"})
    columns = sorted({kind for row in said.values() for kind in row})
    rows = [(kind, jobs[kind], *(said[kind][column] or "" for column in columns)) for kind in said]
    return _table(("injected \\ said", "jobs", *columns), rows)


def _middle(values: Iterable[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return NOTHING
    return f"{median(known):.3g}, {known[-1]:.3g}"


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
