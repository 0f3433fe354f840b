"""The fixed vocabulary of findings: every kind, its category, severity and what it says."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.core.verdicts import Severity

_INFO, _WARNING, _CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL


@dataclass(frozen=True, slots=True)
class Kind:
    """One word of the vocabulary."""

    name: str
    category: str
    severity: Severity
    says: str


def _kinds(category: str, *rows: tuple[str, Severity, str]) -> dict[str, Kind]:
    return {name: Kind(name, category, severity, says) for name, severity, says in rows}


VOCABULARY: dict[str, Kind] = {
    **_kinds(
        "learning",
        ("plateau", _WARNING, "No meaningful improvement is to be expected at these settings."),
        ("slow_convergence", _INFO, "The loss still falls, so slowly that it looks flat."),
        ("oscillation", _WARNING, "The loss moves a lot and gets nowhere."),
        ("divergence", _CRITICAL, "The loss rises for good."),
        ("loss_spike", _WARNING, "The loss made one excursion."),
        ("non_finite", _CRITICAL, "A NaN or an infinity appeared in the loss."),
        ("overfitting", _WARNING, "Training loss falls while evaluation loss rises."),
        (
            "eval_plateau",
            _INFO,
            "Evaluation and training loss disagree about whether the model still learns.",
        ),
    ),
    **_kinds(
        "synchronisation",
        (
            "missing_gradient_sync",
            _CRITICAL,
            "Optimizer steps are taken on gradients that were not averaged.",
        ),
        ("stale_gradient", _CRITICAL, "The gradient applied is an old one."),
        ("replica_desync", _CRITICAL, "Parameters or buffers differ across ranks."),
        ("divergent_update", _CRITICAL, "The same gradient leads to different updates on different ranks."),
        ("ineffective_update", _CRITICAL, "Gradients flow and parameters do not move."),
        ("duplicate_shards", _WARNING, "Ranks train on the same samples."),
        ("repeated_order", _INFO, "Every epoch replays the same order."),
        ("uneven_batches", _WARNING, "Ranks contribute unequal samples and are averaged as equal."),
        ("accumulation_mismatch", _WARNING, "The effective batch is not what was declared."),
        ("rank_outlier", _WARNING, "One rank's loss or gradient is off from its peers."),
    ),
    **_kinds(
        "scaling",
        ("batch_beyond_critical", _WARNING, "The effective batch is far beyond the critical batch."),
        ("lr_scaling_mismatch", _WARNING, "World or batch changed and the learning rate did not follow."),
        ("scaling_efficiency_loss", _WARNING, "Throughput per worker fell when workers were added."),
        ("communication_bound", _WARNING, "Much of each step waits for gradients."),
    ),
    **_kinds(
        "progress",
        ("straggler", _WARNING, "One rank holds the others up."),
        ("input_bound", _WARNING, "All ranks wait for data."),
        ("throughput_regression", _WARNING, "Steps got slower and stay so, on all ranks."),
        ("hang", _CRITICAL, "No step for far longer than usual."),
        ("rank_lost", _CRITICAL, "A rank went silent."),
    ),
    **_kinds(
        "causes",
        ("lr_too_low", _WARNING, "The learning rate is too low to use what the gradient still offers."),
        ("lr_too_high", _WARNING, "The learning rate is so high that steps overshoot."),
        ("vanishing_gradients", _WARNING, "Early layers get almost no gradient."),
        ("exploding_gradients", _WARNING, "Gradient norms grow by orders."),
        ("clipping_saturated", _WARNING, "Nearly every step is clipped."),
        ("amp_underflow", _WARNING, "Gradients vanish in half precision."),
        ("amp_overflow", _WARNING, "The gradient scaler skips steps."),
        ("optimizer_starved", _WARNING, "The optimizer's state has grown until updates are tiny."),
        ("frozen_parameters", _WARNING, "Trainable parameters get no gradient or no update."),
        ("dead_units", _WARNING, "Many units are always zero or saturated."),
        ("over_regularized", _WARNING, "Regularisation outweighs the loss."),
        ("capacity_limit", _INFO, "The model fits as much as it can."),
        ("noise_floor", _INFO, "What is left is noise: the run is done."),
        ("batch_too_small", _WARNING, "Gradient noise dominates at this batch."),
        ("label_noise", _WARNING, "A stable minority of samples keeps a high loss."),
        ("group_stall", _WARNING, "One group of samples has stopped improving."),
        ("component_stall", _WARNING, "One term of a composite loss has stopped improving."),
        ("data_shortfall", _WARNING, "Fewer distinct samples are seen than the data set has."),
        ("distribution_shift", _WARNING, "The data changed."),
        ("restart_regression", _WARNING, "Training stepped back at a restart."),
        ("user_change", _WARNING, "The stall begins at a change the user made."),
        ("common_plateau", _INFO, "Runs of this model go flat at the same place."),
    ),
}
