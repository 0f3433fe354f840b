"""The four acts: what is done to the job, and what Stallwatch has to say about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RANKS = 4
RUN = "demo"

BYPASS_FROM, BYPASS_TO, BYPASS_RANK = 400, 480, 2
SLOW_FROM, SLOW_TO, SLOW_RANK = 640, 800, 1
CUT_AT = 960
LAST_STEP = CUT_AT + 3000
"""Training ends here at the latest; the demo stops it once the plateau is called."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The one finding that an act has to cause."""

    kind: str
    ranks: tuple[int, ...]
    since_step: int
    tolerance: int
    """Steps by which the finding's onset may be off."""


@dataclass(frozen=True, slots=True)
class Act:
    """One stretch of the job."""

    title: str
    injected: str
    from_step: int
    to_step: int
    expected: Expected | None


ACTS = (
    Act("healthy", "nothing", 0, BYPASS_FROM, None),
    Act(
        "a rank on its own",
        f"rank {BYPASS_RANK} calls the module inside DDP and applies its own gradient, steps {BYPASS_FROM} to "
        f"{BYPASS_TO - 1}; torch reports no error",
        BYPASS_FROM,
        SLOW_FROM,
        Expected("missing_gradient_sync", (BYPASS_RANK,), BYPASS_FROM, 2),
    ),
    Act(
        "a slow rank",
        f"rank {SLOW_RANK}'s data comes late, steps {SLOW_FROM} to {SLOW_TO - 1}",
        SLOW_FROM,
        CUT_AT,
        Expected("straggler", (SLOW_RANK,), SLOW_FROM, 20),
    ),
    Act(
        "the end of learning",
        f"the learning rate is cut to nothing at step {CUT_AT}",
        CUT_AT,
        LAST_STEP,
        Expected("plateau", (), CUT_AT, CUT_AT // 4),
    ),
)


def job_arguments() -> list[str]:
    """The faults as the training script takes them."""
    return [
        "--steps", str(LAST_STEP),
        "--bypass", f"{BYPASS_RANK}:{BYPASS_FROM}:{BYPASS_TO}",
        "--slow", f"{SLOW_RANK}:{SLOW_FROM}:{SLOW_TO}",
        "--cut-at", str(CUT_AT),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an act's findings come to."""

    act: Act
    said: tuple[Mapping[str, Any], ...]
    wrong: tuple[str, ...]
    """A sentence for each verdict that is missing, wrong or extra; empty when all is right."""


def judge(findings: Sequence[Mapping[str, Any]]) -> list[Judgement]:
    """Hold every finding of severity warning or above against the act in which it was called."""
    serious = [finding for finding in findings if finding["severity"] != "info"]
    return [
        _judge_act(act, [f for f in serious if act.from_step <= f["detected_step"] < act.to_step])
        for act in ACTS
    ]


def _judge_act(act: Act, said: list[Mapping[str, Any]]) -> Judgement:
    wrong = [
        f"extra: {finding['kind']} was called at step {finding['detected_step']}"
        for finding in said
        if act.expected is None or finding["kind"] != act.expected.kind
    ]
    if act.expected is not None:
        wrong += _judge_expected(act.expected, [f for f in said if f["kind"] == act.expected.kind])
    return Judgement(act, tuple(said), tuple(wrong))


def _judge_expected(expected: Expected, matches: list[Mapping[str, Any]]) -> list[str]:
    if not matches:
        return [f"missing: {expected.kind} was not called"]
    first, *again = matches
    wrong = [
        f"extra: {expected.kind} was called again at step {finding['detected_step']}" for finding in again
    ]
    if tuple(first["ranks"]) != expected.ranks:
        wrong.append(f"wrong: {expected.kind} names ranks {list(first['ranks'])}, not {list(expected.ranks)}")
    off = first["since_step"] - expected.since_step
    if abs(off) > expected.tolerance:
        wrong.append(
            f"wrong: {expected.kind} begins at step {first['since_step']}, {off:+d} steps from the true "
            f"{expected.since_step} (allowed: {expected.tolerance})"
        )
    return wrong
