"""A real detector that asks everybody: every RPC with every kind of token, certificates, rotation, real agents, the command line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stallwatch.detector.auth import tokens
from stallwatch.v1 import telemetry_pb2
from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import Access, Rank, Stream, hello, steps
from support.ranks import Ranks
from support.token_kinds import KINDS, MINE
from support.waiting import wait_until

OK = None
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
RPCS: dict[str, dict[str, grpc.StatusCode | None]] = {
    "stallwatch.v1.TelemetryService/Stream": {
        "": UNKNOWN,
        "unlisted": UNKNOWN,
        "expired": UNKNOWN,
        "write": OK,
        "write-all": OK,
        "write-theirs": DENIED,
        "read": DENIED,
        "read-all": DENIED,
        "read-theirs": DENIED,
        "admin": DENIED,
        "admin-all": DENIED,
        "admin-theirs": DENIED,
    }
}
"""Every RPC, every kind of token, and how it ends."""


def send_steps(guarded, access: Access, run: str) -> grpc.StatusCode | None:
    """Stream some steps; None when they were accepted, else how it was refused."""
    with Stream(guarded.service.grpc_address, access=access) as stream:
        stream.send(hello=hello(run))
        stream.send(batch=pb.Batch(sequence=1, steps=steps(0, 10)))
        try:
            stream.receive("acknowledgement")
        except grpc.RpcError:
            code, details = stream.outcome()
            assert not any(secret in details for secret in guarded.secrets)
            return code
    return None


def refused(guarded, reason: str) -> float:
    """How many streams were."""
    return guarded.service.metric("stallwatch_ingest_streams_refused_total", reason=reason) or 0.0


def test_no_rpc_is_forgotten():
    """A new one fails here until somebody says who may call it."""
    services = telemetry_pb2.DESCRIPTOR.services_by_name.values()
    assert {
        f"{service.full_name}/{method.name}" for service in services for method in service.methods
    } == set(RPCS)
    assert {*RPCS["stallwatch.v1.TelemetryService/Stream"]} == {"", *(kind.name for kind in KINDS)}


@pytest.mark.timeout(170)
def test_who_may_not_write_a_run_writes_nothing(guarded):
    """Nothing is read from them, the run does not begin, and they are counted."""
    counted = {reason: refused(guarded, reason) for reason in ("unauthenticated", "permission")}
    expected = RPCS["stallwatch.v1.TelemetryService/Stream"]
    for kind, code in expected.items():
        run = f"mine/matrix:{kind or 'none'}"
        assert send_steps(guarded, guarded.access(kind or None), run) == code, kind
    runs = {run["run"] for run in guarded.service.get("/api/v1/runs")["runs"]}
    assert {run for run in runs if "matrix" in run} == {"mine/matrix:write", "mine/matrix:write-all"}
    for reason, code in (("unauthenticated", UNKNOWN), ("permission", DENIED)):
        assert refused(guarded, reason) - counted[reason] == list(expected.values()).count(code)


@pytest.mark.parametrize("run", ["theirs/run", "Mine/run", "mine", "other/mine/run"])
def test_a_token_for_some_runs_is_for_no_others(guarded, run):
    """Whole names, in their own case."""
    assert send_steps(guarded, guarded.access("write"), run) is DENIED


@pytest.mark.parametrize(
    "sent",
    [
        [("authorization", "Bearer TOKEN"), ("authorization", "Bearer TOKEN")],
        [("authorization", "TOKEN")],
        [("authorization", "Basic TOKEN")],
        [("authorization", "Bearer")],
        [("authorization-bin", b"Bearer TOKEN")],
        [("x-authorization", "Bearer TOKEN")],
        [("authorization", "Bearer " + "x" * 4000)],
    ],
)
def test_a_token_that_is_sent_in_another_way_is_none(guarded, sent):
    """Two at once too: whoever sits in between may have looked at the other one."""
    token = guarded.tokens["write-all"]
    metadata = [
        (
            key,
            value.replace(b"TOKEN", token.encode())
            if isinstance(value, bytes)
            else value.replace("TOKEN", token),
        )
        for key, value in sent
    ]
    assert send_steps(guarded, guarded.access(metadata=metadata), MINE) is UNKNOWN


def test_a_stranger_is_not_listened_to(guarded):
    """Who has no token is refused before the first message is read: one that would be far too large, or none at all."""
    with Stream(guarded.service.grpc_address, access=guarded.access()) as stream:
        assert stream.outcome()[0] is UNKNOWN


@pytest.mark.parametrize("case", ["in clear", "no certificate", "certificate of another authority"])
def test_without_the_right_certificate_nobody_gets_as_far_as_the_token(guarded, tmp_path, case):
    """With mTLS the handshake fails: agents see that the detector cannot be reached."""
    from support.certificates import Authority

    ca, certificate = guarded.authority.path, guarded.client
    match case:
        case "in clear":
            ca = certificate = None
        case "no certificate":
            certificate = None
        case _:
            certificate = Authority(tmp_path).issue("client")
    access = Access(guarded.tokens["write-all"], ca, certificate)
    assert send_steps(guarded, access, MINE) is grpc.StatusCode.UNAVAILABLE


def test_health_is_told_to_everybody(guarded):
    """Whoever has a certificate: there is nothing else in it."""
    with guarded.access().channel(guarded.service.grpc_address) as channel:
        request = health_pb2.HealthCheckRequest(service="stallwatch.v1.TelemetryService")
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_http_speaks_tls_only_and_no_old_one(guarded):
    """In clear there is no answer."""
    service = guarded.service
    with socket.create_connection(("127.0.0.1", service.http_port), 20) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert plain.recv(1000) == b""
    old = ssl.create_default_context(cafile=guarded.authority.path)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    for port in (service.http_port, service.grpc_port):
        with (
            socket.create_connection(("127.0.0.1", port), 20) as connection,
            pytest.raises((ssl.SSLError, OSError)),
        ):
            old.wrap_socket(connection, server_hostname="127.0.0.1")


def test_a_token_is_rotated_under_a_rank_that_streams(guarded, tmp_path):
    """The next one is made, the rank's file is replaced, the old one revoked: the rank comes back, and nothing is lost."""
    held = tmp_path / "token"
    held.write_text(guarded.create("rotate-1", "--scope", "write", "--run", "mine/*"))
    rank = Rank(guarded.service.grpc_address, hello("mine/rotated"), guarded.access(held))
    rank.send(steps(0, 10))
    rank.wait_durable()
    held.write_text(guarded.create("rotate-2", "--scope", "write", "--run", "mine/*"))
    guarded.revoke("rotate-1")
    wait_until("the next connection", lambda: rank.connections == 2)
    rank.send(steps(10, 10))
    rank.finish()
    (shown,) = guarded.service.get("/api/v1/runs/mine%2Frotated/ranks")["ranks"]
    assert (shown["steps_received"], shown["steps_missing"]) == (20, 0)
    guarded.revoke("rotate-2")


