"""Starts rank processes at once: a process that has imported torch, and forks one for each order it reads.

One JSON object a line comes in: `{"id", "log", "environment", "order"}`. Out go `{"id", "pid"}` and, when the process has
ended, `{"id", "code"}`. Nothing here starts a thread, so that a fork inherits none; a child leads a session of its own.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import sys
import threading
import traceback
from typing import Any, NoReturn

from stallwatch.agent._lifecycle import leave_forks_alone

POLL_SECONDS = 0.05
WIRE = "stallwatch.v1.telemetry_pb2_grpc"


def main() -> None:
    """Serve until standard input ends; then end whatever still runs."""
    # The agent would do so before it imports gRPC.
    leave_forks_alone()
    # The imports that take the time: also those that DDP makes at its first wrap (0.8 s) and the agent at its start.
    for name in ("faults.catalogue", "faults.job", "torch._dynamo", "stallwatch.agent._attach", WIRE):
        importlib.import_module(name)

    children: dict[int, str] = {}
    buffered = b""
    say({"ready": True})
    while True:
        readable, _, _ = select.select([0], [], [], POLL_SECONDS)
        reap(children)
        if not readable:
            continue
        received = os.read(0, 1 << 16)
        if not received:
            break
        *lines, buffered = (buffered + received).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                be_rank(order)
            children[pid] = order["id"]
            say({"id": order["id"], "pid": pid})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def reap(children: dict[int, str]) -> None:
    """Report who has ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        say({"id": children.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def say(message: dict[str, Any]) -> None:
    """Write one line."""
    os.write(1, json.dumps(message).encode() + b"\n")


def be_rank(order: dict[str, Any]) -> NoReturn:
    """In the child."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order["environment"])
        # The fault suite's own, unless the order says whose.
        module = importlib.import_module(order["order"].get("module", "faults.job"))
        module.run_rank(order["order"], launched=False)
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    # As a script ends, exit handlers and all: the agent has one. What would follow, freeing all modules, takes 0.7 s of CPU.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
