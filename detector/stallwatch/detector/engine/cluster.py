"""Ray: an embedded one of our own, or a cluster that is already there; never one started silently in its place."""

from __future__ import annotations

import logging
import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

from stallwatch.detector.errors import UsageError

NAMESPACE = "stallwatch"
CONNECT_SECONDS = 4.0
"""To reach the port of the cluster's head."""
JOIN_SECONDS = 10.0
"""To join the cluster once the port was reached."""
EMBEDDED_OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Next to the least that Ray takes: what goes through it here is small."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the analyzers run."""

    address: str | None
    """None when Ray is embedded in this process."""

    @property
    def embedded(self) -> bool:
        """Whether Ray ends with this process."""
        return self.address is None


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


def _start_embedded() -> None:
    _quiet()
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=EMBEDDED_OBJECT_STORE_BYTES,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        **_common(),
    )


def _join(address: str) -> None:
    """Ray waits long for what is not there, in ways that cannot be interrupted: so it gets a thread, and a deadline."""
    _quiet()
    outcome: list[BaseException | None] = []

    def connect() -> None:
        import ray

        try:
            ray.init(address=address, **_common())
        except BaseException as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=connect, name="join-ray", daemon=True)
    thread.start()
    thread.join(JOIN_SECONDS)
    if not outcome:
        raise UsageError(
            f"Ray at {address} did not answer within {JOIN_SECONDS:.0f} s: check that --ray-address (or RAY_ADDRESS) "
            "is the address of a running Ray head, as `ray start --head` prints it"
        )
    if outcome[0] is not None:
        reason = " ".join(str(outcome[0]).split())[:300]
        raise UsageError(f"cannot join the Ray cluster at {address}: {reason}") from outcome[0]


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
