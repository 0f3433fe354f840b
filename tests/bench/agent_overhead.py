"""What the agent costs a training step: a 5 M-parameter GPT on two gloo ranks, watched and unwatched in turn.

    python tests/bench/agent_overhead.py --steps 512

Blocks of steps alternate in the order on, off, off, on within one pair of processes, so that drift of the machine cancels.
Unwatched blocks have all hooks taken off and the agent's thread asleep. The detector is a gRPC server in a process of its own
and not counted. Two answers are given, which bound the truth from two sides:

- `paired`: CPU time of the whole process per step, watched over unwatched. Everything is in it, the noise too.
- `accounted`: time inside hooks and `log` (the lower nine tenths of steps, for wall time on a shared machine holds other
  processes' time too, and the clock of a thread's own CPU time costs as much as a hook), the CPU time of sampled readings over
  their period, and the CPU time that the kernel has booked on every thread of the agent and of gRPC, over the CPU time of the
  process. It misses only what the agent makes others slower by.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BLOCK = 16
WARM_UP = 80


def build_model() -> Any:
    """A GPT of about five million parameters, with torch's own parts."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.heads = heads

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, c = x.shape
            q, k, v = (
                self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            )
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(y.transpose(1, 2).reshape(b, t, c))
            return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))

    class GPT(nn.Module):
        def __init__(self, vocabulary: int = 1024, width: int = 256, layers: int = 6) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(128, width)
            self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(layers)))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, vocabulary, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.tokens(x) + self.places.weight[: x.shape[1]]
            return self.head(self.norm(self.blocks(h)))

    torch.manual_seed(0)
    return GPT()


class Switch:
    """Takes an agent out of a training and puts it back."""

    def __init__(self, core: Any, optimizer: Any) -> None:
        self._core, self._optimizer = core, optimizer
        self._pause = core.transport._pause
        self._beat = core.transport._heartbeat_seconds

    def off(self) -> None:
        """No hooks, no batches, no heartbeats."""
        self._core.probe.remove()
        self._core.transport._pause = lambda *_: 60.0
        self._core.transport.wake()
        # Let the thread go to sleep before the clock starts.
        time.sleep(0.05)

    def on(self) -> None:
        """As attached."""
        self._core.probe.install()
        self._core.probe.adopt(self._optimizer)
        self._core.transport._pause = self._pause
        self._core.transport.wake()
        time.sleep(0.05)


