"""What the agent says about real gloo trainings, healthy and broken. One job runs all of them, one after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

import pytest

from stallwatch.v1 import telemetry_pb2 as wire
from support.ranks import Ranks
from support.telemetry_server import RankRecord, TelemetryServer

SCENARIOS = (
    "healthy",
    "static_graph",
    "never_synchronised",
    "module_bypass",
    "autograd_grad",
    "keeps_local_gradients",
    "slow_peer",
    "accumulation",
    "evaluates",
    "duplicated_data",
    "changed_parameter",
    "undisturbed",
    "sharded",
    "unwrapped",
)
STEPS = 12


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


@pytest.mark.parametrize("run", SCENARIOS)
def test_every_step_arrives_once_and_in_order(observed, run):
    """No scenario loses or doubles a step, and each ends with a goodbye."""
    for record in observed.both(run):
        assert record.steps == list(range(STEPS))
        assert [each.reason for each in record.goodbyes] == ["finished"]
        assert record.goodbyes[0].last_step == STEPS - 1
        assert record.dropped == {}


@pytest.mark.parametrize("rank", [0, 1])
def test_agent_reports_no_errors_of_its_own(observed, rank):
    """Nothing was logged: no internal error, no warning of torch about the hooks."""
    assert "stallwatch" not in observed.ranks.log(rank)
    assert "Warning" not in observed.ranks.log(rank)


def test_hello_describes_the_job(observed):
    """Parallelism, backend and sizes are those of the DDP job."""
    hello = observed.server.rank(1, "healthy").hellos[0]
    assert (hello.rank, hello.world_size, hello.local_rank) == (1, 2, 1)
    assert hello.parallelism == wire.PARALLELISM_DATA_PARALLEL
    assert (hello.backend, hello.device, hello.model, hello.optimizer) == (
        "gloo",
        "cpu",
        "Sequential",
        "AdamW",
    )
    assert hello.parameters == hello.trainable_parameters == 8 * 32 + 32 + 32 * 32 + 32 + 32 + 1
    assert list(hello.blocks) == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    assert hello.sample_period == 4


def test_healthy_counters_advance_together(observed):
    """One micro-batch, one synchronised forward and one collective a step, and equal gradients on both ranks."""
    first, second = observed.both("healthy")
    assert first.column("micro_batches") == [1] * STEPS
    assert first.column("optimizer_steps") == [1] * STEPS
    assert first.column("ddp_iteration") == list(range(1, STEPS + 1))
    # DDP's logger was last written before the last forward was counted.
    assert first.column("ddp_iteration")[-1] == observed.ranks.result("healthy", 0)["iterations"] + 1
    collectives = first.column("collectives")
    assert {after - before for before, after in pairwise(collectives[1:])} == {1}
    assert collectives == second.column("collectives")
    assert first.column("gradient_fingerprint") == second.column("gradient_fingerprint")
    assert len(set(first.column("gradient_fingerprint"))) == STEPS
    assert first.column("samples") == [16.0] * STEPS
    assert all(map(math.isfinite, first.column("loss_sum")))
    assert first.column("learning_rate") == [1e-3] * STEPS


def test_healthy_samples_agree_where_they_should(observed):
    """Sampled steps: local norms differ, everything after averaging is the same on both ranks."""
    first, second = observed.both("healthy")
    assert [each.step for each in first.samples] == [0, 4, 8]
    for ours, theirs in zip(first.samples, second.samples, strict=True):
        assert ours.local_gradient_square != theirs.local_gradient_square
        assert ours.reduced_gradient_square == theirs.reduced_gradient_square > 0
        assert ours.update_square == theirs.update_square > 0
        assert ours.parameter_square == theirs.parameter_square > 0
        assert list(ours.gradient_fingerprints) == list(theirs.gradient_fingerprints)
        assert list(ours.parameter_fingerprints) == list(theirs.parameter_fingerprints)
        assert len(ours.parameter_fingerprints) == 6
        assert list(ours.non_finite_blocks) == []
        assert ours.optimizer_state_step == ours.step + 1
        assert ours.samples == 16
        assert ours.buffer_fingerprint == 0
        # The mean of two different gradients is shorter than they are on average.
        local = (ours.local_gradient_square + theirs.local_gradient_square) / 2
        assert ours.reduced_gradient_square < local


def test_phases_fill_the_step(observed):
    """The five phases sum up to the step, but for the sampling itself."""
    record = observed.server.rank(0, "healthy")
    columns = [
        record.column(f"{name}_seconds") for name in ("input", "forward", "backward", "sync", "optimizer")
    ]
    for step, parts in enumerate(zip(*columns, strict=True)):
        total = record.column("step_seconds")[step]
        if step == 0:
            assert math.isnan(total)
        elif step % 4 and (step - 1) % 4:
            assert sum(parts) == pytest.approx(total, rel=0.05, abs=1e-4)


def test_never_synchronised_freezes_both_counters(observed):
    """Always under no_sync: micro-batches go on, synchronised forwards and collectives do not, gradients differ at once."""
    first, second = observed.both("never_synchronised")
    assert first.column("micro_batches") == [1] * STEPS
    assert first.column("ddp_iteration") == [0] * STEPS
    assert len(set(first.column("collectives"))) == 1
    assert all(map(_differ, first.column("gradient_fingerprint"), second.column("gradient_fingerprint")))


def test_forward_through_the_inner_module_freezes_both_counters(observed):
    """From step 6 on, forward through ddp.module: seen on that very step."""
    first, second = observed.both("module_bypass")
    assert first.column("ddp_iteration") == [1, 2, 3, 4, 5, 6] + [6] * 6
    assert len(set(first.column("collectives")[6:])) == 1
    same = list(map(_same, first.column("gradient_fingerprint"), second.column("gradient_fingerprint")))
    assert same == [True] * 6 + [False] * 6


def test_autograd_grad_freezes_only_the_collectives(observed):
    """Forward is synchronised as far as DDP knows, but no reduction ever runs."""
    first, second = observed.both("autograd_grad")
    assert first.column("ddp_iteration") == list(range(1, STEPS + 1))
    collectives = first.column("collectives")
    assert len(set(collectives[1:])) == 1
    assert first.column("micro_batches") == [0] * STEPS
    assert all(map(_differ, first.column("gradient_fingerprint"), second.column("gradient_fingerprint")))


def test_kept_local_gradients_show_on_the_very_step(observed):
    """The counters are healthy; the fingerprint of the gradients tells from step 7 on."""
    first, second = observed.both("keeps_local_gradients")
    assert first.column("ddp_iteration") == list(range(1, STEPS + 1))
    same = list(map(_same, first.column("gradient_fingerprint"), second.column("gradient_fingerprint")))
    assert same == [True] * 7 + [False] * 5


@pytest.mark.parametrize("run", ["slow_peer", "static_graph"])
def test_waiting_for_a_slow_peer_is_sync_on_the_rank_that_waits(observed, run):
    """The slow rank waits least; the fast one spends the delay in sync, not in backward."""
    fast, slow = observed.both(run)
    delay = {"slow_peer": 0.05, "static_graph": 0.03}[run]
    # Medians, for the machine is busy with other things, too. Step 0 is for learning which gradient comes last.
    assert median(fast.column("sync_seconds")[4:]) > 0.6 * delay
    assert median(fast.column("backward_seconds")[4:]) < 0.6 * delay
    assert median(slow.column("sync_seconds")[4:]) < 0.6 * delay


def test_accumulation_counts_micro_batches_and_sums_losses(observed):
    """Four micro-batches a step, their losses and samples summed, one reduction, and a local norm of the whole step."""
    first, second = observed.both("accumulation")
    assert first.column("micro_batches") == [4] * STEPS
    assert first.column("samples") == [64.0] * STEPS
    assert first.column("ddp_iteration") == list(range(1, STEPS + 1))
    for ours, theirs in zip(first.samples, second.samples, strict=True):
        # Two ranks see different data of one distribution: the mean of two is between the longest and the noise-free one.
        assert ours.reduced_gradient_square < max(ours.local_gradient_square, theirs.local_gradient_square)
        assert (
            ours.reduced_gradient_square > min(ours.local_gradient_square, theirs.local_gradient_square) / 4
        )


def test_duplicated_data_gives_equal_local_gradients(observed):
    """The same data on both ranks: local norms are bit-identical and equal to the reduced one."""
    first, second = observed.both("duplicated_data")
    for ours, theirs in zip(first.samples, second.samples, strict=True):
        assert ours.local_gradient_square == theirs.local_gradient_square
        assert ours.reduced_gradient_square == pytest.approx(ours.local_gradient_square, rel=1e-4)


def test_one_flipped_bit_shows_in_the_fingerprint_of_its_block(observed):
    """A single bit of 2.weight flipped on rank 1 at step 6: step 8 names the block, step 4 is clean."""
    first, second = observed.both("changed_parameter")
    differing = {
        ours.step: {
            index
            for index, (a, b) in enumerate(
                zip(ours.parameter_fingerprints, theirs.parameter_fingerprints, strict=True)
            )
            if a != b
        }
        for ours, theirs in zip(first.samples, second.samples, strict=True)
    }
    assert differing[4] == set()
    assert 2 in differing[8]


def test_evaluation_is_no_input_time(observed):
    """Evaluation between steps counts in the step, in no phase of it; its result arrives with its step."""
    record = observed.server.rank(0, "evaluates")
    for step in (3, 7, 11):
        assert record.column("step_seconds")[step] > 0.02
    assert median(record.column("input_seconds")[step] for step in (3, 7, 11)) < 0.015
    points = [each for batch in record.batches for each in batch.evaluations]
    assert [each.step for each in points] == [2, 6, 10]
    assert points[0].metrics == {"accuracy": 0.5}


def test_training_is_bit_identical_with_and_without_the_agent(observed):
    """Parameters and random state after training do not depend on being watched."""
    assert (
        observed.ranks.result("undisturbed", 0) == observed.ranks.result("undisturbed", 1) == {"same": True}
    )


def test_fsdp2_is_watched_as_sharded(observed):
    """Phases, steps and norms of this rank's shards; nothing that would be equal on all ranks."""
    first, second = observed.both("sharded")
    assert first.hellos[0].parallelism == wire.PARALLELISM_SHARDED
    assert observed.ranks.result("sharded", 0) == {"errors": 0}
    assert first.column("ddp_iteration") == [-1] * STEPS
    assert first.column("micro_batches") == [1] * STEPS
    collectives = first.column("collectives")
    assert collectives[-1] > collectives[2]
    for ours, theirs in zip(first.samples, second.samples, strict=True):
        assert ours.reduced_gradient_square > 0
        assert ours.reduced_gradient_square != theirs.reduced_gradient_square
        assert ours.update_square > 0


def test_unwrapped_model_in_several_processes_is_told(observed):
    """A model that nobody wrapped: nothing is known to keep the replicas together, and nothing does."""
    first, second = observed.both("unwrapped")
    assert first.hellos[0].parallelism == wire.PARALLELISM_UNWRAPPED
    assert len(set(first.column("collectives"))) == 1
    assert all(map(_differ, first.column("gradient_fingerprint"), second.column("gradient_fingerprint")))


def _same(ours: int, theirs: int) -> bool:
    return ours == theirs


def _differ(ours: int, theirs: int) -> bool:
    return ours != theirs and -1 not in {ours, theirs}
