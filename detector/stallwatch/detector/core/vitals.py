"""The state of health of a run at one look: everything that the causes of a stall are weighed by.

A number that is not known is NaN, with which every comparison is false: what was not measured is evidence for nothing.
"Reference" is what a quantity was in the run's best time: the median over the first half of the steps before the loss went
flat or, while it has not, over the first half of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stallwatch.detector.core.family import Peer
from stallwatch.detector.core.learning import LossAssessment
from stallwatch.detector.core.observations import EventObservation, RunDeclaration
from stallwatch.detector.core.scaling import NoiseScaleObservation

NAN = math.nan


@dataclass(frozen=True, slots=True)
class Level:
    """One quantity: lately, in its reference time, and over its whole course."""

    now: float = NAN
    """Median of the latest values, at most 16."""
    reference: float = NAN
    peak: float = NAN
    lowest: float = NAN
    count: int = 0
    """Values ever taken."""

    @property
    def ratio(self) -> float:
        """Now as a share of the reference; NaN when either is unknown or the reference is 0."""
        return self.now / self.reference if self.reference else NAN


@dataclass(frozen=True, slots=True)
class OptimizationVitals:
    """Gradients, weights and updates on sampled steps."""

    gradient_norm: Level = field(default_factory=Level)
    """Of the averaged gradient, before clipping and unscaling where known."""
    gradient_tail: float = NAN
    """The third largest of the latest 16 norms over their median, if there are as many: large ones that come again."""
    weight_norm: Level = field(default_factory=Level)
    update_ratio: Level = field(default_factory=Level)
    """Norm of the update over that of the weights."""
    effective_step: Level = field(default_factory=Level)
    """Root mean square of the update over the learning rate: near 1 for Adam with agreeing gradients."""
    decay_share: Level = field(default_factory=Level)
    """What weight decay pulls over what the optimizer does in all (AdamW), or over the gradient (SGD, Adam)."""
    alignment: Level = field(default_factory=Level)
    """Cosine of the negative gradient and the update before it."""
    alignment_error: float = NAN
    """Standard error of the mean of the latest alignments."""
    alignment_mean: float = NAN
    agreement: Level = field(default_factory=Level)
    """Cosine of successive gradients."""
    zero_share: Level = field(default_factory=Level)
    """Elements of the gradient that are exactly zero, embeddings included."""
    zero_row_share: Level = field(default_factory=Level)
    """Units whose weights get no gradient at all, over all matrices but embeddings."""
    worst_zero_rows: tuple[str, float] = ("", NAN)
    """The block with the largest share of such units, and that share."""
    saturated: tuple[str, float] = ("", NAN)
    """The activation with the largest share of saturated outputs."""
    saturated_share: float = NAN
    """Median over the activations that can saturate."""
    live_zero_rows: Level = field(default_factory=Level)
    """Like `zero_row_share`, over the matrices that get any gradient."""
    silent_share: Level = field(default_factory=Level)
    """Matrices that get no gradient at all."""
    gradient_element: float = NAN
    """Root mean square of the gradient's elements as the backward leaves them, in units of the loss scale."""
    unchanged_share: float = NAN
    """Elements that the step left as they were although they had a gradient; half precision only."""
    depth_ratio: Level = field(default_factory=Level)
    """Gradient-to-weight ratio of the first quarter of the matrices over that of the last quarter: far below 1 is
    vanishing, far above 1 exploding."""
    blocks: tuple[str, ...] = ()
    gradient_to_weight: tuple[float, ...] = ()
    """By block, now."""
    still_blocks: tuple[str, ...] = ()
    """Trainable blocks that have not moved on any of the latest samples, while others did."""
    still_share: float = NAN
    """Their share of the blocks that are trained."""
    still_with_gradient: tuple[str, ...] = ()
    """Those of them that get a gradient all the same."""
    still_since: int = -1
    """First sample at which they stood still; -1 when none does."""
    left_blocks: tuple[str, ...] = ()
    """Blocks that were trained once and, on all of the latest samples, got no gradient or no update while others did."""
    left_share: float = NAN
    """Their share of the blocks that were ever trained."""
    left_since: int = -1
    """First sample at which one of them rested; -1 when none does."""


@dataclass(frozen=True, slots=True)
class ScalingVitals:
    """What happens to gradients between the backward and the optimizer, at every step: clipping and loss scaling."""

    steps: int = 0
    """Steps behind these shares, at most 64."""
    clipped_share: float = NAN
    clip_factor: float = NAN
    """Median factor of the clipped steps."""
    loss_scale: float = NAN
    """Of the gradient scaler: a power of two; 1 without one."""
    loss_scale_peak: float = NAN
    skipped_share: float = NAN
    """Backward passes that no optimizer step followed, beyond the usual accumulation."""


