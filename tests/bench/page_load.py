"""How long pages take, and how much they transfer: `python tests/bench/page_load.py [--steps 1000000] [--ranks 1024]`.

A real `stallwatch serve` shows a run of so many steps and ranks to a real Chromium. Feeding it 10^9 rank-steps would take hours and
say nothing about pages, so the run comes from its snapshot: the series of all steps are fed to the analysis, and the last hundred
steps by every rank. What the service holds, sends and draws is then what it is for a run that was watched from the start.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from stallwatch.detector.analysis import RunAnalysis
from stallwatch.detector.core.observations import EvaluationObservation, StepObservation
from stallwatch.detector.engine import snapshot
from stallwatch.detector.store import Store, sqlite_url
from support.chromium import Browser, chromium
from support.service import Service
from support.simulation import Job, play

RUN = "large"
OVERVIEW_RUNS = 200
LAST_STEPS = 100
BUDGET_SECONDS, BUDGET_BYTES = 1.0, 300_000


def large_run(steps: int, ranks: int) -> RunAnalysis:
    """The analysis of a run of so many steps, all ranks training, one of them slower."""
    analysis = RunAnalysis(RUN)
    feed_history(analysis, steps - LAST_STEPS)

    def slow(columns: Any) -> None:
        columns.forward_seconds[:, ranks * 7 // 10] *= 1.5

    job = Job(run=RUN, ranks=ranks, steps=LAST_STEPS, first_step=steps - LAST_STEPS, faults=(slow,))
    start = time.time() - 60
    now = play(analysis, job, start)
    analysis.tick(now + 1)
    return analysis


def feed_history(analysis: RunAnalysis, steps: int) -> None:
    """The series of the steps before, as one rank would give them."""
    rng = np.random.default_rng(1)
    book = analysis.state.series
    times = {name: rng.lognormal(np.log(mean), 0.1, 4096) for name, mean in PHASES.items()}
    noise = rng.normal(1.0, 0.02, 4096)
    one, unknown = np.ones(1, np.int64), np.full(1, -1, np.int64)
    for step in range(steps):
        at = step % 4096
        seconds = {f"{name}_seconds": values[at : at + 1] for name, values in times.items()}
        loss = (2.0 + 6.0 / (1.0 + step / 2000.0)) * noise[at]
        book.step(
            StepObservation(
                step=step,
                attempt=0,
                world_size=1,
                ranks=(0,),
                loss_sum=np.array([8 * loss]),
                samples=np.array([8.0]),
                micro_batches=one,
                learning_rates=(1e-3 / (1 + step / 1e5),),
                ddp_iterations=unknown,
                collectives=unknown,
                gradient_fingerprint=unknown,
                **seconds,
            )
        )
        if step % 1000 == 0:
            book.evaluation(EvaluationObservation(step=step, loss=loss * 1.05, samples=100.0))
        if step % 100 == 0:
            book.add("gradient_norm_local", step, 2.0 * noise[at])
            book.add("gradient_norm_reduced", step, 1.0 * noise[at])
            book.add("gradient_noise_scale", step, 500.0 * noise[at])


PHASES = {"step": 0.2, "input": 0.01, "forward": 0.06, "backward": 0.09, "sync": 0.03, "optimizer": 0.01}


def store_runs(folder: Path, analysis: RunAnalysis) -> None:
    """The run, and many more for the overview."""
    store = Store(sqlite_url(folder))
    store.prepare()
    view = analysis.view()
    findings = analysis.findings()
    data = snapshot.encode(analysis)
    print(f"snapshot: {len(data):,} bytes")
    store.save(view, data, findings, taken_at=view.updated_at, recording_bytes=None)
    small = RunAnalysis("small")
    play(small, Job(run="small", ranks=2, steps=60), time.time() - 3600)
    for number in range(OVERVIEW_RUNS):
        name = f"other/{number}"
        small.state.run = name
        seen = replace(small.view(), run=name, state="finished")
        store.save(seen, snapshot.encode(small), (), taken_at=seen.updated_at, recording_bytes=None)
    store.close()


def measure(service: Service, browser: Browser, path: str, tries: int) -> tuple[list[float], int, list[str]]:
    """Seconds until everything of a page is drawn, each time with an empty cache; bytes of everything; complaints."""
    seconds, transferred, complaints = [], 0, []
    for _ in range(tries):
        with browser.tab(service.url) as tab:
            session = tab.page.context.new_cdp_session(tab.page)
            session.send("Network.enable")
            received = {"bytes": 0}

            def add(event: Any, received: dict[str, int] = received) -> None:
                received["bytes"] += int(event["encodedDataLength"])

            session.on("Network.loadingFinished", add)
            began = time.perf_counter()
            tab.visit(service.url + path)
            if tab.page.query_selector("#charts"):
                tab.charted()
            if tab.page.query_selector("#heat"):
                tab.page.wait_for_function("() => Number(document.querySelector('#heat').dataset.loaded) > 0")
            seconds.append(time.perf_counter() - began)
            transferred = max(transferred, received["bytes"])
            complaints += tab.complaints
    return seconds, transferred, complaints


def photograph(service: Service, browser: Browser, folder: Path) -> None:
    """The run's page, to see whether so many ranks can be read."""
    for width in (1280, 390):
        with browser.tab(service.url, viewport={"width": width, "height": 900}) as tab:
            tab.visit(f"{service.url}/runs/{RUN}")
            tab.charted()
            tab.page.wait_for_function("() => Number(document.querySelector('#heat').dataset.loaded) > 0")
            tab.page.screenshot(path=folder / f"large-{width}.png", full_page=True)
            box = tab.page.locator("#heat").bounding_box()
            inside = tab.page.locator("#heat-canvas").bounding_box()
            fits = inside["x"] + inside["width"] <= box["x"] + box["width"]
            print(f"at {width} px the heat map {'fits' if fits else 'is cut'}")


def main() -> int:
    """Measure the pages; 1 when one is over its budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="folder for pictures of the run, wide and narrow")
    options = parser.parse_args()
    began = time.perf_counter()
    analysis = large_run(options.steps, options.ranks)
    print(f"made {options.steps:,} steps, {options.ranks:,} ranks in {time.perf_counter() - began:.0f} s")
    over = False
    with tempfile.TemporaryDirectory() as name:
        store_runs(Path(name), analysis)
        with Service(Path(name)) as service, chromium() as browser:
            # The analyzer restores the run: once, when the service starts.
            deadline = time.monotonic() + 60
            while service.metric("stallwatch_step", run=RUN) is None and time.monotonic() < deadline:
                time.sleep(0.1)
            for path in ("/", f"/runs/{RUN}", f"/runs/{RUN}/ranks/{options.ranks * 7 // 10}"):
                seconds, size, complaints = measure(service, browser, path, options.tries)
                middle = statistics.median(seconds)
                print(
                    f"{path}: {middle:.2f} s (median of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f}), "
                    f"{size:,} bytes, {len(complaints)} complaints {complaints[:3]}"
                )
                over |= middle > BUDGET_SECONDS or size > BUDGET_BYTES or bool(complaints)
            if options.picture:
                photograph(service, browser, options.picture)
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
