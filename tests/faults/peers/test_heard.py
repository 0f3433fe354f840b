"""What other tools say is held against the truth fairly."""

from __future__ import annotations

import pytest

from faults.catalogue import SCENARIOS
from faults.peers.heard import Heard, Statement, Worth, weigh
from faults.peers.with_torch import complaints
from faults.scenario import Case

SLOW = Case(SCENARIOS["progress/slow-compute-50"], 0, 2)
HEALTHY = Case(SCENARIOS["healthy/plain-mlp"], 0, 2)


def said(kind: str, *ranks: int) -> Statement:
    return Statement(kind, f"{kind} {ranks}", frozenset({kind}), ranks)


@pytest.mark.parametrize(
    ("statements", "worth"),
    [
        ([], Worth.NOTHING),
        ([said("straggler", 1)], Worth.RIGHT_RANK),
        ([said("straggler")], Worth.NAMED),
        ([said("straggler", 0)], Worth.WRONG_RANK),
        ([said("straggler", 1), said("straggler", 0)], Worth.WRONG_RANK),
        ([said("input_bound")], Worth.OTHER),
        ([said("input_bound"), said("straggler", 1)], Worth.RIGHT_RANK),
    ],
)
def test_a_fault_is_named_with_its_rank_or_not(statements: list[Statement], worth: Worth) -> None:
    """The kind decides whether it is named, and every rank named for it has to be right."""
    assert weigh("tool", SLOW, Heard(statements)).worth is worth


def test_anything_said_of_a_healthy_job_is_a_false_alarm() -> None:
    """A healthy twin may not be complained of at all."""
    assert weigh("tool", HEALTHY, Heard([])).worth is Worth.QUIET
    assert weigh("tool", HEALTHY, Heard([said("straggler", 1)])).worth is Worth.FALSE_ALARM


def test_a_tool_that_did_not_run_is_neither_right_nor_wrong() -> None:
    """The reason stands in its place."""
    result = weigh("tool", SLOW, Heard(unable="it needs CUDA"))
    assert (result.worth, result.quote) == (Worth.UNABLE, "it needs CUDA")


OUTPUT = """
[rank0]: Traceback (most recent call last):
[rank0]: RuntimeError: Expected to have finished reduction in the prior iteration before starting a new one.
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 4711)
"""


def test_torch_is_quoted_and_its_launcher_names_who_failed_first() -> None:
    """The exception names a missing reduction; the summary names a rank, and a lost one by its signal."""
    exception, summary = complaints(OUTPUT, "missing_gradient_sync", failed=True)
    assert exception.kinds == {"missing_gradient_sync"}
    assert exception.text.startswith("RuntimeError: Expected to have finished reduction")
    assert not summary.kinds
    summary = complaints(OUTPUT, "rank_lost", failed=True)[-1]
    assert (summary.kinds, summary.ranks, summary.text) == ({"rank_lost"}, (1,), "rank 1 exitcode -9")
