"""The targets by name: each is a module of `fuzz.targets`, and says here which modules are left without instrumentation.

A target is a module with `MAX_BYTES`, `seeds()` (inputs that are valid, made by code), `one(data)` (everything that it raises is
a crash) and, where bytes alone would hardly get past the first check, `mutate(data, random)`, which changes the structure.
"""

from __future__ import annotations

_NUMBERS = (
    "stallwatch.v1",
    "stallwatch.detector.checks",
    "stallwatch.detector.diagnosis",
    "stallwatch.detector.signals",
    "stallwatch.detector.stats",
)
"""Instrumented they would be guidance for what rests on thousands of steps, and cost most of the time."""
_ANALYSIS = (*_NUMBERS, "stallwatch.detector.analysis.run", "stallwatch.detector.engine.snapshot")

TARGETS: dict[str, tuple[str, ...]] = {
    "wire": _ANALYSIS,
    "analysis": _NUMBERS,
    "snapshot": _NUMBERS,
    "recording": _ANALYSIS,
    "console": _ANALYSIS,
    "delimited": _ANALYSIS,
    "json_logs": _ANALYSIS,
    "tensorboard": _ANALYSIS,
    "wandb": _ANALYSIS,
    "agent_config": _ANALYSIS,
    "service_config": _ANALYSIS,
    "http": _ANALYSIS,
}
"""By name, the modules that are imported before instrumentation begins."""
