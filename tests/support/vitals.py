"""Vitals by hand: those of a healthy run that has gone flat, with whatever a test changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stallwatch.detector.core.inputs import Parallelism
from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.observations import RunDeclaration
from stallwatch.detector.core.scaling import NoiseScaleObservation
from stallwatch.detector.core.vitals import Level, OptimizationVitals, RateVitals, ScalingVitals, Vitals
from stallwatch.detector.diagnosis.causes import CAUSES
from stallwatch.detector.diagnosis.ranking import Ranked, rank
from stallwatch.detector.diagnosis.weighing import Weighing

BLOCKS = tuple(f"layers.{index}.weight" for index in range(8))


def level(
    now: float, reference: float | None = None, peak: float | None = None, lowest: float | None = None
) -> Level:
    """A quantity that is what it was unless told otherwise."""
    before = now if reference is None else reference
    return Level(
        now=now,
        reference=before,
        peak=max(now, before) if peak is None else peak,
        lowest=min(now, before) if lowest is None else lowest,
        count=200,
    )


def assessment(**changes: Any) -> LossAssessment:
    """A loss that has been flat at 1.0 since step 500, and stands at its best."""
    flat = LossAssessment(
        step=1000,
        state="plateau",
        previous_state="improving",
        since_step=500,
        since_step_error=30.0,
        level=1.0,
        slope_per_step=0.0,
        slope_low=-1e-6,
        slope_high=1e-6,
        noise=0.05,
        forecast=None,
        plateau_probability=0.97,
        confidence=0.97,
        material_gain=0.01,
        best=1.0,
        rise=0.0,
        rise_sigma=0.0,
        swing=0.0,
        period_steps=0.0,
        learning_rate=1e-3,
        learning_rate_ratio=1.0,
        steps_observed=1000,
        reason="",
    )
    return replace(flat, **changes)


def declaration(optimizer: str, total_steps: int = 0) -> RunDeclaration:
    """What a rank declares."""
    return RunDeclaration(
        step=0,
        attempt=0,
        world_size=1,
        parallelism=Parallelism.SINGLE,
        backend="",
        device="cpu",
        model="Net",
        optimizer=optimizer,
        parameters=10_000,
        trainable_parameters=10_000,
        sample_period=8,
        dataset_size=0,
        base_learning_rate=0.0,
        base_batch_size=0.0,
        local_steps=0,
        total_steps=total_steps,
    )


def noise(low: float, batch: float = 32.0, ranks: int = 4, agreement: float = 0.26) -> NoiseScaleObservation:
    """A noise scale that is at least `low`."""
    return NoiseScaleObservation(
        step=1000,
        attempt=0,
        world_size=ranks,
        scale=None,
        low=low,
        high=float("inf"),
        relative_error=float("inf"),
        sampled_steps=32,
        effective_batch=batch,
        noise_batch=batch,
        batch_over_critical=None,
        efficiency=None,
        agreement=agreement,
        effective_ranks=1 / agreement,
    )


def vitals(
    optimizer: str = "AdamW",
    *,
    loss: dict[str, Any] | None = None,
    scaling: dict[str, Any] | None = None,
    rate: dict[str, Any] | None = None,
    whole: dict[str, Any] | None = None,
    total_steps: int = 0,
    **optimization: Any,
) -> Vitals:
    """A run at its noise floor; keyword arguments change its `OptimizationVitals`."""
    seen: dict[str, Any] = {
        "gradient_norm": level(0.5),
        "gradient_tail": 1.5,
        "weight_norm": level(20.0),
        "update_ratio": level(1e-3),
        "effective_step": level(0.2 if "Adam" in optimizer else 0.01),
        "decay_share": level(0.01),
        "alignment": level(0.0),
        "alignment_mean": 0.0,
        "alignment_error": 0.02,
        "agreement": level(0.02),
        "zero_share": level(0.02),
        "zero_row_share": level(0.02),
        "live_zero_rows": level(0.02),
        "silent_share": level(0.0),
        "worst_zero_rows": (BLOCKS[0], 0.05),
        "gradient_element": 0.5 / 100,
        "depth_ratio": level(0.7),
        "blocks": BLOCKS,
        "gradient_to_weight": (0.02,) * len(BLOCKS),
        "still_share": 0.0,
        "left_share": 0.0,
    }
    return Vitals(
        step=1000,
        effective_batch=32.0,
        loss=assessment(**(loss or {})),
        optimization=OptimizationVitals(**{**seen, **optimization}),
        scaling=ScalingVitals(**{"steps": 64, "clipped_share": 0.0, "loss_scale": 1.0, "skipped_share": 0.0, **(scaling or {})}),
        rate=RateVitals(**{"now": 1e-3, "peak": 1e-3, **(rate or {})}),
        declaration=declaration(optimizer, total_steps),
        evidence_from=0,
        **(whole or {}),
    )  # fmt: skip


def ranked(seen: Vitals) -> list[Ranked]:
    """All causes in their order."""
    return rank(seen, CAUSES)


def first(seen: Vitals) -> str:
    """The cause that comes first, with its confidence at 0.6 or more; empty when none does."""
    found = ranked(seen)
    return found[0].weighing.kind if found and found[0].confidence >= 0.6 else ""


def weighed(kind: str, seen: Vitals) -> Weighing:
    """One cause's weighing, which must be there."""
    found = CAUSES[kind](seen)
    assert found is not None
    return found


def score(kind: str, seen: Vitals) -> float:
    """One cause's evidence; 0 when it has none."""
    found = CAUSES[kind](seen)
    return found.score if found is not None else 0.0


def stands_alone(kind: str, seen: Vitals) -> bool:
    """Whether the cause would be a finding of its own."""
    found = CAUSES[kind](seen)
    return found is not None and found.decisive and found.score >= 6.0
