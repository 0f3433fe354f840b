"""What is said about updates without effect, by the form they take."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.checks.wording import names_text

NO_RATE, NOT_HELD, LOST, PARTLY = "no learning rate", "not moved", "below precision", "partly not moved"


@dataclass(frozen=True, slots=True)
class IneffectiveWords:
    """The facts of a finding, and their sentences."""

    form: str
    since: int
    step: int
    still: int
    """Sampled steps in a row on which nothing moved."""
    rate: float
    share: float
    """Share of the elements that stayed exactly as they were."""
    layers: tuple[str, ...]
    blocks: int

    def reason(self) -> str:
        """One sentence with numbers."""
        since, rate = f"since step {self.since:,}", f"{self.rate:.3g}"
        return {
            NO_RATE: f"Nothing is learned {since}: every learning rate is 0, for {self.step - self.since + 1:,} steps now.",
            NOT_HELD: f"Parameters do not move {since}: updates are exactly 0 on {self.still} sampled steps in a row, with "
            f"gradients and a learning rate of {rate}.",
            LOST: f"Updates are lost in rounding {since}: {100 * self.share:.4g} % of the parameters with a gradient stay exactly "
            f"as they are, at a learning rate of {rate}.",
            PARTLY: f"Part of the model does not move {since}: {names_text(self.layers)} ({len(self.layers)} of {self.blocks} "
            "blocks) have gradients and get no update.",
        }[self.form]

    def advice(self) -> tuple[str, ...]:
        """What to do, in this form."""
        first = {
            NO_RATE: "Look at the schedule: it has ended, or was given fewer steps than the run takes; end the run, or restart it "
            "with a schedule of its length.",
            NOT_HELD: "Check that the optimizer holds the parameters of this model: it has to be made after the model was moved, "
            "copied, wrapped or loaded.",
            LOST: "Keep the weights in float32 and use autocast for half precision, or an optimizer with float32 master weights "
            "or stochastic rounding.",
            PARTLY: "Add these parameters to the optimizer, or set requires_grad=False on them: their gradients cost time for "
            "nothing.",
        }[self.form]
        return first, "To confirm: compare one weight before and after a single optimizer.step."
