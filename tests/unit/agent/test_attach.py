"""The agent as a guest: what it does to a process and a model, and what it survives."""

from __future__ import annotations

import copy
import io
import logging
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from stallwatch.agent import Agent, AlreadyAttachedError, ConfigurationError, attach
from stallwatch.v1 import telemetry_pb2 as wire
from support.telemetry_server import TelemetryServer
from support.waiting import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[TelemetryServer]:
    """A recording detector."""
    with TelemetryServer() as running:
        yield running


def make_model() -> torch.nn.Module:
    """A small one."""
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))


class Watched:
    """A model, its optimizer, and an agent that is closed at the end of the block."""

    def __init__(self, server: TelemetryServer, run: str, **options) -> None:
        self.server, self.run = server, run
        self.model = options.pop("model", None) or make_model()
        make = options.pop("make_optimizer", lambda p: torch.optim.Adam(p, lr=1e-2))
        self.optimizer = make(self.model.parameters())
        optimizer = options.pop("optimizer", self.optimizer)
        self.agent = attach(self.model, optimizer, run=run, endpoint=server.endpoint, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.agent.close()

    def step(self, *, log: bool = True) -> None:
        """One training step."""
        loss = self.model(torch.ones(2, 4)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if log:
            self.agent.log(loss, 2)

    @property
    def record(self):
        """What the server has, after closing."""
        self.agent.close()
        return self.server.rank(0, self.run)


def test_import_does_nothing():
    """Importing the agent imports neither torch, grpc nor numpy, and starts no thread."""
    code = (
        "import sys, threading, stallwatch.agent\n"
        "assert not {'torch', 'grpc', 'numpy'} & set(sys.modules), sys.modules.keys()\n"
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_endpoint_nothing_happens(caplog):
    """One line in the log, no hooks, and methods that do nothing."""
    caplog.set_level(logging.INFO, "stallwatch.agent")
    model = make_model()
    agent = attach(model)
    assert isinstance(agent, Agent)
    assert not agent.active
    assert not model._forward_pre_hooks
    agent.log(1.0, 2)
    agent.log_eval(1.0, 2)
    agent.event("x")
    agent.close()
    assert len(caplog.records) == 1
    assert "STALLWATCH_ENDPOINT" in caplog.text


def test_disabled_by_the_environment(server, monkeypatch):
    """STALLWATCH_DISABLED wins over an endpoint."""
    monkeypatch.setenv("STALLWATCH_DISABLED", "1")
    assert not attach(make_model(), endpoint=server.endpoint).active


@pytest.mark.parametrize(
    ("model", "optimizer", "named"),
    [
        ("a model", None, "model"),
        (torch.nn.ReLU(), None, "model"),
        (torch.nn.Linear(1, 1), "sgd", "optimizer"),
        (torch.nn.Linear(1, 1), [], "optimizer"),
    ],
)
def test_wrong_model_or_optimizer(server, model, optimizer, named):
    """Raised at attach, by name."""
    with pytest.raises(ConfigurationError, match=named):
        attach(model, optimizer, endpoint=server.endpoint, run="wrong")


def test_second_attach_is_an_error_until_closed(server):
    """The same model, or another under the same run; after close, both are free again."""
    with Watched(server, "twice") as first:
        with pytest.raises(AlreadyAttachedError, match="once a model"):
            attach(first.model, endpoint=server.endpoint, run="other")
        with pytest.raises(AlreadyAttachedError, match="run='twice'"):
            attach(make_model(), endpoint=server.endpoint, run="twice")
    with Watched(server, "twice", model=first.model):
        pass


def test_close_takes_all_hooks_off(server):
    """Nothing stays on the model, its parameters or the optimizer."""
    with Watched(server, "hooks") as watched:
        for _ in range(3):
            watched.step()
    assert not watched.model._forward_pre_hooks
    assert not watched.model._forward_hooks
    assert not watched.optimizer._optimizer_step_pre_hooks
    assert not watched.optimizer._optimizer_step_post_hooks
    for parameter in watched.model.parameters():
        assert not parameter._post_accumulate_grad_hooks
        assert not parameter._backward_hooks
    assert watched.record.steps == [0, 1, 2]


def test_errors_in_hooks_never_reach_training(server, caplog):
    """Every probe broken: training runs on, the agent complains once, gives up, and says so once."""
    with Watched(server, "broken") as watched:
        probe = watched.agent._core.probe

        def broken(*_):
            raise ZeroDivisionError("mine")

        for name in ("_begin_forward", "_hand_on", "losses"):
            setattr(probe, name, broken)
        probe.phases = SimpleNamespace(now=probe.phases.now, since=probe.phases.since, enter=broken)
        for _ in range(20):
            watched.step()
        assert not watched.agent._core.guard.active
    ours = [each for each in caplog.records if "stallwatch" in each.getMessage()]
    assert len(ours) == 2
    assert "turns itself off" in ours[1].getMessage()


def test_internal_failure_at_attach_is_not_the_users_trouble(server, monkeypatch, caplog):
    """An agent that cannot start leaves no hooks, says why, and is a no-op."""

    def broken(*_):
        raise RuntimeError("no more threads")

    monkeypatch.setattr("stallwatch.agent._transport.Transport.start", broken)
    model = make_model()
    agent = attach(model, torch.optim.SGD(model.parameters()), endpoint=server.endpoint, run="start")
    assert not agent.active
    assert not model._forward_pre_hooks
    assert "no more threads" in caplog.text


def test_error_in_a_sampled_tensor_hook_never_reaches_training(server):
    """The hooks of a sampled step run inside backward; theirs are caught as well."""
    with Watched(server, "broken-sample", sample_every=1) as watched:
        watched.agent._core.probe._sampled_pass._local = None
        for _ in range(3):
            watched.step()
        assert watched.agent._core.guard.errors


@pytest.mark.parametrize(
    ("loss", "samples"),
    [("high", 2), (1.0, -1), (1.0, float("nan")), (torch.ones(3), 2), (None, 2), (1.0, None), (object(), 1)],
)
def test_unusable_losses_are_counted_and_left_out(server, loss, samples):
    """What is logged wrongly is reported as a loss of data, and raises nothing."""
    with Watched(server, "values") as watched:
        watched.step(log=False)
        watched.agent.log(loss, samples)
    assert watched.record.dropped == {wire.DROP_REASON_INVALID_VALUE: 1}


def test_loss_that_is_not_a_number_is_sent(server):
    """A diverging loss is what the detector wants to see."""
    with Watched(server, "nan") as watched:
        watched.step(log=False)
        watched.agent.log(float("nan"), 2)
        watched.step(log=False)
        watched.agent.log(torch.tensor(float("inf")), 2)
    values = watched.record.column("loss_sum")
    assert math.isnan(values[0])
    assert values[1] == float("inf")
    assert watched.record.column("samples") == [2.0, 2.0]


def test_loss_belongs_to_its_step_before_and_after_it(server):
    """Logged before or after optimizer.step: the step is the same."""
    with Watched(server, "order") as watched:
        for step in range(6):
            loss = watched.model(torch.ones(2, 4)).square().mean()
            loss.backward()
            if step % 2:
                watched.agent.log(float(step), 1)
            watched.optimizer.step()
            watched.optimizer.zero_grad()
            if not step % 2:
                watched.agent.log(float(step), 1)
    assert watched.record.column("loss_sum") == [0, 1, 2, 3, 4, 5]


def test_optimizer_step_applied_twice_is_told(server):
    """Two calls of step after one backward are one record with two optimizer steps."""
    with Watched(server, "double") as watched:
        for step in range(4):
            watched.model(torch.ones(2, 4)).square().mean().backward()
            watched.optimizer.step()
            if step == 2:
                watched.optimizer.step()
            watched.optimizer.zero_grad()
    assert watched.record.steps == [0, 1, 2, 3]
    assert watched.record.column("optimizer_steps") == [1, 1, 2, 1]


def test_non_finite_gradients_name_their_blocks(server):
    """A NaN in the last bias."""
    with Watched(server, "nonfinite", sample_every=1) as watched:
        watched.model(torch.ones(2, 4)).square().mean().backward()
        watched.model[2].bias.grad.fill_(float("nan"))
        watched.optimizer.step()
    assert list(watched.record.samples[0].non_finite_blocks) == [3]


def test_update_and_norms_are_right(server):
    """Against numbers computed by hand, with plain SGD."""
    with Watched(
        server, "norms", sample_every=1, make_optimizer=lambda p: torch.optim.SGD(p, lr=0.5)
    ) as watched:
        watched.model(torch.ones(2, 4)).square().mean().backward()
        square = sum(float(p.grad.double().square().sum()) for p in watched.model.parameters())
        watched.optimizer.step()
        after = sum(float(p.detach().double().square().sum()) for p in watched.model.parameters())
        watched.agent.log(1.0, 2)
    (sample,) = watched.record.samples
    assert sample.local_gradient_square == pytest.approx(square, rel=1e-5)
    assert sample.reduced_gradient_square == pytest.approx(square, rel=1e-5)
    assert sample.update_square == pytest.approx(square * 0.25, rel=1e-4)
    assert sample.parameter_square == pytest.approx(after, rel=1e-5)
    assert sample.optimizer_state_step == -1


def test_readings_that_are_turned_off_are_not_taken(server):
    """By name at attach."""
    off = {"local_gradients": False, "fingerprints": False, "updates": False, "gradient_fingerprint": False}
    with Watched(server, "off", sample_every=1, **off) as watched:
        watched.step()
    (sample,) = watched.record.samples
    assert math.isnan(sample.local_gradient_square)
    assert math.isnan(sample.update_square)
    assert not sample.parameter_fingerprints
    assert not sample.gradient_fingerprints
    assert sample.reduced_gradient_square > 0
    assert watched.record.column("gradient_fingerprint") == [-1]


def test_buffers_have_a_fingerprint(server):
    """Batch norm's running statistics."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    with Watched(server, "buffers", sample_every=1, model=model) as watched:
        watched.step()
        watched.step()
    first, second = watched.record.samples
    assert 0 not in {first.buffer_fingerprint, second.buffer_fingerprint}
    assert first.buffer_fingerprint != second.buffer_fingerprint


def test_optimizer_is_found_when_none_is_given(server):
    """The first that steps a parameter of the model; another one of another model is not it."""
    with Watched(server, "found", optimizer=None) as watched:
        other = torch.nn.Linear(1, 1)
        stranger = torch.optim.SGD(other.parameters(), lr=1.0)
        other(torch.ones(1, 1)).backward()
        stranger.step()
        for _ in range(3):
            watched.step()
        stranger.step()
    assert watched.record.steps == [0, 1, 2]
    assert watched.record.column("learning_rate") == [1e-2] * 3


def test_steps_go_on_from_a_restored_optimizer(server):
    """Restored before or after attach, by Adam's own count; a number given by the user wins."""
    trained = Watched(server, "trained")
    for _ in range(7):
        trained.step()
    trained.agent.close()
    state = trained.optimizer.state_dict()
    with Watched(server, "restored") as watched:
        watched.optimizer.load_state_dict(state)
        watched.step()
    assert watched.record.steps == [7]
    with Watched(server, "told", start_step=100) as told:
        told.optimizer.load_state_dict(state)
        told.step()
    assert told.record.steps == [100]
    assert told.record.hellos[0].first_step == 100


def test_several_parameter_groups_and_their_rates(server):
    """Rates of all groups, step by step, also when a group is added."""
    model = make_model()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": [model[2].weight], "lr": 0.2}]
    )
    with Watched(server, "groups", model=model, make_optimizer=lambda _: optimizer) as watched:
        watched.step()
        optimizer.add_param_group({"params": [model[2].bias], "lr": 0.3})
        watched.step()
    rates = [rate for batch in watched.record.batches for rate in batch.steps.learning_rate]
    assert rates == [0.1, 0.2, 0.1, 0.2, 0.3]
    assert watched.record.steps == [0, 1]


def test_more_parameters_than_blocks_are_grouped(server):
    """At most 512 blocks, named by the first and last of theirs."""
    model = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(400)))
    with Watched(server, "many", sample_every=1, model=model) as watched:
        model(torch.ones(1, 1)).sum().backward()
        watched.optimizer.step()
    (sample,) = watched.record.samples
    blocks = watched.record.hellos[0].blocks
    assert len(blocks) == len(sample.parameter_fingerprints) == len(sample.gradient_fingerprints) == 512
    assert blocks[0] == "0.weight..0.bias"


