"""In the ranks: what the machine, the user's code and the agent's own mistakes do to them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path

from chaos.fault import Fault, Loss, injected
from chaos.pair import RANKS
from chaos.scene import Scene

STOPPED_SECONDS = 6.0


def stopped(scene: Scene) -> None:
    """One rank of each job stands still, as in a debugger; the other waits for it."""
    for job in scene.jobs:
        job.signal_ranks(signal.SIGSTOP, (1,))
    before = scene.watched.progress()[1]
    wait_for_seconds(scene, STOPPED_SECONDS)
    assert scene.watched.progress()[1] == before
    for job in scene.jobs:
        job.signal_ranks(signal.SIGCONT, (1,))
    scene.train_on(20)


def wait_for_seconds(scene: Scene, seconds: float) -> None:
    """Let time pass in which nobody trains."""
    import time

    until = time.monotonic() + seconds
    scene.wait_until("the time to pass", lambda: time.monotonic() >= until, seconds + 30)
    scene.check_jobs()


def preempted(scene: Scene) -> None:
    """SIGTERM to the launchers, as a scheduler does; then both jobs start again from their checkpoints."""
    for job in scene.jobs:
        assert job.launcher is not None
        job.launcher.send_signal(signal.SIGTERM)
    scene.wait_until("the jobs to end", lambda: not any(None in job.codes() for job in scene.jobs), 60)
    reached = max(scene.watched.progress())
    scene.start_jobs()

    def resumed() -> bool:
        scene.check_jobs()
        return all(min(job.progress()) > reached + 20 for job in scene.jobs)

    scene.wait_until("the jobs to be further than before", resumed, 90)


def full_disk(scene: Scene) -> str:
    """A small file system without a free byte."""
    folder = scene.folder / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=True)
    scene.callback(lambda: subprocess.run(["umount", "-l", str(folder)], check=True))
    for rank in range(RANKS):
        (folder / f"rank-{rank}.log").touch()
    fill(folder)
    return str(folder)


def fill(folder: Path) -> Path:
    """Take all that is free; returns the file to remove."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
    return ballast


def detector_gone_for_a_moment(scene: Scene) -> None:
    """Reason enough for the agents to write to their log, which they cannot."""
    scene.relay.reset()
    scene.train_on(150)


FAULTS = (
    Fault("rank/stopped", "one rank is stopped for 6 s (SIGSTOP) and continued", stopped, on_ranks=True),
    Fault("rank/killed", "torchrun: one rank gets SIGKILL; torchrun restarts all from their checkpoint", injected,
          inject="killed", torchrun=True, on_ranks=True),
    Fault("rank/terminated", "torchrun: one rank gets SIGTERM; the same", injected,
          inject="terminated", torchrun=True, on_ranks=True),
    Fault("rank/preempted", "torchrun gets SIGTERM, and the job is started again from its checkpoint", preempted,
          torchrun=True, on_ranks=True),
    Fault("rank/log-disk-full", "standard error is a file on a full disk, while connections break", detector_gone_for_a_moment,
          endpoint=lambda scene: scene.relay.endpoint, log_folder=full_disk),
    Fault("rank/stderr-closed", "standard error is a pipe that nobody reads any more", injected, inject="broken_stderr"),
    Fault("rank/clock-forward", "one rank's clock jumps an hour ahead", injected, inject="clock_forward"),
    Fault("rank/clock-back", "one rank's clock jumps an hour back", injected, inject="clock_back"),
    Fault("rank/loader-workers", "a DataLoader with forked workers, new ones every 50 steps", injected,
          inject="loader_workers", variant="loader"),
    Fault("rank/forks", "user code forks; children use the agent, close it, and end by os._exit", injected, inject="forks"),
    Fault("rank/threads", "1,000 threads in each rank", injected, inject="threads"),
    Fault("rank/interpreter-held", "C code of one rank holds the interpreter lock for 3 s", injected,
          inject="interpreter_held", on_ranks=True),
    Fault("rank/many-parameters", "a model with 10,000 parameters more", lambda scene: scene.train_on(20), variant="wide"),
    Fault("rank/ends-by-exit", "the script ends by sys.exit and never closes the agent", lambda scene: scene.train_on(20),
          ending="sys.exit"),
    Fault("rank/ends-by-error", "the script ends by an exception", lambda scene: scene.train_on(20), ending="raise"),
    Fault("rank/ends-at-once", "the script ends by os._exit: no exit handler runs", lambda scene: scene.train_on(20),
          ending="os._exit", loss=Loss.UNSENT, on_ranks=True),
    Fault("agent/callback-raises", "the user's `on_finding` raises", injected, inject="callback_raises"),
    Fault("agent/callback-blocks", "the user's `on_finding` never returns", injected, inject="callback_blocks"),
    Fault("agent/no-memory-for-batches", "MemoryError in the agent's thread, for three batches", injected,
          inject="no_memory_for_batches", loss=Loss.COUNTED),
    Fault("agent/no-memory-in-hooks", "MemoryError in three calls of the agent on the training thread", injected,
          inject="no_memory_in_hooks"),
)  # fmt: skip
