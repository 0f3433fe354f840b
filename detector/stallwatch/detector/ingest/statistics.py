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
    "analyzer_unavailable",
    "unauthenticated",
    "permission",
)


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
    queued_inputs: int = 0
    queued_bytes: int = 0
