"""Fewer distinct samples are seen in an epoch than the data set has: the same part of it again and again.

Decided from inputs that come again after clearly fewer steps than an epoch of the declared `dataset_size` has. Batches are
recognised as a whole, so a part that is shuffled anew is not seen; nor is anything without a declared size. Not to be
confused with `repeated_order` (all samples, always in the same order).
"""

from __future__ import annotations

import math

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.weighing import Term, Weighing, ramp

KIND = "data_shortfall"
_DECISIVE = 0.8
"""Dropped last batches and filters make an epoch shorter by less."""
_LEAST = 24
"""Steps whose inputs must have been told."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    data = vitals.data
    if not data.epoch_steps > 1 or data.steps_seen < _LEAST:
        return None
    share = data.period_steps / data.epoch_steps
    repeated = 1 - data.distinct_share
    evaluation, loss = vitals.evaluation, vitals.loss
    gap = evaluation.level / loss.level if evaluation and loss and loss.level > 0 else math.nan
    found = share < 0.95 or repeated > 0.1
    terms = (
        Term(
            ramp(1 - share, 0.05, 0.25, 6.0),
            f"the same inputs come again after {data.period_steps:.4g} steps, and an epoch has {data.epoch_steps:.5g}",
        ),
        Term(
            ramp(repeated, 0.1, 0.4, 3.0),
            f"{100 * repeated:.0f} % of an epoch's inputs came before in it",
        ),
        Term(
            ramp(gap, 1.5, 4.0, 1.5) * found,
            f"the evaluation loss is {gap:.3g} times the training loss: what is seen is learnt by heart",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    size = vitals.declaration.dataset_size if vitals.declaration else 0
    distinct = f"{share * size:,.0f} of {size:,} samples" if size and share < 1 else "a part of the samples"
    strongest = max(terms, key=lambda term: term.nats)
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"The run trains on about {distinct}: {strongest.text}.",
        advice=(
            "Look at what the sampler yields in one epoch (its length, its seed, the shards that were found): it should be all of the data set.",
            "If a part is meant to be used, declare its size as dataset_size.",
        ),
        experiment="count the distinct indices of one epoch of the loader on every rank.",
        decisive=share < _DECISIVE,
    )
