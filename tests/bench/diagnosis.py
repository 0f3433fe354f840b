"""Runs trainings with known causes in this process, and scores what is said of them.

    make bench-diagnosis ARGS="--only lr_too_low --seeds 3"

Prints the confusion matrix, how often the true cause comes first and among the first three, and how far confidences can be
believed. A scenario counts by the latest verdict about its loss (`plateau`, `slow_convergence`, `oscillation`,
`divergence`, a `non_finite` with a cause): by its causes as they were when it was called, and as they were last. Where no such verdict was given, a
finding of the cause itself counts as an answer. With `--cache DIR` the recorded telemetry is kept, so that a change of
the analysis is scored without training anew.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.diagnosis_scenarios import HEALTHY, Scenario, load
from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.diagnosis import CAUSES, DIAGNOSED, STANDALONE_CHECKS
from stallwatch.detector.diagnosis.ranking import UNDETERMINED, as_causes, rank
from stallwatch.detector.signals.vitals import VitalsSignal

BENIGN = frozenset({"noise_floor", "capacity_limit"})
SILENT = "no verdict"
HELD_OUT = "heldout"
_SEVERE = ("warning", "critical")


@dataclass(frozen=True)
class Score:
    """One run of a scenario."""

    name: str
    cause: str
    seed: int
    verdict: str
    """The kind of the verdict that causes were given to; empty when there was none."""
    detected_step: int
    causes: tuple[tuple[str, float], ...]
    """As they were when the verdict was given."""
    last: tuple[tuple[str, float], ...]
    alone: tuple[str, ...]
    """Causes that became findings of their own."""
    also: tuple[str, ...]
    asked: tuple[tuple[str, float], ...] = ()
    """What the causes would be at the end of the run, whether or not there was a verdict about the loss."""
    said: tuple[str, ...] = ()
    """Evidence of the last verdict."""
    rules: tuple[str, ...] = ()
    """SageMaker Debugger's rules that held at some step, at their defaults."""
    warned: tuple[str, ...] = ()
    """Findings of severity warning or above."""

    def answer(self, causes: Sequence[tuple[str, float]]) -> str:
        """What comes first, and with confidence."""
        if causes:
            return causes[0][0] if causes[0][1] >= 0.4 else UNDETERMINED
        if self.verdict:
            return UNDETERMINED
        return self.alone[0] if self.alone else SILENT

    @property
    def first(self) -> bool:
        """Whether the true cause comes first."""
        return self.answer(self.last) in (self.cause, *self.also)

    @property
    def among_three(self) -> bool:
        """Whether the true cause is among the first three."""
        return self.first or bool({kind for kind, _ in self.last[:3]} & {self.cause, *self.also})


def run(scenario: Scenario, seed: int, cache: Path | None) -> Score:
    """Trains, or takes what was recorded, and analyses."""
    import torch

    from support.in_process import Recorded, analyse

    torch.set_num_threads(1)
    training = scenario.make(seed)
    path = cache / f"{scenario.name.replace('/', '_')}-{seed}.pickle" if cache else None
    attempts: list[Recorded]
    if path is not None and path.exists():
        attempts = pickle.loads(path.read_bytes())
    else:
        attempts = training.recordings()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(attempts))
    analyse(training, *attempts, config=AnalysisConfig(rules="sagemaker"))
    signal = training.analysis.pipeline.signals["vitals"]
    assert isinstance(signal, VitalsSignal)
    asked = as_causes(rank(signal.vitals(), CAUSES))
    found = score(scenario, seed, training.history)
    return replace(
        found,
        asked=tuple((each.kind, each.confidence) for each in asked),
        rules=tuple(each.rule for each in training.analysis.view().rules if each.hits),
        warned=tuple(sorted({each.kind for each in training.history if each.severity in _SEVERE})),
    )


def score(scenario: Scenario, seed: int, history: Iterable[Finding]) -> Score:
    """What was said."""
    changes = list(history)
    judged = [each for each in changes if _is_verdict(each) and each.status == "firing"]
    alone = tuple(dict.fromkeys(each.kind for each in changes if each.kind in STANDALONE_CHECKS))
    if not judged:
        return Score(scenario.name, scenario.cause, seed, "", -1, (), (), alone, scenario.also)
    last = judged[-1]
    first = next(each for each in judged if each.id == last.id)
    return Score(
        scenario.name,
        scenario.cause,
        seed,
        last.kind,
        last.detected_step,
        _kinds(first),
        _kinds(last),
        alone,
        scenario.also,
        tuple(str(text) for name in ("cause_1_evidence", "cause_2_evidence") for text in _texts(last, name)),
    )


def _is_verdict(finding: Finding) -> bool:
    """Whether causes are given to it; a NaN has some only where something led to it."""
    return finding.kind in DIAGNOSED or (finding.kind == "non_finite" and bool(finding.causes))


def _kinds(finding: Finding) -> tuple[tuple[str, float], ...]:
    return tuple((each.kind, each.confidence) for each in finding.causes)


