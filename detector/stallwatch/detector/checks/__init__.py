"""The built-in checks: an explicit table, in the order in which they see an observation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from stallwatch.detector.checks.accumulation_mismatch import AccumulationMismatch, AccumulationMismatchConfig
from stallwatch.detector.checks.batch_beyond_critical import BatchBeyondCritical, BatchBeyondCriticalConfig
from stallwatch.detector.checks.communication_bound import CommunicationBound, CommunicationBoundConfig
from stallwatch.detector.checks.contract import Check
from stallwatch.detector.checks.divergence import DivergenceConfig
from stallwatch.detector.checks.divergent_update import DivergentUpdate, DivergentUpdateConfig
from stallwatch.detector.checks.duplicate_shards import DuplicateShards, DuplicateShardsConfig
from stallwatch.detector.checks.eval_plateau import EvalPlateauConfig
from stallwatch.detector.checks.hang import Hang, HangConfig
from stallwatch.detector.checks.ineffective_update import IneffectiveUpdate, IneffectiveUpdateConfig
from stallwatch.detector.checks.input_bound import InputBound, InputBoundConfig
from stallwatch.detector.checks.learning import LEARNING_CHECKS
from stallwatch.detector.checks.loss_spike import LossSpikeConfig
from stallwatch.detector.checks.lr_scaling_mismatch import LrScalingMismatch, LrScalingMismatchConfig
from stallwatch.detector.checks.missing_gradient_sync import MissingGradientSync, MissingGradientSyncConfig
from stallwatch.detector.checks.non_finite import NonFiniteConfig
from stallwatch.detector.checks.oscillation import OscillationConfig
from stallwatch.detector.checks.overfitting import OverfittingConfig
from stallwatch.detector.checks.plateau import PlateauConfig
from stallwatch.detector.checks.rank_lost import RankLost, RankLostConfig
from stallwatch.detector.checks.rank_outlier import RankOutlier, RankOutlierConfig
from stallwatch.detector.checks.repeated_order import RepeatedOrder, RepeatedOrderConfig
from stallwatch.detector.checks.replica_desync import ReplicaDesync, ReplicaDesyncConfig
from stallwatch.detector.checks.scaling_efficiency_loss import (
    ScalingEfficiencyLoss,
    ScalingEfficiencyLossConfig,
)
from stallwatch.detector.checks.slow_convergence import SlowConvergenceConfig
from stallwatch.detector.checks.stale_gradient import StaleGradient, StaleGradientConfig
from stallwatch.detector.checks.straggler import Straggler, StragglerConfig
from stallwatch.detector.checks.throughput_regression import ThroughputRegression, ThroughputRegressionConfig
from stallwatch.detector.checks.uneven_batches import UnevenBatches, UnevenBatchesConfig
from stallwatch.detector.core.sampled import SampledObservation

CHECKS: dict[str, Callable[..., Any]] = {
    # What explains comes before what it explains.
    MissingGradientSync.kind: MissingGradientSync,
    StaleGradient.kind: StaleGradient,
    DivergentUpdate.kind: DivergentUpdate,
    IneffectiveUpdate.kind: IneffectiveUpdate,
    ReplicaDesync.kind: ReplicaDesync,
    RankLost.kind: RankLost,
    Hang.kind: Hang,
    Straggler.kind: Straggler,
    InputBound.kind: InputBound,
    ThroughputRegression.kind: ThroughputRegression,
    UnevenBatches.kind: UnevenBatches,
    AccumulationMismatch.kind: AccumulationMismatch,
    DuplicateShards.kind: DuplicateShards,
    RepeatedOrder.kind: RepeatedOrder,
    RankOutlier.kind: RankOutlier,
    BatchBeyondCritical.kind: BatchBeyondCritical,
    LrScalingMismatch.kind: LrScalingMismatch,
    ScalingEfficiencyLoss.kind: ScalingEfficiencyLoss,
    CommunicationBound.kind: CommunicationBound,
    "non_finite": LEARNING_CHECKS["non_finite"],
    **LEARNING_CHECKS,
}


WAITING_CHECKS = tuple(
    kind for kind, made in CHECKS.items() if SampledObservation in getattr(made, "consumes", ())
)
"""Kinds that see something on sampled steps only."""


@dataclass(frozen=True, slots=True)
class CheckConfigs:
    """The settings of every check, under its kind."""

    missing_gradient_sync: MissingGradientSyncConfig = field(default_factory=MissingGradientSyncConfig)
    stale_gradient: StaleGradientConfig = field(default_factory=StaleGradientConfig)
    divergent_update: DivergentUpdateConfig = field(default_factory=DivergentUpdateConfig)
    ineffective_update: IneffectiveUpdateConfig = field(default_factory=IneffectiveUpdateConfig)
    replica_desync: ReplicaDesyncConfig = field(default_factory=ReplicaDesyncConfig)
    rank_lost: RankLostConfig = field(default_factory=RankLostConfig)
    hang: HangConfig = field(default_factory=HangConfig)
    straggler: StragglerConfig = field(default_factory=StragglerConfig)
    input_bound: InputBoundConfig = field(default_factory=InputBoundConfig)
    throughput_regression: ThroughputRegressionConfig = field(default_factory=ThroughputRegressionConfig)
    uneven_batches: UnevenBatchesConfig = field(default_factory=UnevenBatchesConfig)
    accumulation_mismatch: AccumulationMismatchConfig = field(default_factory=AccumulationMismatchConfig)
    duplicate_shards: DuplicateShardsConfig = field(default_factory=DuplicateShardsConfig)
    repeated_order: RepeatedOrderConfig = field(default_factory=RepeatedOrderConfig)
    rank_outlier: RankOutlierConfig = field(default_factory=RankOutlierConfig)
    batch_beyond_critical: BatchBeyondCriticalConfig = field(default_factory=BatchBeyondCriticalConfig)
    lr_scaling_mismatch: LrScalingMismatchConfig = field(default_factory=LrScalingMismatchConfig)
    scaling_efficiency_loss: ScalingEfficiencyLossConfig = field(default_factory=ScalingEfficiencyLossConfig)
    communication_bound: CommunicationBoundConfig = field(default_factory=CommunicationBoundConfig)
    plateau: PlateauConfig = field(default_factory=PlateauConfig)
    slow_convergence: SlowConvergenceConfig = field(default_factory=SlowConvergenceConfig)
    oscillation: OscillationConfig = field(default_factory=OscillationConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    loss_spike: LossSpikeConfig = field(default_factory=LossSpikeConfig)
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    overfitting: OverfittingConfig = field(default_factory=OverfittingConfig)
    eval_plateau: EvalPlateauConfig = field(default_factory=EvalPlateauConfig)

    @staticmethod
    def names() -> tuple[str, ...]:
        """All kinds that are checked."""
        return tuple(CHECKS)

    def build(self) -> dict[str, Check]:
        """One fresh check a kind."""
        configured = {f.name for f in fields(self)}
        return {
            kind: make(config=getattr(self, kind)) if kind in configured else make()
            for kind, make in CHECKS.items()
        }


__all__ = ["CHECKS", "CheckConfigs"]
