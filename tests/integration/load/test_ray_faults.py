"""Machines of a Ray cluster that go away: analyzers come up on others, and without a head the service ends with a sentence."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack

import pytest

from support.postgresql import postgresql
from support.rank import Rank, hello, steps
from support.service import Service
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
STORE_BYTES = 80_000_000
MOST_RUNS = 8


@pytest.fixture
def cluster():
    """A head that analyzers may run on too, and one more node: two raylets on this machine."""
    from ray.cluster_utils import Cluster

    started = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        },
    )
    yield started
    started.shutdown()


def analyzers_under(node) -> int:
    """How many analyzers a node's raylet has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    listed = subprocess.run(
        ["ps", "--ppid", str(raylet), "-o", "args="], capture_output=True, text=True, check=False
    ).stdout
    return sum(line.startswith("ray::RunAnalyzer") for line in listed.splitlines())


@pytest.mark.suite
def test_a_node_that_is_lost_costs_nothing_and_a_head_ends_the_service(cluster, tmp_path):
    """The analyzers of the lost node are restored elsewhere from PostgreSQL, each step once."""
    pytest.importorskip("psycopg", reason="stallwatch[postgresql] is not installed")
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    with ExitStack() as stack:
        url = stack.enter_context(postgresql())
        service = stack.enter_context(Service(tmp_path, "--ray-address", cluster.address, "--store-url", url))
        ranks: list[Rank] = []
        # Ray spreads them as it sees fit: two may well come to the same machine.
        while not 1 <= analyzers_under(node) < len(ranks):
            assert len(ranks) < MOST_RUNS, (
                f"{analyzers_under(node)} of {len(ranks)} are on the second machine"
            )
            ranks.append(Rank(service.grpc_address, hello(f"run{len(ranks)}")))
            ranks[-1].send(steps(0, 50))
            ranks[-1].wait_durable()
        for rank in ranks:
            rank.send(steps(50, 50))
        cluster.remove_node(node, allow_graceful=False)
        for rank in ranks:
            rank.send(steps(100, 50))
            rank.wait_durable(seconds=90)
            (shown,) = service.get(f"/api/v1/runs/{rank.hello.run}/ranks")["ranks"]
            assert (shown["steps_received"], shown["steps_missing"]) == (150, 0)
        assert service.metric("stallwatch_analyzer_restarts_total") >= 1
        cluster.head_node.all_processes["gcs_server"][0].process.kill()
        assert service.process.wait(90) == 1
        assert f"the head of Ray at {cluster.address} has been away for" in service.log.read_text()
        for rank in ranks:
            rank.vanish()


def test_an_end_under_full_load_saves_what_it_called_safe(tmp_path):
    """SIGTERM with queues full and streams open: it ends in time, and after the next start each step is there once."""
    with Service(tmp_path) as service:
        ranks = [Rank(service.grpc_address, hello("loaded", number, 4)) for number in range(4)]
        for number in range(100):
            for rank in ranks:
                rank.send(steps(400 * number, 400))
        for rank in ranks:
            rank.wait_accepted(3)
        assert service.stop() == 0
        told = [rank.durable for rank in ranks]
        service.start()
        for rank in ranks:
            rank.wait_durable()
        shown = wait_until(
            "all ranks",
            lambda: [
                one for one in service.get("/api/v1/runs/loaded/ranks")["ranks"] if one["last_step"] == 39_999
            ],
        )
        assert [(one["steps_received"], one["steps_missing"]) for one in shown] == [(40_000, 0)] * 4
        assert min(told) >= 0
        for rank in ranks:
            rank.finish()
