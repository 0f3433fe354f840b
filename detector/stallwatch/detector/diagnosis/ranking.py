"""From evidence to a ranked list: a softmax over the causes and "something else", as transparent as an addition.

No weights are learnt: densities fitted on some tasks call benign runs faulty on others, while hand-set evidence with a reason
holds (docs/diagnosis.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stallwatch.detector.core.verdicts import Cause, Severity
from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.diagnosis.weighing import Weigh, Weighing

UNDETERMINED = "undetermined"
_OTHER = 1.0
"""Evidence that "something else" starts with, in nats: a cause has to say more than that."""
_SHOWN = 0.05
"""Causes below this probability are not shown."""
_MOST = 3
_SURE = 0.6
"""Above this, one cause is given as the answer."""


_BROKEN = 6.0
"""What a broken invariant takes from the causes that say that nothing is wrong."""
_ANSWER = _OTHER + math.log(_SURE / (1 - _SURE))
"""Evidence from which a cause is the answer if there is no other."""
_BEHIND = 1.0
"""By how much a cause that yields stays behind a fault, in nats."""


def is_benign(kind: str) -> bool:
    """Whether a cause is an end of learning in order, and no fault."""
    return VOCABULARY[kind].severity is Severity.INFO


@dataclass(frozen=True, slots=True)
class Ranked:
    """One cause in its place."""

    weighing: Weighing
    confidence: float


def rank(vitals: Vitals, causes: Mapping[str, Weigh]) -> list[Ranked]:
    """All causes that have any evidence for them, most probable first.

    Evidence that several causes share cancels out between them, and what remains below "something else" is left out.
    """
    weighed = [each for weigh in causes.values() if (each := weigh(vitals)) is not None]
    broken = any(each.decisive and each.score > _OTHER for each in weighed)
    scores = [each.score - (_BROKEN if broken and is_benign(each.kind) else 0.0) for each in weighed]
    fault = max(
        (each.score for each in weighed if not is_benign(each.kind) and each.score >= _ANSWER),
        default=math.inf,
    )
    scores = [
        min(score, fault - _BEHIND) if each.yields else score
        for each, score in zip(weighed, scores, strict=True)
    ]
    top = max([_OTHER, *scores])
    total = sum(math.exp(score - top) for score in scores) + math.exp(_OTHER - top)
    ranked = [
        Ranked(each, math.exp(score - top) / total)
        for each, score in zip(weighed, scores, strict=True)
        if score > 0
    ]
    # The order of the table decides between equals, so that the same evidence always gives the same answer.
    return sorted(ranked, key=lambda each: -each.confidence)


def as_causes(ranked: Sequence[Ranked]) -> tuple[Cause, ...]:
    """What goes into a finding."""
    shown = [each for each in ranked[:_MOST] if each.confidence >= _SHOWN]
    return tuple(Cause(each.weighing.kind, round(each.confidence, 3), each.weighing.reason) for each in shown)


def is_sure(ranked: Sequence[Ranked]) -> bool:
    """Whether the first cause stands out."""
    return bool(ranked) and ranked[0].confidence >= _SURE