@pytest.mark.parametrize(
    ("change", "code"),
    [("revoked", UNKNOWN), ("expired", UNKNOWN), ("other runs", DENIED), ("other scope", DENIED)],
)
def test_an_open_stream_ends_when_its_token_ends(guarded, change, code):
    """Within seconds of the file's change, or of the time at which it expires."""
    name = f"ending-{change.replace(' ', '-')}"
    secret = guarded.create(name, "--scope", "write")
    before = guarded.file.read_text()
    access = Access(secret, guarded.authority.path, guarded.client)
    wait_until("the token", lambda: send_steps(guarded, access, f"mine/{name}") is None)
    with Stream(guarded.service.grpc_address, access=access) as stream:
        stream.send(hello=hello(f"mine/{name}"))
        stream.receive("welcome")
        entry = before[before.index(f'name = "{name}"') :]
        match change:
            case "revoked":
                guarded.revoke(name)
            case "expired":
                end = datetime.now(timezone.utc) + timedelta(seconds=3)
                guarded.file.write_text(before.replace(entry, f"{entry}expires = {end:%Y-%m-%dT%H:%M:%SZ}\n"))
            case "other runs":
                guarded.file.write_text(before.replace(entry, entry.replace('runs = ["*"]', 'runs = ["x"]')))
            case _:
                guarded.file.write_text(before.replace(entry, entry.replace('"write"', '"read"')))
        started = time.monotonic()
        found, details = stream.outcome()
        assert found is code, details
        assert time.monotonic() - started < 15.0
        assert name in details or change == "revoked"
    if change != "revoked":
        guarded.revoke(name)


def serial(guarded, port: int) -> str:
    """Of the certificate that a port shows."""
    context = ssl.create_default_context(cafile=guarded.authority.path)
    context.load_cert_chain(*guarded.client)
    context.set_alpn_protocols(["h2", "http/1.1"])
    connection = socket.create_connection(("127.0.0.1", port), 20)
    with context.wrap_socket(connection, server_hostname="127.0.0.1") as tls:
        return str(tls.getpeercert()["serialNumber"])


