"""The agent measures what it costs, samples less often when that is too much, and says both."""

from __future__ import annotations

import pytest
import torch

from stallwatch.agent import attach
from support.telemetry_server import TelemetryServer


class Deep(torch.nn.Module):
    """Two hundred parameters: a sampled step costs many times what a step does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(100)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Through all layers."""
        return self.layers(inputs)


def heartbeats(budget: float, steps: int = 80):
    """What an agent with this budget says of itself during a training."""
    with TelemetryServer(heartbeat_seconds=0.1) as server:
        model = Deep()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        watch = attach(model, optimizer, run="governor", endpoint=server.endpoint, overhead_budget=budget)
        inputs = torch.ones(4, 8)
        server.wait_for(lambda it: it.ranks)
        for _ in range(steps):
            model(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        watch.close()
        return [each.agent for each in server.rank(0).heartbeats], server.rank(0).samples


@pytest.mark.alone
@pytest.mark.usefixtures("quick")
def test_a_smaller_budget_is_sampled_more_thinly_and_said_so(caplog):
    """The period that heartbeats tell is the one that was kept, and the cost that they tell grows only.

    A hundredth is not enough for this model, and is said not to be, once and with numbers; all of the time is.
    """
    told, samples, said = {}, {}, {}
    for budget in (1.0, 0.01):
        caplog.clear()
        agents, samples[budget] = heartbeats(budget, steps=160)
        told[budget] = agents[-1].sample_period
        said[budget] = [
            each.getMessage() for each in caplog.records if "over its budget" in each.getMessage()
        ]
        for name in ("training_thread_seconds", "background_seconds"):
            seconds = [getattr(each, name) for each in agents]
            assert seconds == sorted(seconds)
            assert seconds[-1] > 0
    assert told[1.0] == 16
    assert told[0.01] >= 32
    assert len(samples[1.0]) > len(samples[0.01])
    assert not said[1.0]
    assert len(said[0.01]) == 1, said
    assert " us of it in hooks" in said[0.01][0]
