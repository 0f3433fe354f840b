"""The life of findings: opened, updated, explained by one another, and resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.verdicts import EvidenceValue, Severity, Verdict
from stallwatch.detector.core.vocabulary import VOCABULARY

_MAX_RESOLVED = 512
_NAMED = 0.6
"""Confidence from which a cause that comes first under a verdict about the loss explains other findings."""
_UNSPENT = (
    "lr_too_high",
    "vanishing_gradients",
    "exploding_gradients",
    "clipping_saturated",
    "amp_underflow",
    "amp_overflow",
    "optimizer_starved",
    "frozen_parameters",
    "dead_units",
    "over_regularized",
)
"""Faults of the optimization, after which the gradient is not what a batch in order would leave of it. Not `lr_too_low`: at a
batch beyond the critical one, steps are as a rule smaller than they could be, so that both are true."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """`effect` is no finding of its own where `cause` explains it: it is withheld, unless it began before the cause."""

    effect: str
    cause: str
    lasting: bool = False
    """The effect outlives the cause: it stays explained for the rest of the attempt."""
    settle_steps: int = 0
    """The effect's check takes so many steps to notice that it is over: it stays explained so long after the cause."""
    spoils: bool = False
    """What the effect's check saw meanwhile is not what it judges: when the cause is over, it begins anew."""
    named: bool = False
    """It is enough that the cause comes first under a firing verdict about the loss; and as the effect's check rests on the
    latest half of the run, it stays explained until what it saw meanwhile has left that."""
    dated_roughly: bool = False
    """The onset of the effect is an estimate that may lie far before the cause: what counts is that it was not called yet."""


