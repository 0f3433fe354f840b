"""For Schemathesis, which knows no run's name: most requests that are meant to be right are about a run that there is."""

from __future__ import annotations

import os
from typing import Any

import schemathesis

RUN = os.environ.get("STALLWATCH_TESTED_RUN", "")
SERIES = ("loss", "step_seconds", "no such series")


@schemathesis.hook
def before_call(_context: Any, case: Any, _arguments: Any) -> None:
    """The same choice for the same parameters: nothing is left to chance."""
    parameters = case.path_parameters or {}
    given = str(parameters.get("run", ""))
    if (
        "run" in parameters
        and len(given) % 4
        and case.meta is not None
        and case.meta.generation.mode.is_positive
    ):
        parameters["run"] = RUN
        if "name" in parameters:
            parameters["name"] = SERIES[len(given) % len(SERIES)]
    # What no schema can say: one must not be above the other.
    query = case.query or {}
    if (
        case.meta is not None
        and case.meta.generation.mode.is_positive
        and {"from_step", "to_step"} <= query.keys()
    ):
        del query["to_step"]
