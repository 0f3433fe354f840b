"""Webhooks: each event once, in order, with patience that has an end."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from stallwatch.detector.alerts.model import Event
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.payloads import RenderFinding, event_body, slack_body
from stallwatch.detector.alerts.settings import Webhook
from stallwatch.detector.alerts.statistics import AlertStatistics

MOST_WAITING = 1000
"""Events kept for one webhook; the oldest goes first."""
RETRY_SECONDS = (1.0, 60.0)
"""First and longest pause between two tries of one event."""
LAST_SECONDS = 2.0
"""At the end: for the answer to what is on its way. Without it the next detector would have to send it again."""
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429})
"""Answers below 500 that say `not now`; all others say `never`."""

log = logging.getLogger(__name__)

_Outcome = tuple[str | None, bool, float]
"""What went wrong, whether for good, and how long the receiver asks to be left alone."""


@dataclass(slots=True)
class _Waiting:
    event: Event
    since: float = field(default_factory=time.monotonic)


class WebhookSender:
    """One receiver."""

    def __init__(
        self,
        index: int,
        webhook: Webhook,
        links: Links,
        client: httpx.AsyncClient,
        statistics: AlertStatistics,
        render: RenderFinding,
        done: Callable[[Event, int], None],
    ) -> None:
        self.index = index
        self._webhook = webhook
        self._links = links
        self._client = client
        self._statistics = statistics
        self._render = render
        self._done = done
        self._waiting: deque[_Waiting] = deque()
        self._work = asyncio.Event()

    def put(self, event: Event) -> None:
        """Send this as well."""
        self._waiting.append(_Waiting(event))
        # The first may be on its way.
        if len(self._waiting) > MOST_WAITING:
            oldest = self._waiting[1]
            del self._waiting[1]
            self._give_up(oldest.event, "too many later ones wait")
        self._work.set()

    async def run(self) -> None:
        """Send, for ever."""
        while True:
            await self._work.wait()
            while self._waiting:
                await self._deliver(self._waiting[0])
                self._waiting.popleft()
            self._work.clear()

    async def _deliver(self, waiting: _Waiting) -> None:
        event, pause = waiting.event, RETRY_SECONDS[0]
        while True:
            problem, final, asked_pause = await self._try(event)
            if problem is None:
                return
            self._statistics.webhook_errors[self.index] += 1
            left = self._webhook.retry_seconds - (time.monotonic() - waiting.since)
            if final or left <= 0:
                self._give_up(event, problem)
                return
            log.info("webhook %d did not take event %s (%s): trying again", self.index, event.id, problem)
            # Jitter, so that receivers that were away are not run over by everybody at once.
            wait = max(asked_pause, pause * random.uniform(0.5, 1.0))  # noqa: S311
            await asyncio.sleep(min(wait, left))
            pause = min(2 * pause, RETRY_SECONDS[1])

    async def _try(self, event: Event) -> _Outcome:
        """Post; what succeeded is written down, also when this is cancelled meanwhile."""
        posting = asyncio.create_task(self._post(event))
        try:
            outcome = await asyncio.shield(posting)
        except asyncio.CancelledError:
            await asyncio.wait({posting}, timeout=LAST_SECONDS)
            if posting.done():
                self._note(event, posting.result())
            posting.cancel()
            raise
        self._note(event, outcome)
        return outcome

    def _note(self, event: Event, outcome: _Outcome) -> None:
        if outcome[0] is None:
            self._statistics.webhook_sends[self.index] += 1
            self._done(event, self.index)

    async def _post(self, event: Event) -> _Outcome:
        body = (
            slack_body(event, self._links)
            if self._webhook.format == "slack"
            else event_body(event, self._links, self._render)
        )
        try:
            token = self._webhook.token()
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            answer = await self._client.post(self._webhook.address(), json=body, headers=headers)
        except Exception as error:
            # Never the error's text: it may hold the address, which is a secret.
            return type(error).__name__, False, 0.0
        if answer.is_success:
            return None, False, 0.0
        final = answer.status_code < 500 and answer.status_code not in _WORTH_ANOTHER_TRY
        asked = answer.headers.get("retry-after", "")
        return f"it answered {answer.status_code}", final, float(asked) if asked.isdigit() else 0.0

    def _give_up(self, event: Event, why: str) -> None:
        self._statistics.dead_letters[self.index] += 1
        log.error(
            "webhook %d: event %s is given up (%s): %s of finding %s: %s",
            self.index,
            event.id,
            why,
            event.status,
            event.finding.id,
            event.finding.reason,
        )
        self._done(event, self.index)