def test_a_certificate_is_rotated_under_a_rank_that_streams(guarded):
    """Its stream goes on; the next connection sees the next certificate, on both ports; a broken one changes nothing."""
    service = guarded.service
    rank = Rank(service.grpc_address, hello("mine/certificate"), guarded.access("write"))
    rank.send(steps(0, 10))
    rank.wait_durable()
    first = {port: serial(guarded, port) for port in (service.grpc_port, service.http_port)}
    guarded.certificate.write_text("half of a certif")
    wait_until("the warning", lambda: "certificate read before is shown" in service.fetch("/readyz")[1])
    assert service.fetch("/readyz")[0] == 200
    assert {port: serial(guarded, port) for port in first} == first
    guarded.authority.issue("server")
    for port, before in first.items():
        wait_until("the next certificate", lambda port=port, before=before: serial(guarded, port) != before)
    assert service.fetch("/readyz") == (200, "ok\n")
    rank.send(steps(10, 10))
    rank.wait_durable()
    assert rank.connections == 1
    rank.finish()


def test_a_tokens_file_that_is_broken_while_the_service_runs_changes_nothing(guarded):
    """It is said in the log and in /readyz, and forgotten when it is right again."""
    before = guarded.file.read_text()
    guarded.file.write_text(before + "[[token]]\nname = 'half")
    try:
        wait_until("the warning", lambda: "tokens read before hold" in guarded.service.fetch("/readyz")[1])
        assert guarded.service.fetch("/readyz")[0] == 200
        assert send_steps(guarded, guarded.access("write"), "mine/still") is None
    finally:
        guarded.file.write_text(before)
    wait_until("the end of the warning", lambda: guarded.service.fetch("/readyz") == (200, "ok\n"))


def test_commands_take_token_and_authority_from_file_and_environment(guarded, tmp_path):
    """And say what is missing in one sentence."""
    send_steps(guarded, guarded.access("write"), "mine/shown")
    url, ca = ("--server", guarded.service.url), {"STALLWATCH_TLS_CA": str(guarded.authority.path)}
    held = tmp_path / "token"
    held.write_text(guarded.tokens["read"] + "\n")
    shown = guarded.command(
        "runs", "--json", *url, "--token-file", str(held), "--tls-ca", ca["STALLWATCH_TLS_CA"]
    )
    assert {run["run"].partition("/")[0] for run in json.loads(shown.stdout)} == {"mine"}, shown.stderr
    by_environment = {**ca, "STALLWATCH_TOKEN_FILE": str(held)}
    assert guarded.command("show", "mine/shown", *url, **by_environment).returncode == 0
    denied = guarded.command("silence", "mine/shown", *url, **by_environment)
    assert (denied.returncode, denied.stderr) == (2, "stallwatch: token read has no scope administer\n")
    by_admin = {**ca, "STALLWATCH_TOKEN": guarded.tokens["admin"]}
    begun = guarded.command("silence", "mine/*", "--json", *url, **by_admin)
    assert begun.returncode == 0, begun.stderr
    # Other tests of this detector wait for what it would keep quiet.
    ended = guarded.command("silence", "--delete", json.loads(begun.stdout)["id"], *url, **by_admin)
    assert ended.returncode == 0, ended.stderr
    for environment, says in (
        (
            ca,
            "no token was sent: send the header `authorization: Bearer TOKEN`; give a token with --token-file or",
        ),
        ({**ca, "STALLWATCH_TOKEN": guarded.tokens["unlisted"]}, "the token is not known here"),
        ({**ca, "STALLWATCH_TOKEN": "a\nb"}, "STALLWATCH_TOKEN holds no token"),
        ({**ca, "STALLWATCH_TOKEN_FILE": "/nowhere"}, "--token-file /nowhere cannot be read: No such file"),
        ({"STALLWATCH_TLS_CA": str(held)}, "cannot be used: it holds no PEM certificates"),
        ({}, "certificate verify failed"),
    ):
        done = guarded.command("runs", *url, **environment)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
        assert not any(secret in done.stderr for secret in guarded.secrets)