def test_model_can_be_copied_pickled_and_saved(server):
    """A copy, for an average of weights, say, works and is not watched; a saved model loads without Stallwatch."""
    with Watched(server, "copies") as watched:
        watched.step()
        average = copy.deepcopy(watched.model)
        average(torch.ones(2, 4)).sum().backward()
        file = io.BytesIO()
        torch.save(watched.model, file)
        assert b"stallwatch" not in file.getvalue()
        file.seek(0)
        torch.load(file, weights_only=False)(torch.ones(2, 4))
        pickle.loads(pickle.dumps(watched.model))
        copy.deepcopy(watched.optimizer)
        watched.step()
        assert watched.agent._core.guard.errors == 0
    assert watched.record.steps == [0, 1]
    assert watched.record.column("micro_batches") == [1, 1]


def test_forked_child_is_left_alone(server):
    """A data loader's worker, say: hooks and methods do nothing there, it ends well, and the parent goes on."""
    with Watched(server, "fork") as watched:
        watched.step()
        server.wait_for(lambda it: any(key[0] == "fork" for key in it.ranks))
        child = os.fork()
        if child == 0:
            try:
                quiet = not watched.agent._core.guard.active
                watched.step()
                watched.agent.log(1.0, 1)
                watched.agent.close()
                os._exit(0 if quiet else 3)
            finally:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        watched.step()
    assert watched.record.steps == [0, 1]
    assert len(watched.record.goodbyes) == 1


