"""In the store: locked, full, or with damaged contents."""

from __future__ import annotations

import sqlite3
import subprocess

import psutil

from chaos import detectors
from chaos.fault import Fault, Loss
from chaos.faults_ranks import fill
from chaos.scene import Scene

LOCKED_SECONDS = 10.0
FULL_SECONDS = 6.0
DISK = "32m"


def locked(scene: Scene) -> None:
    """Another process holds the write lock."""
    connection = sqlite3.connect(scene.service.directory / "stallwatch.db", isolation_level=None, timeout=30)
    try:
        connection.execute("begin immediate")
        scene.train_for(LOCKED_SECONDS)
        connection.execute("rollback")
    finally:
        connection.close()


def on_a_small_disk(scene: Scene) -> None:
    """The data directory is a small file system of its own."""
    folder = scene.service.directory
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)], check=True)
    scene.callback(lambda: subprocess.run(["umount", "-l", str(folder)], check=True))


def full(scene: Scene) -> None:
    """Nothing can be written, until somebody makes room."""
    ballast = fill(scene.service.directory)
    try:
        scene.wait_until(
            "snapshots to fail",
            lambda: (scene.service.metric("stallwatch_analyzer_snapshot_failures_total") or 0) > 0,
            60,
        )
        scene.train_for(FULL_SECONDS)
    finally:
        ballast.unlink()


def damaged(scene: Scene) -> None:
    """While the detector is down, one bit of the run's newest snapshot turns over."""
    writers = detectors.analyzers(scene.service)
    scene.service.kill()
    scene.wait_until("the analyzers to end", lambda: not any(map(psutil.pid_exists, writers)), 60)
    store = sqlite3.connect(scene.service.directory / "stallwatch.db")
    row, data = store.execute(
        "select id, data from stallwatch_snapshots where run = ? order by id desc limit 1", [scene.run]
    ).fetchone()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    store.execute("update stallwatch_snapshots set data = ? where id = ?", [bytes(flipped), row])
    store.commit()
    store.close()
    scene.service.start()


FAULTS = (
    Fault("store/locked", "another process holds the store's write lock for 10 s", locked, alone=True),
    Fault("store/disk-full", "the data directory's disk is full for 6 s and more", full, own_service=on_a_small_disk),
    Fault("store/snapshot-damaged", "SIGKILL, a bit of the run's newest snapshot flips, and it is started again", damaged, loss=Loss.NONE, alone=True),
)  # fmt: skip
