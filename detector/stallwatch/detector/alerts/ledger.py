"""Alerts, events and silences in the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import msgspec
from sqlalchemy import delete, select, update

from stallwatch.detector.alerts.model import Alert, Event, RunSummary
from stallwatch.detector.alerts.silences import Silence
from stallwatch.detector.store import Store, tables
from stallwatch.detector.store.codec import decode_finding, encode_finding

EVENT_DAYS = 90
"""Events are history as well as what is still to be sent; after that they go. Alerts stay."""
_DAY = 86_400.0
_CLOCKS = 2.0
"""Seconds that the clocks of detectors may differ by."""


class Ledger:
    """Reads and writes what alerts need to outlive the service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, alerts: Iterable[Alert], events: Iterable[Event]) -> frozenset[str]:
        """Write alerts that changed together with the events that say so.

        Returns the ids of events that were there already: another detector tells them.
        """
        known = set()
        with self._store.transaction() as connection:
            for alert in alerts:
                self._store.upsert(connection, tables.alerts, {"id": alert.id}, _alert_row(alert))
            for event in events:
                if not self._store.add(connection, tables.alert_events, {"id": event.id}, _event_row(event)):
                    known.add(event.id)
        return frozenset(known)

    def see(self, alerts: Mapping[str, float]) -> None:
        """Remember when alerts were seen to fire last."""
        if not alerts:
            return
        columns = tables.alerts.c
        with self._store.transaction() as connection:
            for identity, seen_at in alerts.items():
                connection.execute(
                    update(tables.alerts)
                    .where(columns.id == identity, columns.ended_at.is_(None))
                    .values(seen_at=seen_at)
                )

    def elsewhere(self, alerts: Mapping[str, float]) -> frozenset[str]:
        """Of alerts and when they were seen here last: those that another detector has ended, or sees since."""
        columns = tables.alerts.c
        found = set()
        for identity, seen_at in alerts.items():
            query = select(columns.ended_at, columns.seen_at).where(columns.id == identity)
            for row in self._store.rows(query):
                if row.ended_at is not None or row.seen_at > seen_at + _CLOCKS:
                    found.add(identity)
        return frozenset(found)

    def firing(self) -> list[Alert]:
        """Alerts that were firing when the service ended."""
        return [
            _alert(row) for row in self._store.rows(self._alerts().where(tables.alerts.c.ended_at.is_(None)))
        ]

    def alerts(self, *, run: str | None, status: str, limit: int) -> list[Alert]:
        """The latest alerts, the latest first."""
        query, columns = self._alerts(), tables.alerts.c
        if run is not None:
            query = query.where(columns.run == run)
        if status != "all":
            ended = columns.ended_at
            query = query.where(ended.is_(None) if status == "firing" else ended.is_not(None))
        return [_alert(row) for row in self._store.rows(query.limit(limit))]

    def pending(self) -> list[Event]:
        """Events that some webhook has not been told of, the oldest first."""
        columns = tables.alert_events.c
        query = select(tables.alert_events).where(columns.pending != "").order_by(columns.at, columns.id)
        return [_event(row) for row in self._store.rows(query)]

    def events(self, finding: str) -> list[Event]:
        """The history of one alert, the oldest first."""
        columns = tables.alert_events.c
        query = (
            select(tables.alert_events).where(columns.finding_id == finding).order_by(columns.at, columns.id)
        )
        return [_event(row) for row in self._store.rows(query)]

    def told(self, event: Event) -> None:
        """Remember who is still to be told."""
        columns = tables.alert_events.c
        change = (
            update(tables.alert_events).where(columns.id == event.id).values(pending=_joined(event.pending))
        )
        with self._store.transaction() as connection:
            connection.execute(change)

    def silences(self) -> list[Silence]:
        """All of them, also those that are over, the latest first."""
        query = select(tables.silences).order_by(tables.silences.c.created_at.desc())
        return [Silence(**row._mapping) for row in self._store.rows(query)]  # noqa: SLF001  SQLAlchemy's public name

    def add_silence(self, silence: Silence) -> None:
        """Write one."""
        with self._store.transaction() as connection:
            connection.execute(tables.silences.insert().values(**asdict(silence)))

    def expire_silence(self, identity: str, now: float) -> bool:
        """End one now; False when there is none of this id that holds."""
        columns = tables.silences.c
        change = update(tables.silences).where(columns.id == identity, columns.expires_at > now)
        with self._store.transaction() as connection:
            return connection.execute(change.values(expires_at=now)).rowcount > 0

    def forget_old(self, now: float) -> None:
        """Let go of events and silences that nobody asks for any more."""
        before = now - EVENT_DAYS * _DAY
        columns = tables.alert_events.c
        with self._store.transaction() as connection:
            connection.execute(delete(tables.alert_events).where(columns.at < before, columns.pending == ""))
            connection.execute(delete(tables.silences).where(tables.silences.c.expires_at < before))

    @staticmethod
    def _alerts() -> Any:
        return select(tables.alerts).order_by(tables.alerts.c.started_at.desc(), tables.alerts.c.id)


def _alert_row(alert: Alert) -> dict[str, Any]:
    return {
        "run": alert.finding.run,
        "kind": alert.finding.kind,
        "started_at": alert.started_at,
        "ended_at": alert.ended_at,
        "told": alert.told,
        "finding": encode_finding(alert.finding),
    }


def _alert(row: Any) -> Alert:
    return Alert(decode_finding(row.finding), row.started_at, row.ended_at, row.told)


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "finding_id": event.finding.id,
        "status": event.status,
        "at": event.at,
        "started_at": event.started_at,
        "ended_at": event.ended_at,
        "finding": encode_finding(event.finding),
        "run_summary": msgspec.msgpack.encode(event.run),
        "pending": _joined(event.pending),
    }


def _event(row: Any) -> Event:
    return Event(
        id=row.id,
        status=row.status,
        at=row.at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        finding=decode_finding(row.finding),
        run=msgspec.msgpack.decode(row.run_summary, type=RunSummary),
        pending=tuple(int(index) for index in row.pending.split(",") if index),
    )


def _joined(indices: Iterable[int]) -> str:
    return ",".join(map(str, indices))
