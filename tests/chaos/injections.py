"""What ranks do to themselves or to the agent in them, called before every step from the step on at which the fault begins.

Each gets the job and the number of steps since then, and notes `fault` when it is over. Those of a rank are done in both jobs of
a pair; those that break the agent itself only where there is one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

HOUR = 3600.0
FORKS = 5
THREADS = 1000
CHILD_SECONDS = 20.0
HELD_SECONDS = 3

_kept: list[Any] = []


def clock_forward(job: Any, since: int) -> None:
    """An hour later from one step to the next, on one rank."""
    _move_clock(job, since, HOUR)


def clock_back(job: Any, since: int) -> None:
    """An hour earlier."""
    _move_clock(job, since, -HOUR)


def _move_clock(job: Any, since: int, by: float) -> None:
    if since == 0 and job.rank == 1:
        true, true_ns = time.time, time.time_ns
        time.time = lambda: true() + by
        time.time_ns = lambda: true_ns() + int(by * 1e9)
    if since == 100:
        job.note("fault")


def forks(job: Any, since: int) -> None:
    """Children by os.fork that use the agent's handle, then end in both ways."""
    if since % 20 == 0 and since < 20 * FORKS:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                if job.agent is not None:
                    job.agent.log(1.0, 1)
                    job.agent.event("in a child")
                    if since % 40 == 0:
                        job.agent.close()
                code = 0
            finally:
                os._exit(code)
        _wait_for(pid)
    if since == 20 * FORKS:
        # As `subprocess` with a function before exec does, and as it usually is.
        subprocess.run([sys.executable, "-c", "pass"], check=True, preexec_fn=lambda: None)
        job.note("fault")


def _wait_for(pid: int) -> None:
    deadline = time.monotonic() + CHILD_SECONDS
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "the child failed"
            return
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.001)


def loader_workers(job: Any, since: int) -> None:
    """The variant `loader` does it: forked workers, new ones every 50 steps."""
    if since == 120:
        job.note("fault")


def threads(job: Any, since: int) -> None:
    """A thousand threads that wait, for the rest of the job."""
    if since == 0:
        over = threading.Event()
        _kept.append(over)
        for _ in range(THREADS):
            threading.Thread(target=over.wait, daemon=True).start()
    if since == 100:
        job.note("fault")


def interpreter_held(job: Any, since: int) -> None:
    """C code of the user's that keeps the interpreter lock: no other thread runs."""
    if since == 0 and job.rank == 1:
        ctypes.PyDLL(None).sleep(HELD_SECONDS)
    if since == 1:
        job.note("fault")


def killed(job: Any, since: int) -> None:
    """SIGKILL, as of the kernel's out-of-memory killer, in the first attempt."""
    if job.attempt == 0 and since == 0 and job.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.attempt > 0 and job.mark("go") + since >= job.first + 20:
        job.note("fault")


def terminated(job: Any, since: int) -> None:
    """SIGTERM to a rank in the first attempt."""
    if job.attempt == 0 and since == 0 and job.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    if job.attempt > 0 and job.mark("go") + since >= job.first + 20:
        job.note("fault")


def broken_stderr(job: Any, since: int) -> None:
    """Standard error becomes a pipe that nobody reads."""
    if since == 0:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 2)
    if since == 100:
        job.note("fault")


def no_memory_for_batches(job: Any, since: int) -> None:
    """The agent's thread gets no memory for three batches."""
    if job.agent is None:
        return
    from stallwatch.agent import _collector

    if since == 0:
        real, left = _collector.build_batch, [3]

        def build(*arguments: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise MemoryError
            return real(*arguments)

        _collector.build_batch = build
        _kept.append(left)
    elif not _kept[-1][0]:
        job.note("fault")


def no_memory_in_hooks(job: Any, since: int) -> None:
    """The agent's part of the training thread gets no memory in three of its calls."""
    if job.agent is None:
        return
    core = job.agent._core
    if since == 0:
        real, left = core.collector.add_evaluation, [3]

        def add(point: Any) -> None:
            if left[0]:
                left[0] -= 1
                raise MemoryError
            real(point)

        core.collector.add_evaluation = add
        _kept.append(left)
    job.agent.log_eval(1.0, 1)
    if since == 50:
        job.note("fault")


def speak_newer_protocol() -> None:
    """An agent of the next major version."""
    from stallwatch.agent import _agent

    _agent.PROTOCOL_MAJOR += 1


BEFORE_ATTACH: dict[str, Callable[[], None]] = {"newer_protocol": speak_newer_protocol}


def _callback_raises(_finding: Any) -> None:
    message = "the user's callback"
    raise ArithmeticError(message)


def _callback_blocks(_finding: Any) -> None:
    threading.Event().wait()


OPTIONS: dict[str, dict[str, Any]] = {
    "callback_raises": {"on_finding": _callback_raises},
    "callback_blocks": {"on_finding": _callback_blocks},
}
"""Arguments of `attach` with which a fault comes."""


def callback(job: Any, since: int) -> None:
    """The callback was called at the first finding: before the fault is said to begin."""
    if since == 100:
        job.note("fault")


BY_NAME: dict[str, Callable[[Any, int], None]] = {
    "clock_forward": clock_forward,
    "clock_back": clock_back,
    "forks": forks,
    "loader_workers": loader_workers,
    "threads": threads,
    "interpreter_held": interpreter_held,
    "killed": killed,
    "terminated": terminated,
    "broken_stderr": broken_stderr,
    "no_memory_for_batches": no_memory_for_batches,
    "no_memory_in_hooks": no_memory_in_hooks,
    "callback_raises": callback,
    "callback_blocks": callback,
}
