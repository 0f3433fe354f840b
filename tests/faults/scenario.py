"""What a scenario is: a short training job, what is done to it, and what has to be said about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faults.job import Job

SHIFT_STEPS = 7
"""A seed moves the fault so many steps, no multiple of a sampling period, and to the next rank."""
BY_MAJORITY = frozenset(
    {
        "missing_gradient_sync",
        "replica_desync",
        "divergent_update",
        "stale_gradient",
        "uneven_batches",
        "rank_outlier",
    }
)
"""Kinds whose rank is found by majority: among two ranks there is none, and naming both is right."""


class Lane(Enum):
    """How a job gets along with others on the same few cores."""

    SHARED = "shared"
    """It does not depend on time: several run side by side."""
    ALONE = "alone"
    """Its timing is what is judged."""
    IDLE = "idle"
    """It stands still most of the time: many of them fit beside anything else."""


class Ending(Enum):
    """How a job ends when all goes as the scenario has it."""

    GOODBYE = "goodbye"
    """All ranks say goodbye."""
    KILLED = "killed"
    """It never ends by itself: the runner ends it when the finding is there, or when the time is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """How well a kind has to be found; steps are those of the job."""

    delay_steps: int | None = None
    """`detected_step` may be so far behind the first bad step."""
    delay_seconds: float | None = None
    """... and the finding so many seconds behind it, where steps stand still."""
    onset_steps: int | None = None
    """`since_step` may be so far off the first bad step; None: not judged."""


SAMPLE_STEPS = 64
"""Steps within which what only samples show has to be found at the default setting: two samples, at most 32 steps apart."""
BARS = {
    "missing_gradient_sync": Bar(delay_steps=2, onset_steps=2),
    "replica_desync": Bar(delay_steps=SAMPLE_STEPS, onset_steps=SAMPLE_STEPS // 2),
    "stale_gradient": Bar(delay_steps=SAMPLE_STEPS, onset_steps=SAMPLE_STEPS // 2),
    "divergent_update": Bar(delay_steps=SAMPLE_STEPS, onset_steps=SAMPLE_STEPS // 2),
    "straggler": Bar(delay_steps=80, onset_steps=20),
    "throughput_regression": Bar(onset_steps=20),
    # The learnt limit and three heartbeats of 2 s.
    "hang": Bar(delay_seconds=45.0, onset_steps=1),
    "rank_lost": Bar(delay_seconds=45.0, onset_steps=2),
}
"""By kind; a kind that is not here has to be found by the end of its job."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenario:
    """A training with one fault, or a healthy one that looks like it."""

    name: str
    """THEME/WORDS."""
    says: str
    """What is done, in one sentence."""
    train: Callable[[Job], Any]
    """Runs in every rank process."""
    kind: str | None = None
    """The finding that this has to cause; None: a healthy twin."""
    at: int = 0
    """First bad step; a seed shifts it unless it is 0 or `pinned`."""
    pinned: bool = False
    culprits: tuple[int, ...] = ()
    """Ranks at fault; a seed shifts them. Empty: all ranks, or none in particular."""
    ranks: tuple[int, ...] = (2, 4)
    """World sizes that it makes sense with."""
    worlds: Callable[[int], tuple[int, ...]] | None = None
    """World sizes of the attempts, where the job restarts, from the world size asked for."""
    steps: int = 160
    task: str = "mlp"
    optimizer: str = "adamw"
    compute_seconds: float = 0.003
    """What each step's backward sleeps, to be like a job whose steps take time."""
    options: dict[str, Any] = field(default_factory=dict)
    """More for the training function."""
    named: tuple[str, ...] = ()
    """Causes that are as true as `kind` where they come first under a verdict about the loss."""
    also: tuple[str, ...] = ()
    """Kinds that are true of this job as well; each use says why."""
    bar: Bar | None = None
    lane: Lane = Lane.SHARED
    ending: Ending = Ending.GOODBYE
    patience_seconds: float = 60.0
    """How long a job may take, or may go without its finding."""
    nodes: int = 0
    """Started by so many torchruns, which restart what fails; 0: by the runner, attempt by attempt."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z_]+/[a-z0-9-]+", self.name):
            raise ValueError(f"{self.name!r} is no scenario name: THEME/WORDS in small letters")

    @property
    def theme(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario with one seed and number of ranks."""

    scenario: Scenario
    seed: int
    ranks: int

    @property
    def run(self) -> str:
        """The run's name at the service."""
        return f"{self.scenario.name}:{self.ranks}-ranks:seed-{self.seed}"

    @property
    def worlds(self) -> tuple[int, ...]:
        """World size of every attempt."""
        return self.scenario.worlds(self.ranks) if self.scenario.worlds else (self.ranks,)

    @property
    def at(self) -> int:
        """The true first bad step."""
        shifts = self.scenario.at > 0 and not self.scenario.pinned
        return self.scenario.at + (SHIFT_STEPS * self.seed if shifts else 0)

    @property
    def culprits(self) -> tuple[int, ...]:
        """The ranks that are truly at fault."""
        return tuple(sorted((rank + self.seed) % self.ranks for rank in self.scenario.culprits))

    @property
    def bar(self) -> Bar:
        """How well it has to be found."""
        return self.scenario.bar or BARS.get(self.scenario.kind or "", Bar())

    def accepts(self, ranks: tuple[int, ...]) -> bool | None:
        """Whether a finding names the right ranks; None when there is none to name."""
        if not self.culprits:
            return None
        if ranks == self.culprits:
            return True
        return self.ranks == 2 and self.scenario.kind in BY_MAJORITY and ranks == (0, 1)
