"""Settings of the analysis by name: `{"checks": {"hang": {"floor_seconds": 10}}}` over the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.errors import UsageError

_Config = TypeVar("_Config")


def analysis_config(changes: Mapping[str, Any]) -> AnalysisConfig:
    """The defaults with some settings changed; raises `UsageError` for names and values that are none."""
    return _changed(AnalysisConfig(), changes, "analysis")


def _changed(config: _Config, changes: Mapping[str, Any], where: str) -> _Config:
    known = [field.name for field in fields(config)]  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            raise UsageError(f"there is no setting {where}.{name}: the settings are {', '.join(known)}")
        old = getattr(config, name)
        if is_dataclass(old):
            if not isinstance(value, Mapping):
                raise UsageError(f"setting {where}.{name} is {value!r}: it must be a table of settings")
            given[name] = _changed(old, value, f"{where}.{name}")
        else:
            given[name] = _value(old, value, f"{where}.{name}")
    try:
        changed: _Config = replace(config, **given)  # type: ignore[type-var]
    except ValueError as error:
        raise UsageError(f"setting {where}: {error}") from None
    return changed


def _value(old: object, value: object, where: str) -> object:
    """A value of the sort that the default is of."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(old, bool):
        if isinstance(value, bool):
            return value
        wanted = "true or false"
    elif isinstance(old, int):
        if isinstance(value, int) and number:
            return value
        wanted = "a whole number"
    elif isinstance(old, float) or old is None:
        if number:
            return float(value) if isinstance(old, float) else value  # type: ignore[arg-type]
        wanted = "a number"
    elif isinstance(old, tuple):
        if isinstance(value, (list, tuple)):
            return tuple(value)
        wanted = "a list"
    else:
        if isinstance(value, type(old)):
            return value
        wanted = f"a {type(old).__name__}"
    raise UsageError(f"setting {where} is {value!r}: it must be {wanted}")
