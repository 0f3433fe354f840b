"""Which parts of the model a sampled step reads: all of it at first and after a change, then a part at a time, in turn."""

from __future__ import annotations

MOST_TURNS = 15
"""Parts at most: every parameter is read within so many samples. Odd, see `Turns.of`."""
_TENSORS = 16
"""Tensors of a part, where `MOST_TURNS` parts are enough: a model of no more is read as a whole every time."""
_WHOLE_SAMPLES = 2
"""Samples that read everything at first and after a change: what a change brings shows as a difference between two."""
_GOLDEN = 2_654_435_769
"""The golden ratio in 32 bits: its multiples shuffle consecutive numbers well."""


class Turns:
    """Deals parameters out to the parts that sampled steps read.

    Args:
        count: Parameters of the model, trained or not: the same number on every rank.
        base: Steps between samples at most often: periods are this times a power of two.
    """

    def __init__(self, count: int, base: int) -> None:
        self._base = base
        needed = min(-(-count // _TENSORS), MOST_TURNS)
        self.turns = max(needed | 1, 1)
        # Shuffled, the same on every rank: layers repeat, and every k-th parameter would be of one kind.
        order = sorted(range(count), key=lambda index: (index + 1) * _GOLDEN & 0xFFFFFFFF)
        self._parts = [frozenset(order[turn :: self.turns]) for turn in range(self.turns)]
        self._everything = frozenset(range(count))
        self._whole_left = _WHOLE_SAMPLES

    def of(self, step: int) -> int:
        """The turn of a step.

        A function of the step alone, so that ranks agree without a word even where their periods differ. The number of turns is
        odd and periods are the base times a power of two: each turn comes once in as many samples as there are turns.
        """
        return step // self._base % self.turns

    def part(self, step: int) -> frozenset[int]:
        """The parameters whose turn it is, by index."""
        return self._parts[self.of(step)]

    def begin(self, step: int) -> frozenset[int]:
        """The parameters that the sample at this step reads."""
        if self._whole_left:
            self._whole_left -= 1
            return self._everything
        return self.part(step)

    def read_everything(self) -> None:
        """Something has changed that makes old readings say little: the next samples read all of the model."""
        self._whole_left = _WHOLE_SAMPLES
