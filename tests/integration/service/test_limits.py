"""The cap on runs, and the file that says where the service is."""

from __future__ import annotations

import json

import grpc
import pytest

from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import Rank, Stream, hello, steps
from support.service import Service
from support.waiting import wait_until


@pytest.mark.timeout(180)
def test_no_more_runs_than_allowed_are_watched_at_a_time(tmp_path):
    """The next is refused while the others go on; a finished one makes room, and stays readable."""
    config = tmp_path / "stallwatch.toml"
    config.write_text("max_runs = 1\n")
    with Service(tmp_path / "data", "--config", str(config)) as service:
        place = json.loads((service.directory / "service.json").read_text())
        assert (place["pid"], place["host"]) == (service.process.pid, "127.0.0.1")
        first = Rank(service.grpc_address, hello("first"))
        first.send(steps(0, 10))
        first.wait_durable()
        with Stream(service.grpc_address) as stream:
            stream.send(hello=hello("second"))
            code, details = stream.outcome()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details.startswith("as many runs are watched as are allowed at a time (1)")
        assert "--max-runs" in details
        first.send(steps(10, 10))
        first.finish()
        assert first.connections == 1
        wait_until("the end", lambda: service.get("/api/v1/runs/first")["state"] == "finished")
        with Stream(service.grpc_address) as stream:
            stream.send(hello=hello("second"))
            stream.send(batch=pb.Batch(sequence=1, steps=steps(0, 10)))
            assert stream.receive("acknowledgement").accepted_sequence == 1
        assert service.get("/api/v1/runs/first/ranks")["ranks"][0]["steps_received"] == 20
        assert service.stop() == 0
        assert not (service.directory / "service.json").exists()