def test_data_loader_workers_do_not_disturb(server):
    """Worker processes forked by torch's own loader, in an epoch of training."""
    data = torch.utils.data.TensorDataset(torch.randn(16, 4))
    with Watched(server, "loader") as watched:
        for _ in torch.utils.data.DataLoader(data, batch_size=2, num_workers=2):
            watched.step()
    assert watched.record.steps == list(range(8))


def test_compiled_model_needs_no_graph_break(server):
    """torch.compile with fullgraph finds nothing of ours to trace, attached before or after compiling."""
    for name, compiled_first in (("compiled-first", True), ("compiled-later", False)):
        torch._dynamo.reset()
        model = make_model()
        compiled = torch.compile(model, backend="eager", fullgraph=True) if compiled_first else model
        with Watched(server, name, model=compiled) as watched:
            called = compiled if compiled_first else torch.compile(model, backend="eager", fullgraph=True)
            for _ in range(3):
                called(torch.ones(2, 4)).square().mean().backward()
                watched.optimizer.step()
                watched.optimizer.zero_grad()
            assert watched.agent._core.guard.errors == 0
        assert watched.record.steps == [0, 1, 2]
        assert watched.record.column("micro_batches") == [1, 1, 1]
        forward = watched.record.column("forward_seconds")[-1]
        # Not seen from outside of the compiled code: unknown, and not put down to another phase.
        assert (forward > 0) if compiled_first else math.isnan(forward)


