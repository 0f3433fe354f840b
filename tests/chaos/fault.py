"""What a fault is: what is done, to whom, and what may be lost by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chaos.scene import Scene


class Loss(Enum):
    """What a fault may cost of the telemetry. Nothing may ever count twice."""

    NONE = "nothing"
    COUNTED = "what is counted as dropped, and shown"
    UNSENT = "what a process that ended at once had not sent"
    ALL = "everything: there is nobody to send to"


@dataclass(frozen=True)
class Fault:
    """One fault. `strike` does it while both jobs train, and returns when it is over."""

    name: str
    says: str
    strike: Callable[[Scene], None]
    endpoint: Callable[[Scene], str] = field(default=lambda scene: scene.service.grpc_address)
    """Where the watched job's agents connect to."""
    loss: Loss = Loss.NONE
    inject: str = ""
    """What ranks do themselves, by its name in `chaos.injections`."""
    variant: str = "plain"
    """`plain`, `wide` (10,000 parameters more) or `loader` (a DataLoader with forked workers)."""
    ending: str = "close"
    """How ranks end: `close`, `return`, `sys.exit`, `raise` or `os._exit`."""
    torchrun: bool = False
    """Started by torchrun, with checkpoints; otherwise forked from a process that has imported torch, which is quick."""
    log_folder: Callable[[Scene], str] | None = None
    """Where the watched ranks' standard error goes."""
    service_arguments: tuple[str, ...] = ()
    own_service: Callable[[Scene], None] | None = None
    """For a detector of its own: prepares it before its start."""
    alone: bool = False
    """Whether it breaks the detector that other faults share."""
    refused_first: bool = False
    """Whether nothing is heard of the job before the fault is over: its finding comes after that."""
    on_ranks: bool = False
    """Whether the ranks themselves stand still or die, so that a finding about that is true."""


def injected(scene: Scene) -> None:
    """The ranks do it; over when they say so."""
    scene.wait_for_ranks()