EXPLANATIONS = (
    # Replicas that took steps on their own gradients differ from then on, also after synchronisation is back.
    Explanation("replica_desync", "missing_gradient_sync", lasting=True),
    # So do those that were updated differently, or of which one applied an old gradient.
    Explanation("replica_desync", "divergent_update", lasting=True),
    Explanation("replica_desync", "stale_gradient", lasting=True),
    # An old gradient on one rank is another one than the others', and a gradient that was not averaged may be skipped alone.
    Explanation("divergent_update", "stale_gradient"),
    Explanation("divergent_update", "missing_gradient_sync"),
    # Everybody waits for a rank that is gone, and nobody is slow while nobody moves.
    Explanation("hang", "rank_lost"),
    Explanation("straggler", "rank_lost", settle_steps=100),
    Explanation("straggler", "hang", settle_steps=100),
    # Steps are longer because of one rank, or because data comes late: that says more.
    Explanation("throughput_regression", "straggler", settle_steps=200),
    Explanation("throughput_regression", "input_bound", settle_steps=200),
    Explanation("throughput_regression", "rank_lost", settle_steps=200),
    Explanation("throughput_regression", "hang", settle_steps=200),
    # Workers that wait for one of those that were added say nothing about the number of workers.
    Explanation("scaling_efficiency_loss", "straggler", settle_steps=200),
    # Gradients of the same samples agree because they are the same.
    Explanation("batch_beyond_critical", "duplicate_shards"),
    # A gradient that is not spent, or is balanced by decay, points the same way at each step: that is no measure of the batch.
    # It is an estimate over half of the run, so its onset may lie before the fault that it is an effect of.
    *(Explanation("batch_beyond_critical", cause, named=True, dated_roughly=True) for cause in _UNSPENT),
    # Who does not synchronise keeps nobody waiting in order, and the same mistake costs time.
    Explanation("straggler", "missing_gradient_sync", settle_steps=100, spoils=True, dated_roughly=True),
    # Replicas that go their own ways have losses and gradients of their own, too.
    Explanation("rank_outlier", "missing_gradient_sync", lasting=True),
    Explanation("rank_outlier", "replica_desync", lasting=True),
    Explanation("rank_outlier", "divergent_update", lasting=True),
    Explanation("rank_outlier", "non_finite"),
    # What is no number gets no gradient that is one.
    Explanation("frozen_parameters", "non_finite", lasting=True),
    Explanation("dead_units", "non_finite", lasting=True),
    # A loss that is no number any more has no level to rise from.
    Explanation("divergence", "non_finite"),
    Explanation("loss_spike", "non_finite"),
    Explanation("loss_spike", "divergence"),
)
HOLD_STEPS = {"replica_desync": 4}
"""Steps that a verdict of this kind waits before it opens a finding, so that its explanation can come first."""
SCOPED_CATEGORIES = frozenset({"synchronisation", "progress"})
"""Findings about processes end with the processes; what the loss does outlives a restart."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """A firing verdict that opens no finding now."""

    verdict: Verdict
    from_step: int
    spoiled: bool = False
    """Whether what explains it, or did, says that its check was misled."""


@dataclass(slots=True)
class FindingBook:
    """All findings of a run; at most one of a kind is firing."""

    run: str = ""
    active: dict[str, Finding] = field(default_factory=dict)
    resolved: list[Finding] = field(default_factory=list)
    opened: dict[str, int] = field(default_factory=dict)
    """How many findings of a kind have ever opened: the ordinal in the id."""
    certain_since: dict[str, float] = field(default_factory=dict)
    """Of each active finding, the step from which its condition certainly held."""
    explained_since: dict[str, int] = field(default_factory=dict)
    """Kinds that have fired in this attempt, with the earliest step they began at."""
    named_at: dict[str, int] = field(default_factory=dict)
    """The latest step at which a cause fired, or came first under a firing verdict about the loss, in this attempt."""
    ended_at: dict[str, int] = field(default_factory=dict)
    """The step at which the latest finding of a kind was resolved, in this attempt."""
    withheld: dict[str, Withheld] = field(default_factory=dict)
    spoiled: list[str] = field(default_factory=list)
    """Kinds whose checks have to begin anew, until they are asked for."""
    latest_step: int = 0
    stalled_seconds: dict[str, float] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    """Ids of the findings that changed since they were last asked for."""

    def apply(self, now: float, verdict: Verdict) -> Finding | None:
        """Take a verdict; return the finding it opened, if it opened one."""
        kind = verdict.kind
        self.latest_step = max(self.latest_step, verdict.step)
        if not verdict.firing:
            self.withheld.pop(kind, None)
            if kind in self.active:
                self._resolve(now, kind, verdict.step)
            return None
        if kind in self.active:
            if not (self._is_raised(verdict) and self._explanation(verdict)):
                self._update(verdict)
            return None
        waiting = self.withheld.get(kind)
        since = waiting.from_step if waiting else verdict.step
        # What is only told needs no explanation.
        hold = 0 if verdict.severity is Severity.INFO else HOLD_STEPS.get(kind, 0)
        explanation = self._explanation(verdict)
        if explanation or verdict.step < since + hold:
            spoiled = bool(explanation and explanation.spoils) or bool(waiting and waiting.spoiled)
            self.withheld[kind] = Withheld(verdict, since, spoiled)
            return None
        return self._open(now, verdict)

    def step(self, now: float, step: int) -> list[Finding]:
        """A step has passed: open what was held back and is not explained after all."""
        self.latest_step = max(self.latest_step, step)
        opened = []
        for kind in sorted(self.withheld):
            waiting = self.withheld[kind]
            if step < waiting.from_step + HOLD_STEPS.get(kind, 0) or self._explanation(waiting.verdict):
                continue
            if waiting.spoiled:
                del self.withheld[kind]
                self.spoiled.append(kind)
            else:
                opened.append(self._open(now, replace(waiting.verdict, step=max(step, waiting.verdict.step))))
        return opened

    def restart(self, now: float, step: int) -> None:
        """The processes are gone: so are the findings about them."""
        self.withheld.clear()
        self.explained_since.clear()
        self.ended_at.clear()
        self.named_at.clear()
        for kind in sorted(self.active):
            if self.active[kind].category in SCOPED_CATEGORIES:
                self._resolve(now, kind, step)

    def accrue(
        self, gpu_seconds: float, kinds: frozenset[str] | None = None, without: frozenset[str] = frozenset()
    ) -> None:
        """Charge time to the findings that are firing."""
        for kind in self.active:
            if (kinds is None or kind in kinds) and kind not in without:
                self.stalled_seconds[kind] = self.stalled_seconds.get(kind, 0.0) + gpu_seconds

    def take_changes(self) -> tuple[Finding, ...]:
        """Findings that changed since the last call, in the order of their last change."""
        by_id = {finding.id: finding for finding in (*self.resolved, *self.active.values())}
        latest = dict.fromkeys(reversed(self.changed))
        self.changed = []
        return tuple(by_id[identity] for identity in reversed(latest) if identity in by_id)

    def select(self, status: str) -> tuple[Finding, ...]:
        """Findings by status: `firing`, `resolved` or `all`; oldest first."""
        if status not in ("firing", "resolved", "all"):
            raise ValueError(f"status must be firing, resolved or all, not {status!r}")
        chosen = [
            *(self.resolved if status != "firing" else ()),
            *(self.active.values() if status != "resolved" else ()),
        ]
        return tuple(
            sorted(chosen, key=lambda finding: (finding.opened_at, finding.detected_step, finding.id))
        )

    def take_spoiled(self) -> tuple[str, ...]:
        """Kinds whose checks have to begin anew: what misled them is over."""
        spoiled, self.spoiled = tuple(self.spoiled), []
        return spoiled

    def _explanation(self, verdict: Verdict) -> Explanation | None:
        for explanation in EXPLANATIONS:
            if explanation.effect != verdict.kind:
                continue
            known = verdict.step if explanation.dated_roughly else verdict.since_step
            ends = known + verdict.since_step_error
            cause = self.active.get(explanation.cause)
            if cause is None and explanation.named:
                cause = self._naming(explanation.cause)
            if (
                cause is not None
                and cause.severity == VOCABULARY[cause.kind].severity.value
                and ends >= cause.since_step
            ):
                return explanation
            began = self.explained_since.get(explanation.cause, np.inf)
            ended = self.ended_at.get(explanation.cause, -np.inf)
            if (
                explanation.settle_steps
                and ends >= began
                and self.latest_step < ended + explanation.settle_steps
            ):
                return explanation
            if explanation.named and self.latest_step < 2 * self.named_at.get(explanation.cause, 0):
                return explanation
            if explanation.lasting and ends >= self.explained_since.get(explanation.cause, np.inf):
                return explanation
        return None

    def _naming(self, kind: str) -> Finding | None:
        """The firing finding about the loss that has this cause first."""
        return next(
            (
                each
                for each in self.active.values()
                if each.causes and each.causes[0].kind == kind and each.causes[0].confidence >= _NAMED
            ),
            None,
        )

    def _remember_causes(self, finding: Finding) -> None:
        self.named_at[finding.kind] = self.latest_step
        if finding.causes and finding.causes[0].confidence >= _NAMED:
            self.named_at[finding.causes[0].kind] = self.latest_step

    def _is_raised(self, verdict: Verdict) -> bool:
        """Whether the finding would become more severe than it is."""
        severity = verdict.severity or VOCABULARY[verdict.kind].severity
        return severity.rank > Severity(self.active[verdict.kind].severity).rank

    def _open(self, now: float, verdict: Verdict) -> Finding:
        kind = verdict.kind
        self.withheld.pop(kind, None)
        ordinal = self.opened[kind] = self.opened.get(kind, 0) + 1
        finding = Finding(
            id=f"{self.run}#{kind}#{ordinal}",
            run=self.run,
            kind=kind,
            category=VOCABULARY[kind].category,
            severity=(verdict.severity or VOCABULARY[kind].severity).value,
            confidence=min(max(float(verdict.confidence), 0.0), 1.0),
            status="firing",
            since_step=int(verdict.since_step),
            detected_step=int(verdict.step),
            resolved_step=None,
            ranks=tuple(int(rank) for rank in verdict.ranks),
            layers=verdict.layers,
            reason=verdict.reason,
            evidence=_evidence(verdict),
            advice=verdict.advice,
            causes=verdict.causes,
            opened_at=now,
        )
        self.active[kind] = finding
        self._remember_causes(finding)
        self.certain_since[kind] = verdict.since_step + verdict.since_step_error
        self.explained_since[kind] = min(
            finding.since_step, self.explained_since.get(kind, finding.since_step)
        )
        self.stalled_seconds.setdefault(kind, 0.0)
        self.changed.append(finding.id)
        for explanation in EXPLANATIONS:
            effect = self.active.get(explanation.effect)
            serious = finding.severity == VOCABULARY[kind].severity.value
            explains = explanation.cause == kind and serious
            if (
                effect is not None
                and explains
                and self.certain_since[explanation.effect] >= finding.since_step
            ):
                self._resolve(now, explanation.effect, finding.detected_step)
        return finding

    def _update(self, verdict: Verdict) -> None:
        old = self.active[verdict.kind]
        new = replace(
            old,
            severity=(verdict.severity or VOCABULARY[verdict.kind].severity).value,
            confidence=min(max(float(verdict.confidence), 0.0), 1.0),
            since_step=int(verdict.since_step),
            ranks=tuple(int(rank) for rank in verdict.ranks),
            layers=verdict.layers,
            reason=verdict.reason,
            evidence=_evidence(verdict),
            advice=verdict.advice,
            causes=verdict.causes,
        )
        if new != old:
            self.active[verdict.kind] = new
            self.certain_since[verdict.kind] = verdict.since_step + verdict.since_step_error
            self.changed.append(new.id)

    def _resolve(self, now: float, kind: str, step: int) -> None:
        finding = self.active.pop(kind)
        self._remember_causes(finding)
        self.certain_since.pop(kind, None)
        self.ended_at[kind] = self.latest_step
        done = replace(
            finding, status="resolved", resolved_step=int(max(step, finding.detected_step)), resolved_at=now
        )
        self.resolved.append(done)
        self.changed.append(done.id)
        if len(self.resolved) > _MAX_RESOLVED:
            del self.resolved[0]


def severity_of(finding: Finding) -> Severity:
    """The severity as an ordered value."""
    return Severity(finding.severity)


def _evidence(verdict: Verdict) -> Mapping[str, EvidenceValue]:
    """The evidence as plain values, with what decided."""
    evidence = {name: _plain(value) for name, value in verdict.evidence.items()}
    evidence.setdefault("score", float(verdict.score))
    evidence.setdefault("threshold", float(verdict.threshold))
    if verdict.since_step_error:
        evidence.setdefault("since_step_error", float(verdict.since_step_error))
    return evidence


def _plain(value: object) -> EvidenceValue:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(_plain(item) for item in value)  # type: ignore[misc]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
