"""All scenarios, by name, in the order of their themes."""

from __future__ import annotations

from faults.scenario import Scenario
from faults.scenarios import (
    causes_data,
    causes_optimization,
    changed,
    data,
    elastic,
    healthy,
    progress,
    scaling,
    sync,
    update,
)

THEMES = (sync, update, changed, data, scaling, progress, elastic, causes_optimization, causes_data, healthy)

SCENARIOS: dict[str, Scenario] = {}
for _theme in THEMES:
    for _scenario in _theme.SCENARIOS:
        if _scenario.name in SCENARIOS:
            raise ValueError(f"two scenarios are called {_scenario.name}")
        SCENARIOS[_scenario.name] = _scenario
