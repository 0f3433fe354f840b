"""A token that the detector refuses is replaced in its file: the agent notices, and nothing is lost meanwhile."""

from __future__ import annotations

import torch

from stallwatch.agent import attach
from support.telemetry_server import TelemetryServer
from support.waiting import wait_until


def test_a_new_token_in_the_file_is_tried_at_once(tmp_path, monkeypatch):
    """Not after the minute that a refusal otherwise takes; refused again with the same file, it waits."""
    token = tmp_path / "token"
    token.write_text("old")
    monkeypatch.setenv("STALLWATCH_TOKEN_FILE", str(token))
    with TelemetryServer(token="new") as server:
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        agent = attach(model, optimizer, run="rotation", endpoint=server.endpoint)
        transport = agent._core.transport
        for _ in range(5):
            loss = model(torch.ones(2, 4)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            agent.log(loss, 2)
        wait_until("the refusal", lambda: transport._refused)
        assert not transport._has_new_credentials()
        fresh = tmp_path / "fresh"
        fresh.write_text("new")
        fresh.replace(token)
        wait_until("the welcome", lambda: transport.connected, 20)
        assert len(server.metadata) == 2
        agent.close()
        assert server.rank(0).steps == [0, 1, 2, 3, 4]
