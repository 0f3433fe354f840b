"""Read models of a run's state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.analysis.ranks import RankTable
from stallwatch.detector.analysis.state import RunState
from stallwatch.detector.checks import WAITING_CHECKS
from stallwatch.detector.core.inputs import Phase
from stallwatch.detector.core.views import STEP_PHASES, Forecast, LossView, PhaseHistogram, RankView, RunView

_SILENT_SECONDS = 15.0
_QUANTILES = (0.5, 0.9, 0.99)


def run_view(state: RunState) -> RunView:
    """The run as `GET /api/v1/runs/{run}` shows it."""
    hello, table, book = state.hello, state.ranks, state.findings
    batch = float(np.median(state.batch_sizes)) if state.batch_sizes else None
    noise = state.noise_scale
    last = table.last_step[table.attached & ~table.finished]
    lag = int(last.max() - last.min()) if last.size else 0
    worst = int(np.flatnonzero(table.attached & ~table.finished)[last.argmin()]) if lag > 0 else None
    sync = table.sync_seconds[table.attached]
    sync = sync[np.isfinite(sync)]
    return RunView(
        run=state.run,
        group=hello.group if hello else "",
        state=state.state,
        state_since_step=state.state_since_step,
        step=max(state.step, 0),
        epoch=_epoch(state, batch),
        world_size=state.aligner.world_size,
        attempt=state.attempt.number,
        effective_batch_size=batch,
        updated_at=state.updated_at,
        loss=_loss_view(state),
        evaluation_loss=state.evaluation_loss,
        gradient_noise_scale=noise.scale if noise else None,
        batch_over_critical=noise.batch_over_critical if noise else None,
        learning_rate=state.learning_rate,
        gradient_norm_local=state.gradient_norm_local,
        gradient_norm_reduced=state.gradient_norm_reduced,
        rank_lag_steps=lag,
        worst_rank=worst,
        sync_wait_quantiles={q: float(np.quantile(sync, q)) for q in _QUANTILES} if sync.size else {},
        phase_histograms={
            phase: PhaseHistogram(tuple(state.phase_counts[phase].tolist()), state.phase_seconds[phase])
            for phase in STEP_PHASES
        },
        stalled_gpu_seconds=dict(book.stalled_seconds),
        findings=book.select("firing"),
        findings_total=dict(book.opened),
        steps_received=state.steps_received,
        steps_missing=state.steps_missing + int(missing_steps(table).sum()),
        duplicate_batches=state.duplicate_batches,
        dropped_steps=dict(state.dropped),
        info=_info(state),
        peak_learning_rate=_peak_rate(state),
        parameters=hello.parameters if hello else 0,
        gaps=state.gaps.views(),
        unplaced_steps=state.gaps.unplaced,
        agent_share=_known(np.fmax.reduce(table.agent_share[table.attached], initial=np.nan)),
        sample_period=int(table.sample_period[table.attached].max(initial=0)),
        waiting_checks=WAITING_CHECKS,
    )


def rank_views(state: RunState) -> tuple[RankView, ...]:
    """The ranks of the current attempt."""
    table = state.ranks
    missing = missing_steps(table)
    foremost = int(table.last_step.max()) if table.size else -1
    views = []
    for rank in np.flatnonzero(table.attached).tolist():
        last = int(table.last_step[rank])
        views.append(
            RankView(
                rank=rank,
                node=table.hosts.get(rank, ""),
                state=_rank_state(state, rank),
                phase=Phase(int(table.phase[rank])).name.lower(),
                last_step=last,
                lag_steps=0 if table.finished[rank] else max(foremost - last, 0),
                incarnation=str(table.incarnation[rank]),
                attempt=state.attempt.number,
                steps_received=int(table.steps[rank]),
                steps_missing=int(missing[rank]),
                duplicate_batches=int(table.duplicate_batches[rank]),
                dropped_steps=int(table.dropped_steps[rank]),
                loss=_known(table.loss[rank]),
                step_seconds=_known(table.step_seconds[rank]),
                sync_seconds=_known(table.sync_seconds[rank]),
                input_seconds=_known(table.input_seconds[rank]),
                last_seen_at=float(table.seen_at[rank]),
                findings=tuple(
                    kind for kind, finding in state.findings.active.items() if rank in finding.ranks
                ),
                forward_seconds=_known(table.forward_seconds[rank]),
                backward_seconds=_known(table.backward_seconds[rank]),
                optimizer_seconds=_known(table.optimizer_seconds[rank]),
                agent_share=_known(table.agent_share[rank]),
                sample_period=int(table.sample_period[rank]),
            )
        )
    return tuple(views)


def run_state(state: RunState) -> tuple[str, int]:
    """The run's state and the step it began at."""
    table = state.ranks
    here = table.attached
    step = max(state.step, 0)
    if here.any() and bool(table.finished[here].all()):
        return "finished", step
    lost = state.findings.active.get("rank_lost")
    if lost is not None and state.lost:
        alive = here & ~table.finished
        alive[list(lost.ranks)] = False
        if not alive.any():
            return "lost", lost.since_step
        # The others cannot go on without a rank whose process is gone.
        return "hung", lost.since_step
    hang = state.findings.active.get("hang")
    if hang is not None:
        return "hung", hang.since_step
    if state.assessment is None:
        return "warming_up", 0
    return state.assessment.state, state.assessment.since_step


