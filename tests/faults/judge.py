"""Holds what was said of a case against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from faults.scenario import SAMPLE_STEPS, Case, Scenario
from stallwatch.detector.core.vocabulary import VOCABULARY

Finding = Mapping[str, Any]


SURE = 0.4
"""Confidence from which the first cause is an answer."""


class Verdict(Enum):
    """What a case comes to. The first that holds, from above."""

    FAILED = "job failed"
    FALSE_ALARM = "false alarm"
    UNDECIDED = "not decided yet"
    MISSED = "missed"
    WRONG_RANK = "wrong rank"
    WRONG_ONSET = "wrong onset"
    LATE = "late"
    RIGHT = "right"


_KEPT = (
    "said",
    "found",
    "extra",
    "delay_steps",
    "delay_seconds",
    "onset_error",
    "rank_right",
    "wall_seconds",
    "trouble",
)
BAD = frozenset(Verdict) - {Verdict.RIGHT, Verdict.UNDECIDED}


@dataclass(slots=True)
class Outcome:
    """One case and what was said of it."""

    case: Case
    verdict: Verdict
    said: Sequence[Finding] = ()
    found: Finding | None = None
    """The finding of the kind expected."""
    extra: Sequence[Finding] = ()
    """Findings of severity warning or above that are not true."""
    delay_steps: int | None = None
    delay_seconds: float | None = None
    onset_error: int | None = None
    rank_right: bool | None = None
    wall_seconds: float = 0.0
    trouble: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        scenario, bar = self.case.scenario, self.case.bar
        return {
            "scenario": scenario.name,
            "says": scenario.says,
            "expected": scenario.kind,
            "seed": self.case.seed,
            "ranks": self.case.ranks,
            "task": scenario.task,
            "optimizer": scenario.optimizer,
            "true_ranks": self.case.culprits,
            "true_step": self.case.at if scenario.kind else None,
            "bar": asdict(bar),
            "verdict": self.verdict.value,
            "found": self.found,
            "extra": list(self.extra),
            "said": [{"kind": finding["kind"], "severity": finding["severity"]} for finding in self.said],
            "delay_steps": self.delay_steps,
            "delay_seconds": self.delay_seconds,
            "onset_error": self.onset_error,
            "rank_right": self.rank_right,
            "wall_seconds": round(self.wall_seconds, 1),
            "trouble": self.trouble,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], scenario: Scenario) -> Outcome:
        """What `as_dict` gave, of a scenario that still exists."""
        return cls(
            Case(scenario, row["seed"], row["ranks"]),
            Verdict(row["verdict"]),
            **{name: row[name] for name in _KEPT},
        )


def judge(
    case: Case,
    findings: Sequence[Finding],
    decided: frozenset[str],
    *,
    fault_seconds: float | None = None,
    seen_seconds: Mapping[str, float] | None = None,
    trouble: str = "",
) -> Outcome:
    """Judge a case by its findings, oldest first.

    Args:
        case: What was run.
        findings: All findings about its run, as the API gives them.
        decided: Kinds that the service decides.
        fault_seconds: When the fault began, Unix seconds.
        seen_seconds: When each finding was first seen, by its id.
        trouble: Why the job itself did not go as it should.
    """
    kind = case.scenario.kind
    found = next((finding for finding in findings if finding["kind"] == kind), None) or _stall_by(
        findings, {kind, *case.scenario.named}
    )
    true = {kind, *case.scenario.also}
    extra = [each for each in findings if each["severity"] != "info" and each["kind"] not in true]
    # What was said last counts: a run in order may well have been slow on its way.
    told = [each for each in findings if each["category"] == "learning" and each.get("causes")]
    extra += [each for each in told[-1:] if _confused(each, case.scenario, named=found is not None)]
    outcome = Outcome(case, Verdict.RIGHT, said=findings, found=found, extra=extra, trouble=trouble)
    if found is not None:
        outcome.delay_steps = found["detected_step"] - case.at
        outcome.onset_error = found["since_step"] - case.at
        outcome.rank_right = case.accepts(tuple(found["ranks"]))
        seen = (seen_seconds or {}).get(found["id"])
        if seen is not None and fault_seconds is not None:
            outcome.delay_seconds = max(seen - fault_seconds, 0.0)
    outcome.verdict = _verdict(outcome, decided)
    return outcome


def _confused(finding: Finding, scenario: Scenario, *, named: bool) -> bool:
    """Whether an end of learning in order is called a fault, or a fault such an end; a run that was told its fault may end well."""
    if scenario.kind not in VOCABULARY or (named and not _is_benign(scenario.kind)):
        return False
    first = finding["causes"][0]
    if first["kind"] in {scenario.kind, *scenario.named, *scenario.also} or first["confidence"] < SURE:
        return False
    return _is_benign(first["kind"]) != _is_benign(scenario.kind)


def _is_benign(kind: str) -> bool:
    return VOCABULARY[kind].category == "causes" and VOCABULARY[kind].severity.value == "info"


def _stall_by(findings: Sequence[Finding], kinds: AbstractSet[str | None]) -> Finding | None:
    """The verdict about the loss that gives one of these kinds as its first cause."""
    for finding in findings:
        causes = finding.get("causes") or [{"kind": ""}]
        if finding["category"] == "learning" and causes[0]["kind"] in kinds:
            return finding
    return None


def _verdict(  # noqa: PLR0911 - one return a verdict, in their order
    outcome: Outcome, decided: frozenset[str]
) -> Verdict:
    kind, bar = outcome.case.scenario.kind, outcome.case.bar
    if outcome.trouble:
        return Verdict.FAILED
    if outcome.extra:
        return Verdict.FALSE_ALARM
    if kind is None:
        return Verdict.RIGHT
    if outcome.found is None:
        if _is_benign(kind):  # a loss that is all but gone may go on falling by shares of itself
            return Verdict.RIGHT
        return Verdict.MISSED if kind in decided else Verdict.UNDECIDED
    if outcome.rank_right is False:
        return Verdict.WRONG_RANK
    if bar.onset_steps is not None:
        # What is seen on sampled steps only comes with the error that it says it has, at most a sampling period.
        said = min(outcome.found["evidence"].get("since_step_error", 0.0), SAMPLE_STEPS / 2)
        if abs(outcome.onset_error or 0) > max(bar.onset_steps, said):
            return Verdict.WRONG_ONSET
    late = bar.delay_steps is not None and (outcome.delay_steps or 0) > bar.delay_steps
    if bar.delay_seconds is not None and (outcome.delay_seconds or 0.0) > bar.delay_seconds:
        late = True
    return Verdict.LATE if late else Verdict.RIGHT
