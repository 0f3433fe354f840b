"""Which models and runs are watched in this process: each at most once."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._agent import Core
    from stallwatch.agent._probe.model import WatchedModel

_watched_models: weakref.WeakKeyDictionary[torch.nn.Module, Core] = weakref.WeakKeyDictionary()
_watched_runs: dict[str, Core] = {}


def watched(model: torch.nn.Module) -> Core | None:
    """The core that watches a module, under whatever wrapper."""
    return _watched_models.get(model)


def watched_run(run: str) -> Core | None:
    """The core that speaks for a run in this process."""
    return _watched_runs.get(run)


def claim(core: Core) -> None:
    """Notes that a model and a run are watched."""
    for module in _layers(core.model):
        _watched_models[module] = core
    _watched_runs[core.identity.run] = core


def release(core: Core) -> None:
    """Undoes `claim`."""
    for module in _layers(core.model):
        if _watched_models.get(module) is core:
            del _watched_models[module]
    if _watched_runs.get(core.identity.run) is core:
        del _watched_runs[core.identity.run]


def _layers(model: WatchedModel) -> list[torch.nn.Module]:
    layers = [model.given, model.inner, getattr(model.inner, "_orig_mod", model.inner)]
    if model.wrapper is not None:
        layers.append(model.wrapper)
    return layers
