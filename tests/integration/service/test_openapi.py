"""The API against its own description: whatever is asked, right or wrong, the answer is one that the document names."""

from __future__ import annotations

import math
from urllib.parse import quote

import pytest

from support.openapi import problems, schemathesis
from support.rank import steps
from support.waiting import wait_until


@pytest.fixture
def told(service, run, attach):
    """A run with two ranks, a finding, and a series."""
    ranks = [attach(number, 2) for number in range(2)]
    for number in range(10):
        for rank in ranks:
            block = steps(number * 10, 10)
            if rank.hello.rank == 0 and number >= 2:
                block.loss_sum[3] = math.nan
            rank.send(block)
    for rank in ranks:
        rank.wait_durable()
    path = f"/api/v1/runs/{quote(run, safe='')}"
    wait_until("the finding", lambda: (service.get(path) or {}).get("findings"))
    wait_until("the alert", lambda: service.get(f"/api/v1/alerts?run={quote(run)}")["alerts"])
    return run


def test_answers_of_a_live_run_are_as_described(service, told):
    """Every resource, with data in it."""
    document = service.get("/api/v1/openapi.json")
    for path, methods in document["paths"].items():
        if "get" in methods:
            answer = service.get(path.format(run=quote(told, safe=""), name="loss"))
            assert problems(document, path, "get", 200, answer) == [], path


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("examples", "seconds"),
    [
        pytest.param(2, 30, id="brief"),
        pytest.param(8, 120, id="long", marks=pytest.mark.suite),
    ],
)
def test_no_request_is_answered_by_anything_undescribed(service, told, examples, seconds):
    """Right ones are served, wrong ones refused, none ends in a 5xx: what Schemathesis makes of the document."""
    outcome = schemathesis(service.url, told, "--max-examples", str(examples), "--max-time", str(seconds))
    assert outcome.returncode == 0, outcome.stdout[-6000:] + outcome.stderr[-2000:]
    assert "Tested: 13" in outcome.stdout
