"""What waits to be sent to one agent: never more than a little, however slow the agent reads."""

from __future__ import annotations

import asyncio
from collections import deque

from stallwatch.detector.core.findings import Finding
from stallwatch.v1 import telemetry_pb2 as pb

OUTBOX_MESSAGES = 256
"""Older notices give way to newer ones."""


def notice_of(finding: Finding) -> pb.StreamResponse:
    """What agents are told of a finding: made once for all ranks of a run."""
    notice = pb.FindingNotice(
        id=finding.id,
        kind=finding.kind,
        severity=finding.severity,
        status=finding.status,
        since_step=max(0, finding.since_step),
        detected_step=max(0, finding.detected_step),
        reason=finding.reason,
        ranks=finding.ranks,
        advice=finding.advice,
        confidence=finding.confidence,
    )
    return pb.StreamResponse(finding=notice)


class Outbox:
    """Acknowledgements merge into the latest; everything else is a short queue."""

    def __init__(self) -> None:
        self._messages: deque[pb.StreamResponse] = deque(maxlen=OUTBOX_MESSAGES)
        self._acknowledgement: pb.Acknowledgement | None = None
        self._filled = asyncio.Event()
        self._closed = False

    def acknowledge(self, accepted: int, durable: int) -> None:
        """Say how far the analyzer has come."""
        self._acknowledgement = pb.Acknowledgement(accepted_sequence=accepted, durable_sequence=durable)
        self._filled.set()

    def reject(self, sequence: int, field: str, message: str) -> None:
        """Say that a message was not taken, and why."""
        self._append(
            pb.StreamResponse(rejection=pb.Rejection(sequence=sequence, field=field, message=message))
        )

    def advise(self, interval_seconds: float, reason: str) -> None:
        """Ask for more or less time between batches."""
        self._append(
            pb.StreamResponse(advice=pb.Advice(min_batch_interval_seconds=interval_seconds, reason=reason))
        )

    def notify(self, notice: pb.StreamResponse) -> None:
        """Say that a finding opened, changed or was resolved: a `notice_of` it, which streams may share."""
        self._append(notice)

    def close(self) -> None:
        """Nothing more comes: `take` returns what is left, and then nothing."""
        self._closed = True
        self._filled.set()

    async def take(self) -> list[pb.StreamResponse]:
        """Everything there is to send, in order, waiting for the first; empty when closed."""
        await self._filled.wait()
        if not self._closed:
            self._filled.clear()
        messages = list(self._messages)
        self._messages.clear()
        if self._acknowledgement is not None:
            messages.append(pb.StreamResponse(acknowledgement=self._acknowledgement))
            self._acknowledgement = None
        return messages

    def _append(self, message: pb.StreamResponse) -> None:
        self._messages.append(message)
        self._filled.set()
