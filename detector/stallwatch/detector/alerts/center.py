"""Alerts of a running service: looks at the runs each second, keeps what it concludes, and tells whom it concerns."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx

from stallwatch.detector.alerts.alertmanager import AlertmanagerPush
from stallwatch.detector.alerts.book import AlertBook
from stallwatch.detector.alerts.ledger import Ledger
from stallwatch.detector.alerts.model import Alert, Event
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.alerts.payloads import RenderFinding
from stallwatch.detector.alerts.sentences import SteadySentences
from stallwatch.detector.alerts.settings import AlertSettings
from stallwatch.detector.alerts.silences import Silence, silenced_by
from stallwatch.detector.alerts.statistics import AlertStatistics
from stallwatch.detector.alerts.webhooks import WebhookSender
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import RunView
from stallwatch.detector.errors import StoreError
from stallwatch.detector.store import Store
from stallwatch.detector.trouble import Trouble

LOOK_SECONDS = 1.0
SHARE_SECONDS = 5.0
"""Between two looks at what other detectors do that share the store."""
REQUEST_SECONDS = 10.0
"""For one request to a receiver."""

log = logging.getLogger(__name__)

Shown = Callable[[], Iterable[tuple[RunView, Sequence[Finding]]]]
"""The watched runs, each with all its findings."""


class AlertCenter:
    """The book, the store and the receivers."""

    def __init__(
        self, store: Store, settings: AlertSettings, links: Links, render: RenderFinding, shown: Shown
    ) -> None:
        self.links = links
        self.statistics = AlertStatistics()
        self._ledger = Ledger(store)
        self._settings = settings
        self._shown = shown
        self._book = AlertBook(webhooks=len(settings.webhooks))
        self._sentences = SteadySentences()
        self._quiet: frozenset[str] = frozenset()
        self._shared_at = 0.0
        self._unsaved: dict[str, Alert] = {}
        self._unsaved_events: dict[str, Event] = {}
        self._pending: dict[str, Event] = {}
        self._sharing, self._saving = Trouble(log), Trouble(log)
        self._client = httpx.AsyncClient(timeout=REQUEST_SECONDS)
        # It would log every address, and some of them are secrets.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._pushes = [
            AlertmanagerPush(
                index,
                url.get_secret_value(),
                settings.resend_seconds,
                links,
                self._client,
                self.statistics,
                self.audible,
            )
            for index, url in enumerate(settings.alertmanagers)
        ]
        self._senders = [
            WebhookSender(index, webhook, links, self._client, self.statistics, render, self._delivered)
            for index, webhook in enumerate(settings.webhooks)
        ]
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Go on where the service before ended."""
        now = time.time()
        firing, silences, pending = await asyncio.to_thread(self._load, now)
        self._book.restore(firing, [each for each in silences if each.is_active(now)], now)
        for push in self._pushes:
            push.believes([alert for alert in firing if self._book.silence_of(alert, now) is None])
        self._send(
            replace(each, pending=tuple(i for i in each.pending if i < len(self._senders)))
            for each in pending
        )
        for push in self._pushes:
            self._spawn(push.run())
        for sender in self._senders:
            self._spawn(sender.run())
        self._spawn(self._look_on())

    async def stop(self) -> None:
        """Save what is concluded. Nothing is resolved: the service may be back in a moment."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Who has been told must be known to the service that comes next.
        await asyncio.gather(*self._writes)
        await self._save()
        await self._client.aclose()

    def audible(self) -> list[Alert]:
        """Alerts that are firing and not silenced."""
        return self._book.audible(time.time())

    def sentences(self) -> Mapping[str, str]:
        """Of each firing finding, the sentence that its series carries."""
        return self._sentences.of(
            (each for view, _all in self._shown() for each in view.findings), time.monotonic()
        )

    def silenced(self) -> frozenset[str]:
        """Findings that are shown to fire and are kept quiet, from the first moment on: the rules look at both together."""
        now, silences = time.time(), tuple(self._book.silences.values())
        if not silences:
            return frozenset()
        firing = (each for view, _all in self._shown() for each in view.findings)
        return frozenset(each.id for each in firing if silenced_by(silences, each.run, each.kind, now))

    def counts(self) -> tuple[int, int, int, int]:
        """Firing and silenced alerts, Alertmanagers, webhooks."""
        return len(self._book.firing), len(self._quiet), len(self._pushes), len(self._senders)

    async def alerts(self, run: str | None, status: str, limit: int) -> list[tuple[Alert, Silence | None]]:
        """The latest alerts, each with what keeps it quiet now."""
        stored = await asyncio.to_thread(self._ledger.alerts, run=run, status=status, limit=limit)
        now = time.time()
        latest = [
            self._book.firing.get(alert.id, alert) if alert.ended_at is None else alert for alert in stored
        ]
        return [(each, None if each.ended_at else self._book.silence_of(each, now)) for each in latest]

    async def silences(self) -> list[Silence]:
        """All silences, the latest first."""
        return await asyncio.to_thread(self._ledger.silences)

    async def silence(self, run: str | None, kind: str | None, seconds: float, comment: str) -> Silence:
        """Begin a silence."""
        now = time.time()
        silence = Silence(uuid.uuid4().hex[:12], run, kind, comment, now, now + seconds)
        await asyncio.to_thread(self._ledger.add_silence, silence)
        self._book.silences[silence.id] = silence
        self._wake()
        return silence

    async def unsilence(self, identity: str) -> bool:
        """End a silence; False when there is none of this id that holds."""
        ended = await asyncio.to_thread(self._ledger.expire_silence, identity, time.time())
        self._book.silences.pop(identity, None)
        self._wake()
        return ended

    async def look(self) -> None:
        """Compare what runs look like with what is known, and tell what is new."""
        now = time.time()
        for view, findings in self._shown():
            self._book.observe(view, findings, now)
        if now - self._shared_at >= SHARE_SECONDS:
            await self._share(now)
        self._book.pass_time(now)
        alerts, events = self._book.take_changes()
        self._unsaved.update((alert.id, alert) for alert in alerts)
        self._unsaved_events.update((event.id, event) for event in events)
        told_by_others = await self._save()
        mine = [event for event in events if event.id not in told_by_others]
        for event in mine:
            self.statistics.events[event.status] += 1
        self._send(mine)
        quiet, self._quiet = self._quiet, self._book.silenced(now)
        if alerts or quiet != self._quiet:
            self._wake()

    def _load(self, now: float) -> tuple[list[Alert], list[Silence], list[Event]]:
        self._ledger.forget_old(now)
        return self._ledger.firing(), self._ledger.silences(), self._ledger.pending()

    async def _share(self, now: float) -> None:
        """Say which alerts are seen here, let go of those that are another detector's, and take over silences."""
        seen = self._book.seen(now - SHARE_SECONDS)
        unseen = self._book.unseen(now - SHARE_SECONDS)
        try:
            silences, gone = await asyncio.to_thread(self._read_shared, seen, unseen)
        except StoreError as error:
            self._sharing.failed(f"the store does not say what other detectors do: {error}")
            return
        self._sharing.over("the store says what other detectors do")
        self._shared_at = now
        self._book.silences = {
            each.id: each
            for each in (*silences, *self._book.silences.values())
            # One that was set while the store was read is kept.
            if each.is_active(now) and (each in silences or each.created_at >= now)
        }
        self._book.forget(gone)
        for push in self._pushes:
            push.forget(gone)

    def _read_shared(
        self, seen: Mapping[str, float], unseen: Mapping[str, float]
    ) -> tuple[list[Silence], frozenset[str]]:
        self._ledger.see(seen)
        return self._ledger.silences(), self._ledger.elsewhere(unseen)

    async def _save(self) -> frozenset[str]:
        """Write what is new; while that is not possible alerts are sent all the same.

        Returns the events that another detector tells.
        """
        if not self._unsaved and not self._unsaved_events:
            return frozenset()
        alerts, events = dict(self._unsaved), dict(self._unsaved_events)
        try:
            known = await asyncio.to_thread(self._ledger.save, alerts.values(), events.values())
        except StoreError as error:
            self._saving.failed(f"alerts are not saved yet: {error}")
            return frozenset()
        self._saving.over("alerts are saved")
        self._unsaved = {key: each for key, each in self._unsaved.items() if alerts.get(key) is not each}
        self._unsaved_events = {
            key: each for key, each in self._unsaved_events.items() if events.get(key) is not each
        }
        return known

    def _send(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.pending:
                self._pending[event.id] = event
            for index in event.pending:
                self._senders[index].put(event)

    def _delivered(self, event: Event, index: int) -> None:
        known = self._pending.get(event.id, event)
        left = replace(known, pending=tuple(each for each in known.pending if each != index))
        self._pending[event.id] = left
        if not left.pending:
            del self._pending[event.id]
        if event.id in self._unsaved_events:
            self._unsaved_events[event.id] = left
        else:
            self._spawn(self._remember(left), self._writes)

    async def _remember(self, event: Event) -> None:
        try:
            await asyncio.to_thread(self._ledger.told, event)
        except StoreError as error:
            log.warning("event %s may be sent again after a restart: %s", event.id, error)

    async def _look_on(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("alerts were not looked after")
            await asyncio.sleep(LOOK_SECONDS)

    def _wake(self) -> None:
        for push in self._pushes:
            push.wake()

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]] | None = None) -> None:
        tasks = self._tasks if among is None else among
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
