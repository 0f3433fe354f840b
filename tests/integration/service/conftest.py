"""One detector for all tests of a session: Ray is heavy. Each test has runs of its own."""

from __future__ import annotations

import itertools
import re

import pytest

from support.rank import Rank, hello
from support.service import Service

_counter = itertools.count(1)


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory):
    """The detector, with a recording, and runs that leave soon after they finish."""
    directory = tmp_path_factory.mktemp("service")
    environment = {"STALLWATCH_FINISHED_RUN_SECONDS": "5"}
    with Service(directory, "--record", str(directory / "recordings"), environment=environment) as service:
        yield service


@pytest.fixture
def service(shared_service):
    """The detector, running, whatever a test before has done to it."""
    if shared_service.process.poll() is not None:
        shared_service.start()
    return shared_service


@pytest.fixture
def run(request) -> str:
    """A run's name that no other test has."""
    return f"test/{re.sub(r'[^a-z0-9]+', '-', request.node.name.lower())[:60]}:{next(_counter)}"


@pytest.fixture
def attach(service, run):
    """Opens ranks of this test's run; they say goodbye at the end."""
    ranks: list[Rank] = []

    def open_rank(number: int = 0, world_size: int = 1, **fields) -> Rank:
        rank = Rank(service.grpc_address, hello(fields.pop("run", run), number, world_size, **fields))
        ranks.append(rank)
        return rank

    yield open_rank
    for rank in ranks:
        rank.finish()
