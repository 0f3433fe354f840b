"""A real service that is killed and comes back tells nobody what they know."""

from __future__ import annotations

import json
import math

import pytest

from stallwatch.detector.alerts.ledger import Ledger
from stallwatch.detector.store import Store, sqlite_url
from support.monitoring import Receiver
from support.rank import Rank, hello, steps
from support.service import Service
from support.waiting import wait_until


def bad_steps():
    """With a NaN among them."""
    block = steps(0, 20)
    block.loss_sum[15] = math.nan
    return block


@pytest.mark.timeout(180)
def test_a_service_that_was_killed_does_not_repeat_itself(tmp_path):
    """What it says after that is new, and of another run."""
    with Receiver() as receiver:
        settings = {"webhooks": [{"url": receiver.url}]}
        with Service(tmp_path, environment={"STALLWATCH_ALERTS": json.dumps(settings)}) as service:
            first = Rank(service.grpc_address, hello("first"))
            first.send(bad_steps())
            first.wait_durable()
            wait_until("the event", lambda: receiver.bodies)
            store = Store(sqlite_url(tmp_path))
            wait_until("that it is known who was told", lambda: not Ledger(store).pending())
            service.restart()
            wait_until(
                "the first run again", lambda: service.metric("stallwatch_finding_active", run="first")
            )
            second = Rank(service.grpc_address, hello("second"))
            second.send(bad_steps())
            wait_until("the event of the second run", lambda: len(receiver.bodies) > 1)
            told = [(body["run"]["run"], body["status"]) for body in receiver.bodies]
            assert told == [("first", "firing"), ("second", "firing")]
            for rank in (first, second):
                rank.vanish()
            store.close()