def agent_thread_seconds(training_thread: int) -> float:
    """CPU seconds of the agent's and gRPC's threads, by the kernel's books."""
    ours = {each.native_id for each in threading.enumerate() if each.native_id != training_thread}
    total = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            name = (task / "comm").read_text().strip()
            if int(task.name) in ours or name.startswith(
                ("event_engine", "grpc", "resolver-execut", "default-execut")
            ):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def run_rank(folder: Path, endpoint: str, steps: int, batch: int, only: tuple[str, ...] | None) -> None:
    """One rank: trains in blocks and writes what they cost."""
    import torch
    import torch.distributed as dist

    from stallwatch.agent import attach
    from stallwatch.agent._config import Probes

    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(build_model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    chosen = {} if only is None else {each.name: each.name in only for each in fields(Probes)}
    agent = attach(model, optimizer, run="overhead", endpoint=endpoint, **chosen)
    core: Any = agent._core
    switch = Switch(core, optimizer)
    generator = torch.Generator().manual_seed(rank)

    def train(count: int, *, watched: bool) -> None:
        for _ in range(count):
            tokens = torch.randint(0, 1024, (batch, 65), generator=generator)
            logits = model(tokens[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if watched:
                agent.log(loss, batch)

    # One list entry a step: what hooks and log took in it, and whether it was sampled.
    hook_seconds: list[tuple[float, bool]] = []
    costs = core.period.observe_cost
    sample_costs: list[float] = []
    core.period.observe_cost = lambda *a: (sample_costs.append(a[0]), costs(*a))
    train(WARM_UP, watched=True)
    sample_costs.clear()
    train_thread = threading.get_native_id()
    blocks: list[dict[str, float]] = []
    pattern = [True, False, False, True]
    for index in range(steps // BLOCK):
        watched = pattern[index % 4]
        if not watched:
            switch.off()
        dist.barrier()
        threads, cpu, wall = agent_thread_seconds(train_thread), time.process_time(), time.perf_counter()
        for _ in range(BLOCK):
            before, sampled = core.guard.seconds, len(sample_costs)
            train(1, watched=watched)
            if watched:
                hook_seconds.append((core.guard.seconds - before, len(sample_costs) > sampled))
        blocks.append(
            {
                "watched": watched,
                "cpu": time.process_time() - cpu,
                "wall": time.perf_counter() - wall,
                "threads": agent_thread_seconds(train_thread) - threads,
            }
        )
        dist.barrier()
        if not watched:
            switch.on()
    result = {
        "blocks": blocks,
        "hooks": [seconds for seconds, sampled in hook_seconds if not sampled],
        "samples": sample_costs,
        "period": core.period.steps,
        "parameters": sum(each.numel() for each in model.parameters()),
        "errors": core.guard.errors,
    }
    agent.close()
    (folder / f"rank-{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def summarise(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers to report, from both ranks."""
    on = [b for rank in ranks for b in rank["blocks"] if b["watched"]]
    off = [b for rank in ranks for b in rank["blocks"] if not b["watched"]]
    pairs = []
    for rank in ranks:
        blocks = rank["blocks"]
        for start in range(0, len(blocks) - 3, 4):
            a, b, c, d = (each["cpu"] for each in blocks[start : start + 4])
            pairs.append((a + d) / (b + c) - 1)
    spread = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")
    hooks = sorted(seconds for rank in ranks for seconds in rank["hooks"])
    samples = [seconds for rank in ranks for seconds in rank["samples"]]
    period = min(rank["period"] for rank in ranks)
    off_cpu = sum(b["cpu"] for b in off) / len(off) / BLOCK
    per_step = statistics.fmean(hooks[: max(len(hooks) * 9 // 10, 1)])
    threads = sum(b["threads"] for b in on) / len(on) / BLOCK
    sample = statistics.median(samples) if samples else float("nan")
    return {
        "parameters": ranks[0]["parameters"],
        "steps_measured": len(hooks) + len(samples),
        "errors": sum(rank["errors"] for rank in ranks),
        "step_cpu_ms": off_cpu * 1e3,
        "step_wall_ms": sum(b["wall"] for b in off) / len(off) / BLOCK * 1e3,
        "paired_cpu_ratio_median": statistics.median(pairs),
        "paired_cpu_ratio_mean": statistics.fmean(pairs),
        "paired_cpu_ratio_standard_error": spread,
        "accounted_ratio": (per_step + threads + (sample / period if samples else 0.0)) / off_cpu,
        "hooks_us_median": statistics.median(hooks) * 1e6,
        "hooks_us_mean_of_lower_90_percent": per_step * 1e6,
        "hooks_us_p95": hooks[int(len(hooks) * 0.95)] * 1e6,
        "background_us_per_step": threads * 1e6,
        "sample_ms": sample * 1e3,
        "sample_period": period,
    }


def measure(steps: int, batch: int, probes: tuple[str, ...] | None) -> dict[str, Any]:
    """Two ranks with these probes only; all that are on by default when None."""
    from support.telemetry_server import TelemetryServer

    with tempfile.TemporaryDirectory() as name, TelemetryServer(heartbeat_seconds=2.0) as server:
        command = [sys.executable, __file__, "--steps", str(steps), "--batch", str(batch)]
        if probes is not None:
            command += ["--only", ",".join(probes)]
        ranks = [
            subprocess.Popen(
                [*command, "--rank-of", name, server.endpoint],
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "OMP_NUM_THREADS": "1",
                },
            )
            for rank in range(2)
        ]
        codes = [each.wait() for each in ranks]
        if any(codes):
            raise SystemExit(f"ranks ended with {codes}")
        return summarise([json.loads(Path(name, f"rank-{rank}.json").read_text()) for rank in range(2)])


def per_probe(steps: int, batch: int) -> str:
    """A table in Markdown: what each probe adds to an agent without any."""
    from stallwatch.agent._config import Probes

    lines = [
        "| probe | hooks, us a step | background, us a step | sample, ms | share of a step's CPU |",
        "| --- | --- | --- | --- | --- |",
    ]
    default = [each.name for each in fields(Probes) if each.default]
    rows = {"none": (), **{name: (name,) for name in default}, "all of these": tuple(default)}
    for title, probes in rows.items():
        seen = measure(steps, batch, probes)
        lines.append(
            f"| {title} | {seen['hooks_us_mean_of_lower_90_percent']:.0f} | {seen['background_us_per_step']:.0f} | "
            f"{seen['sample_ms']:.1f} | {100 * seen['accounted_ratio']:.2f} % |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    """Runs the benchmark and prints a table and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=512, help="steps to measure, watched and unwatched together"
    )
    parser.add_argument("--batch", type=int, default=8, help="sequences of 64 tokens a rank and step")
    parser.add_argument("--only", default=None, metavar="PROBES", help="with these probes only, by comma")
    parser.add_argument("--per-probe", action="store_true", help="a table of what each probe costs")
    parser.add_argument("--rank-of", nargs=2, metavar=("FOLDER", "ENDPOINT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    only = None if arguments.only is None else tuple(filter(None, arguments.only.split(",")))
    if arguments.rank_of:
        folder, endpoint = arguments.rank_of
        run_rank(Path(folder), endpoint, arguments.steps, arguments.batch, only)
        return
    if arguments.per_probe:
        print(per_probe(arguments.steps, arguments.batch))
        return
    summary = measure(arguments.steps, arguments.batch, only)
    for key, value in summary.items():
        print(f"{key:34} {value:>14.5g}", file=sys.stderr)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
