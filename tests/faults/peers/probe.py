"""What a rank does for the tool that watches it."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class NoAgent:
    """Stands where Stallwatch's agent does, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Probe:
    """No tool at all; the others replace what they need."""

    def __init__(self) -> None:
        self.agent = NoAgent()

    def start(self) -> None:
        """The process group is there."""

    def attach(self, model: Any, optimizer: Any) -> None:
        """Model and optimizer are there."""

    def step(self, model: Any) -> AbstractContextManager[None]:
        """Around a training step."""
        return nullcontext()

    def section(self, name: str) -> AbstractContextManager[None]:
        """Around a part of a step: `data_loading` or `fwd`."""
        return nullcontext()

    def after_step(self, step: int) -> None:
        """A step is done."""

    def close(self) -> None:
        """The training is over."""


def open_probe(tool: str) -> Probe:
    """The probe of a tool, by its name in `faults.peers.run`."""
    if tool in {"torch", "traincheck"}:
        return Probe()  # TrainCheck brings everything itself
    probe: Probe = importlib.import_module(f"faults.peers.probe_{tool}").start()
    return probe
