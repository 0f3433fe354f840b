"""World or batch changed, and the learning rate did not follow, or followed twice."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from stallwatch.detector.checks.rate_eras import Era, Progress, progress_between
from stallwatch.detector.core.observations import RunDeclaration, StepObservation
from stallwatch.detector.core.verdicts import EvidenceValue, Severity, Verdict

_FROM_THE_START = 10
"""An attempt that begins at a later step may be in the middle of a schedule whose peak nobody saw."""
_UNCHANGED = 1.05
"""A rate within this factor of another one is the same."""
_EVERY = 5
"""Steps between looks: rates and batches do not hurry."""
_TOO_LOW, _FOLLOWED, _TOO_HIGH = -1, 0, 1


@dataclass(frozen=True, slots=True)
class LrScalingMismatchConfig:
    """Settings of the learning rate scaling check."""

    batch_factor: float = 1.5
    """Batches within this factor of each other are the same: losing one of four nodes needs no new learning rate."""
    tolerance: float = 1.25
    """The rate may be off the rules by this factor. People round, and rates are tuned on grids that are twice as coarse; when
    the batch doubles, no rate that was left alone or scaled twice is this near to either rule."""
    plausible_factor: float = 100.0
    """Beyond this factor, declared and logged batches are in different units: sequences and tokens, for one."""
    settle_steps: int = 40
    """Steps after a restart, and after the latest increase of the rate, before anything is said."""
    unchanged_steps: int = 100
    """A rate that is exactly the declared one, at a batch that is not, is judged after so many steps ..."""
    constant_steps: int = 1000
    """... any other that has not been raised for so many: a warm-up may go by epochs."""
    warm_up_share: float = 0.25
    """... or for this share of the declared steps of the run, if there are any: warm-ups are shorter."""

    def __post_init__(self) -> None:
        if not 1 < self.tolerance < self.batch_factor:
            raise ValueError("tolerance must be above 1 and below batch_factor")
        if not 0 < self.warm_up_share < 1:
            raise ValueError(f"warm_up_share must be a share between 0 and 1, not {self.warm_up_share}")
        if not 20 <= self.settle_steps <= self.unchanged_steps <= self.constant_steps:
            raise ValueError("settle_steps, unchanged_steps and constant_steps must rise, from 20")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a rate is compared with."""

    batch: float
    rate: float
    declared: bool
    peak: float = 0.0
    """Of the attempt that `rate` is the last of."""


@dataclass(slots=True)
class Mismatch:
    """What is being said."""

    rule: Rule
    sign: int
    """-1: the rate is too low, 1: too high."""
    attempt: int
    since: int
    with_progress: bool = False


