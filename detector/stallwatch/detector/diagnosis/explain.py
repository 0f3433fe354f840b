"""Puts ranked causes, and advice that fits them, under a verdict about the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.verdicts import Cause, EvidenceValue, Verdict
from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.diagnosis.causes import CAUSES
from stallwatch.detector.diagnosis.missing import missing
from stallwatch.detector.diagnosis.ranking import Ranked, as_causes, is_benign, is_sure, rank
from stallwatch.detector.diagnosis.relatives import described
from stallwatch.detector.diagnosis.weighing import Weigh

DIAGNOSED = frozenset({"plateau", "slow_convergence", "oscillation", "divergence"})
"""Verdicts that say what the loss does and not why."""
_BEFORE_NAN = ("exploding_gradients", "lr_too_high", "amp_overflow")
"""What ends in values that are not finite."""
_FAULTS = ("synchronisation", "scaling")
"""Categories whose findings explain a stall by themselves."""
_ADVICE = 3
_NAMED = 0.8
"""Confidence of a fault that makes a finding of a verdict that needs a cause ..."""
_STILL_NAMED = 0.4
"""... and that keeps it."""


def explain(
    verdict: Verdict,
    vitals: Vitals | None,
    firing: Sequence[Finding] = (),
    causes: Mapping[str, Weigh] = CAUSES,
) -> Verdict:
    """The verdict with its causes, most probable first, and the advice that goes with the first.

    Faults that are firing and began before the stall did come first: replicas that train apart need no further reason. A
    verdict that needs a cause and has none does not fire: noise alone, or a broken invariant alone, may be nothing; together
    they are a stall.
    """
    if verdict.firing and verdict.kind == "non_finite":
        return _before_nan(verdict, vitals, causes)
    if not verdict.firing or verdict.kind not in DIAGNOSED:
        return verdict
    if vitals is None:
        return replace(verdict, firing=not verdict.needs_cause)
    if verdict.needs_cause and vitals.loss is not None:
        # The question is why it would have stopped: also of the causes that say nothing while a loss falls.
        vitals = replace(vitals, loss=replace(vitals.loss, state="slow"))
    ranked = rank(replace(vitals, findings={each.kind: each.since_step for each in firing}), causes)
    faults = _faults(verdict, firing)
    if verdict.needs_cause and not faults and not _is_named(verdict, ranked, firing):
        return replace(verdict, firing=False)
    named = tuple(dict.fromkeys((*faults, *as_causes(ranked))))[: _ADVICE + len(faults)]
    needed = () if faults or is_sure(ranked) else missing(vitals)
    evidence = {**verdict.evidence, **_evidence(ranked, faults)}
    if family := described(vitals):
        evidence["family"] = family
    if needed:
        evidence["to_decide"] = needed
    return replace(
        verdict,
        causes=named,
        advice=_advice(verdict, ranked, firing, faults, needed),
        evidence=evidence,
    )


def _before_nan(verdict: Verdict, vitals: Vitals | None, causes: Mapping[str, Weigh]) -> Verdict:
    """A NaN may come from one bad sample; where gradients had grown before it, that comes first."""
    ranked = rank(vitals, {kind: causes[kind] for kind in _BEFORE_NAN if kind in causes}) if vitals else []
    if not ranked or ranked[0].confidence < _NAMED:
        return verdict
    advice = (*ranked[0].weighing.advice[:1], *verdict.advice)
    return replace(verdict, causes=as_causes(ranked[:1]), advice=advice[:_ADVICE])


def _is_named(verdict: Verdict, ranked: Sequence[Ranked], firing: Sequence[Finding]) -> bool:
    if not ranked or is_benign(ranked[0].weighing.kind):
        return False
    known = any(each.kind == verdict.kind for each in firing)
    return ranked[0].confidence >= (_STILL_NAMED if known else _NAMED)


def _faults(verdict: Verdict, firing: Sequence[Finding]) -> tuple[Cause, ...]:
    latest = verdict.since_step + 2 * verdict.since_step_error
    serious = [
        each
        for each in firing
        if each.category in _FAULTS and each.severity != "info" and each.since_step <= latest
    ]
    serious.sort(key=lambda each: (-_seriousness(each), each.since_step))
    return tuple(Cause(each.kind, each.confidence, each.reason) for each in serious)


def _seriousness(finding: Finding) -> int:
    return VOCABULARY[finding.kind].severity.rank


def _advice(
    verdict: Verdict,
    ranked: Sequence[Ranked],
    firing: Sequence[Finding],
    faults: Sequence[Cause],
    needed: Sequence[str],
) -> tuple[str, ...]:
    if faults:
        first = next(each for each in firing if each.kind == faults[0].kind)
        return first.advice[:_ADVICE]
    if not ranked or ranked[0].confidence < ranked_threshold():
        ask = tuple(f"{each[0].upper()}{each[1:]}." for each in needed[:1])
        return (*verdict.advice[: _ADVICE - len(ask)], *ask)
    first_cause = ranked[0].weighing
    steps = [*first_cause.advice]
    if first_cause.experiment:
        steps.append(f"To confirm: {first_cause.experiment}")
    return tuple(steps[:_ADVICE]) or verdict.advice


def ranked_threshold() -> float:
    """Confidence from which a cause's own advice is better than that of the loss alone."""
    return 0.4


def _evidence(ranked: Sequence[Ranked], faults: Sequence[Cause]) -> dict[str, EvidenceValue]:
    if not ranked and not faults:
        return {"cause": "not determined"}
    evidence: dict[str, EvidenceValue] = {
        "cause": faults[0].kind
        if faults
        else ranked[0].weighing.kind
        if is_sure(ranked)
        else "not determined"
    }
    for place, each in enumerate(ranked[:2], start=1):
        evidence[f"cause_{place}_evidence"] = tuple(
            f"{term.nats:+.1f} {term.text}"
            for term in sorted(each.weighing.terms, key=lambda term: -abs(term.nats))
            if abs(term.nats) >= 0.5
        )
    return evidence