def test_training_in_evaluation_mode_is_training(server):
    """Fine-tuning with model.eval(): after the first backward, such forwards count."""
    with Watched(server, "eval-mode") as watched:
        watched.model.eval()
        for _ in range(3):
            watched.step()
    assert watched.record.column("micro_batches") == [1, 1, 1]
    assert watched.record.column("forward_seconds")[-1] > 0


def test_restart_count_and_names_reach_the_detector(server, monkeypatch):
    """What torchrun says is in the hello."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "launch-1")
    with Watched(server, "names", group="family", dataset_size=1000, base_lr=0.1, total_steps=50) as watched:
        watched.step()
    hello = watched.record.hellos[0]
    assert (hello.restart_count, hello.launch_id, hello.group) == (3, "launch-1", "family")
    assert (hello.dataset_size, hello.base_learning_rate, hello.total_steps) == (1000, 0.1, 50)
    assert (hello.parallelism, hello.protocol_major) == (wire.PARALLELISM_SINGLE, 1)


def test_events_and_evaluations_arrive_cut_to_size(server):
    """Long texts are cut; kinds are lower case; evaluations carry their metrics."""
    with Watched(server, "events") as watched:
        watched.step()
        watched.agent.event("x" * 1000, kind="MixUp")
        watched.agent.log_eval(torch.tensor(0.5), 100, accuracy=torch.tensor(0.25))
        watched.agent.log_eval("bad", 100)
    record = watched.record
    (event,) = [each for batch in record.batches for each in batch.events]
    (point,) = [each for batch in record.batches for each in batch.evaluations]
    assert (event.kind, len(event.text), event.step, event.automatic) == ("mixup", 512, 1, False)
    assert (point.step, point.loss, point.samples, dict(point.metrics)) == (0, 0.5, 100, {"accuracy": 0.25})
    assert record.dropped == {wire.DROP_REASON_INVALID_VALUE: 1}


def test_long_phase_sends_the_stack(server, monkeypatch):
    """A training thread that is stuck is shown with where it is."""
    monkeypatch.setattr("stallwatch.agent._heartbeat.is_suspicious", lambda *_: True)
    with Watched(server, "stuck") as watched:
        watched.step()
        core = watched.agent._core
        core.probe.phases.since -= 60

        def innermost() -> wire.Heartbeat:
            return wait_until("a stack", lambda: next((b for b in beats() if "innermost" in b.stack), None))

        def beats() -> list[wire.Heartbeat]:
            return [b for key, each in server.ranks.items() if key[0] == "stuck" for b in each.heartbeats]

        beat = innermost()
        assert beat.phase_seconds >= 60
        assert beat.phase == wire.PHASE_INPUT
