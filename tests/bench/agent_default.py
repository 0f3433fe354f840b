"""What a user gets with nothing but `attach(model, optimizer)`: the sample period, and what the training thread pays.

    python tests/bench/agent_default.py [--out FILE]

Two gloo ranks train models of several sizes whose steps are stretched, by sleeping, to a given length. Of each the table has
the sample period after 64 steps and at the end, the agent's own account of its share of the training thread's wall time, the
lower nine tenths of what it takes of an unsampled step, and the CPU time that the training thread takes more with the agent
than without it: blocks of steps with and without it alternate in one process, so that drift of the machine cancels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

JOBS = (
    (13_000, 0.005, 512),
    (500_000, 0.036, 256),
    (2_200_000, 0.054, 256),
    (8_500_000, 0.144, 192),
    (8_500_000, 0.4, 128),
)
"""Parameters, seconds of a step, steps."""
BLOCK = 32


def build_model(parameters: int) -> Any:
    """An MLP of ten layers of about so many parameters."""
    import torch

    width = max(int((parameters / 10) ** 0.5), 8)
    layers: list[Any] = []
    for _ in range(10):
        layers += [torch.nn.Linear(width, width), torch.nn.Tanh()]
    torch.manual_seed(0)
    return torch.nn.Sequential(*layers), width


def run_rank(folder: Path, endpoint: str, parameters: int, seconds: float, steps: int) -> None:
    """One rank: trains, and rank 0 writes what it saw."""
    import torch
    import torch.distributed as dist

    from stallwatch.agent import attach

    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    module, width = build_model(parameters)
    model = torch.nn.parallel.DistributedDataParallel(module)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    agent = attach(model, optimizer, run="default", endpoint=endpoint)
    core: Any = agent._core
    generator = torch.Generator().manual_seed(rank)
    periods: list[int] = []
    hooks: list[float] = []

    def train(count: int, *, watched: bool) -> tuple[float, float]:
        """CPU seconds of this thread and wall seconds, a step."""
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in range(count):
            due = time.perf_counter() + seconds
            inputs = torch.randn(16, width, generator=generator)
            loss = (model(inputs) - inputs).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if watched:
                agent.log(loss, 16)
            time.sleep(max(due - time.perf_counter(), 0.0))
        return (time.thread_time() - cpu) / count, (time.perf_counter() - wall) / count

    def watched_steps(count: int) -> None:
        for _ in range(count):
            before = core.guard.seconds
            train(1, watched=True)
            hooks.append(core.guard.seconds - before)
            periods.append(core.period.steps)

    watched_steps(64)
    account, began = core.guard.seconds, time.perf_counter()
    watched_steps(steps - 64)
    share = (core.guard.seconds - account) / (time.perf_counter() - began)
    pairs = []
    for number in range(6):
        on_first = number % 2 == 0
        halves = {}
        for watched in (on_first, not on_first):
            if watched:
                core.probe.install()
                core.probe.adopt(optimizer)
                train(2, watched=True)
            else:
                core.probe.remove()
                train(2, watched=False)
            halves[watched] = train(BLOCK, watched=watched)[0]
        pairs.append(halves[True] - halves[False])
    if rank == 0:
        ordered = sorted(hooks[64:])
        result = {
            "parameters": sum(each.numel() for each in model.parameters()),
            "step_seconds": seconds,
            "period_64": periods[63],
            "period_end": periods[-1],
            "longest_after_64": max(periods[63:]),
            "share": share,
            "hook_seconds": statistics.fmean(ordered[: len(ordered) * 9 // 10]),
            "paired_seconds": statistics.median(pairs),
        }
        (folder / "result.json").write_text(json.dumps(result))
    agent.close()
    dist.barrier()
    dist.destroy_process_group()


def run(parameters: int, seconds: float, steps: int) -> dict[str, Any]:
    """One job; what rank 0 saw."""
    from support.telemetry_server import TelemetryServer

    with TelemetryServer() as server, tempfile.TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    __file__,
                    "--rank",
                    folder,
                    server.endpoint,
                    str(parameters),
                    str(seconds),
                    str(steps),
                ],
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]
        if any(each.wait() for each in ranks):
            raise RuntimeError("a rank failed")
        result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
        return result


def main() -> None:
    """Runs all jobs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="also write the numbers there, as JSON")
    options = parser.parse_args()
    if options.rank:
        folder, endpoint, parameters, seconds, steps = options.rank
        run_rank(Path(folder), endpoint, int(parameters), float(seconds), int(steps))
        return
    print(
        "| parameters | step | period after 64 steps, longest, at the end | training thread, its account | unsampled step | paired, CPU a step |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    results = []
    for job in JOBS:
        each = run(*job)
        results.append(each)
        print(
            f"| {each['parameters']:,} | {1000 * each['step_seconds']:.0f} ms "
            f"| {each['period_64']}, {each['longest_after_64']}, {each['period_end']} | {100 * each['share']:.2f} % "
            f"| {1e6 * each['hook_seconds']:.0f} us | {1e6 * each['paired_seconds']:.0f} us |",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
