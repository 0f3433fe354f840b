"""Children that become other programs: they end as they would without the agent, and nothing is said of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.telemetry_server import TelemetryServer

FORKS = 60
SCRIPT = """
import subprocess, sys, torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
if "own" in sys.argv:
    from stallwatch.agent import attach
    attach(model, optimizer, run="forks")
else:
    import grpc
for _ in range(int(sys.argv[1])):
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    # With a function to call before it, Python forks, and the child closes its files before it becomes the program.
    subprocess.run([sys.executable, "-S", "-c", ""], check=True, preexec_fn=lambda: None)
"""


@pytest.mark.parametrize("how", ["own", "launched"])
def test_programs_that_are_started_with_a_function_to_call_before(tmp_path, how):
    """In each of them gRPC would start its threads again, say so, and end one in a hundred."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    module = ["-m", "stallwatch.agent"] if how == "launched" else []
    with TelemetryServer() as server:
        # What an agent in this process has set must not reach the other.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
        ended = subprocess.run(
            [sys.executable, *module, str(script), str(FORKS), how],
            env={**environment, "STALLWATCH_ENDPOINT": server.endpoint, "STALLWATCH_RUN": "forks"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert server.rank(0, "forks").steps == list(range(FORKS))
