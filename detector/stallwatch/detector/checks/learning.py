"""The checks of what the loss is doing, by kind."""

from __future__ import annotations

from stallwatch.detector.checks.divergence import Divergence
from stallwatch.detector.checks.eval_plateau import EvalPlateau
from stallwatch.detector.checks.loss_spike import LossSpike
from stallwatch.detector.checks.non_finite import NonFinite
from stallwatch.detector.checks.oscillation import Oscillation
from stallwatch.detector.checks.overfitting import Overfitting
from stallwatch.detector.checks.plateau import Plateau
from stallwatch.detector.checks.slow_convergence import SlowConvergence

LEARNING_CHECKS: dict[str, type] = {
    check.kind: check
    for check in (
        Plateau,
        SlowConvergence,
        Oscillation,
        Divergence,
        LossSpike,
        NonFinite,
        Overfitting,
        EvalPlateau,
    )
}
