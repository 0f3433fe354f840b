"""What the gateway counts about itself, for `/metrics`. Only the event loop's thread touches it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

PAYLOADS = ("hello", "batch", "heartbeat", "goodbye", "unknown")
REFUSALS = (
    "invalid_hello",
    "protocol",
    "no_hello",
    "too_many_runs",
    "too_many_streams",
    "too_many_streams_of_account",
    "too_many_ranks",
    "analyzer_unavailable",
    "unauthenticated",
    "permission",
)

THROTTLES = ("share", "bytes", "memory")
"""Why a message waits that its run's own queue had room for: its run takes more of the event loop than its share, sends more bytes
a second than it may, or holds much while all queues together are too long."""


@dataclass(slots=True)
class IngestStatistics:
    """Counts since the service started."""

    streams: int = 0
    """Open now."""
    streams_total: int = 0
    streams_refused: Counter[str] = field(default_factory=Counter)
    """By reason, of `REFUSALS`."""
    messages: Counter[str] = field(default_factory=Counter)
    """By payload, of `PAYLOADS`."""
    bytes: int = 0
    steps: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """Messages not taken, by payload."""
    duplicates: int = 0
    failures: int = 0
    """Inputs that the analysis failed on."""
    inputs_applied: int = 0
    apply_seconds: float = 0.0
    backpressure_seconds: float = 0.0
    """Time that streams were not read because their run's queue was full."""
    throttled: dict[str, float] = field(default_factory=lambda: dict.fromkeys(THROTTLES, 0.0))
    """Seconds that messages waited because their run wants more than its share, by reason, of `THROTTLES`."""
    readers_throttled: dict[str, float] = field(default_factory=lambda: dict.fromkeys(THROTTLES, 0.0))
    """The same of requests over HTTP, of which only the share is limited."""
    queued_inputs: int = 0
    queued_bytes: int = 0