def missing_steps(table: RankTable) -> NDArray[np.int64]:
    """Per rank, steps between its first and last of this attempt that never came."""
    spans = np.where(table.first_step >= 0, table.last_received - table.first_step + 1, 0)
    return np.maximum(spans - table.steps, 0)


def norm(squares: NDArray[np.float64]) -> float | None:
    """Root of the mean over ranks of a squared norm; None when no rank knows it."""
    known = squares[np.isfinite(squares)]
    return float(np.sqrt(known.mean())) if known.size else None


def _rank_state(state: RunState, rank: int) -> str:
    table = state.ranks
    lost = state.findings.active.get("rank_lost")
    if table.finished[rank]:
        return "finished"
    if lost is not None and rank in lost.ranks:
        return "lost"
    if not table.connected[rank] or state.now - table.seen_at[rank] > _SILENT_SECONDS:
        return "silent"
    return "training"


def _loss_view(state: RunState) -> LossView:
    looked = state.assessment
    if looked is None:
        return LossView(value=_known(state.loss), slope_per_step=None, noise=None, forecast=None)
    forecast = looked.forecast
    return LossView(
        value=looked.level,
        slope_per_step=looked.slope_per_step,
        noise=looked.noise,
        forecast=None
        if forecast is None
        else Forecast(forecast.horizon_steps, forecast.relative_improvement, forecast.low, forecast.high),
    )


def _peak_rate(state: RunState) -> float | None:
    looked = state.assessment
    rate, ratio = (looked.learning_rate, looked.learning_rate_ratio) if looked else (None, None)
    return rate / ratio if rate is not None and ratio else None


def _epoch(state: RunState, batch: float | None) -> float | None:
    size = state.hello.dataset_size if state.hello else 0
    return (state.step + 1) * batch / size if size and batch and state.step >= 0 else None


def _known(value: float | None) -> float | None:
    return None if value is None or value != value else float(value)  # noqa: PLR0124 - NaN


def _info(state: RunState) -> dict[str, str]:
    hello = state.hello
    if hello is None:
        return {}
    return {
        "framework": "torch",
        "torch_version": hello.torch_version,
        "backend": hello.backend,
        "parallelism": hello.parallelism.name.lower(),
        "model": hello.model,
        "optimizer": hello.optimizer,
        "world_size": str(state.aligner.world_size),
        "device": hello.device,
        "agent_version": hello.agent_version,
    }
