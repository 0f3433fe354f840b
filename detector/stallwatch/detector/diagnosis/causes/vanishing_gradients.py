"""Early layers get almost no gradient: each layer on the way back takes a share of it.

Decided from the gradient-to-weight ratio of the first quarter of the matrices over that of the last quarter. Ordinary
networks keep it between a hundredth and a hundred; below a ten-thousandth the early layers stand still beside the late ones.
With Adam and its kin it takes more, since they scale each element's step to its own gradient: only what falls to their
epsilon is lost. Needs four matrices. Not to be confused with `frozen_parameters` (exactly nothing), `dead_units` (whole rows
of zeros), `amp_underflow` (zeros everywhere, in half precision).
"""

from __future__ import annotations

from stallwatch.detector.core.vitals import Vitals
from stallwatch.detector.diagnosis.evidence import decayed_away, half_underflow, inverse, is_adaptive, stopped
from stallwatch.detector.diagnosis.weighing import Term, Weighing, log_ramp, ramp

KIND = "vanishing_gradients"
_DECISIVE = 10**-4.5
"""Half of the layers cannot learn at any rate that the other half bears."""


def weigh(vitals: Vitals) -> Weighing | None:
    """Evidence for and against."""
    seen = vitals.optimization
    depth = seen.depth_ratio
    few = 1e2 if is_adaptive(vitals) else 1.0
    terms = (
        Term(
            log_ramp(inverse(depth.now), 3e2 * few, 1e5 * few, 6.0),
            f"the first layers get {depth.now:.1g} of the gradient that the last ones get, for their size",
        ),
        Term(
            ramp(depth.now < 1e-2 and depth.ratio < 0.1, 0, 1, 1.0),
            f"and got {depth.reference:.1g} before",
        ),
        Term(
            -ramp(seen.zero_share.now, 0.3, 0.7, 4.0),
            f"{100 * seen.zero_share.now:.0f} % of the gradient's elements are exactly zero",
        ),
        Term(
            -ramp(seen.left_share, 0.2, 0.5, 4.0),
            f"{len(seen.left_blocks)} blocks are not trained any more",
        ),
        Term(
            -log_ramp(inverse(half_underflow(vitals)), 0.02, 0.5, 3.0) * (seen.zero_share.now > 0.3),
            f"the gradient is lost to half precision (elements of {seen.gradient_element:.2g})",
        ),
        Term(
            -6.0 * decayed_away(vitals),
            f"weight decay has taken the weights to {seen.weight_norm.now:.2g}, from {seen.weight_norm.peak:.2g}",
        ),
    )
    if not any(term.nats > 0 for term in terms):
        return None
    decisive = bool(
        not decayed_away(vitals)
        and depth.now < _DECISIVE / few
        and not seen.zero_share.now > 0.3
        and stopped(vitals)
    )
    return Weighing(
        kind=KIND,
        terms=terms,
        reason=f"Gradients vanish on their way back: {terms[0].text}.",
        advice=(
            "Normalise between layers, or add residual connections; with sigmoid or tanh, move to ReLU or GELU.",
            "Initialise for the activation (Kaiming for ReLU, Xavier with its gain for tanh), so that each layer keeps the size of what passes.",
        ),
        experiment="train 200 steps with half of the layers: the loss falls at once if depth is what takes the gradient.",
        decisive=decisive,
        layers=_weakest(seen.blocks, seen.gradient_to_weight),
    )


def _weakest(blocks: tuple[str, ...], ratios: tuple[float, ...]) -> tuple[str, ...]:
    """The blocks with the least gradient for their size."""
    known = [(ratio, name) for name, ratio in zip(blocks, ratios, strict=False) if ratio > 0]
    return tuple(name for _, name in sorted(known)[:3])
