"""Read models: what the analysis shows of a run to the API, the metrics, the page and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stallwatch.detector.core.findings import Finding

RUN_STATES = (
    "warming_up",
    "improving",
    "slow",
    "plateau",
    "oscillating",
    "diverging",
    "hung",
    "finished",
    "lost",
)
STEP_PHASES = ("input", "forward", "backward", "sync", "optimizer")
STEP_SECONDS_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
EXPOSED_BUCKETS = (0.1, 1.0)
"""Those that `/metrics` shows: a run has five phases, and each bound costs it five series."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Improvement to expect over the next horizon, relative to the loss now, with a 95 % interval."""

    horizon_steps: int
    relative_improvement: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LossView:
    """The loss as it stands: level, slope and noise in its own unit."""

    value: float | None
    slope_per_step: float | None
    noise: float | None
    forecast: Forecast | None


@dataclass(frozen=True, slots=True)
class PhaseHistogram:
    """Classic histogram of a phase's seconds over ranks and steps.

    `counts[i]` observations lie in bucket i (<= `STEP_SECONDS_BUCKETS[i]`), not cumulative; a last one above all buckets.
    """

    counts: tuple[int, ...]
    total_seconds: float


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank, for `GET /api/v1/runs/{run}/ranks`."""

    rank: int
    node: str
    state: str
    """`training`, `silent`, `lost` or `finished`."""
    phase: str
    last_step: int
    lag_steps: int
    """Steps behind the foremost rank."""
    incarnation: str
    """Decimal text: the number is too large for JSON readers."""
    attempt: int
    steps_received: int
    steps_missing: int
    """Steps between the first and last one of this attempt that never came."""
    duplicate_batches: int
    dropped_steps: int
    loss: float | None
    step_seconds: float | None
    sync_seconds: float | None
    input_seconds: float | None
    last_seen_at: float
    findings: tuple[str, ...] = ()
    """Kinds of the firing findings that name this rank."""
    forward_seconds: float | None = None
    backward_seconds: float | None = None
    optimizer_seconds: float | None = None
    agent_share: float | None = None
    """Share of the rank's time that its agent took in the last 10 to 60 s, hooks and threads together."""
    sample_period: int = 0
    """Steps between sampled records, which the agent spaces out to keep to its budget; 0 when not known."""


@dataclass(frozen=True, slots=True)
class EventView:
    """Something that changed: the user or the agent said so, or the job began anew."""

    step: int
    kind: str
    """The user's own word, what the agent calls it, or `restart`."""
    text: str
    automatic: bool
    """Whether the agent noticed it by itself; always for a restart."""
    at: float
    """When it was analyzed, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class StateSpan:
    """A state that the run was, or is, called."""

    state: str
    from_step: int
    """Estimate of where it began."""
    called_step: int
    called_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class GapView:
    """Data that is missing, for `GET /api/v1/runs/{run}/gaps`."""

    from_step: int
    to_step: int
    ranks: tuple[int, ...]
    """The lowest 64 of those whose data is missing."""
    ranks_total: int
    reasons: tuple[str, ...]
    """Those of `stallwatch_agent_dropped_total`, or `late`; none when nobody said why."""
    steps: int
    """Rank-steps that are missing."""


@dataclass(frozen=True, slots=True)
class RuleView:
    """What one rule of another tool has said so far."""

    rule: str
    """Its name there."""
    hits: int
    first_step: int | None
    last_step: int | None
    text: str
    """Of the latest hit; empty when there was none."""


@dataclass(frozen=True, slots=True)
class RunView:
    """One run, for `GET /api/v1/runs/{run}` and for `/metrics`."""

    run: str
    group: str
    state: str
    state_since_step: int
    step: int
    epoch: float | None
    world_size: int
    attempt: int
    effective_batch_size: float | None
    updated_at: float
    loss: LossView
    evaluation_loss: float | None
    gradient_noise_scale: float | None
    batch_over_critical: float | None
    learning_rate: float | None
    gradient_norm_local: float | None
    gradient_norm_reduced: float | None
    rank_lag_steps: int
    worst_rank: int | None
    sync_wait_quantiles: Mapping[float, float] = field(default_factory=dict)
    phase_histograms: Mapping[str, PhaseHistogram] = field(default_factory=dict)
    stalled_gpu_seconds: Mapping[str, float] = field(default_factory=dict)
    """GPU-seconds (ranks times wall time) spent while a finding of this kind was firing, from its onset."""
    findings: tuple[Finding, ...] = ()
    """Firing ones."""
    findings_total: Mapping[str, int] = field(default_factory=dict)
    """How many findings of a kind have ever opened."""
    steps_received: int = 0
    steps_missing: int = 0
    duplicate_batches: int = 0
    dropped_steps: Mapping[str, int] = field(default_factory=dict)
    """Lost at agents, by reason."""
    info: Mapping[str, str] = field(default_factory=dict)
    """Labels of `stallwatch_run_info`: framework, torch_version, backend, parallelism, model, optimizer, world_size."""
    rules: tuple[RuleView, ...] = ()
    """Of the rule set that was asked for; empty without one."""
    peak_learning_rate: float | None = None
    parameters: int = 0
    """Of the model; 0 when not declared."""
    gaps: tuple[GapView, ...] = ()
    """Where data is missing, by step."""
    unplaced_steps: int = 0
    """Rank-steps missing of which nobody knows where: an older version did not note it."""
    agent_share: float | None = None
    """Of the rank whose agent takes most."""
    sample_period: int = 0
    """Steps between sampled records, of the rank with the most; 0 when not known."""
    waiting_checks: tuple[str, ...] = ()
    """Kinds that see something on sampled steps only: it is found within some sample periods, the rest at once."""
