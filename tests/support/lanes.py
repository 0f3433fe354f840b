"""Which cases of a test `make test` runs, and which only `make suites`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_in_suites(values: Iterable[Any], keep: int = 1) -> list[Any]:
    """Parameters of which `make test` runs the first `keep`, and `make suites` the others."""
    return [
        value if number < keep else pytest.param(value, marks=pytest.mark.suite)
        for number, value in enumerate(values)
    ]
