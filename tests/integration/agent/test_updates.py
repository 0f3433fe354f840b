"""What the agent says about gradients and updates of real gloo trainings: their age, their factor, who steps on what."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from stallwatch.agent._lag import CARRIED
from support.ranks import Ranks
from support.telemetry_server import RankRecord, TelemetryServer

STALE = {"stale_by_1": 1, "stale_by_2": 2, "stale_by_5": 5}
HEALTHY = ("healthy", "accumulation", "static_graph", "scaled_loss", "half_precision", "broadcast_buffers")
SCENARIOS = (
    *HEALTHY,
    *STALE,
    "frozen_gradient",
    "stale_reduction",
    "never_cleared",
    "keeps_local_gradients",
    "clipped_on_one_rank",
    "stepped_twice",
    "skipped_on_one_rank",
    "other_state_on_one_rank",
    "changed_parameter",
    "local_buffers",
)
STEPS, FROM = 12, 6


class Observed:
    """The finished job and what the server has."""

    def __init__(self, server: TelemetryServer, ranks: Ranks) -> None:
        self.server = server
        self.ranks = ranks

    def both(self, run: str) -> tuple[RankRecord, RankRecord]:
        """Records of both ranks."""
        return self.server.rank(0, run), self.server.rank(1, run)


@pytest.fixture(scope="module")
def observed(tmp_path_factory) -> Iterator[Observed]:
    """Runs all scenarios in one pair of processes."""
    folder = tmp_path_factory.mktemp("ranks")
    with TelemetryServer() as server, Ranks(folder, server.endpoint, *SCENARIOS) as ranks:
        ranks.finish()
        yield Observed(server, ranks)


def same(records: tuple[RankRecord, RankRecord], column: str) -> list[bool]:
    """On which steps both ranks say the same of something that was taken."""
    ours, theirs = (record.column(column) for record in records)
    assert -1 not in ours + theirs
    return [a == b for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("rank", [0, 1])
def test_agent_reports_no_errors_of_its_own(observed, rank):
    """Nothing was logged."""
    assert "stallwatch" not in observed.ranks.log(rank)


@pytest.mark.parametrize("run", HEALTHY)
def test_healthy_trainings_step_on_fresh_gradients_and_stay_equal(observed, run):
    """Every gradient is that of its step, nothing is carried over, and what is equal before an update is so after it."""
    records = observed.both(run)
    for record in records:
        assert record.column("gradient_lag") == [0] * STEPS
        assert record.column("optimizer_steps") == [1] * STEPS
        assert all(sample.carried_gradient_square == 0 for sample in record.samples)
    for column in ("produced_fingerprint", "gradient_fingerprint", "parameters_before", "parameters_after"):
        assert all(same(records, column))
    scale = 2.0**-10 if run == "scaled_loss" else 1.0
    assert max(records[0].column("gradient_scale")) <= scale * (1 + 1e-5)
    if run != "scaled_loss":
        assert records[0].column("gradient_scale") == pytest.approx([1.0] * STEPS)


@pytest.mark.parametrize("run", STALE)
def test_a_stale_gradient_tells_its_age_on_every_step(observed, run):
    """From the first bad step on, on both ranks."""
    for record in observed.both(run):
        assert record.column("gradient_lag") == [0] * FROM + [STALE[run]] * (STEPS - FROM)


def test_a_frozen_gradient_grows_older(observed):
    """One step older each time."""
    assert observed.both("frozen_gradient")[0].column("gradient_lag") == [0] * FROM + list(
        range(1, STEPS - FROM + 1)
    )


def test_a_stale_reduction_shows_in_the_anchors(observed):
    """The optimizer sees what the reduction returned; the mean of the local gradients of the step before is parallel to it."""
    records = observed.both("stale_reduction")
    assert all(record.column("gradient_lag") == [0] * STEPS for record in records)
    for ours, theirs in list(zip(records[0].samples, records[1].samples, strict=True))[1:]:
        produced = np.array(ours.produced_anchor)
        assert (produced == np.array(theirs.produced_anchor)).all()
        means = (np.array(ours.local_anchors) + np.array(theirs.local_anchors)).reshape(-1, 4)
        cosines = means @ produced / np.linalg.norm(means, axis=1) / np.linalg.norm(produced)
        assert cosines[1] > 1 - 1e-6
        assert cosines[0] < 0.999


def test_gradients_that_are_never_cleared_are_told_on_every_step(observed):
    """From the step after the last zero_grad on."""
    for record in observed.both("never_cleared"):
        assert record.column("gradient_lag") == [0] * FROM + [CARRIED] * (STEPS - FROM)
        assert [sample.carried_gradient_square > 0 for sample in record.samples] == [False, False, True]


@pytest.mark.parametrize(("run", "since"), [("keeps_local_gradients", 7), ("clipped_on_one_rank", FROM)])
def test_a_gradient_that_one_rank_edits_was_the_same_before(observed, run, since):
    """Both got the same averaged gradient, and one multiplied it."""
    records = observed.both(run)
    before, bad = [True] * since, STEPS - since
    # The fingerprint of the second step is of replicas that have come apart: their average is still the same.
    assert all(same(records, "produced_fingerprint"))
    assert same(records, "gradient_fingerprint") == before + [False] * bad
    assert same(records, "parameters_after")[: since + 1] == [*before, False]
    assert same(records, "parameters_before")[: since + 1] == [*before, True]
    assert records[0].column("gradient_scale") == pytest.approx([1.0] * STEPS)
    assert all(abs(scale - 1) > 0.1 for scale in records[1].column("gradient_scale")[since:])
    assert records[1].column("gradient_lag") == [0] * STEPS


def test_two_steps_a_backward_are_counted(observed):
    """On every record."""
    for record in observed.both("stepped_twice"):
        assert record.column("optimizer_steps") == [2] * STEPS


def test_a_skipped_step_shows_in_the_count_of_passes(observed):
    """Rank 1 has two synchronised passes behind its seventh step, and is one ahead from then on."""
    ours, theirs = (record.column("ddp_iteration") for record in observed.both("skipped_on_one_rank"))
    assert [b - a for a, b in zip(ours, theirs, strict=True)] == [0] * FROM + [1] * (STEPS - FROM)
    assert same(observed.both("skipped_on_one_rank"), "gradient_fingerprint") == [True] * FROM + [False] * (
        STEPS - FROM
    )


def test_another_update_of_equal_parameters_shows_on_the_very_step(observed):
    """Gradients are equal throughout; parameters are equal before the step and no longer after it."""
    records = observed.both("other_state_on_one_rank")
    assert all(same(records, "gradient_fingerprint"))
    before, after = same(records, "parameters_before"), same(records, "parameters_after")
    assert (before[: FROM + 1], before[FROM + 1]) == ([True] * (FROM + 1), False)
    assert after[: FROM + 1] == [True] * FROM + [False]


def test_half_precision_loses_updates(observed):
    """Of the elements with a gradient, hardly any changes; in single precision nothing is counted."""
    assert all(sample.unchanged_share > 0.98 for sample in observed.both("half_precision")[0].samples)
    assert all(np.isnan(sample.unchanged_share) for sample in observed.both("healthy")[0].samples)


def test_buffers_are_read_after_they_have_been_broadcast(observed):
    """With DDP's broadcast they are equal on both ranks and change from sample to sample; without, they differ."""
    ours, theirs = ([s.buffer_fingerprint for s in r.samples] for r in observed.both("broadcast_buffers"))
    assert ours == theirs
    assert all(a != b for a, b in pairwise(ours))
    ours, theirs = ([s.buffer_fingerprint for s in r.samples] for r in observed.both("local_buffers"))
    assert ours[0] == theirs[0]
    assert all(a != b for a, b in zip(ours[1:], theirs[1:], strict=True))
