"""What a scrape of many runs costs: `python tests/bench/metrics_scrape.py [--runs 200] [--ranks 64] [--scrapes 20]`.

The real HTTP application behind a real server, with runs of which everything is known and all numbers differ from scrape to scrape.
Scraped as Prometheus does, in its text format and in OpenMetrics, with and without gzip. Prints series a run and seconds a scrape.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from stallwatch.detector.alerts.sentences import SteadySentences
from stallwatch.detector.alerts.statistics import AlertStatistics
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.service.counters import SnapshotCounts, alert_samples, own_samples, snapshot_samples
from support.http_server import serving
from support.shown_runs import full_run, moved

FORMATS = {
    "text": {"accept": "text/plain;version=0.0.4"},
    "text, gzip": {"accept": "text/plain;version=0.0.4", "accept-encoding": "gzip"},
    "OpenMetrics": {"accept": "application/openmetrics-text;version=1.0.0"},
    "OpenMetrics, gzip": {
        "accept": "application/openmetrics-text;version=1.0.0",
        "accept-encoding": "gzip",
    },
}


class Watched:
    """What the service shows."""

    def __init__(self, runs: int, ranks: int) -> None:
        self.runs = [
            full_run(f"team/pretrain-{number:03d}", ranks=ranks, seed=number) for number in range(runs)
        ]
        self.sentences = SteadySentences()

    def move(self, seed: int) -> None:
        """Let time pass."""
        self.runs = [moved(run, 1000 * seed + number) for number, run in enumerate(self.runs)]

    def expose(self) -> Exposed:
        """As the service does."""
        own = (
            *own_samples(IngestStatistics(), len(self.runs), 0),
            *snapshot_samples(SnapshotCounts(), self.runs),
            *alert_samples(AlertStatistics(), 0, 0, 1, 1),
        )
        findings = (each for run in self.runs for each in run.view.findings)
        return Exposed(self.runs, own, self.sentences.of(findings, time.monotonic()), frozenset())

    async def problems(self) -> list[str]:
        """None."""
        return []


def main() -> None:
    """Scrape and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--scrapes", type=int, default=20)
    options = parser.parse_args()
    watched = Watched(options.runs, options.ranks)
    app = create_app(None, watched.expose, watched.problems)  # type: ignore[arg-type]  the page is not asked for
    with serving(app) as client:
        for name, headers in FORMATS.items():
            seconds = []
            for scrape in range(options.scrapes):
                watched.move(scrape)
                started = time.perf_counter()
                answer = client.get("/metrics", headers)
                seconds.append(time.perf_counter() - started)
            body = gzip.decompress(answer.content) if "gzip" in name else answer.content
            lines = [line for line in body.decode().splitlines() if "run=" in line]
            print(
                f"{name}: {len(lines) / options.runs:.1f} series a run, {len(body) / 1e6:.2f} MB "
                f"({len(answer.content) / 1e6:.2f} MB sent), median {1000 * statistics.median(seconds):.0f} ms, "
                f"slowest of {options.scrapes} {1000 * max(seconds):.0f} ms"
            )


if __name__ == "__main__":
    main()