def _texts(finding: Finding, name: str) -> tuple[object, ...]:
    found = finding.evidence.get(name, ())
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def report(scores: Sequence[Score]) -> str:
    """Tables in Markdown."""
    faults = [each for each in scores if each.cause != HEALTHY]
    told = [each for each in faults if each.answer(each.last) != SILENT]
    lines = [*_matrix(scores), ""]
    for what, chosen in (("all", faults), ("with a verdict", told)):
        count = max(len(chosen), 1)
        early = sum(each.answer(each.causes) in (each.cause, *each.also) for each in chosen)
        lines.append(
            f"{what}: {len(chosen)} runs, true cause first {sum(each.first for each in chosen) / count:.3f} "
            f"(when called {early / count:.3f}), among the first three {sum(each.among_three for each in chosen) / count:.3f}"
        )
    asked = [each for each in faults if each.asked and each.asked[0][0] in (each.cause, *each.also)]
    lines.append(
        f"asked at the end, verdict or not: {len(faults)} runs, true cause first {len(asked) / max(len(faults), 1):.3f}"
    )
    accused = [
        each
        for each in scores
        if each.cause in BENIGN and _is_fault(each.answer(each.last)) and not each.first
    ]
    excused = [each for each in faults if each.cause not in BENIGN and each.answer(each.last) in BENIGN]
    alarms = [each for each in scores if set(each.alone) - {each.cause, *each.also}]
    lines += [
        f"benign called a fault: {len(accused)}",
        f"fault called benign: {len(excused)}",
        f"findings of other causes than the true one: {len(alarms)}",
        "",
        *_calibration(scores),
    ]
    return "\n".join(lines)


def _is_fault(kind: str) -> bool:
    return kind in VOCABULARY and VOCABULARY[kind].severity.value in _SEVERE


def _matrix(scores: Sequence[Score]) -> list[str]:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for each in scores:
        table[each.cause or "(healthy)"][each.cause if each.first else each.answer(each.last)] += 1
    lines = ["| true cause | runs | first | said instead |", "| --- | --- | --- | --- |"]
    for cause, said in table.items():
        others = ", ".join(f"{kind} {count}" for kind, count in said.most_common() if kind != cause)
        lines.append(f"| {cause} | {said.total()} | {said[cause]} | {others} |")
    return lines


def _calibration(scores: Sequence[Score]) -> list[str]:
    lines = ["| confidence | given | right |", "| --- | --- | --- |"]
    for low, high in ((0.8, 1.01), (0.6, 0.8), (0.4, 0.6), (0.05, 0.4)):
        given = [
            kind in (each.cause, *each.also)
            for each in scores
            for kind, confidence in each.last
            if low <= confidence < high and kind in CAUSES
        ]
        share = f"{sum(given) / len(given):.2f}" if given else "-"
        lines.append(f"| {low:g} to {min(high, 1):g} | {len(given)} | {share} |")
    return lines


def beside_rules(scores: Sequence[Score]) -> str:
    """What Stallwatch and SageMaker Debugger's rules say of the same runs, as a table in Markdown."""
    groups: dict[str, list[Score]] = defaultdict(list)
    for each in scores:
        groups[each.cause or "(healthy)"].append(each)
    lines = [
        "| true cause | runs | Stallwatch names it | its warnings | rules that held |",
        "| --- | --- | --- | --- | --- |",
    ]
    for cause, group in groups.items():
        named = sum(each.first for each in group) if cause != "(healthy)" else "-"
        warned = Counter(kind for each in group for kind in each.warned)
        held = Counter(name for each in group for name in each.rules)
        cells = (
            ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "-"
            for counts in (warned, held)
        )
        lines.append(f"| {cause} | {len(group)} | {named} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_into(page: Path, tables: str, mark: str = "confusion") -> None:
    """Replace what a page has between its marks."""
    begin, end = f"<!-- begin {mark} -->", f"<!-- end {mark} -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{tables}\n{end}{after}")


def line(each: Score) -> str:
    """One run in a line."""
    mark = "ok " if each.first or (each.cause == HEALTHY and not each.alone) else "BAD"
    given = " ".join(f"{kind}={confidence:.2f}" for kind, confidence in each.last) or "-"
    alone = f" alone: {','.join(each.alone)}" if each.alone else ""
    asked = f" asked: {each.asked[0][0]}={each.asked[0][1]:.2f}" if each.asked and not each.verdict else ""
    return (
        f"{mark} {each.name}#{each.seed} {each.verdict or SILENT}@{each.detected_step} {given}{alone}{asked}"
    )


def main() -> int:
    """Run, print, and write `results.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="names that begin with or contain this; several by comma")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder for recorded telemetry")
    parser.add_argument("--out", type=Path, default=Path("build/diagnosis"))
    parser.add_argument("--evidence", action="store_true", help="print the evidence of runs that went wrong")
    parser.add_argument("--page", type=Path, help="page that the tables are written into, between its marks")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    wanted = given.only.split(",")
    # Those that are held out are asked for by name, and have a table of their own.
    chosen = {name: each for name, each in load().items() if given.only or not name.startswith(HELD_OUT)}
    scenarios = [each for name, each in chosen.items() if any(part in name for part in wanted)]
    if given.list:
        print(*(each.name for each in scenarios), sep="\n")
        return 0
    scores = []
    with ProcessPoolExecutor(given.workers) as pool:
        jobs = [
            pool.submit(_run, each.name, seed, given.cache)
            for each in scenarios
            for seed in range(given.seeds)
        ]
        for job in jobs:
            scores.append(job.result())
            print(line(scores[-1]), flush=True)
            if given.evidence and line(scores[-1]).startswith("BAD"):
                print(*(f"      {text}" for text in scores[-1].said), sep="\n")
    text = report(scores)
    print(text)
    if given.page and given.only == HELD_OUT:
        write_into(given.page, text, HELD_OUT)
    elif given.page:
        write_into(given.page, text)
        write_into(given.page, beside_rules(scores), "rules")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.md").write_text(text + "\n\n" + beside_rules(scores) + "\n")
    (given.out / "results.json").write_text(json.dumps([asdict(each) for each in scores], indent=1))
    return 0


def _run(name: str, seed: int, cache: Path | None) -> Score:
    return run(load()[name], seed, cache)


if __name__ == "__main__":
    sys.exit(main())
