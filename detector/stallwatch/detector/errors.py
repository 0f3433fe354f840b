"""The exceptions that Stallwatch raises on purpose: each message names what is wrong and how to put it right."""

from __future__ import annotations


class StallwatchError(Exception):
    """Root of all errors that Stallwatch raises on purpose."""


class UsageError(StallwatchError):
    """A setting, an argument or the machine does not allow what was asked for: exit code 2."""


class StoreError(StallwatchError):
    """The store cannot be opened, read or written."""


class InvalidInputError(StallwatchError):
    """A message of an agent breaks the protocol."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        """Path of the field at fault: `steps.samples[3]`."""


class AnalyzerLostError(StallwatchError):
    """The analyzer of a run has died or was restarted: what it had accepted and not saved must be sent again."""


class TooManyRunsError(StallwatchError):
    """No further run can be analyzed at the same time."""


class TooManyStreamsError(StallwatchError):
    """No further stream of this run, account or detector may be open at the same time."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Which limit it is, as a metric counts it."""


class RayLostError(StallwatchError):
    """The Ray node that this process works through is gone: only a new process can join another."""


class RayStartError(StallwatchError):
    """The embedded Ray has not started: the machine may have been too busy, so that another try is worth it."""


class UnauthenticatedError(StallwatchError):
    """Nobody is known by what was sent. The message never holds what was sent."""
