"""What the API answers with, as JSON schemas: from the read models where those are answered as they are."""

from __future__ import annotations

from typing import Any

import msgspec

from stallwatch.detector.analysis.series import SeriesPoint
from stallwatch.detector.core.verdicts import Severity
from stallwatch.detector.core.views import RUN_STATES, EventView, GapView, RankView, RuleView, StateSpan
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.http.alerts import (
    LEAST_SILENCE_SECONDS,
    MOST_COMMENT_CHARACTERS,
    MOST_RUN_CHARACTERS,
    MOST_SILENCE_SECONDS,
)

Schema = dict[str, Any]

STEP: Schema = {
    "type": "integer",
    "minimum": -1,
    "description": "An optimizer step, counted from 0; -1 before the first.",
}
NUMBER: Schema = {"type": ["number", "null"], "description": "null when unknown, or not finite."}
SECONDS: Schema = {"type": "number", "description": "Unix seconds."}
TEXT: Schema = {"type": "string"}


def ref(name: str) -> Schema:
    """A schema of this document."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(items: Schema) -> Schema:
    """An array of these."""
    return {"type": "array", "items": items}


def record(properties: dict[str, Schema], *, optional: dict[str, Schema] | None = None) -> Schema:
    """An object with all of these and perhaps with the optional ones; a later version may have more."""
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        "required": list(properties),
    }


def choice(values: Any, *, null: bool = False) -> Schema:
    """One of these words."""
    return {"type": ["string", "null"] if null else "string", "enum": [*values, *([None] if null else [])]}


def schemas() -> dict[str, Schema]:
    """All of them by name."""
    return {
        "Error": record(
            {
                "error": record(
                    {
                        "status": {"type": "integer"},
                        "code": TEXT,
                        "message": TEXT,
                        "field": {"type": ["string", "null"]},
                    }
                )
            }
        ),
        "Run": _run(),
        "Finding": _finding(),
        "Rank": _of(RankView),
        "Gap": _gap(),
        "Event": _of(EventView),
        "State": _of(StateSpan),
        "Rule": _of(RuleView),
        "Point": _of(SeriesPoint),
        "Silence": _silence(),
        "NewSilence": _new_silence(),
        "Alert": _alert(),
    }


def _of(model: type) -> Schema:
    """The schema of a read model that is answered field by field."""
    found, components = msgspec.json.schema_components([model], ref_template="#/components/schemas/{name}")
    assert list(components) == [model.__name__], f"{model.__name__} holds other models: write its schema here"
    assert found
    schema: Schema = _with_nulls(components[model.__name__])
    # Every field is answered, those with defaults as well.
    return {**schema, "title": model.__name__, "required": list(schema["properties"])}


def _with_nulls(schema: Any) -> Any:
    """Any number may be null: JSON has no NaN."""
    if isinstance(schema, list):
        return [_with_nulls(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if {"type": "number"} in schema.get("anyOf", ()):
        return {"type": ["number", "null"]}
    changed = {key: _with_nulls(value) for key, value in schema.items() if key != "default"}
    return {**changed, "type": ["number", "null"]} if changed.get("type") == "number" else changed


def _gap() -> Schema:
    gap = _of(GapView)
    return {**gap, "properties": {**gap["properties"], "text": TEXT}, "required": [*gap["required"], "text"]}


def _run() -> Schema:
    forecast = record(
        {"horizon_steps": {"type": "integer"}, "relative_improvement": NUMBER, "low": NUMBER, "high": NUMBER}
    )
    loss = {
        "value": NUMBER,
        "slope_per_step": NUMBER,
        "noise": NUMBER,
        "forecast": {"anyOf": [forecast, {"type": "null"}]},
    }
    return record(
        {
            "run": TEXT,
            "state": choice(RUN_STATES),
            "state_since_step": STEP,
            "step": STEP,
            "epoch": NUMBER,
            "world_size": {"type": "integer"},
            "effective_batch_size": NUMBER,
            "updated_at": SECONDS,
            "loss": record(loss),
            "gradient_noise_scale": NUMBER,
            "batch_over_critical": NUMBER,
            "findings": {**listed(ref("Finding")), "description": "Those that are firing."},
            "sample_period": {
                "type": "integer",
                "description": "Steps between sampled records; 0 when not known.",
            },
            "waiting_checks": {
                **listed(TEXT),
                "description": "Kinds that see something on sampled steps only.",
            },
        },
        optional={"group": TEXT, "rules": listed(ref("Rule"))},
    )


def _finding() -> Schema:
    return record(
        {
            "id": TEXT,
            "kind": choice(VOCABULARY),
            "category": choice(sorted({kind.category for kind in VOCABULARY.values()})),
            "severity": choice(each.value for each in Severity),
            "confidence": NUMBER,
            "status": choice(("firing", "resolved")),
            "since_step": {**STEP, "description": "Estimate of where it began."},
            "detected_step": {**STEP, "description": "Where it was called."},
            "resolved_step": {"type": ["integer", "null"]},
            "ranks": listed({"type": "integer"}),
            "layers": listed(TEXT),
            "reason": {**TEXT, "description": "One sentence with numbers in it."},
            "evidence": {
                "type": "object",
                "additionalProperties": {"type": ["number", "string", "boolean", "array", "null"]},
            },
            "advice": listed(TEXT),
            "causes": listed(record({"kind": TEXT, "confidence": NUMBER, "reason": TEXT})),
        }
    )


def _silence() -> Schema:
    return record(
        {
            "id": TEXT,
            "run": {
                "type": ["string", "null"],
                "description": "A run's name, or a pattern with *, ? and [...]; null for every run.",
            },
            "kind": choice(VOCABULARY, null=True),
            "comment": TEXT,
            "created_at": SECONDS,
            "expires_at": SECONDS,
            "status": choice(("active", "expired")),
        }
    )


def _alert() -> Schema:
    link = {"type": ["string", "null"]}
    return record(
        {
            "id": TEXT,
            "alert": {**TEXT, "description": "Its name in Prometheus."},
            "run": TEXT,
            "kind": choice(VOCABULARY),
            "severity": choice(each.value for each in Severity),
            "status": choice(("firing", "resolved")),
            "started_at": SECONDS,
            "ended_at": {"type": ["number", "null"], "description": "Unix seconds; null while it fires."},
            "silence": {"type": ["string", "null"], "description": "Id of the silence that keeps it quiet."},
            "reason": TEXT,
            "links": record(dict.fromkeys(("finding", "run", "runbook", "dashboard"), link)),
        }
    )


def _new_silence() -> Schema:
    run = {"type": "string", "minLength": 1, "maxLength": MOST_RUN_CHARACTERS, "pattern": r"^[ -~]+$"}
    given = {"run": {"type": "string"}, "kind": {"type": "string"}}
    return {
        "type": "object",
        "properties": {
            "run": {
                "anyOf": [run, {"type": "null"}],
                "description": "A run's name, or a pattern with *, ? and [...]: printable characters.",
            },
            "kind": choice(VOCABULARY, null=True),
            "seconds": {
                "type": "number",
                "minimum": LEAST_SILENCE_SECONDS,
                "maximum": MOST_SILENCE_SECONDS,
            },
            "comment": {"type": "string", "maxLength": MOST_COMMENT_CHARACTERS, "pattern": r"^[^\u0000]*$"},
        },
        "required": ["seconds"],
        # Of run and kind at least one.
        "anyOf": [{"properties": {name: schema}, "required": [name]} for name, schema in given.items()],
        "additionalProperties": False,
    }
