"""What is said about ranks that train on the same samples."""

from __future__ import annotations

from dataclasses import dataclass

from stallwatch.detector.checks.wording import ranks_text
from stallwatch.detector.core.verdicts import EvidenceValue

INPUTS, NORMS, AGREEMENT = "inputs", "gradient norms", "agreement"
_SHOWN_GROUPS = 8

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Words:
    """The facts of a finding, and their sentences."""

    how: str
    groups: Groups
    """Ranks that are alike."""
    world_size: int
    since: int
    batch: float
    """Samples of a step over all ranks; 0 when unknown."""
    norm_samples: int
    """Sampled steps with equal norms."""
    agreement: float | None

    @property
    def distinct(self) -> int:
        """Ranks that differ."""
        return self.world_size - sum(len(group) - 1 for group in self.groups)

    @property
    def effective(self) -> float:
        """Samples of a step that differ."""
        return self.batch * self.distinct / self.world_size

    def reason(self) -> str:
        """One sentence with numbers."""
        if self.how == AGREEMENT:
            return (
                f"The {self.world_size} ranks may be training on the same samples since step {self.since:,}: their gradients "
                f"agree and their losses move as one (agreement {self.agreement or 0.0:.3f} of at most 1)."
            )
        shown = "; ".join(f"{ranks_text(group)} alike" for group in self.groups[:3])
        more = f" and {len(self.groups) - 3} more groups" if len(self.groups) > 3 else ""
        who = "all ranks" if self.distinct == 1 else f"{shown}{more}"
        by = (
            f"their inputs have the same checksums step by step ({who})"
            if self.how == INPUTS
            else f"their local gradients have bit-identical norms on {self.norm_samples} sampled steps ({who})"
        )
        size = f": a batch of {self.effective:,.0f} samples, not {self.batch:,.0f}" if self.batch else ""
        verb = "trains on samples of its own" if self.distinct == 1 else "train on different samples"
        return f"Of {self.world_size} ranks only {self.distinct} {verb} since step {self.since:,}, for {by}{size}."

    def evidence(self) -> dict[str, EvidenceValue]:
        """Names and numbers."""
        evidence: dict[str, EvidenceValue] = {
            "decided_by": self.how,
            "distinct_ranks": self.distinct,
            "world_size": self.world_size,
            "effective_batch_size": self.effective if self.batch else None,
            "nominal_batch_size": self.batch or None,
            "agreement": self.agreement,
        }
        for index, group in enumerate(self.groups[:_SHOWN_GROUPS]):
            evidence[f"group_{index}"] = group[:64]
        return evidence

    @staticmethod
    def advice() -> tuple[str, ...]:
        """What to do next."""
        return (
            (
                "Give each rank its own part of the data: torch.utils.data.DistributedSampler with this job's rank and world "
                "size, or split_dataset_by_node for streams."
            ),
            "Where each rank draws at random, seed the drawing with the rank; weights are seeded alike, data is not.",
            (
                "If several ranks are meant to work on one batch (tensor or pipeline parallelism), disable this kind in the "
                "settings."
            ),
        )
