"""What is said about stale gradients, by the form they take."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.checks.wording import ranks_text

DELAYED, FROZEN, UNCLEARED, REPEATED = "delayed", "frozen", "uncleared", "repeated"
PARTLY_UNCLEARED, DELAYED_REDUCTION, FROZEN_REDUCTION = (
    "partly uncleared",
    "delayed reduction",
    "frozen reduction",
)


@dataclass(frozen=True, slots=True)
class StaleWords:
    """The facts of a finding, and their sentences."""

    form: str
    since: int
    ranks: tuple[int, ...]
    everyone: bool
    lag: int
    """Steps that the gradient is old; applications a backward, when repeated."""
    share: float
    """Share of the gradient's squared norm that was carried over."""

    def reason(self) -> str:
        """One sentence with numbers."""
        who = "all ranks" if self.everyone else ranks_text(self.ranks)
        steps = "1 step" if self.lag == 1 else f"{self.lag:,} steps"
        since = f"since step {self.since:,}"
        return {
            DELAYED: f"The optimizer steps on an old gradient {since}: on {who} it is that of {steps} before.",
            FROZEN: f"The optimizer steps on the same gradient again and again {since}: on {who} it is now {steps} old.",
            UNCLEARED: f"Gradients are not cleared {since}: on {who} each backward adds to the gradient of all steps before.",
            PARTLY_UNCLEARED: f"Part of the gradients is not cleared {since}: on {who} {100 * self.share:.3g} % of the gradient's "
            "squared norm was there before the first backward of the step.",
            REPEATED: f"Every gradient is applied {self.lag} times {since}: on {who} optimizer.step is called {self.lag} times a "
            "backward.",
            DELAYED_REDUCTION: f"The reduction hands out old gradients {since}: what {who} get is the mean of their gradients of "
            f"{steps} before.",
            FROZEN_REDUCTION: f"The reduction hands out the same gradient again and again {since}: what {who} get has not changed "
            "between two sampled steps, while their own gradients have.",
        }[self.form]

    def advice(self) -> tuple[str, ...]:
        """What to do, in this form."""
        since = f"at step {self.since:,}"
        first = {
            DELAYED: "Look for gradients that are kept and copied back, for an asynchronous or pipelined update that is a step "
            f"late, and for `optimizer.step()` before `backward()`, in what began {since}.",
            FROZEN: "Look for a backward pass that no longer runs or writes elsewhere, and for gradients that are restored from a "
            f"copy, in what began {since}.",
            UNCLEARED: "Call `optimizer.zero_grad()` once every optimizer step; look for a condition around it that is no "
            f"longer met {since}.",
            PARTLY_UNCLEARED: "Clear the gradients of all parameters: `optimizer.zero_grad()` misses those of another optimizer "
            "or parameter group.",
            REPEATED: "Call `optimizer.step()` once a backward: look for a second call in a callback, a trainer or a scheduler "
            "wrapper.",
            DELAYED_REDUCTION: "Look into the communication hook: it returns the bucket of an earlier iteration; wait for the "
            "future of this one.",
            FROZEN_REDUCTION: "Look into the communication hook: it returns a buffer that it does not fill any more.",
        }[self.form]
        return (
            first,
            "To confirm: compare `param.grad` right after `backward()` with what it is right before `optimizer.step()`, on "
            "two steps in a row."
            if self.form in {DELAYED, FROZEN}
            else "To confirm: print the norm of one parameter's gradient before and after each backward of two steps.",
        )
