"""What every test gets: an environment without the settings of whoever runs it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _clean_environment():
    """No STALLWATCH_*, launcher or Ray variable of the outside reaches a test."""
    prefixes = ("STALLWATCH_", "TORCHELASTIC_", "SLURM_", "RAY_")
    names = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    taken = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith(prefixes) or name in names
    }
    yield
    os.environ.update(taken)
