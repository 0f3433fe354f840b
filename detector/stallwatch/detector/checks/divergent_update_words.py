"""What is said about updates that differ across ranks, by the form they take."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.checks.wording import names_text, ranks_text

RATE, EDITED, STEPS, SKIPPED, OPTIMIZER = (
    "learning rate",
    "edited gradient",
    "steps",
    "skipped step",
    "optimizer",
)


@dataclass(frozen=True, slots=True)
class DivergentWords:
    """The facts of a finding, and their sentences."""

    form: str
    since: int
    ranks: tuple[int, ...]
    compared: int
    layers: tuple[str, ...]
    values: tuple[float, float]
    """Of a named rank and of the others: learning rates, factors of the gradient, calls, passes or norms; NaN when unknown."""

    def reason(self) -> str:
        """One sentence with numbers."""
        whose = f"of {ranks_text(self.ranks)} differ{' from those of the others' if len(self.ranks) < self.compared else ''}"
        ours, others = self.values
        known = ours == ours and others == others  # noqa: PLR0124 - NaN is unknown
        against = f" ({ours:.3g} against {others:.3g})" if known else ""
        since = f"since step {self.since:,}"
        part = f" in {names_text(self.layers)}" if self.layers else ""
        return {
            RATE: f"Replicas are updated differently {since}: the learning rates {whose}{against}.",
            EDITED: f"Replicas are updated differently {since}: all ranks got the same averaged gradient, but the gradients{part} "
            f"at the optimizers do not agree: those {whose}{f', by a factor{against}' if known else ''}.",
            STEPS: f"Replicas are updated differently {since}: {ranks_text(self.ranks)} called optimizer.step {ours:.3g} times a "
            f"backward, others {others:.3g}.",
            SKIPPED: f"Replicas are updated differently {since}: {ranks_text(self.ranks)} skipped an optimizer step that the others "
            f"took, and {'is' if len(self.ranks) == 1 else 'are'} {ours:.3g} backward pass{'es' if ours > 1 else ''} ahead.",
            OPTIMIZER: f"Replicas are updated differently {since}: with equal parameters, gradients and learning rates, the updates "
            f"{whose}{f', by their norms{against}' if known else ''}.",
        }[self.form]

    def advice(self) -> tuple[str, ...]:
        """What to do, in this form, and about what has happened already."""
        who = ranks_text(self.ranks)
        first = {
            RATE: "Step the learning-rate scheduler on every rank, with the same numbers: one that follows the validation loss has "
            "to be given a loss that was averaged over ranks.",
            EDITED: f"Look for what is done to gradients between backward and optimizer.step on {who} only: clipping under a "
            "condition, unscaling with a loss scale of its own, masking, noise.",
            STEPS: f"Call `optimizer.step()` once a backward on every rank: look for a condition on the rank near step {self.since:,}.",
            SKIPPED: "Let all ranks skip a step or none: all-reduce the flag for an infinite gradient (or a bad batch) before it is "
            "acted on.",
            OPTIMIZER: f"Compare the optimizers of {who} with the others': their state after loading a checkpoint, weight decay, "
            "momentum, and which parameters they hold.",
        }[self.form]
        repair = (
            f"Broadcast parameters and optimizer state from one rank, or go back to before step {self.since:,}: replicas have "
            "drifted apart since."
        )
        return first, repair
