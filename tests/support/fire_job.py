"""Trainings in processes of their own, each with a fault in the middle.

`python fire_job.py` imports torch once, then reads orders, one JSON object a line, and forks a process for each, which ends as
any script does. A job prints its outcome as a line of JSON; a line before it says that the fault is due.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.small_training import STEPS, process_group, train
from support.waiting import wait_until

_AT = 30


def say(**values: Any) -> None:
    """One line to who started this."""
    # Not to sys.stdout: when no file can be written, what is buffered there would be in the way.
    os.write(1, json.dumps(values).encode() + b"\n")


def hear() -> None:
    """Wait for a line from who started this."""
    os.read(0, 1)


# --- faults, in the middle of the training ----------------------------------------------------------------------------------


def none(_watch: Any) -> None:
    """Nothing; who started this may do something to the process."""
    say(here=os.getpid())
    hear()


def hold_the_interpreter(_watch: Any) -> None:
    """A call into C that keeps the interpreter's lock for five seconds."""
    ctypes.PyDLL(None).usleep(5_000_000)


def fork_and_train(watch: Any) -> None:
    """The script forks, and its child trains on with the same model, logs, attaches anew, and ends as any process does."""
    child = os.fork()
    if child == 0:
        import torch

        from stallwatch.agent import attach

        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if watch is not None:
            own = attach(model, optimizer, endpoint="127.0.0.1:9", run="child")
            watch.log_eval("no number", 1)
        for _ in range(5):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            if watch is not None:
                watch.log(1.0, 1)
                watch.event("in the child")
                own.log(1.0, 1)
        if watch is not None:
            watch.close()
        sys.exit(0)
    wait_until("the child's end", lambda: os.waitpid(child, os.WNOHANG)[0] == child, 30)


def disk_full(_watch: Any) -> None:
    """No file can be written any more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        Path(tempfile.gettempdir(), f"stallwatch-{os.getpid()}").write_text("x")
    except OSError:
        Path(tempfile.gettempdir(), f"stallwatch-{os.getpid()}").unlink(missing_ok=True)
        return
    raise AssertionError("the disk is not full")


def memory_short(_watch: Any) -> None:
    """Little address space is left."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), resource.RLIM_INFINITY))


def connection_lost_while_memory_short(watch: Any) -> None:
    """Little address space is left, and connections have to be made anew."""
    memory_short(watch)
    none(watch)


def handled_signal(_watch: Any) -> None:
    """The script has a handler of its own for SIGTERM."""

    def handler(_number: int, _frame: Any) -> None:
        say(handled=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, handler)
    none(_watch)
    wait_until("the signal", lambda: False, 30)


def exit_in_thread(_watch: Any) -> None:
    """`sys.exit` in a thread ends that thread."""
    threading.Thread(target=sys.exit).start()


def daemon_threads(_watch: Any) -> None:
    """Threads that run until the interpreter is gone."""

    def run() -> None:
        while True:
            time.monotonic()

    # Each turn of each thread is waited for: 5 ms of it, as by default, makes minutes of a training that takes a second.
    sys.setswitchinterval(0.0005)
    for _ in range(4):
        threading.Thread(target=run, daemon=True).start()


def uncaught(_watch: Any) -> None:
    """An exception of the script."""
    raise ValueError("of the script")


def left_open(_watch: Any) -> None:
    """The script does not close the agent; see `main`."""


FAULTS: dict[str, Callable[[Any], None]] = {
    each.__name__: each
    for each in (
        none,
        hold_the_interpreter,
        fork_and_train,
        disk_full,
        memory_short,
        connection_lost_while_memory_short,
        handled_signal,
        exit_in_thread,
        daemon_threads,
        uncaught,
        left_open,
    )
}


def run(fault: str, kind: str, endpoint: str) -> None:
    """Trains."""
    signal_before = signal.getsignal(signal.SIGTERM)

    def at_step(step: int, watch: Any) -> None:
        if step == _AT:
            if watch is not None and fault != "left_open":
                wait_until("a connection", lambda: watch._core.transport.connected)
            FAULTS[fault](watch)

    agent = {"endpoint": endpoint, "run": "fire", "sample_every": 4} if endpoint else None
    close = fault not in {"left_open", "uncaught", "handled_signal"}
    with tempfile.TemporaryDirectory() as folder, process_group(Path(folder)):
        outcome = train(kind, agent=agent, at_step=at_step, close=close)
    assert fault == "handled_signal" or signal.getsignal(signal.SIGTERM) is signal_before
    say(outcome=asdict(outcome), steps=STEPS)


def main() -> None:
    """Takes orders: `{"fault", "kind", "endpoint", "input", "output", "errors"}`, the last three being paths."""
    # What takes the time: also what DDP imports at its first wrap and the agent at its start. None of it starts a thread.
    for name in ("torch._dynamo", "stallwatch.agent._attach", "stallwatch.agent._agent"):
        importlib.import_module(name)
    # Children are not waited for here: who reads their output learns of their end, and their code is written to a file.
    for line in sys.stdin:
        order = json.loads(line)
        if os.fork():
            continue
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            Path(order["errors"] + ".code").write_text(str(os.waitstatus_to_exitcode(status)))
            os._exit(0)
        say(pid=os.getpid())
        for descriptor, (path, flags) in enumerate(
            (
                (order["input"], os.O_RDONLY),
                (order["output"], os.O_WRONLY),
                (order["errors"], os.O_WRONLY | os.O_CREAT),
            )
        ):
            os.dup2(os.open(path, flags, 0o644), descriptor)
        os.environ.update(order["environment"])
        run(order["fault"], order["kind"], order["endpoint"])
        return


if __name__ == "__main__":
    main()
