"""Several runs beside each other: in which order, and in what they differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stallwatch.detector.core.learning import STOPPED_STATES
from stallwatch.detector.report.outcome import Outcome

ORDERS = ("loss", "state", "name", "given")
# Files that programs write beside their logs, with what the run was started with.
_SETTINGS = (
    "hparams.yaml",
    "config.yaml",
    "config.json",
    "args.json",
    "args.yaml",
    "params.json",
    "training_args.json",
)
_MOST_BYTES = 1_000_000
_MOST_KEYS = 12
_STATE_ORDER = ("improving", "slow", "warming_up", "plateau", "oscillating", "diverging")


def ordered(outcomes: Sequence[Outcome], order: str) -> list[Outcome]:
    """The best loss first, or what still learns first, or by name, or as they were given."""
    if order == "loss":
        return sorted(outcomes, key=lambda one: level(one) if math.isfinite(level(one)) else math.inf)
    if order == "state":
        return sorted(outcomes, key=lambda one: (_STATE_ORDER.index(one.state), level(one)))
    if order == "name":
        return sorted(outcomes, key=lambda one: (one.log.name, one.log.file))
    return list(outcomes)


def level(outcome: Outcome) -> float:
    """Where the loss stands at the end, smoothed where there is enough for that; NaN for nowhere."""
    if outcome.final is not None:
        return outcome.final.level
    finite = outcome.log.points.loss[np.isfinite(outcome.log.points.loss)]
    return float(finite[-1]) if finite.size else math.nan


def differences(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """What is not the same in all runs, by name: one text a run. From the logs, and from settings that lie beside them."""
    facts = [_facts(outcome) for outcome in outcomes]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    table = {name: [fact.get(name, "-") for fact in facts] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def differing_settings(outcomes: Sequence[Outcome]) -> tuple[dict[str, list[str]], int]:
    """The rows of `differences` that are shown, and how many more there are."""
    found = differences(outcomes)
    kept = dict(list(found.items())[:_MOST_KEYS])
    return kept, len(found) - len(kept)


def stopped(outcomes: Sequence[Outcome]) -> int:
    """How many no longer learn at their end."""
    return sum(outcome.state in STOPPED_STATES for outcome in outcomes)


def _facts(outcome: Outcome) -> dict[str, str]:
    log = outcome.log
    rates = log.points.learning_rate[np.isfinite(log.points.learning_rate)]
    paces = np.diff(log.points.step)
    facts = {
        "loss column": log.judged_column,
        "axis": log.axis,
        "end": f"{outcome.last_step:,.6g}",
        "highest rate": f"{rates.max():.3g}" if rates.size else "-",
        f"{log.axis}s a point": f"{np.median(paces[paces > 0]):.4g}" if np.any(paces > 0) else "-",
        "evaluations": str(log.evaluations.step.size),
    }
    return facts | _settings(Path(log.file))


def _settings(log: Path) -> dict[str, str]:
    """Scalars of the first file of settings beside the log."""
    folder = log if log.is_dir() else log.parent
    for name in _SETTINGS:
        file = folder / name
        try:
            if not file.is_file() or file.stat().st_size > _MOST_BYTES:
                continue
            text = file.read_text(encoding="utf-8")
            loaded = json.loads(text) if file.suffix == ".json" else _yaml(text)
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(loaded, Mapping):
            return _flat(loaded)
    return {}


def _yaml(text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _flat(settings: Mapping[object, object], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and len(prefix) < 80:
            found |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (str, int, float, bool)) or value is None:
            found[f"{prefix}{key}"] = str(value)[:40]
    return found
