"""What the service makes of any file of settings and any environment."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from fuzz.files import filled
from fuzz.trees import changed, invented
from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.errors import UsageError
from stallwatch.detector.service.analysis_settings import analysis_config
from stallwatch.detector.service.settings import Settings, load

MAX_BYTES = 4_096
_TEXTS = (
    "grpc_port = 0\nmax_runs = 3\nsnapshot_seconds = 0.5\n[analysis.checks.hang]\nfloor_seconds = 10\n",
    'external_url = "https://h"\n[analysis]\ndisabled = ["communication_bound"]\n[analysis.loss]\nconfidence = 0.9\n',
    '[alerts]\nalertmanagers = ["http://a:9093"]\n[[alerts.webhooks]]\nurl = "http://b/c"\nformat = "slack"\n',
    'host = "0.0.0.0"\ndata_dir = "/data"\nstore_url = "sqlite:////x.db"\n',
)
_TREE: dict[str, Any] = {
    "analysis": {
        "disabled": ["hang"],
        "rules": "",
        "attentive_seconds": 5.0,
        "checks": {"hang": {"floor_seconds": 10}, "plateau": {}, "straggler": {}},
        "loss": {},
        "align": {},
    },
    "max_runs": 3,
    "alerts": {"webhooks": [{"url": "http://b"}]},
    "grafana_url": "https://g",
}
_FILE, _ENVIRONMENT = 0, 1


def seeds() -> Iterator[bytes]:
    """Files, and the same as JSON in the environment."""
    for text in _TEXTS:
        yield bytes([_FILE]) + text.encode()
    yield bytes([_ENVIRONMENT]) + json.dumps(_TREE).encode()


def one(data: bytes) -> None:
    """Settings, or one kind of error that says which one is wrong."""
    if data[:1] == bytes([_ENVIRONMENT]):
        _environment(data[1:])
        return
    with contextlib.suppress(UsageError):
        load({}, filled("settings.toml", data[1:]))


def _environment(data: bytes) -> None:
    try:
        given = json.loads(data)
        variables = {f"STALLWATCH_{name.upper()}": json.dumps(value) for name, value in given.items()}
    except (ValueError, AttributeError, RecursionError):
        return
    variables = {name: value for name, value in variables.items() if "=" not in name and name.isascii()}
    if any("\0" in name for name in variables):
        return
    os.environ.update(variables)
    try:
        with contextlib.suppress(UsageError):
            load({}, None)
        # As the table of a file would be, without the way through text.
        if isinstance(changes := given.get("analysis"), Mapping):
            with contextlib.suppress(UsageError):
                analysis_config(changes)
    finally:
        for name in variables:
            del os.environ[name]


def mutate(data: bytes, random: Random) -> bytes:
    """A setting: another value, another name."""
    try:
        given = json.loads(data[1:])
    except ValueError:
        given = _TREE
    if not isinstance(given, dict):
        given = _TREE
    given = changed(given, random)
    if not isinstance(given, dict):
        return bytes([_ENVIRONMENT]) + json.dumps(given).encode()
    if random.random() < 0.4:
        given[random.choice(list(Settings.model_fields))] = invented(random)
    if random.random() < 0.4:
        analysis = given.setdefault("analysis", {})
        if isinstance(analysis, dict):
            section = random.choice(("checks", "loss", "align", "series", "noise_scale", "causes"))
            part = getattr(AnalysisConfig(), section, None)
            if section == "checks":
                check = random.choice(list(part.__dataclass_fields__))  # type: ignore[union-attr]
                field = random.choice([*getattr(part, check).__dataclass_fields__, "x"])
                analysis["checks"] = {check: {field: invented(random)}}
            elif part is not None:
                field = random.choice([*part.__dataclass_fields__, "x"])
                analysis[section] = {field: invented(random)}
    try:
        return bytes([_ENVIRONMENT]) + json.dumps(given).encode()
    except (TypeError, ValueError, RecursionError):
        return data
