"""What is counted about alerts. Only the event loop's thread touches it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class AlertStatistics:
    """Counts since the service started; receivers by their index in the settings."""

    events: Counter[str] = field(default_factory=Counter)
    """By status."""
    alertmanager_sends: Counter[int] = field(default_factory=Counter)
    alertmanager_errors: Counter[int] = field(default_factory=Counter)
    webhook_sends: Counter[int] = field(default_factory=Counter)
    webhook_errors: Counter[int] = field(default_factory=Counter)
    dead_letters: Counter[int] = field(default_factory=Counter)