@pytest.mark.timeout(170)
def test_real_ranks_stream_over_mutual_tls_while_token_and_certificates_change(guarded, tmp_path):
    """Two DDP ranks: no step is missing or doubled, and training does not notice."""
    held = tmp_path / "token"
    held.write_text(guarded.create("ranks-1", "--scope", "write", "--run", "until_told"))
    certificate, key = guarded.clients.issue("ranks")
    environment = {
        "STALLWATCH_TLS_CA": str(guarded.authority.path),
        "STALLWATCH_TLS_CERT": str(certificate),
        "STALLWATCH_TLS_KEY": str(key),
        "STALLWATCH_TOKEN_FILE": str(held),
    }

    def received() -> list[int]:
        found = guarded.service.get("/api/v1/runs/until_told/ranks") or {"ranks": []}
        return [rank["steps_received"] for rank in found["ranks"]]

    endpoint = f"https://{guarded.service.grpc_address}"
    with Ranks(tmp_path, endpoint, "until_told", **environment) as ranks:
        wait_until("both ranks", lambda: len(found := received()) == 2 and min(found) > 50)
        guarded.clients.issue("ranks")
        held.write_text(guarded.create("ranks-2", "--scope", "write", "--run", "until_told"))
        guarded.revoke("ranks-1")
        before = max(received())
        wait_until("steps by the next token", lambda: min(received()) > before + 100)
        (tmp_path / "stop").touch()
        ranks.finish()
        total = ranks.result("until_told", 0)["steps"]
        shown = guarded.service.get("/api/v1/runs/until_told/ranks")["ranks"]
        assert [(rank["steps_received"], rank["steps_missing"]) for rank in shown] == [(total, 0)] * 2
    guarded.revoke("ranks-2")


def test_ranks_with_a_wrong_token_train_on_and_say_so_once(guarded, tmp_path):
    """Each in one line that does not hold the token."""
    environment = {
        "STALLWATCH_TLS_CA": str(guarded.authority.path),
        "STALLWATCH_TLS_CERT": str(guarded.client[0]),
        "STALLWATCH_TLS_KEY": str(guarded.client[1]),
        "STALLWATCH_TOKEN": guarded.tokens["unlisted"],
    }
    endpoint = f"https://{guarded.service.grpc_address}"
    with Ranks(tmp_path, endpoint, "until_told", **environment) as ranks:
        for rank in (0, 1):
            wait_until("the refusal", lambda rank=rank: "UNAUTHENTICATED" in ranks.log(rank))
        (tmp_path / "stop").touch()
        ranks.finish()
        for rank in (0, 1):
            said = ranks.log(rank)
            assert said.count("UNAUTHENTICATED: the token is not known here") == 1
            assert "training goes on" in said
            assert guarded.tokens["unlisted"] not in said


@pytest.mark.timeout(120)
def test_the_embedded_ray_takes_nobody_without_its_token(guarded):
    """Whoever can run something on this machine as another user still cannot run code in the detector's Ray."""
    assert guarded.service.process is not None
    children = psutil.Process(guarded.service.process.pid).children(recursive=True)
    (gcs,) = (child for child in children if child.name().startswith("gcs_server"))
    right = gcs.environ()["RAY_AUTH_TOKEN"]
    assert len(right) == 64
    address = next(
        match[1]
        for child in children
        if (match := re.search(r"--gcs-address=(\S+)", " ".join(child.cmdline())))
    )
    code = (
        f"import ray; ray.init(address={address!r}, log_to_driver=False); print('joined', len(ray.nodes()))"
    )

    def join(**environment: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "5", **environment},
                capture_output=True,
                text=True,
                check=False,
                timeout=25,
            )
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode()
            return subprocess.CompletedProcess(error.cmd, 1, "", said)

    token = {"RAY_AUTH_MODE": "token"}
    assert join(**token, RAY_AUTH_TOKEN=right).stdout.strip() == "joined 1"
    strangers = ({"RAY_AUTH_MODE": "disabled"}, {**token, "RAY_AUTH_TOKEN": tokens.new_secret()})
    # Ray's client tries on and on: both at once take half the time.
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda environment: join(**environment), strangers))
    for done in answers:
        assert (done.returncode != 0, done.stdout) == (True, ""), done
        assert "nauthenticated" in done.stderr, done.stderr


def test_the_log_holds_no_secret(guarded):
    """At the level that the service logs at, after strangers and failing webhooks: names of tokens, and neither tokens nor addresses."""
    send_steps(guarded, guarded.access("unlisted"), MINE)
    send_steps(guarded, guarded.access("read"), MINE)
    rank = Rank(guarded.service.grpc_address, hello("mine/failing"), guarded.access("write"))
    rank.send(steps(0, 20, loss=float("nan")))
    rank.wait_durable()
    log = Path(guarded.service.log)
    wait_until(
        "the webhook's failure", lambda: re.search(r"webhook 0: event .* is given up", log.read_text())
    )
    rank.finish()
    text = log.read_text()
    # A handshake that fails is not logged at all: there may be thousands.
    assert "andshake" not in text
    assert "refused: the token is not known here" in text
    assert "refused: token read has no scope write" in text
    hashes = {tokens.hash_of(secret).removeprefix("sha256:") for secret in guarded.secrets}
    for secret in guarded.secrets | hashes:
        assert secret not in text
