"""What every test gets: an environment without the settings of whoever runs it."""

from __future__ import annotations

import os

import pytest

# gRPC's own handling of forks is off in this process, and only here: it is read when gRPC is imported. With it a process that forks
# while another thread opens or closes a server or a channel is ended by SIGABRT now and then, all tests with it, and so is a child
# that closes its files. Ray's `Cluster` and `subprocess` with `preexec_fn` fork here, while servers come and go.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
import grpc  # noqa: F401

del os.environ["GRPC_ENABLE_FORK_SUPPORT"]


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
