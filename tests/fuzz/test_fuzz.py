"""Some of `make fuzz`: hundreds of inputs a target in `make test`, thousands in `make suites`, the same ones every time."""

from __future__ import annotations

import importlib.util

import pytest

from fuzz.catalogue import TARGETS
from fuzz.run import fuzz

INPUTS = {
    **dict.fromkeys(("console", "delimited", "http", "service_config", "tensorboard"), 1500),
    **dict.fromkeys(("json_logs", "snapshot", "wandb"), 2500),
    "analysis": 600,
}
"""Of the slower ones."""
USUAL = 5000


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: it exists for Linux on x86-64 with Python 3.11 to 3.13",
)
@pytest.mark.parametrize(
    "share", [pytest.param(0.2, id="brief"), pytest.param(1.0, id="long", marks=pytest.mark.suite)]
)
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_crashes_hangs_or_is_kept(target, share, tmp_path):
    """From seeds that are valid, towards code that was not reached before."""
    runs = round(share * INPUTS.get(target, USUAL))
    seen = fuzz(target, tmp_path, runs=runs)
    assert not seen.problem
    assert seen.inputs >= runs
