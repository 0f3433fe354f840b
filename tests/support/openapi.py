"""The OpenAPI document, held against answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

HOOKS = "support.schemathesis_hooks"
TESTS = Path(__file__).parent.parent


def closed(schema: Any) -> Any:
    """The schema with nothing in objects that it does not name: the document leaves that open for later versions."""
    if isinstance(schema, dict):
        changed = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema:
            changed.setdefault("additionalProperties", False)
        return changed
    return [closed(each) for each in schema] if isinstance(schema, list) else schema


def problems(document: dict[str, Any], path: str, method: str, status: int, body: Any) -> list[str]:
    """What of an answer is not as the document says."""
    response = document["paths"][path][method]["responses"][str(status)]
    if "$ref" in response:
        response = document["components"]["responses"][str(status)]
    # The references of the document are to itself: the schema of the answer is looked up as a part of it.
    whole = {**closed(document), "answer": closed(response["content"]["application/json"]["schema"])}
    registry: Any = Registry().with_resource("urn:document", Resource.opaque(whole))
    found = Draft202012Validator({"$ref": "urn:document#/answer"}, registry=registry).iter_errors(body)
    return [f"{'/'.join(map(str, each.absolute_path))}: {each.message[:300]}" for each in found]


def schemathesis(url: str, run: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask a server whatever the document allows, and what it does not; the outcome is in what it prints."""
    executable = Path(sys.executable).with_name("schemathesis")
    variables = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": HOOKS,
        "STALLWATCH_TESTED_RUN": run,
        "PYTHONPATH": str(TESTS),
    }
    # It leaves a cache where it is started.
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [
                str(executable),
                "run",
                f"{url}/api/v1/openapi.json",
                "--no-color",
                "--generation-deterministic",
                # These are about what Schemathesis comes up with and how fast, and not about answers.
                "--suppress-health-check=filter_too_much,too_slow",
                *arguments,
            ],
            env=variables,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
