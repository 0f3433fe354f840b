"""An existing Ray cluster: used when it is there, refused at once when not, never started in its place."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from support.rank import Rank, hello, steps
from support.reserved import reserve_port
from support.service import Service
from support.waiting import wait_until


def processes_under(directory: Path) -> list[str]:
    """Command lines that name a directory."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(directory) in line and "ray" in line]


@pytest.fixture(scope="module")
def ray_head():
    """`ray start --head`, on ports and in a folder of its own; its address."""
    # Ray puts sockets there, and a socket's path must be short.
    directory = Path(tempfile.mkdtemp(prefix="swray"))
    port, *others = (reserve_port() for _ in range(8))
    names = (
        "--node-manager-port",
        "--object-manager-port",
        "--ray-client-server-port",
        "--dashboard-agent-listen-port",
        "--dashboard-agent-grpc-port",
        "--runtime-env-agent-port",
        "--metrics-export-port",
    )
    command = [shutil.which("ray", path=Path(sys.executable).parent), "start", "--head", "--block"]
    command += ["--port", str(port), "--node-ip-address", "127.0.0.1", "--num-cpus", "1"]
    command += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory", "80000000"]
    command += ["--temp-dir", str(directory), "--min-worker-port", "0", "--max-worker-port", "0"]
    for name, other in zip(names, others, strict=True):
        command += [name, str(other)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def up() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        return b"Ray runtime started" in (directory / "log").read_bytes()

    try:
        wait_until("the head to start", up, 60)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("through", ["argument", "RAY_ADDRESS"])
def test_an_existing_cluster_is_used(ray_head, tmp_path, through):
    """Analyzers run there; a killed service comes back to them, and a stopped one leaves none behind."""
    arguments = ("--ray-address", ray_head) if through == "argument" else ()
    environment = {"RAY_ADDRESS": ray_head} if through == "RAY_ADDRESS" else {}
    with Service(tmp_path, *arguments, environment=environment) as service:
        rank = Rank(service.grpc_address, hello(f"cluster/{through}"))
        rank.send(steps(0, 50))
        rank.wait_accepted()
        service.restart()
        rank.send(steps(50, 50))
        rank.wait_durable()
        path = f"/api/v1/runs/{quote(rank.hello.run, safe='')}/ranks"
        (shown,) = wait_until(
            "all steps", lambda: [one for one in service.get(path)["ranks"] if one["last_step"] == 99]
        )
        assert (shown["steps_received"], shown["steps_missing"]) == (100, 0)
        rank.finish()
        assert "Ray at 127.0.0.1" in service.log.read_text()
        children = subprocess.run(
            ["ps", "--ppid", str(service.process.pid), "-o", "args="],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        assert "raylet" not in children
        assert "gcs_server" not in children
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "raylet" in listed, "the cluster is still there"


@pytest.mark.timeout(240)
def test_runs_leave_nothing_behind_in_the_head(ray_head, tmp_path):
    """The head keeps every actor class it was given for as long as it lives: all analyzers are of one."""
    from ray._raylet import GcsClient

    def classes() -> set[bytes]:
        return set(GcsClient(address=ray_head).internal_kv_keys(b"ActorClass", b"fun", 10))

    before = classes()
    with Service(tmp_path, "--ray-address", ray_head) as service:
        ranks = [Rank(service.grpc_address, hello(f"class/{number}")) for number in range(3)]
        for rank in ranks:
            rank.send(steps(0, 10))
        for rank in ranks:
            rank.wait_accepted()
            rank.finish()
        assert len(classes() - before) == 1


@pytest.mark.alone
@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:{free}", "no Ray cluster at 127.0.0.1:{free}"),
        ("127.0.0.1:{other}", "did not answer|cannot join"),
        ("no-such-host.invalid:6379", "no Ray cluster at no-such-host.invalid:6379"),
        ("ray://127.0.0.1:10001", "is not supported: give HOST:PORT"),
        ("nonsense", "is not an address: give HOST:PORT"),
    ],
)
def test_a_wrong_address_fails_within_15_seconds_and_starts_nothing(tmp_path, address, says):
    """Exit code 2, one clear sentence on standard error, nothing on standard output, no process."""
    free = reserve_port()
    with socket.socket() as other:
        # Something listens here, and it is not Ray.
        other.bind(("127.0.0.1", 0))
        other.listen()
        values = {"free": free, "other": other.getsockname()[1]}
        began = time.monotonic()
        environment = {"RAY_TMPDIR": str(tmp_path / "r"), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "stallwatch.detector", "serve", "--data-dir", str(tmp_path / "data")),
                *("--grpc-port", "0", "--http-port", "0", "--ray-address", address.format(**values)),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
        )
        took = time.monotonic() - began
    assert ran.returncode == 2, ran.stderr
    assert took < 15
    assert ran.stdout == ""
    (sentence,) = ran.stderr.splitlines()
    assert re.search(says.format(**values), sentence)
    assert processes_under(tmp_path) == []
    assert not (tmp_path / "data" / "service.json").exists()


def test_an_embedded_ray_that_does_not_start_ends_the_service_with_a_sentence(tmp_path):
    """Exit code 1: whoever supervises it starts it again."""
    command = [sys.executable, "-m", "stallwatch.detector", "serve", "--data-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, "--grpc-port", "0", "--http-port", "0"],
        env={**os.environ, "RAY_TMPDIR": "/proc/nowhere"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("stallwatch: the embedded Ray has not started ([Errno 2]")
    assert len(done.stderr.splitlines()) == 1