@dataclass(frozen=True, slots=True)
class RateVitals:
    """The learning rate."""

    now: float = NAN
    peak: float = NAN
    since: int = -1
    """Step of the latest jump by 30 % or more; -1 when there was none."""
    before: float = NAN
    """The rate before that jump."""
    falling: bool = False
    """Whether a schedule lowers it smoothly."""
    low_since: int = -1
    """Step from which it has been at most a tenth of its peak; -1 while it is above."""
    raised_at: int = -1
    """Step of the latest jump up by 30 % or more that was no warm-up; -1 when there was none."""
    raised_from: float = NAN
    """The rate before that."""

    @property
    def ratio(self) -> float:
        """The rate as a share of its peak."""
        return self.now / self.peak if self.peak > 0 else NAN


@dataclass(frozen=True, slots=True)
class SeriesVitals:
    """One series beside the training loss: evaluation loss, a metric, a group's or a component's loss."""

    name: str
    points: int
    level: float
    """Mean of the latest eighth of its points."""
    start: float
    """Median of its first values: eight, or an eighth of them."""
    slope: float
    """Change over its latest half, as a share of its whole range; below 0: it falls."""
    slope_error: float
    """Standard error of `slope`."""
    share: float = NAN
    """Of a group: its share of the samples. Of a component: its share of the sum of all."""
    alive_since: int = -1
    """First step at which it was not zero, after at least eight at which it was; -1 when it never was zero so long."""


@dataclass(frozen=True, slots=True)
class Restart:
    """The job began anew."""

    step: int
    attempt: int
    world_size: int
    loss_before: float
    """Median of the last losses before."""
    loss_after: float
    """Median of the first losses after."""
    noise: float
    """Typical deviation of single losses."""
    state_step_before: int
    """Steps of the optimizer's state, at the last sample before; -1 when unknown."""
    state_step_after: int
    """The same as the attempt began, counted back from its first sample; -1 when unknown."""
    loss_there: float = NAN
    """Typical loss of the steps that it went back to, as it was before; `loss_before` where the steps go on."""
    step_before: int = -1
    """Last step before."""
    first_loss: float = NAN
    """Typical loss of the first steps of the run."""


@dataclass(frozen=True, slots=True)
class LevelShift:
    """The loss jumped, up or down, and stayed for a while."""

    step: int
    before: float
    after: float
    sigma: float
    """Size of the jump in standard deviations of single losses."""


@dataclass(frozen=True, slots=True)
class DataVitals:
    """What is known of the samples."""

    epoch_steps: float = NAN
    """Steps of an epoch, from the declared size of the data set."""
    period_steps: float = NAN
    """Steps after which the same inputs come again; NaN when they do not."""
    distinct_share: float = NAN
    """Distinct inputs among the steps of the last epoch."""
    steps_seen: int = 0
    """Steps whose inputs were told, as far as they are remembered."""
    input_mean: Level = field(default_factory=Level)
    input_deviation: Level = field(default_factory=Level)
    input_jump: LevelShift | None = None
    """The latest jump of the inputs' mean or deviation that stayed."""
    rank_spread: float = NAN
    """Median over the latest steps of the spread of the ranks' losses, as a share of the loss."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look at the health of a run."""

    step: int
    attempt: int = 0
    world_size: int = 1
    effective_batch: float = NAN
    loss: LossAssessment | None = None
    optimization: OptimizationVitals = field(default_factory=OptimizationVitals)
    scaling: ScalingVitals = field(default_factory=ScalingVitals)
    rate: RateVitals = field(default_factory=RateVitals)
    noise: NoiseScaleObservation | None = None
    evaluation: SeriesVitals | None = None
    metrics: tuple[SeriesVitals, ...] = ()
    groups: tuple[SeriesVitals, ...] = ()
    components: tuple[SeriesVitals, ...] = ()
    data: DataVitals = field(default_factory=DataVitals)
    events: tuple[EventObservation, ...] = ()
    """The latest ones, oldest first, at most 32."""
    restarts: tuple[Restart, ...] = ()
    shifts: tuple[LevelShift, ...] = ()
    """The latest ones, oldest first, at most 8."""
    declaration: RunDeclaration | None = None
    evidence_from: int = -1
    """First step of the run that was seen."""
    loss_start: float = NAN
    """Median of the first losses of the run."""
    course: tuple[tuple[float, float], ...] = ()
    """Steps and losses over the whole run, at most 128, as means of neighbours; what a restart repeated is replaced."""
    findings: Mapping[str, int] = field(default_factory=dict)
    """Other findings that are firing, by kind, with the step they began at."""
    family: tuple[Peer, ...] = ()
    """Other runs of the same family, as far as anybody has told of them."""