@dataclass(slots=True)
class LrScalingMismatch:
    """Finds a learning rate that does not fit the batch: by what was declared, and by the run's own past over restarts.

    When the batch is k times what a rate was tuned for, the rate should be k times as large (linear rule, SGD) or the square
    root of k (Adam); anything between the two, with a tolerance, is taken as following. Compared are the peak since the start
    with `base_lr` at `base_batch_size`, and the rate after a restart with the one before it. Nothing is said in a warm-up, nor
    of a rate that has been lowered since.

    It cannot know that a batch was raised on purpose instead of lowering the rate (arXiv 1711.00489), sees the first parameter
    group only, and takes the samples of `log`, whatever they are, as the batch. Rules: Goyal et al., arXiv 1706.02677;
    Malladi et al., arXiv 2205.10287. Progress a sample falls by (r2 / r1) (B1 / B2) while the rate is below the best one.
    """

    kind: ClassVar[str] = "lr_scaling_mismatch"
    consumes: ClassVar[tuple[type, ...]] = (StepObservation, RunDeclaration)

    config: LrScalingMismatchConfig = field(default_factory=LrScalingMismatchConfig)
    base_rate: float = 0.0
    base_batch: float = 0.0
    total_steps: int = 0
    now: Era | None = None
    before: Era | None = None
    past: Rule | None = None
    """Batch and rate of the latest attempt in which they fitted, as they would be now."""
    said: Mismatch | None = None

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if isinstance(observation, RunDeclaration):
            self.base_rate, self.base_batch = observation.base_learning_rate, observation.base_batch_size
            self.total_steps = observation.total_steps
            return None
        if not isinstance(observation, StepObservation):
            return None
        now = self.now
        if now is None or now.attempt != observation.attempt:
            now = self._begin(observation)
        now.take(observation)
        if now.steps < self.config.settle_steps or now.steps % _EVERY:
            return None
        if not now.peak > 0 or math.isnan(now.batch):
            return None
        if self.said is not None:
            return self._follow(now, self.said, observation.step)
        return self._judge(now, observation.step)

    def _begin(self, step: StepObservation) -> Era:
        """A new attempt: what the one before it leaves is what its rate is compared with."""
        old = self.now
        self.now = Era(attempt=step.attempt, first_step=step.step)
        if old is None or math.isnan(old.batch) or not old.peak > 0:
            return self.now
        self.before = old
        rate = old.rate_before(step.step)
        fitted = self.said is None or self.said.rule.declared
        if old.is_rising(step.step, self.config.settle_steps):
            # In a warm-up the rate was not yet what it was meant to be.
            self.past = None
        elif fitted or self.past is None:
            self.past = Rule(old.batch, rate, declared=False, peak=old.peak)
        else:
            # Not what it should have been: what it was compared with has followed the same schedule since.
            fallen = rate / old.peak
            self.past = Rule(
                self.past.batch, self.past.rate * fallen, declared=False, peak=self.past.peak * fallen
            )
        return self.now

    def _judge(self, now: Era, step: int) -> Verdict | None:
        declared = self._by_declaration(now, step)
        if declared == _FOLLOWED:
            # Whatever it was before, it fits what it was tuned for.
            self.past = None
            return None
        if declared:
            rule, sign = Rule(self.base_batch, self.base_rate, declared=True), declared
        elif self.past is not None and self._has_settled(now, step):
            rule, sign = self.past, self._by_past(now, self.past)
            if not sign:
                # From here on its schedule decides, which may be a cycle.
                self.past = None
                return None
        else:
            return None
        self.said = Mismatch(rule, sign, now.attempt, now.first_step)
        return self._verdict(now, self.said, step)

    def _has_settled(self, now: Era, step: int) -> bool:
        return now.has_fallen or step - now.raised_step >= self.config.settle_steps

    def _by_past(self, now: Era, past: Rule) -> int:
        """How the rate of this attempt compares with what was before the restart."""
        batches = now.batch / past.batch
        sign = self._sign(batches, now.peak / past.rate)
        if sign != _TOO_HIGH or self._sign(batches, now.first_rate / past.rate) == _TOO_HIGH:
            return sign
        # Raised after the restart: too much only if it is so for the highest rate before, which a cycle comes back to.
        return self._sign(batches, now.peak / past.peak)

    def _by_declaration(self, now: Era, step: int) -> int | None:
        """How the peak compares with the declared rate at this batch; None where that says nothing."""
        if not (self.base_rate > 0 and self.base_batch > 0):
            return None
        batches = now.batch / self.base_batch
        if not 1 / self.config.plausible_factor < batches < self.config.plausible_factor:
            return None
        sign = self._sign(batches, now.peak / self.base_rate)
        if sign == _TOO_HIGH:
            # A schedule may have lowered it to what fits.
            return sign if self._sign(batches, now.rate / self.base_rate) == sign else None
        if sign == _FOLLOWED:
            # A warm-up passes through the right rate on its way to the wrong one.
            apart = self._is_apart(batches)
            return _FOLLOWED if apart and self._has_settled(now, step) else None
        if now.first_step >= _FROM_THE_START:
            return None
        constant = step - now.raised_step
        unchanged = 1 / _UNCHANGED < now.peak / self.base_rate < _UNCHANGED
        needed = self.config.unchanged_steps if unchanged else self.config.constant_steps
        if self.total_steps:
            share = self.config.warm_up_share * self.total_steps
            needed = min(needed, max(int(share), self.config.settle_steps))
        return sign if now.has_fallen or constant >= needed else None

    def _is_apart(self, batches: float) -> bool:
        return not 1 / self.config.batch_factor < batches < self.config.batch_factor

    def _sign(self, batches: float, rates: float) -> int:
        """-1, 0 or 1: too low, following, or too high, for a batch so many times as large."""
        if not self._is_apart(batches):
            return _FOLLOWED
        low, high = sorted((batches, math.sqrt(batches)))
        if rates < low / self.config.tolerance:
            return _TOO_LOW
        return _TOO_HIGH if rates > high * self.config.tolerance else _FOLLOWED

    def _follow(self, now: Era, said: Mismatch, step: int) -> Verdict | None:
        """A mismatch is over when the rate or the batch was changed so that they fit; a schedule may lower a high rate."""
        rule = said.rule if said.rule.declared or self.past is None else self.past
        rate = now.peak if said.sign == _TOO_LOW else now.rate
        if self._sign(now.batch / rule.batch, rate / rule.rate) != said.sign:
            self.said = self.past = None
            return Verdict(
                kind=self.kind,
                firing=False,
                step=step,
                reason=f"A learning rate of {rate:.3g} at {now.batch:,.0f} samples fits {rule.rate:.3g} at {rule.batch:,.0f}.",
            )
        if said.with_progress or said.attempt != now.attempt or len(now.first_losses) < 105:
            return None
        said.with_progress = True
        return self._verdict(now, said, step)

    def _verdict(self, now: Era, said: Mismatch, step: int) -> Verdict:
        rule = said.rule
        batches, rates = now.batch / rule.batch, now.peak / rule.rate
        low, high = sorted((batches, math.sqrt(batches)))
        progress = progress_between(self.before, now) if self.before is not None else None
        known = progress is not None and progress.error < 0.3
        harmless = (
            progress is not None and progress.ratio - 2 * progress.error > 0.7 and said.sign == _TOO_LOW
        )
        unchanged = 1 / _UNCHANGED < rates < _UNCHANGED
        twice = abs(math.log(rates / batches**2)) < math.log(self.config.tolerance)
        how = (
            "and the learning rate is the same"
            if unchanged
            else "and the learning rate followed twice"
            if twice
            else f"and the learning rate is {rates:.3g} times what it was"
        )
        source = (
            f"declared for {rule.rate:.3g}" if rule.declared else f"before the restart at step {said.since:,}"
        )
        evidence: dict[str, EvidenceValue] = {
            "batch": now.batch,
            "batch_before": rule.batch,
            "learning_rate": now.peak,
            "learning_rate_before": rule.rate,
            "declared": rule.declared,
            "linear_rule": rule.rate * batches,
            "square_root_rule": rule.rate * math.sqrt(batches),
            "progress_per_sample_ratio": progress.ratio if progress else None,
            "progress_per_sample_error": progress.error if progress else None,
            "progress_expected": rates / batches,
        }
        return Verdict(
            kind=self.kind,
            firing=True,
            step=step,
            since_step=said.since,
            severity=Severity.INFO if harmless else None,
            confidence=0.9,
            score=abs(math.log(rates / (low if said.sign == _TOO_LOW else high))),
            threshold=math.log(self.config.tolerance),
            reason=f"The batch of {now.batch:,.0f} samples is {batches:.3g} times that {source} ({rule.batch:,.0f}), {how} "
            f"({now.peak:.3g}; {rule.rate * batches:.3g} by the linear rule, {rule.rate * math.sqrt(batches):.3g} by the square "
            f"root){_progress_text(progress) if known else ''}.",
            evidence=evidence,
            advice=_advice(now, rule, said),
        )


def _progress_text(progress: Progress | None) -> str:
    return (
        ""
        if progress is None
        else f"; a sample brings {progress.ratio:.2g} times the progress that it brought before"
    )


def _advice(now: Era, rule: Rule, said: Mismatch) -> tuple[str, ...]:
    batches = now.batch / rule.batch
    linear, root = rule.rate * batches, rule.rate * math.sqrt(batches)
    text = f"Set the learning rate to {linear:.3g} (SGD: linear) or {root:.3g} (Adam: square root)"
    first = f"{text}, with a short warm-up." if said.sign == _TOO_LOW else f"{text}."
    return (
        first,
        (
            f"Or keep the batch at {rule.batch:,.0f} samples: fewer a rank, or fewer accumulated, with more ranks; more of them with "
            "fewer."
        ),
    )
