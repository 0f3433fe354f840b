"""The whole state of a run's analysis, without its signals and checks: plain dataclasses that one codec snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.analysis.align import Aligner
from stallwatch.detector.analysis.attempts import Attempt
from stallwatch.detector.analysis.chronicle import Chronicle
from stallwatch.detector.analysis.clock import StepClock
from stallwatch.detector.analysis.findings import FindingBook
from stallwatch.detector.analysis.gaps import GapBook
from stallwatch.detector.analysis.ranks import RankTable, SequenceLedger
from stallwatch.detector.analysis.series import SeriesBook
from stallwatch.detector.core.family import Peer
from stallwatch.detector.core.inputs import RankHello
from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.observations import RunDeclaration
from stallwatch.detector.core.scaling import NoiseScaleObservation
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.core.views import STEP_PHASES, STEP_SECONDS_BUCKETS
from stallwatch.detector.diagnosis.suspicion import Suspicion


def _histograms() -> dict[str, NDArray[np.int64]]:
    return {phase: np.zeros(len(STEP_SECONDS_BUCKETS) + 1, np.int64) for phase in STEP_PHASES}


@dataclass(slots=True)
class RunState:
    """Everything that is known of a run."""

    run: str
    now: float = 0.0
    """Time of the newest call."""
    ticked_at: float = 0.0
    updated_at: float = 0.0
    """When a rank last said anything."""
    hello: RankHello | None = None
    """Of the lowest rank of the current attempt: what the run is."""
    declared: RunDeclaration | None = None
    """What checks were last told of the current attempt's processes."""
    undeclared: bool = True
    """Whether a process has introduced itself since."""
    attempt: Attempt = field(default_factory=Attempt)
    ranks: RankTable = field(default_factory=RankTable)
    ledger: SequenceLedger = field(default_factory=SequenceLedger)
    aligner: Aligner = field(default_factory=Aligner)
    findings: FindingBook = field(default_factory=FindingBook)
    series: SeriesBook = field(default_factory=SeriesBook)
    chronicle: Chronicle = field(default_factory=Chronicle)
    noise_scale: NoiseScaleObservation | None = None
    clock: StepClock = field(default_factory=StepClock)
    assessment: LossAssessment | None = None
    state: str = "warming_up"
    state_since_step: int = 0
    step: int = -1
    """Highest step that was aligned."""
    family: tuple[Peer, ...] = ()
    """Other runs of the same family, as last told."""
    diagnosed: dict[str, Verdict] = field(default_factory=dict)
    """The latest firing verdicts about the loss, by kind, before causes were put under them."""
    suspicion: Suspicion = field(default_factory=Suspicion)
    hung: bool = False
    lost: bool = False
    batch_sizes: list[float] = field(default_factory=list)
    """Samples of the last aligned steps, over all ranks."""
    phase_counts: dict[str, NDArray[np.int64]] = field(default_factory=_histograms)
    phase_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEP_PHASES, 0.0))
    evaluation_loss: float | None = None
    gradient_norm_local: float | None = None
    gradient_norm_reduced: float | None = None
    learning_rate: float | None = None
    loss: float | None = None
    steps_received: int = 0
    steps_missing: int = 0
    """Of attempts that are over; the current one's are counted from the rank table."""
    duplicate_batches: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    gaps: GapBook = field(default_factory=GapBook)
