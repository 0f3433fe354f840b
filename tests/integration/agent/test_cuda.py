"""The agent on a GPU. Needs one; nothing here has another way to be true."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from stallwatch.agent import attach
from support.telemetry_server import TelemetryServer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def server() -> Iterator[TelemetryServer]:
    """A recording detector."""
    with TelemetryServer() as running:
        yield running


def test_never_synchronises_and_reads_everything_late(server):
    """With synchronisation made an error: steps, losses, fingerprints and samples arrive, phases come from events."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    inputs = torch.randn(32, 64, device="cuda")
    agent = attach(model, optimizer, run="cuda", endpoint=server.endpoint, sample_every=4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(50):
            loss = model(inputs).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            agent.log(loss, 32)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert agent._core.guard.errors == 0
    torch.cuda.synchronize()
    agent.close()
    record = server.rank(0)
    assert record.steps == list(range(50))
    assert record.column("loss_sum")[-1] == pytest.approx(32 * float(loss), rel=1e-5)
    assert -1 not in record.column("gradient_fingerprint")
    assert all(seconds >= 0 for seconds in record.column("forward_seconds")[1:])
    assert len(record.samples) == 13
    assert all(each.parameter_square > 0 for each in record.samples)
