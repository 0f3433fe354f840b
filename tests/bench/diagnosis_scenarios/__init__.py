"""Trainings with a known cause of their stall, and healthy ones: a registry, one file a theme."""

from __future__ import annotations

from bench.diagnosis_scenarios.scenario import HEALTHY, Scenario

SCENARIOS: dict[str, Scenario] = {}


def load() -> dict[str, Scenario]:
    """All scenarios, by name, in the order of their files."""
    import importlib
    import pkgutil

    for found in pkgutil.iter_modules(__path__):
        if found.name == "scenario":
            continue
        for each in importlib.import_module(f"{__name__}.{found.name}").SCENARIOS:
            if each.name in SCENARIOS and SCENARIOS[each.name] is not each:
                raise ValueError(f"two scenarios are called {each.name}")
            SCENARIOS[each.name] = each
    return SCENARIOS


__all__ = ["HEALTHY", "SCENARIOS", "Scenario", "load"]
