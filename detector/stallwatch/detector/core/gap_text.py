"""Missing data in words: the same sentence in the API, on the page and on the command line."""

from __future__ import annotations

from stallwatch.detector.core.views import GapView

REASONS = {
    "buffer_full": "buffer full",
    "internal_error": "an error in the agent",
    "late": "it came too late to be analysed",
    "rejected": "rejected by the detector",
    "too_large": "too large to send",
    "too_old": "kept for as long as it may be",
    "unknown": "lost for a reason that this version does not know",
}
_RANGES = 6


def gap_text(gap: GapView) -> str:
    """`Data is missing from step 120 to 180 (buffer full, rank 3)`, without a full stop."""
    where = f"at step {gap.from_step:,}"
    if gap.to_step > gap.from_step:
        where = f"from step {gap.from_step:,} to {gap.to_step:,}"
    why = [REASONS.get(reason, reason) for reason in gap.reasons] or ["it never arrived"]
    return f"Data is missing {where} ({', '.join([*why, _ranks(gap)])})"


def overlapping(gaps: tuple[GapView, ...], first: int, last: int) -> tuple[GapView, ...]:
    """The gaps that hold steps from `first` to `last`."""
    return tuple(gap for gap in gaps if gap.from_step <= last and gap.to_step >= first)


def _ranks(gap: GapView) -> str:
    if gap.ranks_total == 1:
        return f"rank {gap.ranks[0]}"
    ranges: list[list[int]] = []
    for rank in gap.ranks:
        if ranges and rank == ranges[-1][1] + 1:
            ranges[-1][1] = rank
        else:
            ranges.append([rank, rank])
    shown = ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ranges[:_RANGES])
    cut = len(ranges) > _RANGES or gap.ranks_total > len(gap.ranks)
    return f"ranks {shown}" + (f" ({gap.ranks_total:,} in all)" if cut else "")
