"""The API described for machines: OpenAPI 3.1, at `/api/v1/openapi.json`."""

from __future__ import annotations

from functools import cache
from typing import Any

from stallwatch.detector.http.alerts import ALERTS_PATH, MOST_ALERTS, SILENCES_PATH
from stallwatch.detector.http.api import RUNS_PATH
from stallwatch.detector.http.openapi_schemas import TEXT, Schema, choice, listed, record, ref, schemas
from stallwatch.detector.http.query import DEFAULT_POINTS, LARGEST_STEP, MAX_POINTS, STATUSES
from stallwatch.detector.version import VERSION

OPENAPI_PATH = "/api/v1/openapi.json"
Operation = dict[str, Any]

_RUN = {
    "name": "run",
    "in": "path",
    "required": True,
    "description": "The run's name, percent-encoded: it may hold slashes.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stallwatch",
            "version": VERSION,
            "summary": "Runs, what was found in them, and who is told.",
            "description": "Numbers that are not finite are null. Unknown parameters are refused.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {
            "schemas": schemas(),
            "responses": {name: _failure(text) for name, text in _FAILURES.items()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        # Either: a detector without tokens asks for none.
        "security": [{}, {"bearer": []}],
    }


def _paths() -> dict[str, dict[str, Any]]:
    run = f"{RUNS_PATH}/{{run}}"
    return {
        OPENAPI_PATH: {"get": _get("openapi", "This document.", {"type": "object"})},
        RUNS_PATH: {
            "get": _get(
                "listRuns",
                "Every run there has been, the latest first.",
                record({"runs": listed(ref("Run"))}),
            )
        },
        run: {"get": _below("getRun", "One run.", ref("Run"))},
        f"{run}/findings": {
            "get": _below(
                "listFindings",
                "The findings of a run, the oldest first.",
                _of_run(status=choice(STATUSES), findings=listed(ref("Finding"))),
                _status(STATUSES, "all"),
            )
        },
        f"{run}/ranks": {
            "get": _below("listRanks", "The ranks of a run.", _of_run(ranks=listed(ref("Rank"))))
        },
        f"{run}/events": {
            "get": _below(
                "listEvents", "What changed while the run ran, by step.", _of_run(events=listed(ref("Event")))
            )
        },
        f"{run}/gaps": {
            "get": _below(
                "listGaps",
                "Where data of a run is missing, by step, and how much of which nobody knows where.",
                _of_run(gaps=listed(ref("Gap")), unplaced_steps={"type": "integer"}),
            )
        },
        f"{run}/states": {
            "get": _below(
                "listStates",
                "The states the run was called, the oldest first.",
                _of_run(states=listed(ref("State"))),
            )
        },
        f"{run}/series": {
            "get": _below("listSeries", "The names of a run's series.", _of_run(series=listed(TEXT)))
        },
        f"{run}/series/{{name}}": {
            "get": _below(
                "getSeries",
                "A series of a run, as means of so many points.",
                _of_run(name=TEXT, points=listed(ref("Point"))),
                {
                    "name": "name",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1},
                },
                _number("from_step", 0, LARGEST_STEP, "First step."),
                _number("to_step", 0, LARGEST_STEP, "Last step; not below from_step."),
                _number("points", 1, MAX_POINTS, f"At most so many points; {DEFAULT_POINTS} when not given."),
            )
        },
        ALERTS_PATH: {
            "get": _get(
                "listAlerts",
                "The latest alerts with their history, the latest first.",
                record({"alerts": listed(ref("Alert"))}),
                {"name": "run", "in": "query", "schema": TEXT},
                _status(STATUSES, "all"),
                _number("limit", 1, MOST_ALERTS, "At most so many; 100 when not given."),
            )
        },
        SILENCES_PATH: {
            "get": _get(
                "listSilences",
                "Silences, the latest first.",
                record({"silences": listed(ref("Silence"))}),
                _status(("active", "all"), "active"),
            ),
            "post": _add_silence(),
        },
        f"{SILENCES_PATH}/{{id}}": {"delete": _end_silence()},
    }


def _get(name: str, says: str, answer: Schema, *parameters: Schema, missing: bool = False) -> Operation:
    return {
        "operationId": name,
        "summary": says,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": says, "content": {"application/json": {"schema": answer}}},
            **_failures("400", "401", "403", "405", "422", "429", "503", *(("404",) if missing else ())),
        },
    }


def _below(name: str, says: str, answer: Schema, *parameters: Schema) -> Operation:
    return _get(name, says, answer, _RUN, *parameters, missing=True)


def _add_silence() -> Operation:
    says = "Begin a silence: no alert about a run, a kind, or a kind in a run, for so many seconds."
    return {
        "operationId": "addSilence",
        "summary": says,
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref("NewSilence")}}},
        "responses": {
            "201": {
                "description": "The silence.",
                "content": {"application/json": {"schema": ref("Silence")}},
                "links": {"end": {"operationId": "endSilence", "parameters": {"id": "$response.body#/id"}}},
            },
            **_failures("400", "401", "403", "405", "413", "415", "422", "429", "503"),
        },
    }


def _end_silence() -> Operation:
    return {
        "operationId": "endSilence",
        "summary": "End a silence now.",
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ],
        "responses": {
            "204": {"description": "It is over."},
            **_failures("400", "401", "403", "404", "405", "422", "429", "503"),
        },
    }


def _of_run(**parts: Schema) -> Schema:
    return record({"run": TEXT, **parts})


def _status(words: tuple[str, ...], default: str) -> Schema:
    return {"name": "status", "in": "query", "schema": {**choice(words), "default": default}}


def _number(name: str, least: int, most: int, says: str) -> Schema:
    # An empty parameter is as good as none.
    whole = {"type": "integer", "minimum": least, "maximum": most}
    return {"name": name, "in": "query", "description": says, "schema": {"anyOf": [whole, {"const": ""}]}}


_FAILURES = {
    "400": "The request cannot be read, or has a parameter that there is not.",
    "401": "This detector asks for a token, and none was sent, or one that it does not know.",
    "403": "The token is not for this.",
    "404": "There is no such thing; the message says where those that there are are listed.",
    "405": "Not with this method.",
    "413": "The body is too large.",
    "415": "The body must be JSON, and say so.",
    "422": "A parameter or field has a value that it cannot have.",
    "429": "Too many failed tries from this address: wait a moment.",
    "503": "Not available at the moment: the analyzer or the store is away.",
}


def _failures(*statuses: str) -> dict[str, Schema]:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _failure(says: str) -> Schema:
    return {"description": says, "content": {"application/json": {"schema": ref("Error")}}}
