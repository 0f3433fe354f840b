"""A little of `make fuzz`: some thousand inputs a target, the same ones every time."""

from __future__ import annotations

import importlib.util

import pytest

from fuzz.catalogue import TARGETS
from fuzz.run import fuzz

INPUTS = {
    **dict.fromkeys(("delimited", "http", "service_config", "tensorboard"), 1500),
    **dict.fromkeys(("json_logs", "snapshot", "wandb"), 2500),
    "analysis": 600,
}
"""Of the slower ones."""


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: it exists for Linux on x86-64 with Python 3.11 to 3.13",
)
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_crashes_hangs_or_is_kept(target, tmp_path):
    """From seeds that are valid, towards code that was not reached before."""
    seen = fuzz(target, tmp_path, runs=INPUTS.get(target, 5000))
    assert not seen.problem
    assert seen.inputs >= INPUTS.get(target, 5000)
