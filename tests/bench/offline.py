"""A rank that trains without a detector for half an hour, and the detector that then comes: what is lost, kept, and how fast it is back.

    python tests/bench/offline.py --minutes 30
    python tests/bench/offline.py --minutes 30 --speed 20      the same steps and batches, twenty times as close together

The rank is a process with the real agent and a small model, at `--rate` steps a second. Nobody listens at its endpoint. After
`--minutes`, a real `stallwatch serve` starts there, while the training goes on. Answered are: steps that were lost, the most bytes
that the buffer held and its limit, what the process grew by, and the seconds from the detector's listening until all that waited
was on its disk. With `--speed`, the waits of the agent between two batches are as much shorter; a detector's work is not, so that
it is then asked for more at a time than in real time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

DELIVERY_SECONDS = 60.0
"""In which all that waited has to be on the detector's disk."""
RUN = "offline"
_WARM_UP_STEPS = 200


class Rank:
    """The process that trains."""

    def __init__(self, endpoint: str, minutes: float, rate: float, speed: float, mib: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--rank", endpoint, *map(str, (minutes, rate, speed))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "STALLWATCH_BUFFER_MIB": str(mib)},
        )

    def __enter__(self) -> Rank:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def hears(self) -> dict[str, Any]:
        """The next that it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the rank ended")
        said: dict[str, Any] = json.loads(line)
        return said

    def tell(self, word: str) -> None:
        """Say something to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()


def measure(
    folder: Path, minutes: float = 30.0, rate: float = 10.0, speed: float = 1.0, mib: float = 64.0
) -> dict[str, Any]:
    """The outage, the return, and what came of it."""
    from support.service import Service

    service = Service(folder / "detector")
    with Rank(service.grpc_address, minutes, rate, speed, mib) as rank:
        outage = rank.hears()
        with service:
            rank.tell(str(time.monotonic()))
            delivery = rank.hears()
            rank.tell("stop")
            end = rank.hears()
            # The agent has closed, so all is durable.
            (seen,) = service.get(f"/api/v1/runs/{RUN}/ranks")["ranks"]
    made = end["steps"]
    return {
        **outage,
        **delivery,
        "steps_made": made,
        "steps_received": seen["steps_received"],
        "steps_lost": made - seen["steps_received"],
        "steps_dropped": seen["dropped_steps"],
        "duplicate_batches": seen["duplicate_batches"],
        "closed_in_order": end["closed_in_order"],
        "limit_bytes": int(mib * (1 << 20)),
    }


def run_rank(endpoint: str, minutes: float, rate: float, speed: float) -> None:
    """Trains, first alone, then until told to stop."""
    import threading

    import psutil
    import torch

    from stallwatch.agent import _transport as transport
    from stallwatch.agent import attach

    torch.set_num_threads(1)
    transport.OFFLINE_BATCH_SECONDS /= speed
    transport.BATCH_SECONDS /= speed
    transport.LONGEST_BATCH_SECONDS /= speed
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    agent = attach(model, optimizer, run=RUN, endpoint=endpoint)
    core: Any = agent._core
    process = psutil.Process()
    steps = 0

    def train(until: Any) -> None:
        nonlocal steps
        begun, first = time.monotonic(), steps
        while not until():
            inputs = torch.randn(16, 32)
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            agent.log(loss, 16)
            steps += 1
            time.sleep(max(begun + (steps - first) / (rate * speed) - time.monotonic(), 0.0))

    train(lambda: steps >= _WARM_UP_STEPS)
    before, cpu_before = process.memory_info().rss, sum(process.cpu_times()[:2])
    total = int(minutes * 60 * rate)
    peak = [0]

    def over() -> bool:
        peak[0] = max(peak[0], core.buffer.bytes + core.collector.bytes)
        return steps >= total

    began = time.monotonic()
    train(over)
    said = {
        "outage_seconds": round(time.monotonic() - began, 1),
        "outage_steps": steps,
        "waiting_batches": len(core.buffer),
        "peak_bytes": peak[0],
        "rss_growth_bytes": process.memory_info().rss - before,
        "cpu_seconds": round(sum(process.cpu_times()[:2]) - cpu_before, 1),
        "agent_seconds": round(core.guard.seconds + core.transport.seconds, 2),
        "threads": threading.active_count(),
        "agent_errors": core.guard.errors + core.transport._errors,
    }
    print(json.dumps(said), flush=True)
    listens: list[float] = []
    reader = threading.Thread(target=lambda: listens.append(float(sys.stdin.readline())), daemon=True)
    reader.start()
    train(lambda: listens)
    backlog = core.buffer.next_sequence - 1
    train(lambda: core.buffer.after(0) is None or core.buffer.after(0).sequence > backlog)
    print(json.dumps({"delivery_seconds": round(time.monotonic() - listens[0], 1)}), flush=True)
    stop = threading.Thread(target=sys.stdin.readline, daemon=True)
    stop.start()
    train(lambda: not stop.is_alive())
    agent.close()
    kept = len(core.buffer) + core.collector.waiting
    print(json.dumps({"steps": steps, "closed_in_order": not kept}), flush=True)


def main() -> None:
    """Measures and prints one line of JSON."""
    if sys.argv[1:2] == ["--rank"]:
        run_rank(sys.argv[2], *map(float, sys.argv[3:6]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=10.0, help="steps a second")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times as fast as in real time")
    parser.add_argument("--mib", type=float, default=64.0, help="STALLWATCH_BUFFER_MIB of the rank")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), given.minutes, given.rate, given.speed, given.mib)
    print(json.dumps(result))
    bad = result["steps_lost"] or result["delivery_seconds"] > DELIVERY_SECONDS
    raise SystemExit(1 if bad or result["peak_bytes"] > result["limit_bytes"] else 0)


if __name__ == "__main__":
    main()
