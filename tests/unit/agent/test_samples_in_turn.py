"""Sampled steps read a part of the model, in turn, and tell of all of it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from stallwatch.agent._config import Probes
from stallwatch.agent._probe import model as models
from stallwatch.agent._probe.device import DeviceReader
from stallwatch.agent._probe.sampled import SampledPass
from stallwatch.agent._probe.turns import MOST_TURNS, Turns
from stallwatch.agent._records import Losses


@pytest.mark.parametrize("count", [1, 16, 17, 40, 100, 1000])
@pytest.mark.parametrize("base", [16, 10, 7])
@pytest.mark.parametrize("factor", [1, 2, 4, 64])
def test_every_parameter_has_its_turn(count, base, factor):
    """Whatever the period, all parameters are read within as many samples as there are turns, in parts of about one size."""
    turns = Turns(count, base)
    seen: set[int] = set()
    for sample in range(turns.turns):
        part = turns.part(sample * base * factor)
        assert len(part) <= -(-count // turns.turns)
        seen |= part
    assert turns.turns <= MOST_TURNS
    assert seen == set(range(count))


def test_ranks_with_other_periods_read_the_same():
    """The part depends on the step alone, not on the samples that a rank has taken before."""
    dense, sparse = Turns(100, 16), Turns(100, 16)
    for step in range(0, 2048, 64):
        dense.begin(step)
        dense.begin(step + 16)
        sparse.begin(step)
    assert dense.part(4096) == sparse.part(4096) == sparse.begin(4096)


def test_first_samples_and_those_after_a_change_read_everything():
    """Two of them each time."""
    turns = Turns(100, 16)
    sizes = [len(turns.begin(16 * sample)) for sample in range(4)]
    assert sizes[:2] == [100, 100]
    assert max(sizes[2:]) < 20
    turns.read_everything()
    assert len(turns.begin(64)) == 100


class Training:
    """A model of two parameters a layer, sampled at every step of a real training on one rank."""

    def __init__(self, layers: int = 24) -> None:
        torch.manual_seed(0)
        layers = [torch.nn.Linear(24, 24) for _ in range(layers)]
        for each in layers:
            torch.nn.init.orthogonal_(each.weight)
        self.model = torch.nn.Sequential(*layers)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        seen = models.inspect(self.model, 1, 0)
        _, blocks = models.block_layout([name for name, _ in seen.parameters])
        self.passes = SampledPass(
            seen, blocks, Probes(), DeviceReader(torch.device("cpu")), self._failed, base_period=1
        )
        self.parameters = list(self.model.parameters())

    @staticmethod
    def _failed(error: BaseException) -> None:
        raise error

    def step(self, step: int) -> tuple[SimpleNamespace, SimpleNamespace]:
        """One sampled step: the record, and the truth."""
        passes = self.passes
        self.optimizer.zero_grad()
        passes.arm(step)
        inputs = torch.randn(64, 24, generator=torch.Generator().manual_seed(step))
        (self.model(inputs) - inputs).square().mean().backward()
        readings = passes.before_step(self.optimizer, local_valid=True)
        before = [each.detach().clone() for each in self.parameters]
        gradient = sum(float(each.grad.double().square().sum()) for each in self.parameters)
        self.optimizer.step()
        passes.after_step(readings, self.optimizer)
        update = [
            float((now.detach() - then).double().square().sum())
            for now, then in zip(self.parameters, before, strict=True)
        ]
        weight = sum(float(each.detach().double().square().sum()) for each in self.parameters)
        record = SimpleNamespace(step=step, losses=Losses())
        truth = SimpleNamespace(gradient=gradient, update=update, weight=weight)
        return readings.message(record), truth


def test_parts_add_up_to_the_whole():
    """Norms of gradient and update are exact; that of the weights is close, though a third is read at a time."""
    training = Training()
    assert training.passes.turns.turns == 3
    for step in range(12):
        record, truth = training.step(step)
        assert record.reduced_gradient_square == pytest.approx(truth.gradient, rel=1e-5)
        # One rank: what it computed is what the optimizer saw.
        assert record.local_gradient_square == pytest.approx(truth.gradient, rel=1e-4)
        assert record.parameter_square == pytest.approx(truth.weight, rel=1e-2)
        assert record.update_square == pytest.approx(sum(truth.update), rel=1e-4)
        assert len(record.update_squares) == 48
        assert all(map(math.isfinite, record.update_squares))


def test_updates_of_many_parameters_are_read_in_turn():
    """Of 160 parameters a part is read, and the total follows all the same: at once where all of it is cut by 10,000."""
    training = Training(layers=80)
    for step in range(16):
        record, truth = training.step(step)
        assert record.update_square == pytest.approx(sum(truth.update), rel=0.5)
    training.optimizer.param_groups[0]["lr"] /= 100
    record, truth = training.step(16)
    assert record.update_square == pytest.approx(sum(truth.update), rel=0.5)


@pytest.mark.parametrize("layers", [24, 80])
def test_what_is_not_updated_shows_at_once(layers):
    """A parameter that the optimizer no longer holds has an update of 0 in the next sample, in turn or not."""
    training = Training(layers)
    for step in range(6):
        training.step(step)
    for index in (4, 17, 40):
        held = training.optimizer.param_groups[0]["params"]
        del held[next(place for place, each in enumerate(held) if each is training.parameters[index])]
    training.step(6)
    record, _ = training.step(7)
    assert [index for index, square in enumerate(record.update_squares) if square == 0] == [4, 17, 40]


@pytest.mark.parametrize("layers", [24, 80])
def test_nothing_updated_is_a_total_of_zero(layers):
    """An optimizer whose steps do nothing."""
    training = Training(layers)
    for step in range(6):
        training.step(step)
    training.optimizer.param_groups[0]["lr"] = 0.0
    assert training.step(6)[0].update_square == 0
