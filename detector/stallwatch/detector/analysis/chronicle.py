"""What happened in a run besides its steps: events, restarts, and the states it was called; bounded, for the read models."""

from __future__ import annotations

from dataclasses import dataclass, field

from stallwatch.detector.core.observations import AttemptObservation, EventObservation
from stallwatch.detector.core.views import EventView, StateSpan

_KEPT = 256
"""Of each sort. Users' events go last: an agent that notices a change at every step must not push them out."""


@dataclass(slots=True)
class Chronicle:
    """Events and states, oldest first."""

    declared: list[EventView] = field(default_factory=list)
    automatic: list[EventView] = field(default_factory=list)
    states: list[StateSpan] = field(default_factory=list)

    def event(self, now: float, event: EventObservation) -> None:
        """Take what a user or an agent said has changed."""
        taken = EventView(event.step, event.kind, event.text, event.automatic, now)
        _keep(self.automatic if event.automatic else self.declared, taken)

    def attempt(self, now: float, attempt: AttemptObservation) -> None:
        """Take the beginning of another attempt of the job."""
        text = f"attempt {attempt.attempt} with {attempt.world_size} ranks"
        _keep(self.automatic, EventView(attempt.step, "restart", text, automatic=True, at=now))

    def state(self, now: float, state: str, from_step: int, called_step: int) -> None:
        """Take a state that the run is in from now on."""
        _keep(self.states, StateSpan(state, from_step, called_step, now))

    def events(self) -> tuple[EventView, ...]:
        """All events, by step."""
        return tuple(sorted((*self.declared, *self.automatic), key=lambda event: (event.step, event.at)))


def _keep(kept: list[EventView] | list[StateSpan], item: EventView | StateSpan) -> None:
    kept.append(item)  # type: ignore[arg-type]
    if len(kept) > _KEPT:
        del kept[0]
