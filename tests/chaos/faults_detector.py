"""In the detector: its processes die, stand still, are replaced, or are asked for too much."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time

from chaos import detectors
from chaos.fault import Fault
from chaos.scene import Scene
from support.rank import Rank, hello, steps

DOWN_SECONDS = 10.0
FROZEN_SECONDS = 8.0
FLOOD_SECONDS = 8.0
FLOOD_RANKS = 4
WAITING = 20
"""Batches of 1,000 steps that each flooding rank has on its way."""
SCRAPERS = 20
SCRAPED_SECONDS = 8.0


def killed(scene: Scene) -> None:
    """SIGKILL; started again later."""
    scene.service.kill()
    scene.train_for(DOWN_SECONDS)
    scene.service.start()


def killed_three_times(scene: Scene) -> None:
    """SIGKILL to detector and analyzers in the middle of a write to the store; three times."""
    log = scene.service.directory / "stallwatch.db-wal"
    for _ in range(3):
        written = log.stat().st_mtime_ns if log.exists() else 0
        scene.wait_until(
            "a write to the store",
            lambda before=written: log.exists() and log.stat().st_mtime_ns != before,
            60,
            0.0005,
        )
        detectors.kill(detectors.analyzers(scene.service))
        scene.service.kill()
        scene.service.start()
        scene.wait_until_stored(max(scene.watched.progress()))


def stopped_and_started(scene: Scene) -> None:
    """SIGTERM: it drains; started at once."""
    assert scene.service.stop() == 0
    scene.service.start()


def upgraded(scene: Scene) -> None:
    """SIGTERM; what starts in its place is of another version, and then the first one again."""
    assert scene.service.stop() == 0
    other = detectors.OtherVersion.instead_of(scene.service)
    with other:
        own, scene.service = scene.service, other
        scene.wait_until_stored(max(scene.watched.progress()))
        scene.service = own
    scene.service.start()


def frozen(scene: Scene) -> None:
    """SIGSTOP, and SIGCONT later: connections stay, and nobody answers."""
    assert scene.service.process is not None
    os.kill(scene.service.process.pid, signal.SIGSTOP)
    try:
        scene.train_for(FROZEN_SECONDS)
    finally:
        os.kill(scene.service.process.pid, signal.SIGCONT)


def analyzer_killed(scene: Scene) -> None:
    """SIGKILL to every analyzer."""
    pids = detectors.analyzers(scene.service)
    assert pids, "there is no analyzer"
    detectors.kill(pids)


def ray_killed(scene: Scene) -> None:
    """SIGKILL to the Ray node: the detector ends by itself, and whoever started it starts it again."""
    pids = detectors.raylets(scene.service)
    assert pids, "there is no Ray node"
    detectors.kill(pids)
    process = scene.service.process
    assert process is not None
    scene.wait_until("the detector to end", lambda: process.poll() is not None, 60)
    assert process.returncode == 1, process.returncode
    scene.service.start()


def flooded(scene: Scene) -> None:
    """Another run sends as fast as it is let."""
    until = time.monotonic() + FLOOD_SECONDS
    ranks = [
        Rank(scene.service.grpc_address, hello("chaos/flood", number, FLOOD_RANKS))
        for number in range(FLOOD_RANKS)
    ]
    try:
        sent = 0
        while time.monotonic() < until:
            if all(sent - rank.accepted < WAITING for rank in ranks):
                for rank in ranks:
                    rank.send(steps(1000 * sent, 1000))
                sent += 1
            else:
                threading.Event().wait(0.005)
        scene.check_jobs()
    finally:
        for rank in ranks:
            rank.vanish()


def scraped_slowly(scene: Scene) -> None:
    """Many readers take the metrics byte by byte."""
    host, port = scene.service.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as readers:
        sockets = []
        for _ in range(SCRAPERS):
            reader = readers.enter_context(socket.create_connection((host, int(port)), timeout=10))
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            reader.sendall(b"GET /metrics HTTP/1.1\r\nHost: detector\r\n\r\n")
            sockets.append(reader)
        for _ in range(int(SCRAPED_SECONDS)):
            for reader in sockets:
                # Those that are too slow for the detector may be cut off.
                with contextlib.suppress(OSError):
                    reader.recv(1)
            scene.train_for(1)
        assert scene.service.fetch("/metrics")[0] == 200


def hanging_webhook(scene: Scene) -> None:
    """Alerts go to something that takes the request and never answers."""
    webhooks = [{"url": f"http://{scene.mute.endpoint}/hook"}]
    scene.service.environment["STALLWATCH_ALERTS"] = json.dumps({"webhooks": webhooks})


def told_to_nobody(scene: Scene) -> None:
    """The alert of the seeded finding is on its way for as long."""
    scene.wait_until("the webhook's request", lambda: scene.mute.connections, 30)
    scene.train_for(8)


FAULTS = (
    Fault("detector/killed", "SIGKILL; started again 10 s later", killed, alone=True),
    Fault("detector/killed-writing", "SIGKILL with its analyzers in the middle of a write to the store, three times", killed_three_times, alone=True),
    Fault("detector/restarted", "SIGTERM, and started again", stopped_and_started, alone=True),
    Fault("detector/upgraded", "SIGTERM; another version takes over its data, then the first one again", upgraded, alone=True),
    Fault("detector/frozen", "stopped for 8 s (SIGSTOP) and continued", frozen, alone=True),
    Fault("detector/analyzer-killed", "SIGKILL to the run's analyzer", analyzer_killed, alone=True),
    Fault("detector/ray-killed", "SIGKILL to its Ray node; it ends with exit code 1 and is started again", ray_killed, alone=True),
    Fault("detector/flooded", "another run sends batches of 1,000 steps as fast as it is let, for 8 s", flooded, alone=True),
    Fault("detector/slow-readers", "20 readers take `/metrics` at a byte a second, for 8 s", scraped_slowly, alone=True),
    Fault("detector/webhook-hangs", "a webhook takes the alert's request and never answers", told_to_nobody, own_service=hanging_webhook),
)  # fmt: skip
