"""Parameters that are replaced, frozen, unfrozen, or held by nobody: known from the model, without a sample."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from stallwatch.agent import attach
from support.telemetry_server import RankRecord, TelemetryServer

STEPS = 24


@pytest.fixture(scope="module")
def server() -> Iterator[TelemetryServer]:
    """A recording detector."""
    with TelemetryServer() as running:
        yield running


@pytest.fixture
def group(tmp_path) -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model() -> nn.Sequential:
    """Two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))


def train(server, run, net, optimizer, *, change=None, at=10, **options) -> RankRecord:
    """Trains, with a change before one step."""
    agent = attach(net, optimizer, run=run, endpoint=server.endpoint, **{"sample_every": 4, **options})
    inputs = torch.randn(32, 8)
    for step in range(STEPS):
        if change is not None and step == at:
            change()
        loss = (net(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss, 32)
    agent.close()
    return server.rank(0, run)


def events(record: RankRecord) -> dict[str, str]:
    """What the agent noticed, by kind."""
    return {each.kind: each.text for batch in record.batches for each in batch.events if each.automatic}


def test_an_optimizer_that_holds_copies_is_told_at_attach(server, caplog):
    """Made from clones: nothing will move, and that is known before the first step."""
    net = model()
    optimizer = torch.optim.SGD(copy.deepcopy(net).parameters(), lr=0.1)
    attach(net, optimizer, run="clones", endpoint=server.endpoint).close()
    assert "holds none of the 4 trainable parameters" in caplog.text


def test_an_optimizer_made_before_a_layer_was_replaced_is_told_at_attach(server, caplog):
    """The names of what it does not hold are told."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net[2] = nn.Linear(16, 1)
    record = train(server, "replaced-before", net, optimizer)
    assert "does not hold 2 of 4 trainable parameters (2.weight, 2.bias)" in caplog.text
    assert "2.weight" in events(record)["optimizer"]


@pytest.mark.parametrize("part", ["module", "parameter", "weights only"])
def test_a_parameter_replaced_after_attach_is_followed(server, caplog, part):
    """Its gradient is read from then on, its block keeps its name, and that the optimizer does not hold it is said."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def replace() -> None:
        if part == "module":
            net[2] = nn.Linear(16, 1)
        elif part == "parameter":
            net[2].weight = nn.Parameter(torch.ones(1, 16))
        else:
            with torch.no_grad():
                net[2].weight.zero_()

    record = train(server, f"replaced-{part.split()[0]}", net, optimizer, change=replace)
    told = events(record)
    if part == "weights only":
        assert not told
        return
    assert "replaced" in told["parameters"]
    assert "does not hold" in told["optimizer"]
    assert "does not hold" in caplog.text
    last = record.samples[-1]
    assert len(last.gradient_squares) == 4
    # The new weight has a gradient and is not moved by the optimizer, which holds the old one.
    assert last.gradient_squares[2] > 0
    assert last.update_squares[2] == 0
    assert last.update_squares[0] > 0


def test_parameters_that_are_frozen_and_thawed_are_told(server):
    """Within a step of a small model."""
    net = model()
    for each in net[0].parameters():
        each.requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def thaw() -> None:
        for each in net[0].parameters():
            each.requires_grad_(requires_grad=True)

    record = train(server, "thawed", net, optimizer, change=thaw, sample_every=1000)
    assert events(record)["requires_grad"] == "4 parameters require a gradient, 2 did before"
    assert record.column("gradient_fingerprint")[-1] != -1


@pytest.mark.usefixtures("group")
def test_parameters_that_ddp_does_not_know_are_told(server, caplog):
    """Thawed after wrapping: DDP's reducer was made without them."""
    net = model()
    for each in net[0].parameters():
        each.requires_grad_(requires_grad=False)
    wrapped = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def thaw() -> None:
        for each in net[0].parameters():
            each.requires_grad_(requires_grad=True)

    record = train(server, "unreduced", wrapped, optimizer, change=thaw)
    assert events(record)["ddp"].startswith("DDP averages the gradients of 2 parameters, and 4 require one")
    assert "wrap the model" in caplog.text


@pytest.mark.usefixtures("group")
def test_a_model_in_order_is_told_nothing(server, caplog):
    """All parameters are held and averaged; what is frozen on purpose is nobody's loss."""
    net = model()
    net[0].bias.requires_grad_(requires_grad=False)
    wrapped = nn.parallel.DistributedDataParallel(net)
    record = train(server, "in-order", wrapped, torch.optim.AdamW(net.parameters()))
    assert events(record) == {}
    assert "stallwatch" not in caplog.text or "does not hold" not in caplog.text


def test_two_optimizers_hold_a_model_together(server):
    """As for GANs: the first is followed, and both hold."""
    net = model()
    first, second = torch.optim.SGD(net[0].parameters(), lr=0.1), torch.optim.SGD(net[2].parameters(), lr=0.1)
    attach(net, [first, second], run="together", endpoint=server.endpoint).close()
    assert events(server.rank(0, "together")) == {}
