"""Runs as the service shows them, with everything that a run can have, without a service: for `/metrics`."""

from __future__ import annotations

import random
from dataclasses import replace

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import (
    STEP_PHASES,
    STEP_SECONDS_BUCKETS,
    Forecast,
    LossView,
    PhaseHistogram,
    RunView,
)
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.engine.messages import PollResult


def finding(run: str, kind: str) -> Finding:
    """One that fires."""
    word = VOCABULARY[kind]
    return Finding(
        id=f"{run}#{kind}#1",
        run=run,
        kind=kind,
        category=word.category,
        severity=word.severity.value,
        confidence=0.97,
        status="firing",
        since_step=1000,
        detected_step=1100,
        resolved_step=None,
        ranks=(3,),
        layers=(),
        reason=f"Rank 3 holds the others up since step 1000: {kind} costs 47.6 ms a step (70.9 % of 67 ms), in {run}.",
    )


def full_run(
    run: str, kinds: tuple[str, ...] = ("straggler", "plateau"), ranks: int = 64, seed: int = 0
) -> PollResult:
    """A run of which everything is known, with findings of these kinds firing."""
    rng = random.Random(seed)
    view = RunView(
        run=run,
        group="",
        state="plateau",
        state_since_step=900,
        step=100_000 + seed,
        epoch=3.5,
        world_size=ranks,
        attempt=1,
        effective_batch_size=8.0 * ranks,
        updated_at=1_764_000_000.0 + rng.random(),
        loss=LossView(
            rng.random(), -1e-7 * rng.random(), 0.01, Forecast(1000, 0.001 * rng.random(), -0.002, 0.004)
        ),
        evaluation_loss=rng.random(),
        gradient_noise_scale=1e4 * rng.random(),
        batch_over_critical=rng.random(),
        learning_rate=3e-4 * rng.random(),
        gradient_norm_local=rng.random(),
        gradient_norm_reduced=rng.random(),
        rank_lag_steps=2,
        worst_rank=3,
        sync_wait_quantiles={0.5: 0.01 * rng.random(), 0.9: 0.02, 0.99: 0.05},
        phase_histograms={
            phase: PhaseHistogram(
                tuple(rng.randrange(10**6) for _ in range(len(STEP_SECONDS_BUCKETS) + 1)), 1e5 * rng.random()
            )
            for phase in STEP_PHASES
        },
        stalled_gpu_seconds={kind: 1e5 * rng.random() for kind in kinds},
        findings=tuple(finding(run, kind) for kind in kinds),
        findings_total=dict.fromkeys(kinds, 2),
        steps_received=100_000 * ranks,
        steps_missing=3,
        duplicate_batches=5,
        dropped_steps={"buffer_full": 4},
        agent_share=0.005 * rng.random(),
        info={
            "framework": "torch",
            "torch_version": "2.13.0",
            "backend": "nccl",
            "parallelism": "data_parallel",
            "model": "GPT",
            "optimizer": "AdamW",
            "world_size": str(ranks),
        },
    )
    return PollResult("generation", view, view.findings, (), (), 100, 0, 100_000, 0.01, 0.5)


def moved(result: PollResult, seed: int) -> PollResult:
    """The run a moment later: every number is another one, as it is at every scrape."""
    kinds = tuple(each.kind for each in result.view.findings)
    view = full_run(result.view.run, kinds, result.view.world_size, seed).view
    return replace(result, view=view)
