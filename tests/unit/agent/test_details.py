"""What sampled steps tell beyond norms: directions, zeros, saturation, decay, inputs; in trainings with real hooks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from stallwatch.agent import attach
from support.telemetry_server import RankRecord, TelemetryServer


@pytest.fixture(scope="module")
def server() -> Iterator[TelemetryServer]:
    """A recording detector."""
    with TelemetryServer() as running:
        yield running


def train(
    server: TelemetryServer,
    run: str,
    model: nn.Module,
    *,
    lr: float = 1e-3,
    steps: int = 24,
    noise: float = 0.0,
    freeze_at: int = -1,
    make=torch.optim.SGD,
    **options,
) -> RankRecord:
    """Fits a fixed linear target; sampled every fourth step."""
    torch.manual_seed(0)
    optimizer = make(model.parameters(), lr=lr)
    agent = attach(model, optimizer, run=run, endpoint=server.endpoint, **{"sample_every": 4, **options})
    inputs = torch.randn(64, 8)
    for step in range(steps):
        if step == freeze_at:
            next(model.parameters()).requires_grad_(requires_grad=False)
        target = inputs.sum(1, keepdim=True) + noise * torch.randn(64, 1)
        loss = (model(inputs) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss, 64)
    agent.close()
    return server.rank(0, run)


def directions(record: RankRecord):
    """All direction records of a rank."""
    return [each for batch in record.batches for each in batch.directions]


def test_short_steps_leave_the_gradient_where_it_was(server):
    """With a tiny learning rate, the next gradient points along the step just taken."""
    seen = directions(train(server, "short", nn.Linear(8, 1), lr=1e-4))
    assert [each.step for each in seen] == [1, 5, 9, 13, 17, 21]
    assert all(each.update_alignment > 0.99 and each.gradient_agreement > 0.99 for each in seen)


def test_long_steps_turn_the_gradient_round(server):
    """Past the valley, the next gradient points back.

    From 300 random starts the alignment is at most -0.89 at this rate; at 0.45 it was above -0.5 from two of them.
    """
    seen = directions(train(server, "long", nn.Linear(8, 1), lr=0.55))
    assert all(each.update_alignment < -0.5 for each in seen[:2])


def test_dead_units_are_rows_of_zeros(server):
    """Units that never fire have no gradient in any of their weights."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    with torch.no_grad():
        model[0].bias[:12] = -100.0
    sample = train(server, "dead", model).samples[0]
    names = server.rank(0, "dead").hellos[0].blocks
    rows = dict(zip(names, sample.gradient_zero_row_shares, strict=True))
    assert rows["0.weight"] == pytest.approx(12 / 16)
    assert rows["2.weight"] == 0
    assert math.isnan(rows["0.bias"])
    shares = dict(zip(names, sample.gradient_zero_shares, strict=True))
    assert shares["0.weight"] == pytest.approx(12 / 16)
    assert shares["0.bias"] == pytest.approx(12 / 16)


def test_rows_of_embeddings_are_no_units(server):
    """A batch uses few of the words; the others have no gradient, and are not dead."""
    model = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent = attach(model, optimizer, run="words", endpoint=server.endpoint, sample_every=2)
    for _ in range(3):
        loss = model(torch.arange(5)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss, 5)
    agent.close()
    sample = server.rank(0, "words").samples[0]
    assert math.isnan(sample.gradient_zero_row_shares[0])
    assert sample.gradient_zero_shares[0] == pytest.approx(0.95)


def test_saturation_is_told_by_module(server):
    """Outputs of tanh within a hundredth of its limits are counted on sampled steps, and only there."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    with torch.no_grad():
        model[0].weight.mul_(1000.0)
    record = train(server, "saturated", model, lr=0.0)
    assert all(sample.saturated_shares["1"] > 0.95 for sample in record.samples)
    assert not model[1]._forward_hooks


def test_decay_and_momentum_are_told(server):
    """What the optimizer does besides following the gradient."""

    def adamw(parameters, lr):
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.3, betas=(0.8, 0.9))

    sample = train(server, "adamw", nn.Linear(8, 1), make=adamw).samples[0]
    assert (sample.weight_decay, sample.momentum, sample.decoupled_weight_decay) == (0.3, 0.8, True)
    sample = train(server, "plain", nn.Linear(8, 1)).samples[0]
    assert (sample.weight_decay, sample.momentum, sample.decoupled_weight_decay) == (0.0, 0.0, False)


def test_input_statistics_come_when_asked_for(server):
    """Mean and deviation of the first input; NaN otherwise."""
    asked = train(server, "asked", nn.Linear(8, 1), input_statistics=True).samples[1]
    assert asked.input_mean == pytest.approx(0.0, abs=0.2)
    assert asked.input_deviation == pytest.approx(1.0, abs=0.2)
    assert math.isnan(train(server, "unasked", nn.Linear(8, 1)).samples[1].input_mean)


def test_freezing_is_an_event(server):
    """A parameter that stops asking for a gradient is noticed at the step on which it does."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
    record = train(server, "freezing", model, freeze_at=6)
    (event,) = [each for batch in record.batches for each in batch.events]
    assert (event.kind, event.step, event.automatic) == ("requires_grad", 6, True)
    assert "3 parameters require a gradient, 4 did before" in event.text


def test_a_thousand_layers_send_bounded_data(server):
    """More than 512 parameters share blocks: a sampled record stays below 64 KiB, however deep the model is."""
    deep = nn.Sequential(*(nn.Linear(8, 8) for _ in range(1000)), nn.Linear(8, 1))
    record = train(server, "deep", deep, steps=6)
    assert 0 < len(record.hellos[0].blocks) <= 512
    assert record.samples
    assert all(sample.ByteSize() < 64 << 10 for sample in record.samples)


def test_a_tenth_of_the_budget_samples_at_most_half_as_often(server):
    """The governor measures what a sample costs in this training, and backs off to what the budget allows."""
    counts = []
    for budget in (1.0, 0.1):
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(20)), nn.Linear(8, 1))
        run = f"budget-{budget}"
        record = train(server, run, model, steps=600, overhead_budget=budget, sample_every="auto")
        counts.append(len(record.samples))
    assert 1 <= counts[1] <= counts[0] / 2, counts
