"""Detectors that scale out, as the Helm chart renders them: each beside a node of one Ray cluster, one PostgreSQL for all."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from functools import partial

import pytest

from support.hosts import RAY_PORT, HostedService, allowed, hosts
from support.postgresql import postgresql
from support.rank import Rank, hello, steps
from support.waiting import at_once, wait_until

pytestmark = [
    pytest.mark.skipif(not allowed(), reason="needs root and the right to make network namespaces"),
    pytest.mark.timeout(300),
]
RUN = "shared"


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Three machines: the head of a Ray cluster, and two that are not of it yet; the head's address, and this machine's."""
    with hosts(3, tmp_path_factory.mktemp("hosts")) as (network, (head, *others)):
        head.start_ray(
            *("--head", "--port", str(RAY_PORT), "--num-cpus", "1", "--include-dashboard=false"),
            *("--temp-dir", str(network.ray_folder)),
        )
        yield f"{head.address}:{RAY_PORT}", others, network.gateway


@pytest.fixture
def cluster(started):
    """The same; what joins it leaves it after the test."""
    yield started
    for machine in started[1]:
        machine.kill_ray()


def test_a_detector_must_run_on_a_node_of_the_cluster(cluster, tmp_path):
    """Without a Ray node beside it, it says so and ends; that is why the chart puts one into its pod."""
    address, (host, _other), _gateway = cluster
    service = HostedService(host, tmp_path)
    command = [*service.command(), "--ray-address", address]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 2
    # On a slow machine Ray itself comes to no end in the time that it is given.
    assert re.search(f"cannot join the Ray cluster at {address}|Ray at {address} did not answer", ran.stderr)


def test_a_detector_whose_ray_node_dies_ends_and_goes_on_when_it_is_started_again(cluster, tmp_path):
    """As a container that Kubernetes restarts: with a sentence and an exit code, and nothing lost of its SQLite store."""
    address, (machine, _other), _gateway = cluster
    machine.start_ray("--address", address, "--num-cpus", "0")
    with HostedService(machine, tmp_path, "--ray-address", address) as service:
        rank = Rank(service.grpc_address, hello("restarted"))
        rank.send(steps(0, 50))
        rank.wait_durable()
        machine.kill_ray()
        assert service.process.wait(90) == 1
        assert "the Ray node on this machine is gone: start the detector again" in service.log.read_text()
        machine.start_ray("--address", address, "--num-cpus", "0")
        service.start()
        rank.send(steps(50, 50))
        rank.wait_durable()
        (shown,) = service.get("/api/v1/runs/restarted/ranks")["ranks"]
        assert (shown["steps_received"], shown["steps_missing"]) == (100, 0)
        rank.finish()


def test_two_detectors_share_the_ranks_of_a_run(cluster, tmp_path):
    """Ranks reach one run through either; when a detector is taken away its rank goes on at the other: nothing lost or doubled."""
    address, machines, gateway = cluster
    at_once(*(partial(each.start_ray, "--address", address, "--num-cpus", "0") for each in machines))
    with postgresql(gateway) as url, ExitStack() as stack:
        options = ("--ray-address", address, "--store-url", url)
        first, second = (HostedService(machine, tmp_path / machine.address, *options) for machine in machines)
        for service in (first, second):
            stack.callback(service.end)
        at_once(first.start, second.start)
        ranks = [
            Rank(service.grpc_address, hello(RUN, rank, 2)) for rank, service in enumerate((first, second))
        ]
        for start in range(0, 200, 50):
            for rank in ranks:
                rank.send(steps(start, 50))
        for rank in ranks:
            rank.wait_durable()
        assert first.get(f"/api/v1/runs/{RUN}")["step"] == 199
        assert second.get(f"/api/v1/runs/{RUN}")["step"] == 199

        ranks[0].address = second.grpc_address
        assert first.stop() == 0
        for rank in ranks:
            rank.send(steps(200, 50))
        for rank in ranks:
            rank.wait_durable()

        def shown():
            return {
                rank["rank"]: (rank["steps_received"], rank["steps_missing"])
                for rank in (second.get(f"/api/v1/runs/{RUN}/ranks") or {"ranks": []})["ranks"]
            }

        wait_until("all steps of both", lambda: shown() == {0: (250, 0), 1: (250, 0)})
        for rank in ranks:
            rank.finish()
        wait_until("the end", lambda: second.get(f"/api/v1/runs/{RUN}")["state"] == "finished")
