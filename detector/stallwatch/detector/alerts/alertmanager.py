"""Direct push to Alertmanagers: every firing alert, again and again; whoever is not heard of any more is resolved by itself."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import httpx

from stallwatch.detector.alerts.model import Alert
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.payloads import alertmanager_alert, labels_of
from stallwatch.detector.alerts.statistics import AlertStatistics
from stallwatch.detector.trouble import Trouble

LASTING_INTERVALS = 4
"""A firing alert ends so many intervals after it was sent last."""
MOST_ALERTS = 500
"""In one request."""
RETRY_SECONDS = (1.0, 30.0)
"""First and longest pause after a request that failed."""

log = logging.getLogger(__name__)


class AlertmanagerPush:
    """One Alertmanager. It keeps what that one believes, so each endpoint makes up for its own outages."""

    def __init__(
        self,
        index: int,
        url: str,
        interval: float,
        links: Links,
        client: httpx.AsyncClient,
        statistics: AlertStatistics,
        audible: Callable[[], Sequence[Alert]],
    ) -> None:
        self._index = index
        self._url = url.rstrip("/") + "/api/v2/alerts"
        self._interval = interval
        self._links = links
        self._client = client
        self._statistics = statistics
        self._audible = audible
        self._believed: dict[tuple[tuple[str, str], ...], Alert] = {}
        self._failing = 0
        self._trouble = Trouble(log)
        self._wake = asyncio.Event()

    def believes(self, alerts: Sequence[Alert]) -> None:
        """What it was told before this service began: what is over meanwhile is resolved with the first request."""
        self._believed = {labels_of(alert.finding): alert for alert in alerts}

    def forget(self, alerts: Collection[str]) -> None:
        """Alerts that another detector sends: it says when they are over."""
        self._believed = {labels: alert for labels, alert in self._believed.items() if alert.id not in alerts}

    def wake(self) -> None:
        """Something has changed: do not wait for the interval to pass."""
        self._wake.set()

    async def run(self) -> None:
        """Send, for ever."""
        while True:
            self._wake.clear()
            sent = await self.send()
            if sent:
                pause = self._interval
            else:
                first, most = RETRY_SECONDS
                pause = min(first * 2**self._failing, most, self._interval) * random.uniform(0.5, 1.0)  # noqa: S311
            try:
                await asyncio.wait_for(self._wake.wait() if sent else asyncio.sleep(pause), pause)
            except asyncio.TimeoutError:
                continue

    async def send(self) -> bool:
        """One round: everything that fires, and the end of what does not any more."""
        now = time.time()
        firing = {labels_of(alert.finding): alert for alert in self._audible()}
        over = [alert for labels, alert in self._believed.items() if labels not in firing]
        until = now + LASTING_INTERVALS * self._interval
        alerts = [alertmanager_alert(alert, self._links, until) for alert in firing.values()]
        alerts += [alertmanager_alert(alert, self._links, now) for alert in over]
        for start in range(0, len(alerts), MOST_ALERTS):
            if not await self._post(alerts[start : start + MOST_ALERTS]):
                # What it took of this round it takes again.
                self._believed |= firing
                return False
        self._believed = firing
        return True

    async def _post(self, alerts: list[dict[str, Any]]) -> bool:
        try:
            answer = await self._client.post(self._url, json=alerts)
            problem = None if answer.is_success else f"it answered {answer.status_code}"
        except Exception as error:
            # Never the error's text: it may hold the address, and that may hold a password.
            problem = type(error).__name__
        if problem is None:
            self._statistics.alertmanager_sends[self._index] += 1
            self._trouble.over(f"alertmanager {self._index} takes alerts again")
            self._failing = 0
            return True
        self._statistics.alertmanager_errors[self._index] += 1
        self._trouble.failed(f"alertmanager {self._index} does not take alerts ({problem}): trying again")
        self._failing = min(self._failing + 1, 10)
        return False
