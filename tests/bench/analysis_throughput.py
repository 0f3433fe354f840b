"""How many rank-steps a second one analysis takes: `python tests/bench/analysis_throughput.py [RANKS] [STEPS] [BATCH]`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.engine.snapshot import decode, encode
from support.simulation import START, Job, attach


def main() -> None:
    """Feed a healthy job with samples every 25 steps, and a tick a second; batches are made beforehand."""
    ranks, steps, batch = (int(text) for text in (*sys.argv[1:], *("8", "20000", "10")[len(sys.argv) - 1 :]))
    job = Job(ranks=ranks, steps=steps, batch_steps=batch, sample_period=50)
    batches = list(job.batches())
    analysis = RunAnalysis(job.run)
    attach(analysis, job, START)
    ticks = 0
    began, cpu = time.perf_counter(), time.process_time()
    for since, rank, each in batches:
        while ticks < since:
            ticks += 1
            analysis.tick(START + ticks)
        analysis.batch(START + since, rank, job.incarnation + rank, each)
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    data = encode(analysis)
    began = time.perf_counter()
    encode(analysis)
    encoding = time.perf_counter() - began
    began = time.perf_counter()
    decode(data)
    decoding = time.perf_counter() - began
    print(f"{ranks} ranks, {steps} steps in batches of {batch}, {ticks} ticks")
    print(f"{ranks * steps / used:,.0f} rank-steps a CPU second ({ranks * steps / wall:,.0f} by the wall)")
    print(f"{1e6 * used / steps:.0f} us of CPU a step, {1e6 * used / len(batches):.0f} us a batch")
    print(
        f"snapshot {len(data) / 1024:,.0f} KiB, encoded in {1e3 * encoding:.1f} ms, decoded in {1e3 * decoding:.1f} ms"
    )


if __name__ == "__main__":
    main()
