"""One detector, filled by a real job and by ranks that tell what such a job rarely does, and one Prometheus that scrapes it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from stallwatch.v1 import telemetry_pb2 as pb
from support.job import Job
from support.prometheus_server import Prometheus
from support.rank import Rank, hello, steps
from support.service import Service
from support.waiting import at_once, wait_until

TRAINED = "trained"
"""A real gloo job, whose second rank applies its own gradient from `BYPASS_FROM` on."""
TOLD = "team/told:1"
"""Ranks that speak the protocol: learning ends, one rank falls behind, steps are lost, losses are evaluated."""
BYPASS_FROM, STEPS = 120, 260
LEARNS_UNTIL, TOLD_STEPS, BEHIND, BLOCK = 200, 1500, 100, 50
NAMESPACE = "ml"
NOBODY = "http://127.0.0.1:9"
ALERTS = {"alertmanagers": [NOBODY], "webhooks": [{"url": NOBODY}]}
"""Receivers that are not there: their series are."""


@dataclass(frozen=True)
class Observed:
    """What the tests ask."""

    service: Service
    prometheus: Prometheus


@pytest.fixture(scope="session")
def observed(tmp_path_factory) -> Iterator[Observed]:
    """The detector scraped as on one machine; and as in a cluster, where the scrape adds a namespace, by two pods at once."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("grafana")
    service = Service(folder / "service", environment={"STALLWATCH_ALERTS": json.dumps(ALERTS)})
    target = f"127.0.0.1:{service.http_port}"
    pods = [
        {"targets": [target], "labels": {"namespace": NAMESPACE, "pod": f"detector-{number}"}}
        for number in (0, 1)
    ]
    scrapes = [
        {"job_name": "machine", "static_configs": [{"targets": [target]}]},
        {"job_name": "cluster", "static_configs": pods},
    ]
    prometheus = Prometheus(folder / "prometheus", scrapes)
    with ExitStack() as stack:
        stack.callback(service.end)
        stack.callback(prometheus.end)
        at_once(service.start, prometheus.start)
        arguments = ("--steps", str(STEPS), "--bypass", f"1:{BYPASS_FROM}:{STEPS}", "--batch", "4")
        with Job(folder, *arguments, ranks=2, run=TRAINED, endpoint=service.grpc_address) as job:
            ranks = tell(service.grpc_address)
            job.wait(150)
            for expression in (
                f'stallwatch_run_state{{run="{TRAINED}", state="finished"}} == 1',
                f'stallwatch_finding_active{{run="{TRAINED}", kind="missing_gradient_sync"}}',
                f'stallwatch_finding_active{{run="{TOLD}", kind="plateau"}}',
            ):
                wait_until(
                    expression, lambda asked=expression: len(prometheus.instant(asked)) == 1 + len(pods)
                )
            yield Observed(service, prometheus)
            for rank in ranks:
                rank.vanish()


def tell(address: str) -> list[Rank]:
    """Start the ranks of `TOLD`; they stay connected."""
    ranks = [Rank(address, hello(TOLD, number, 2)) for number in (0, 1)]
    for first in range(0, TOLD_STEPS, BLOCK):
        loss = 1.65 if first >= LEARNS_UNTIL else None
        reduced = random.Random(first).lognormvariate(0.0, 0.1)
        for number, rank in enumerate(ranks):
            if number and first >= TOLD_STEPS - BEHIND:
                continue
            rank.send(
                steps(first, BLOCK, loss=loss),
                samples=[sample(first, number, reduced)],
                evaluations=[pb.EvaluationPoint(step=first, loss=1.7, samples=64)] if number == 0 else [],
            )
    ranks[1].send(dropped=[pb.Dropped(reason=pb.DROP_REASON_BUFFER_FULL, count=7)])
    return ranks


def sample(step: int, rank: int, reduced: float) -> pb.SampledRecord:
    """Norms of a gradient whose noise scale is twice the batch of both ranks: in squares, signal 0.8 of 4 on each."""
    local = random.Random(step * 2 + rank + 1).lognormvariate(0.0, 0.1)
    return pb.SampledRecord(
        step=step,
        samples=8.0,
        local_gradient_square=4.0 * local,
        reduced_gradient_square=2.4 * reduced,
        produced_gradient_square=2.4 * reduced,
        update_square=0.01,
        parameter_square=100.0,
        optimizer_state_step=-1,
    )
