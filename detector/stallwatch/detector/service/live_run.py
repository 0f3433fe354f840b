"""One run while it is watched: its analyzer, its channel, and what it looked like a moment ago."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from stallwatch.detector.engine.client import AnalyzerClient
from stallwatch.detector.engine.messages import PollResult, Progress
from stallwatch.detector.errors import AnalyzerLostError
from stallwatch.detector.ingest.channel import RunChannel
from stallwatch.detector.ingest.quota import metered

POLL_SECONDS = 1.0
"""How often time passes for the analysis, and how old what the service shows may be."""
UNHEARD_SECONDS = 15.0
"""An analyzer whose agent gave up while it started is there for the agent's next try, which may come 10 s later."""

log = logging.getLogger(__name__)


class LiveRun:
    """Polls one life of an analyzer."""

    def __init__(
        self,
        client: AnalyzerClient,
        channel: RunChannel,
        shown: PollResult,
        on_poll: Callable[[PollResult], None],
    ) -> None:
        self.client = client
        self.channel = channel
        self.shown = shown
        self._shown_of = -1
        """How many inputs had been queued, and applied, when it was asked for what is shown; -1 when some were not applied."""
        self._on_poll = on_poll
        self._opened_at = time.monotonic()
        self._told: frozenset[Progress] = frozenset()
        self._polling = asyncio.create_task(
            metered(channel.meter, self._poll_on()), name=f"poll {client.run}"
        )

    def take(self, result: PollResult) -> None:
        """Show a poll's result, and tell the streams what is durable now."""
        self.shown = result
        # Each poll says what has become durable lately: streams hear it once.
        self.channel.acknowledge([each for each in result.durable if each not in self._told])
        self._told = frozenset(result.durable)
        self.channel.notify(result.changes)
        self._on_poll(result)

    def is_over(self, finished_seconds: float, silent_seconds: float) -> bool:
        """Whether nobody speaks for this run any more, for so long that it need not be held in memory."""
        # What is shown of a time before the last input says nothing: a new run seems to have been silent for ever.
        if self.channel.streams or self._shown_of != self.channel.queued:
            return False
        if math.isinf(self.shown.idle_seconds) and time.monotonic() - self._opened_at < UNHEARD_SECONDS:
            return False
        limit = finished_seconds if self.shown.view.state == "finished" else silent_seconds
        return self.shown.idle_seconds > limit

    async def flush(self) -> None:
        """Apply what is queued and make it durable."""
        await self.channel.drain()
        self.take(await self.client.flush())

    def stop_polling(self) -> None:
        """Let no more time pass."""
        self._polling.cancel()

    async def _poll_on(self) -> None:
        while True:
            started = time.monotonic()
            applied = self.channel.queued if self.channel.is_idle else -1
            try:
                self.take(await self.client.poll(self.channel.horizon(time.time())))
                self._shown_of = applied
            except AnalyzerLostError as error:
                self.channel.lose(str(error))
                return
            except Exception:
                log.exception("run %s: the poll failed", self.client.run)
            await asyncio.sleep(max(0.05, POLL_SECONDS - (time.monotonic() - started)))
