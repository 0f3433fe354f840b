"""One detector for the tests of load and faults; those that take its store away have their own."""

from __future__ import annotations

import pytest

from support.service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The detector, with a store that saves at once and streams that are few."""
    with Service(tmp_path_factory.mktemp("service"), environment={"STALLWATCH_MAX_STREAMS": "40"}) as service:
        yield service
