"""What is said about missing gradient synchronisation, by the form it takes."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.checks.wording import names_text, ranks_text

BYPASSED, UNFINISHED, DIFFERING, UNWRAPPED = "bypassed", "unfinished", "differing", "unwrapped"
PARTIAL, SCATTERED = "partial", "scattered"


@dataclass(frozen=True, slots=True)
class Words:
    """The facts of a finding, and their sentences."""

    form: str
    since: int
    step: int
    ranks: tuple[int, ...]
    compared: int
    """How many ranks were compared."""
    layers: tuple[str, ...]
    share: float
    """Share of the blocks that is concerned."""
    times: int
    """Steps on which gradients differed lately."""

    def reason(self) -> str:
        """One sentence with numbers."""
        who, since = ranks_text(self.ranks), f"since step {self.since:,}"
        majority = " from those of the majority" if len(self.ranks) < self.compared > 2 else ""
        return {
            BYPASSED: f"Gradients are not averaged {since}: on {who} the optimizer goes on while DDP's count of synchronised "
            "forward passes stands still.",
            UNFINISHED: f"Gradients are not averaged {since}: on {who} DDP runs its forward pass, but no collective follows "
            "it, so the reduction never finishes.",
            DIFFERING: f"Gradients are not averaged {since}: the optimizers of {who} step on gradients that differ bit for "
            f"bit{majority}.",
            PARTIAL: f"Gradients of {names_text(self.layers)} are not averaged, seen at step {self.step:,}: they differ on "
            f"{who} while the other blocks agree ({100 * self.share:.3g} % of blocks concerned).",
            SCATTERED: f"Part of the gradients is not averaged {since}: what the optimizers of {who} step on differs bit for "
            f"bit on some steps, {self.times} times lately, while other parts of the model agree.",
            UNWRAPPED: f"The model is not wrapped for data-parallel training, and the gradients of {who} differ {since}: "
            "each rank trains a model of its own.",
        }[self.form]

    def advice(self) -> tuple[str, ...]:
        """What to do, in this form, and about what has happened already."""
        step = {
            BYPASSED: "Call the wrapped model itself, not `model.module`, in the training loop; look for `no_sync()` that is "
            f"never left, at what the code does from step {self.since:,} on.",
            UNFINISHED: "Use `loss.backward()` rather than `torch.autograd.grad`, and let every trainable parameter take part "
            "in the loss, or set `find_unused_parameters=True`.",
            DIFFERING: "Look for gradients that are changed after the backward pass on some ranks only (clipping, scaling, "
            "editing), for `model.module` in the training loop, and for `no_sync()` around the last micro-batch.",
            PARTIAL: f"{names_text(self.layers)}: set `requires_grad` and replace parameters before wrapping in DDP; it only "
            "averages parameters that it has seen then.",
            SCATTERED: "Set `requires_grad` and replace parameters before wrapping in DDP: it only averages parameters that "
            f"it has seen then. Look at what was unfrozen or added around step {self.since:,}.",
            UNWRAPPED: "Wrap the model in DistributedDataParallel, or give each rank its own run name if this is meant.",
        }[self.form]
        if self.form == UNWRAPPED:
            return (step,)
        return (
            step,
            f"Go back to a checkpoint from before step {self.since:,}: replicas have drifted apart since.",
        )
