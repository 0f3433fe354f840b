"""What `stallwatch doctor` looks at, one thing after another."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stallwatch.detector.engine import cluster
from stallwatch.detector.errors import StallwatchError
from stallwatch.detector.service.examination_access import examine_access
from stallwatch.detector.service.examination_result import Result
from stallwatch.detector.service.lifecycle import SERVICE_FILE, open_store
from stallwatch.detector.service.settings import Settings
from stallwatch.detector.version import VERSION

PACKAGES = (
    "ray",
    "grpcio",
    "protobuf",
    "numpy",
    "scipy",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "prometheus-client",
)
LEAST_FREE_BYTES = 1024**3
LEAST_MEMORY_BYTES = 2 * 1024**3
START_SECONDS = 60.0
ANSWER_SECONDS = 20.0
STOP_SECONDS = 20.0
RUN = "doctor"


def examine(settings: Settings) -> Iterator[Result]:
    """Every look, the slow ones last; a later one is left out when it cannot succeed."""
    yield from _environment()
    yield _memory()
    yield from _ports(settings)
    yield from examine_access(settings)
    store = _store(settings)
    yield store
    address = cluster.chosen_address(settings.ray_address)
    reachable = _ray(address)
    yield reachable
    if reachable.status != "problem":
        yield _end_to_end(address)


def _environment() -> Iterator[Result]:
    yield Result(
        "stallwatch", "ok", f"{VERSION} on Python {platform.python_version()}, {platform.platform()}"
    )
    versions = {package: _version_of(package) for package in PACKAGES}
    missing = [package for package, found in versions.items() if found is None]
    if missing:
        yield Result(
            "packages", "problem", f"missing: {', '.join(missing)}", "pip install 'stallwatch[detector]'"
        )
    else:
        yield Result("packages", "ok", ", ".join(f"{name} {found}" for name, found in versions.items()))


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory() -> Result:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    shown = f"{available / 1024**3:.1f} GiB free, {os.cpu_count()} CPUs"
    if available < LEAST_MEMORY_BYTES:
        return Result(
            "memory",
            "warning",
            shown,
            "an embedded Ray needs about 1 GiB, and each watched run about 150 MB more",
        )
    return Result("memory", "ok", shown)


def _ports(settings: Settings) -> Iterator[Result]:
    for name, port in (("grpc_port", settings.grpc_port), ("http_port", settings.http_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                yield _taken(settings, name, port, error)
            else:
                yield Result(name, "ok", f"{settings.host}:{port} is free")


def _taken(settings: Settings, name: str, port: int, error: OSError) -> Result:
    if _answers(settings):
        return Result(name, "ok", f"{settings.host}:{port} is used by a detector that is running")
    return Result(
        name,
        "problem",
        f"{settings.host}:{port} cannot be used: {error.strerror}",
        f"end what uses it, or choose another --{name.replace('_', '-')}",
    )


def _answers(settings: Settings) -> bool:
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104  compared, not bound
    try:
        address = f"{settings.http_scheme}://{host}:{settings.http_port}/livez"
        # Whose certificate it is does not matter: nothing is sent, and nothing is believed but that it is there.
        tls = ssl._create_unverified_context()  # noqa: S323, SLF001
        with urllib.request.urlopen(address, timeout=2, context=tls) as answer:  # noqa: S310  our own
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _store(settings: Settings) -> Result:
    try:
        store = open_store(settings)
        try:
            store.check()
        finally:
            store.close()
    except StallwatchError as error:
        return Result("store", "problem", str(error), "give a folder that can be written to as --data-dir")
    free = shutil.disk_usage(settings.data_dir).free
    says = f"{store.shown_url} can be written, {free / 1024**3:.1f} GiB free"
    if store.is_local and free < LEAST_FREE_BYTES:
        return Result(
            "store", "warning", says, "make room: snapshots that cannot be saved pile up at the agents"
        )
    return Result("store", "ok", says)


def _ray(address: str | None) -> Result:
    if address is None:
        return Result("ray", "ok", "embedded: the detector starts its own")
    try:
        cluster.check_reachable(address)
    except StallwatchError as error:
        return Result("ray", "problem", str(error))
    return Result("ray", "ok", f"the cluster at {address} can be reached")


def _end_to_end(address: str | None) -> Result:
    """A rank's first message, through a stream, the gateway, an actor and the API of a temporary detector."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stallwatch-doctor-") as folder:
        directory = Path(folder)
        command = [sys.executable, "-m", "stallwatch.detector", "serve", "--data-dir", folder]
        command += ["--grpc-port", "0", "--http-port", "0", "--host", "127.0.0.1"]
        command += ["--ray-address", address or "local"]
        # Its settings are ours; a file of the user's could name his store.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("STALLWATCH_")
        }
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            addresses = _await_service(directory, process)
            _send(f"127.0.0.1:{addresses['grpc_port']}")
            _await_step(f"http://127.0.0.1:{addresses['http_port']}")
        except _NotWorkingError as error:
            log_end = (directory / "log").read_text(errors="replace").strip().splitlines()[-3:]
            return Result("end to end", "problem", f"{error}: {' / '.join(log_end)}".rstrip(": "))
        finally:
            _end(process)
    return Result(
        "end to end", "ok", f"a step sent by gRPC came out of the API, in {time.monotonic() - started:.1f} s"
    )


class _NotWorkingError(Exception):
    """The message did not arrive."""


def _await_service(directory: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + START_SECONDS
    file = directory / SERVICE_FILE
    while time.monotonic() < deadline and process.poll() is None:
        if file.is_file():
            # It is put there whole.
            addresses: dict[str, Any] = json.loads(file.read_text())
            return addresses
        time.sleep(0.1)
    raise _NotWorkingError("a detector does not start")


def _send(address: str) -> None:
    import grpc

    from stallwatch.v1 import telemetry_pb2 as pb
    from stallwatch.v1 import telemetry_pb2_grpc

    hello = pb.Hello(run=RUN, world_size=1, incarnation=time.time_ns(), protocol_major=1)
    batch = pb.Batch(sequence=1, steps=pb.StepBatch(step=[0, 1], loss_sum=[1.0, 1.0], samples=[1.0, 1.0]))
    requests = [
        pb.StreamRequest(hello=hello),
        pb.StreamRequest(batch=batch),
        pb.StreamRequest(goodbye=pb.Goodbye(reason="finished", last_step=1)),
    ]
    try:
        with grpc.insecure_channel(address) as channel:
            stub = telemetry_pb2_grpc.TelemetryServiceStub(channel)
            answers = list(stub.Stream(iter(requests), timeout=ANSWER_SECONDS))
    except grpc.RpcError as error:
        raise _NotWorkingError(f"the stream failed ({error.code().name}: {error.details()})") from error
    if not any(answer.WhichOneof("payload") == "welcome" for answer in answers):
        raise _NotWorkingError("the stream was not welcomed")


def _await_step(url: str) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        if _steps_received(url) == 2:
            return
        time.sleep(0.1)
    raise _NotWorkingError("the step does not show in the API")


def _steps_received(url: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/api/v1/runs/{RUN}/ranks", timeout=5) as answer:  # noqa: S310  our own
            return int(json.load(answer)["ranks"][0]["steps_received"])
    except (OSError, ValueError, LookupError):
        return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
