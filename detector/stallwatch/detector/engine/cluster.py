"""Ray: an embedded one of our own, or a cluster that is already there; never one started silently in its place."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from stallwatch.detector.engine.cores import cores
from stallwatch.detector.errors import RayStartError, UsageError

NAMESPACE = "stallwatch"
CONNECT_SECONDS = 5.0
"""To reach the port of the cluster's head, and for it to answer as a gRPC server."""
JOIN_SECONDS = 10.0
"""To join the cluster once the port has answered."""
NICENESS = 5
"""Of analyzers in an embedded Ray, below the gateway's 0."""
MOST_STARTS = 4
"""Analyzers that start at the same time: each is a process that takes a core for a second or two."""
EMBEDDED_OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Next to the least that Ray takes: what goes through it here is small."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the analyzers run."""

    address: str | None
    """None when Ray is embedded in this process."""

    @property
    def embedded(self) -> bool:
        """Whether Ray ends with this process."""
        return self.address is None

    @property
    def most_starts(self) -> int:
        """Analyzers that may start at the same time; on this machine half of the cores are left to those that run."""
        return max(1, min(MOST_STARTS, cores() // 2)) if self.embedded else MOST_STARTS


def chosen_address(argument: str | None) -> str | None:
    """The cluster to use: the argument, else RAY_ADDRESS; None for an embedded one.

    "local" says embedded, also where RAY_ADDRESS names a cluster.
    """
    address = argument or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def start(address: str | None) -> Cluster:
    """Join the cluster at `address`, or start an embedded Ray when it is None."""
    if address is None:
        _start_embedded()
        return Cluster(None)
    check_reachable(address)
    _join(address)
    return Cluster(address)


def stop() -> None:
    """Leave the cluster; an embedded one ends."""
    import ray

    ray.shutdown()


def lost() -> str | None:
    """Why no analyzer can be reached any more from this process; None while they can.

    A driver is bound to the node that it joined through, and Ray itself says nothing when that one dies.
    """
    import ray

    if not ray.is_initialized():
        return "Ray is gone"
    own = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    if any(node["NodeID"] == own and node["Alive"] for node in nodes):
        return None
    return "the Ray node on this machine is gone"


def head_answers(address: str | None) -> bool:
    """Whether something listens at the head of the cluster; always for an embedded one."""
    if address is None or address == "auto":
        return True
    try:
        check_reachable(address)
    except UsageError:
        return False
    return True


def _start_embedded() -> None:
    os.environ.pop("RAY_ADDRESS", None)
    if "RAY_AUTH_MODE" not in os.environ:
        # A token of its own, in memory: Ray would write one into the home directory, which a container may not allow.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Ray's own 15 leaves an analyzer a thirtieth of a core that something else wants: starting takes it minutes.
    os.environ.setdefault("RAY_worker_niceness", str(NICENESS))
    _quiet()
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=1,
            object_store_memory=EMBEDDED_OBJECT_STORE_BYTES,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            **_common(),
        )
    # It raises whatever it likes, a bare Exception when its 30 s are over.
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RayStartError(
            f"the embedded Ray has not started ({first}): start the detector again, with more memory and cores if it stays so, "
            "or give it a cluster by --ray-address"
        ) from error


def _join(address: str) -> None:
    if "RAY_AUTH_MODE" not in os.environ and _has_token():
        # As `ray start` does; a cluster that asks for no token does not mind one.
        os.environ["RAY_AUTH_MODE"] = "token"
    _quiet()
    if not _speaks_grpc(address):
        raise _no_answer(address, CONNECT_SECONDS)
    _probe(address)
    import ray

    ray.init(address=address, **_common())


def _speaks_grpc(address: str) -> bool:
    """Whether what listens there is a gRPC server, as Ray's head is: said in milliseconds, where Ray waits to the end.

    Not asked where Ray finds the address itself, nor of a cluster with TLS of its own (RAY_USE_TLS), which answers only
    who has its certificates.
    """
    if address == "auto" or os.environ.get("RAY_USE_TLS", "0") != "0":
        return True
    # Ray goes through no proxy either.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True


def _no_answer(address: str, seconds: float) -> UsageError:
    return UsageError(
        f"Ray at {address} did not answer within {seconds:.0f} s: check that --ray-address (or RAY_ADDRESS) "
        "is the address of a running Ray head, as `ray start --head` prints it"
    )


def _probe(address: str) -> None:
    """Join in a process of its own first.

    For what is not there Ray waits long, cannot be interrupted, and writes to standard error past Python.
    """
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        probe = subprocess.run(
            [sys.executable, "-c", code, address],
            capture_output=True,
            text=True,
            check=False,
            timeout=JOIN_SECONDS,
        )
    except subprocess.TimeoutExpired as expired:
        said = (expired.stderr or b"").decode(errors="replace")
        if "Unauthenticated" in said:
            raise UsageError(
                f"Ray at {address} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            ) from None
        raise _no_answer(address, JOIN_SECONDS) from None
    if probe.returncode != 0:
        lines = probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"]
        raise UsageError(f"cannot join the Ray cluster at {address}: {lines[-1][:300]}")


def _has_token() -> bool:
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").is_file()


def check_reachable(address: str) -> None:
    """Raise `UsageError` unless something listens at the address."""
    if address == "auto":
        return
    if "://" in address:
        raise UsageError(
            f"--ray-address {address} is not supported: give HOST:PORT of the cluster's head, "
            "and run this on a node of the cluster"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--ray-address {address} is not an address: give HOST:PORT of the cluster's head")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"no Ray cluster at {address} ({error}): start one with `ray start --head`, correct --ray-address "
            "(or RAY_ADDRESS), or leave it out for an embedded one"
        ) from error


def _quiet() -> None:
    """Ray reads these when it is imported or started."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _common() -> dict[str, Any]:
    return {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
