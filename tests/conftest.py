"""What every test gets: an environment without the settings of whoever runs it, and a place in the order."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

# gRPC's own handling of forks is off in this process, and only here: it is read when gRPC is imported. With it a process that forks
# while another thread opens or closes a server or a channel is ended by SIGABRT now and then, all tests with it, and so is a child
# that closes its files. Ray's `Cluster` and `subprocess` with `preexec_fn` fork here, while servers come and go.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
import grpc  # noqa: F401

del os.environ["GRPC_ENABLE_FORK_SUPPORT"]

LONGEST_FIRST = (
    "tests/soak",
    "tests/faults",
    "tests/integration/service",
    "tests/integration",
    "tests/deploy",
    "tests/chaos",
    "tests/reliability",
    "tests/fuzz",
    "tests/unit",
)
"""Folders in the order in which parallel processes take their tests: the short ones come last and even out who ends when."""
SHARES_A_SERVICE = (
    "tests/integration/service",
    "tests/integration/security",
    "tests/integration/page",
    "tests/deploy/grafana",
)
"""Folders whose tests share services for the session: one process runs all of a folder, so that each is started once."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Let each process take a file at a time, or a folder whose tests share a service.

    The groups of `--dist loadgroup` would be marks; pytest-xdist 3.8 loses them with pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            folder = file.rpartition("/")[0]
            return folder if folder in SHARES_A_SERVICE else file

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the folders; within one the order stays random."""
    places = {f"{each}/": number for number, each in enumerate(LONGEST_FIRST)}
    items.sort(
        key=lambda item: next((places[each] for each in places if item.nodeid.startswith(each)), len(places))
    )


def pytest_terminal_summary(terminalreporter, exitstatus: int, config: pytest.Config) -> None:
    """Say how to repeat the order of a run that failed."""
    seed = getattr(config.option, "randomly_seed", None)
    if exitstatus == pytest.ExitCode.TESTS_FAILED and isinstance(seed, int):
        terminalreporter.write_line(f"to repeat this order: --randomly-seed={seed}")


@pytest.fixture(autouse=True, scope="session")
def _clean_environment():
    """No STALLWATCH_*, launcher or Ray variable of the outside reaches a test, nor a file in the home of who runs it."""
    prefixes = ("STALLWATCH_", "TORCHELASTIC_", "SLURM_", "RAY_")
    names = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    taken = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith(prefixes) or name in names
    }
    taken["HOME"] = os.environ.get("HOME", "")
    # Ray takes a token of any cluster from there, and a browser its settings.
    os.environ["HOME"] = home = tempfile.mkdtemp(prefix="swhome")
    yield
    os.environ.update(taken)
    shutil.rmtree(home, ignore_errors=True)
