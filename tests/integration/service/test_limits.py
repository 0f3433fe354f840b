"""The cap on runs, and the file that says where the service is."""

from __future__ import annotations

import json

import grpc
import pytest

from stallwatch.detector.auth import tokens
from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import Access, Rank, Stream, hello, steps
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


@pytest.mark.timeout(240)
def test_one_account_does_not_take_the_places_of_all(tmp_path):
    """Of four places it gets three, or what its token says; who has another token finds one, and restarts change nothing."""
    secrets = {name: tokens.new_secret() for name in ("many", "one", "other")}
    file = tmp_path / "tokens.toml"
    file.write_text(
        "".join(
            f'[[token]]\nname = "{name}"\nhash = "{tokens.hash_of(secret)}"\nscopes = ["write"]\n'
            + ("max_runs = 1\n" if name == "one" else "")
            for name, secret in secrets.items()
        )
    )
    config = tmp_path / "stallwatch.toml"
    config.write_text("max_runs = 4\n")

    def refusal(run: str, account: str) -> str:
        with Stream(service.grpc_address, access=Access(token=secrets[account])) as stream:
            stream.send(hello=hello(run))
            code, details = stream.outcome()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        return details

    def rank(run: str, account: str) -> Rank:
        opened = Rank(service.grpc_address, hello(run), Access(token=secrets[account]))
        opened.send(steps(0, 10))
        opened.wait_accepted()
        return opened

    arguments = ("--config", str(config), "--tokens", str(file), "--open-read")
    with Service(tmp_path / "data", *arguments) as service:
        ranks = [rank(f"many-{number}", "many") for number in range(3)]
        assert refusal("many-3", "many").startswith("many has 3 runs watched, and the others of 4 are kept")
        ranks.append(rank("other-0", "other"))
        assert refusal("other-1", "other").startswith("as many runs are watched as are allowed at a time (4)")
        ranks.pop().finish()
        wait_until("the end", lambda: service.get("/api/v1/runs/other-0")["state"] == "finished")
        ranks.append(rank("one-0", "one"))
        assert refusal("one-1", "one").startswith("one has as many runs watched as it may (1)")
        assert service.stop() == 0
        service.start()
        for each in ranks:
            each.send(steps(10, 10))
            each.wait_accepted()
        assert "the others of 4 are kept" in refusal("many-3", "many")
        # A finished one of its own makes room.
        ranks.pop(0).finish()
        wait_until("the end", lambda: service.get("/api/v1/runs/many-0")["state"] == "finished")
        ranks.append(rank("many-3", "many"))
        for each in ranks:
            each.finish()
