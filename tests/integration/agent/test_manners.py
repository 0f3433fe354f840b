"""A guest that leaves things as they were: scripted models, forked children, absurd numbers, models that are deleted."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from stallwatch.agent import attach
from support.telemetry_server import TelemetryServer


@pytest.fixture(scope="module")
def server() -> Iterator[TelemetryServer]:
    """A recording detector."""
    with TelemetryServer() as running:
        yield running


def model() -> nn.Sequential:
    """Two layers and a saturating activation."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def step(net, optimizer, watch=None) -> None:
    """One training step."""
    loss = net(torch.ones(2, 4)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if watch is not None:
        watch.log(loss, 2)


@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated:DeprecationWarning")
def test_a_watched_model_can_be_scripted(server):
    """At any time, a sampled step's hooks on or not: what comes out computes the same, and training goes on watched."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = attach(net, optimizer, run="scripted", endpoint=server.endpoint, sample_every=1)
    step(net, optimizer, watch)
    user = net.register_forward_hook(_of_the_user)
    user.remove()
    scripted = torch.jit.script(net)
    assert torch.equal(scripted(torch.ones(2, 4)), net(torch.ones(2, 4)))
    assert not scripted._forward_hooks
    loss = net(torch.ones(2, 4)).square().mean()
    torch.jit.script(net)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    step(net, optimizer, watch)
    watch.close()
    record = server.rank(0, "scripted")
    assert record.column("step") == [0, 1, 2]
    assert not any(seconds != seconds for seconds in record.column("forward_seconds"))  # noqa: PLR0124
    assert torch.jit.script(net)(torch.ones(2, 4)).shape == (2, 1)


def _of_the_user(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    return output


def _child(endpoint: str, answer) -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        watch = attach(net, optimizer, run="child", endpoint=endpoint)
        step(net, optimizer, watch)
        answer.send(watch.active)
        watch.close()
    answer.close()
    os._exit(0)


def test_a_forked_child_trains_unwatched(server):
    """A fork ends what gRPC does: attaching there, closing and attaching again ends in no crash, and the parent goes on."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = attach(net, optimizer, run="parent", endpoint=server.endpoint)
    step(net, optimizer, watch)
    server.wait_for(
        lambda it: any(each.hellos and each.hellos[0].run == "parent" for each in it.ranks.values())
    )
    for _ in range(3):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=_child, args=(server.endpoint, theirs))
        child.start()
        theirs.close()
        child.join(60)
        assert child.exitcode == 0
        assert [ours.recv(), ours.recv()] == [False, False]
    step(net, optimizer, watch)
    watch.close()
    assert server.rank(0, "parent").column("step") == [0, 1]


@pytest.mark.parametrize(
    ("loss", "samples"),
    [
        (10**400, 2),
        (1.0, 10**400),
        (-(10**400), 2),
        (1.0, float("nan")),
        (torch.ones(2), 2),
        (torch.tensor(1 + 2j), 2),
        ("much", 2),
        (None, 2),
    ],
    ids=str,
)
def test_absurd_numbers_are_left_out_with_one_line(server, caplog, loss, samples):
    """No traceback, neither at once nor in the background; the step is sent without a loss."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    run = f"absurd-{abs(hash((str(loss), str(samples))))}"
    with caplog.at_level(logging.WARNING):
        watch = attach(net, optimizer, run=run, endpoint=server.endpoint)
        step(net, optimizer)
        watch.log(loss, samples)
        watch.log(loss, samples)
        step(net, optimizer)
        watch.log(0.5, 2)
        watch.close()
    lines = [each for each in caplog.records if "cannot be used" in each.getMessage()]
    assert len(lines) == 1
    assert not any(each.exc_info for each in caplog.records)
    assert server.rank(0, run).column("samples") == [0.0, 2.0]


@pytest.mark.parametrize("loss", [1e308, -1e308, 1e-320, 2**63, torch.tensor(7), torch.tensor(True)], ids=str)
def test_large_and_odd_numbers_are_numbers(server, loss):
    """Whatever a float can hold is sent."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    run = f"odd-{abs(hash(str(loss)))}"
    watch = attach(net, optimizer, run=run, endpoint=server.endpoint)
    step(net, optimizer)
    watch.log(loss, 1)
    watch.close()
    assert server.rank(0, run).column("loss_sum") == [float(loss)]


@pytest.mark.parametrize("sample_every", [1, "auto"])
@pytest.mark.parametrize("explicit", [True, False])
def test_a_model_that_is_closed_and_deleted_is_freed(server, sample_every, explicit):
    """The agent keeps neither the model nor the optimizer, though the `Agent` itself lives on."""
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    run = f"freed-{sample_every}-{explicit}"
    watch = attach(
        net, optimizer if explicit else None, run=run, endpoint=server.endpoint, sample_every=sample_every
    )
    for _ in range(3):
        step(net, optimizer, watch)
    watch.close()
    alive = [weakref.ref(net), weakref.ref(next(iter(net.parameters()))), weakref.ref(optimizer)]
    del net, optimizer
    gc.collect()
    assert [each() for each in alive] == [None, None, None]
