"""The stream over outages: batches, acknowledgements, resending, refusal."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import grpc
import pytest
import torch

from stallwatch.agent import attach
from stallwatch.v1 import telemetry_pb2 as wire
from support.ranks import Ranks
from support.telemetry_server import TelemetryServer
from support.waiting import wait_until


@pytest.fixture
def server() -> Iterator[TelemetryServer]:
    """A recording detector."""
    with TelemetryServer() as running:
        yield running


class Toy:
    """A training in this process."""

    def __init__(self, endpoint: str, **options) -> None:
        self.model = torch.nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.agent = attach(self.model, self.optimizer, **{"run": "toy", "endpoint": endpoint, **options})

    def train(self, steps: int) -> None:
        """Some steps."""
        for _ in range(steps):
            loss = self.model(torch.ones(2, 4)).square().mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.agent.log(loss, 2)


def test_server_killed_and_restarted_loses_nothing(tmp_path):
    """Over two outages of the detector, no step is missing or doubled, and no training step waits for it."""
    with TelemetryServer() as server, Ranks(tmp_path, server.endpoint, "until_told") as ranks:
        for outage in (1, 2):
            server.wait_for(
                lambda it, n=outage: len(it.ranks) == 2 and all(len(r.hellos) == n for r in it.ranks.values())
            )
            settled = {key: len(record.steps) for key, record in server.ranks.items()}
            server.wait_for(
                lambda it, before=settled: all(len(r.steps) > before[k] + 40 for k, r in it.ranks.items())
            )
            server.stop()
            server.start()
        server.wait_for(lambda it: all(len(r.hellos) == 3 for r in it.ranks.values()))
        (tmp_path / "stop").touch()
        ranks.finish()
        for rank in (0, 1):
            record, result = server.rank(rank), ranks.result("until_told", rank)
            assert record.steps == list(range(result["steps"]))
            assert [each.sequence for each in record.batches] == list(range(1, len(record.batches) + 1))
            assert record.dropped == {}
            assert record.heartbeats[-1].agent.reconnects >= 2
            # A reconnect takes a fifth of a second and more; a step on two shared cores, some milliseconds.
            assert result["longest_step_seconds"] < 0.5
            assert len(record.goodbyes) == 1


def test_batches_are_kept_until_durable_and_resent_unchanged():
    """What was accepted but not made durable is sent again after a reconnect, with the same numbers."""
    with TelemetryServer(acknowledge=False) as server:
        toy = Toy(server.endpoint)
        toy.train(30)
        server.wait_for(lambda it: it.ranks and len(it.rank(0).steps) >= 29)
        before = [batch.SerializeToString(deterministic=True) for batch in server.rank(0).batches]
        server.stop()
        server.start()
        server.wait_for(lambda it: it.rank(0).duplicates >= len(before))
        server.make_durable()
        toy.agent.close()
        record = server.rank(0)
        assert record.steps == list(range(30))
        assert [b.SerializeToString(deterministic=True) for b in record.batches[: len(before)]] == before


def test_a_goodbye_that_nobody_heard_is_said_again():
    """The detector was killed before it had saved it: without it the rank would seem lost."""
    with TelemetryServer() as server:
        server.deaf_goodbyes = 2
        toy = Toy(server.endpoint)
        toy.train(5)
        server.wait_for(lambda it: it.ranks and it.rank(0).steps)
        toy.agent.close()
        record = server.rank(0)
        assert len(record.goodbyes) == 1
        assert (len(record.hellos), record.steps) == (3, list(range(5)))


def test_unreachable_endpoint_does_not_matter_to_training(caplog):
    """Nobody listens: training runs, one line is logged, and close gives up in time."""
    caplog.set_level(logging.WARNING, "stallwatch.agent")
    toy = Toy("127.0.0.1:9")
    toy.train(50)
    core = toy.agent._core
    wait_until("the line", lambda: caplog.records)
    deadline = monotonic() + 0.5
    core.transport.begin_close(wire.Goodbye(reason="test"), deadline)
    assert not core.transport.end_close(deadline)
    toy.agent.close()
    assert len([r for r in caplog.records if "no connection" in r.getMessage()]) == 1
    assert core.guard.errors == 0


def test_wrong_token_is_said_once_and_retried_slowly(caplog):
    """A refusal by authentication is permanent until somebody changes something."""
    with TelemetryServer(token="right") as server:
        toy = Toy(server.endpoint, token="wrong")
        wait_until("the refusal", lambda: any("UNAUTHENTICATED" in r.getMessage() for r in caplog.records))
        assert toy.agent._core.transport._refused
        toy.agent.close()
        assert len(server.metadata) == 1


def test_right_token_is_sent_as_bearer():
    """The token goes with the stream as authorization metadata."""
    with TelemetryServer(token="right") as server:
        toy = Toy(server.endpoint, token="right")
        toy.train(3)
        toy.agent.close()
        assert server.rank(0).steps == [0, 1, 2]


def test_mutual_tls_and_a_token_from_a_file(tmp_path, monkeypatch):
    """Authority, certificate and key come from the environment; without the certificate the detector does not listen."""
    make_certificates(tmp_path)
    files = {name: (tmp_path / name).read_bytes() for name in ("ca.pem", "peer.pem", "peer.key")}
    credentials = grpc.ssl_server_credentials(
        [(files["peer.key"], files["peer.pem"])], files["ca.pem"], require_client_auth=True
    )
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setenv("STALLWATCH_TLS_CA", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("STALLWATCH_TOKEN_FILE", str(tmp_path / "token"))
    with TelemetryServer(token="right", credentials=credentials) as server:
        stranger = Toy(server.endpoint, run="stranger")
        wait_until("the refusal", lambda: stranger.agent._core.transport._failures)
        monkeypatch.setattr("stallwatch.agent._agent.CLOSE_SECONDS", 0.4)
        stranger.agent.close()
        monkeypatch.undo()
        for variable, name in (("CA", "ca.pem"), ("CERT", "peer.pem"), ("KEY", "peer.key")):
            monkeypatch.setenv(f"STALLWATCH_TLS_{variable}", str(tmp_path / name))
        monkeypatch.setenv("STALLWATCH_TOKEN_FILE", str(tmp_path / "token"))
        toy = Toy(f"https://{server.endpoint}")
        toy.train(3)
        toy.agent.close()
        assert server.rank(0, "toy").steps == [0, 1, 2]
        assert [key[0] for key in server.ranks] == ["toy"]


def make_certificates(folder: Path) -> None:
    """An authority, and one certificate that both sides use."""
    commands = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout peer.key -out peer.csr -subj /CN=peer",
        "x509 -req -in peer.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out peer.pem -days 2 -extfile names.txt",
    )
    (folder / "names.txt").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in commands:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


def test_rejected_batch_is_counted_and_not_sent_again():
    """The detector rejects the batch with step 0: later batches go on and report the loss."""
    with TelemetryServer(reject=lambda batch: "steps.step[0]" if 0 in batch.steps.step else "") as server:
        toy = Toy(server.endpoint)
        toy.train(5)
        wait_until("the rejection", lambda: toy.agent._core.drops.total_steps)
        lost = toy.agent._core.drops.total_steps
        toy.train(5)
        toy.agent.close()
        record = server.rank(0)
        assert record.dropped == {wire.DROP_REASON_REJECTED: lost}
        assert record.steps == list(range(lost, 10))


def test_temporary_refusal_is_overcome(server):
    """UNAVAILABLE at first, welcome later: everything arrives."""
    server.refuse = grpc.StatusCode.UNAVAILABLE
    toy = Toy(server.endpoint)
    toy.train(10)
    wait_until("two refusals", lambda: len(server.metadata) >= 2)
    server.refuse = None
    toy.agent.close()
    assert server.rank(0).steps == list(range(10))


def test_findings_reach_the_callback_and_its_errors_go_nowhere(server, caplog):
    """on_finding is called on a background thread; what it raises is logged."""
    seen = []

    def on_finding(finding: wire.FindingNotice) -> None:
        seen.append(finding.reason)
        raise RuntimeError("mine")

    toy = Toy(server.endpoint, on_finding=on_finding)
    server.wait_for(lambda it: it.ranks)
    for reason in ("first", "second"):
        notice = wire.FindingNotice(kind="plateau", severity="warning", status="firing", reason=reason)
        server.send(wire.StreamResponse(finding=notice))
    wait_until("both findings", lambda: len(seen) == 2)
    toy.train(3)
    toy.agent.close()
    assert seen == ["first", "second"]
    assert server.rank(0).steps == [0, 1, 2]
    assert any("plateau" in r.getMessage() for r in caplog.records)


def test_findings_that_open_together_are_heard_together(server, monkeypatch):
    """Also while no batch is sent, as when the job hangs: they come one after another, and not one at each time the agent listens unasked."""
    monkeypatch.setattr("stallwatch.agent._stream.UNASKED_SECONDS", 2.0)
    seen = []
    toy = Toy(server.endpoint, on_finding=lambda finding: seen.append(finding.id))
    toy.train(3)
    wait_until(
        "all to be acknowledged",
        lambda: server.ranks and server.rank(0).steps and not len(toy.agent._core.buffer),
    )
    for number in range(20):
        server.send(wire.StreamResponse(finding=wire.FindingNotice(id=str(number), severity="info")))
    wait_until("all findings", lambda: len(seen) == 20, 20)
    assert seen == [str(number) for number in range(20)]
    toy.agent.close()


def test_advice_is_obeyed_within_limits(server):
    """A sampling factor of three becomes four, so that ranks still meet; a batch interval of an hour becomes 30 s."""
    toy = Toy(server.endpoint, sample_every=5)
    server.wait_for(lambda it: it.ranks)
    advice = wire.Advice(sample_period_factor=3, min_batch_interval_seconds=3600, reason="test")
    server.send(wire.StreamResponse(advice=advice))
    core = toy.agent._core
    wait_until("the advice", lambda: core.period.steps == 20)
    assert core.transport._batch_seconds == 30.0
    toy.agent.close()


def test_heartbeats_tell_phase_and_progress(server):
    """Heartbeats come without any training going on, and say where it stands."""
    toy = Toy(server.endpoint)
    server.wait_for(lambda it: it.ranks and it.rank(0).heartbeats)
    assert server.rank(0).heartbeats[0].phase == wire.PHASE_STARTING
    assert server.rank(0).heartbeats[0].last_step == -1
    toy.train(4)
    server.wait_for(lambda it: it.rank(0).heartbeats[-1].last_step == 3)
    beat = server.rank(0).heartbeats[-1]
    assert beat.phase == wire.PHASE_INPUT
    assert beat.agent.training_thread_seconds > 0
    toy.agent.close()
    assert server.rank(0).heartbeats[-1].phase == wire.PHASE_FINISHED
