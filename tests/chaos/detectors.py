"""The detector's processes, and detectors that differ from the usual one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import psutil

from support.service import Service


def analyzers(service: Service) -> list[int]:
    """The processes of its runs' analyzers."""
    return _descendants(service, lambda title: title.startswith("ray::RunAnalyzer"))


def raylets(service: Service) -> list[int]:
    """Its Ray node."""
    return _descendants(service, lambda title: "/raylet/raylet" in title.split(" ")[0])


def kill(pids: list[int]) -> None:
    """By SIGKILL; those that are gone already are."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(service: Service, wanted) -> list[int]:
    assert service.process is not None
    found = []
    for process in psutil.Process(service.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if wanted(" ".join(process.cmdline())):
                found.append(process.pid)
    return found


class OtherVersion(Service):
    """A detector that says it is of another version."""

    version = "99.0.0"

    @classmethod
    def instead_of(cls, service: Service) -> OtherVersion:
        """With the same data, ports and settings."""
        other = cls(service.directory, *service.arguments, environment=service.environment)
        other.grpc_port, other.http_port = service.grpc_port, service.http_port
        return other

    def command(self) -> list[str]:
        """The command line, up to the extra arguments."""
        program = (
            "import stallwatch.detector.version as version; "
            f"version.VERSION = {self.version!r}; "
            "from stallwatch.detector.cli import main; main()"
        )
        usual = super().command()
        return [sys.executable, "-c", program, *usual[usual.index("serve") :]]
