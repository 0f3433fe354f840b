"""What a sampled step has read, and the record that is made of it on the background thread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stallwatch.agent._probe.anchor import ELEMENTS
from stallwatch.v1 import telemetry_pb2 as wire

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._records import StepRecord

    Tensor = torch.Tensor

NAN = math.nan
_NAME = 128
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Decay:
    """How the optimizer pulls parameters towards zero, and how much of the past it keeps: largest over its groups."""

    weight_decay: float
    momentum: float
    decoupled: bool


NO_DECAY = Decay(-1.0, -1.0, decoupled=False)


class Latest:
    """The last reading of every parameter, by its index. Used by one thread at a time: the one that makes batches."""

    def __init__(self) -> None:
        self._parameters: dict[int, float] = {}
        self._updates: dict[int, tuple[float, float]] = {}
        """Squared norms of the update and of the gradient."""
        self._zeros: dict[int, tuple[int, int, int, int]] = {}
        self._bits: list[int] = []

    def parameters(self, now: Mapping[int, float], trainable: Sequence[int]) -> dict[int, float]:
        """Squared norms of all trainable parameters: those read now, and the latest ones of the rest."""
        self._parameters.update(now)
        return {index: self._parameters.get(index, NAN) for index in trainable}

    def updates(
        self,
        now: Mapping[int, float],
        gradients: Mapping[int, float],
        trainable: Sequence[int],
        bits: Sequence[int],
    ) -> dict[int, float]:
        """Squared norms of the update of all trainable parameters.

        Those not read now are estimated from the latest of each: as it was (steps of Adam keep their size), or in proportion to
        the squared norm of the gradient (SGD), whichever comes closer for those that were read. What those have become, in all,
        the others are taken to have become, too. What has the same bits as at the sample before has not been updated.

        Args:
            now: Squared norms of the updates that were read, by parameter.
            gradients: Squared norms of all gradients at this step.
            trainable: Parameters that require a gradient.
            bits: Fingerprints of all parameters after the step; empty when not taken.
        """
        latest, before = self._updates, self._bits
        steady = {index: square for index, (square, _) in latest.items()}
        in_proportion = {
            index: square * gradients[index] / gradient
            for index, (square, gradient) in latest.items()
            if gradient > 0 and index in gradients
        }
        read = sum(now.values())
        guesses = [(_surprise(guess, now, read), guess) for guess in (steady, in_proportion)]
        (_, factor), guess = min(guesses, key=lambda each: each[0][0])
        same = len(bits) == len(before)
        squares = {}
        for index in trainable:
            square = now.get(index)
            if square is None:
                unmoved = same and bits[index] == before[index]
                square = 0.0 if unmoved else factor * guess.get(index, steady.get(index, NAN))
            squares[index] = square
        latest.update({index: (square, gradients.get(index, NAN)) for index, square in now.items()})
        self._bits = list(bits)
        return squares

    def zeros(
        self, now: Mapping[int, tuple[int, int, int, int]], indices: Sequence[int]
    ) -> dict[int, tuple[int, int, int, int]]:
        """Zero elements and rows, and elements and rows, of all gradients that are there."""
        self._zeros.update(now)
        return {index: self._zeros[index] for index in indices if index in self._zeros}


def _surprise(guess: Mapping[int, float], now: Mapping[int, float], read: float) -> tuple[float, float]:
    """How far a guess is from what was read, as a logarithm, and the factor between the two."""
    guessed = sum(guess.get(index, NAN) for index in now)
    if not (guessed > 0 and math.isfinite(guessed) and math.isfinite(read)):
        return math.inf, 1.0
    if read <= 0:
        return math.inf, 0.0
    return abs(math.log(read / guessed)), read / guessed


class SampledReadings:
    """Tensors of one sampled step, on their way to the host; numbers are made of them on the background thread.

    Args:
        blocks: The block of each parameter.
        block_count: Blocks that the detector was told of.
        latest: What was read of the parameters before.
        details: Whether norms by block are told. Where replicas are equal, one rank does so for all.
    """

    def __init__(self, blocks: Sequence[int], block_count: int, latest: Latest, *, details: bool) -> None:
        self.blocks = blocks
        self._details = details
        self.block_count = block_count
        self._latest = latest
        self.armed: Sequence[int] = ()
        """Parameters whose local gradient was listened for."""
        self.local: Tensor | None = None
        self.local_indices: list[int] = []
        self.reduced: Tensor | None = None
        self.reduced_indices: list[int] = []
        self.update: Tensor | None = None
        self.update_indices: list[int] = []
        self.update_scales: list[float] = []
        """Elements of each parameter over those that were compared."""
        self.parameter: Tensor | None = None
        self.parameter_indices: list[int] = []
        self.gradient_bits: Tensor | None = None
        self.parameter_bits: Tensor | None = None
        self.buffer_bits: Tensor | None = None
        self.optimizer_state_step: float | Tensor = -1
        self.carried: Tensor | None = None
        self.unchanged: Tensor | None = None
        self.elements: Tensor | None = None
        """Number of elements with a gradient, among those compared."""
        self.trainable_indices: list[int] = []
        self.zeros: Tensor | None = None
        self.zero_indices: list[int] = []
        self.zero_sizes: list[tuple[int, int]] = []
        """Elements and rows of each gradient in `zeros`."""
        self.decay = NO_DECAY
        self.saturated: Mapping[str, Tensor] = {}
        self.inputs: Tensor | None = None
        self.gradient_scale = math.nan
        """Of the applied gradient to the produced one; set off the training thread, like the anchors."""
        self.local_anchors: Sequence[float] = ()
        self.produced_anchor: Sequence[float] = ()

    def message(self, record: StepRecord) -> wire.SampledRecord:
        """The record to send."""
        reduced_by_parameter = _squares(self.reduced, self.reduced_indices)
        reduced = _total(reduced_by_parameter) if self.reduced is not None else NAN
        bits = [] if self.parameter_bits is None else self.parameter_bits.tolist()
        parameters = self._latest.parameters(
            _squares(self.parameter, self.parameter_indices), self.trainable_indices
        )
        updates: dict[int, float] = {}
        if self.update is not None:
            squares = _squares(self.update, self.update_indices)
            scaled = {
                index: square * scale
                for (index, square), scale in zip(squares.items(), self.update_scales, strict=True)
            }
            updates = self._latest.updates(scaled, reduced_by_parameter, self.trainable_indices, bits)
        share = self._whole_over_armed(reduced_by_parameter, reduced)
        zeros = self._all_zeros()
        return wire.SampledRecord(
            step=record.step,
            local_gradient_square=NAN if self.local is None else share * _square(self.local),
            reduced_gradient_square=reduced,
            update_square=_total(updates) if self.update is not None else NAN,
            parameter_square=_total(parameters) if self.parameter is not None else NAN,
            gradient_fingerprints=self._by_block(self.gradient_bits, self.reduced_indices),
            parameter_fingerprints=self._by_block(self.parameter_bits, range(len(self.blocks))),
            buffer_fingerprint=_combine(self.buffer_bits.tolist()) if self.buffer_bits is not None else 0,
            non_finite_blocks=self._non_finite(reduced_by_parameter),
            optimizer_state_step=int(self.optimizer_state_step),
            samples=record.losses.samples,
            carried_gradient_square=0.0 if self.carried is None else share * _square(self.carried),
            produced_gradient_square=reduced / self.gradient_scale**2,
            anchor_elements=ELEMENTS if self.local_anchors else 0,
            local_anchors=self.local_anchors,
            produced_anchor=self.produced_anchor,
            gradient_squares=self._block_sums(reduced_by_parameter),
            parameter_squares=self._block_sums(parameters),
            update_squares=self._block_sums(updates),
            unchanged_share=_share(self.unchanged, self.elements),
            gradient_zero_shares=self._zero_shares(zeros, 0),
            gradient_zero_row_shares=self._zero_shares(zeros, 1),
            weight_decay=self.decay.weight_decay,
            momentum=self.decay.momentum,
            decoupled_weight_decay=self.decay.decoupled,
            saturated_shares={name[:_NAME]: float(share) for name, share in self.saturated.items()},
            input_mean=NAN if self.inputs is None else float(self.inputs[0]),
            input_deviation=NAN if self.inputs is None else float(self.inputs[1]),
        )

    def _whole_over_armed(self, reduced: Mapping[int, float], total: float) -> float:
        """Squared norm of the whole gradient over that of the part whose local gradients were read: 1 when that is all."""
        armed = frozenset(self.armed)
        if armed.issuperset(reduced):
            return 1.0
        part = sum(square for index, square in reduced.items() if index in armed)
        return total / part if part > 0 else NAN

    def _all_zeros(self) -> dict[int, tuple[int, int, int, int]]:
        if self.zeros is None:
            return {}
        now = {
            index: (
                sizes[0] - counts[0],
                sizes[1] - counts[1] if counts[1] >= 0 else -1,
                *sizes,
            )
            for index, counts, sizes in zip(
                self.zero_indices, self.zeros.tolist(), self.zero_sizes, strict=True
            )
        }
        return self._latest.zeros(now, self.reduced_indices)

    def _zero_shares(self, zeros: Mapping[int, tuple[int, int, int, int]], column: int) -> list[float]:
        """By block, the share of elements (column 0) or rows (column 1) that are zero."""
        if self.zeros is None:
            return []
        empty, wholes = [0] * self.block_count, [0] * self.block_count
        for index, counts in zeros.items():
            if counts[column] >= 0:
                empty[self.blocks[index]] += counts[column]
                wholes[self.blocks[index]] += counts[column + 2]
        return [zero / whole if whole else NAN for zero, whole in zip(empty, wholes, strict=True)]

    def _block_sums(self, by_parameter: Mapping[int, float]) -> list[float]:
        """Sums over the parameters of each block; NaN for blocks without any, or with none that is known."""
        if not by_parameter or not self._details:
            return []
        sums = [NAN] * self.block_count
        for index, square in by_parameter.items():
            if square == square:  # noqa: PLR0124 - not NaN
                block = self.blocks[index]
                before = sums[block]
                sums[block] = square + (0.0 if math.isnan(before) else before)
        return sums

    def _by_block(self, bits: Tensor | None, indices: Sequence[int]) -> list[int]:
        if bits is None:
            return []
        blocks = [0] * self.block_count
        for index, value in zip(indices, bits.tolist(), strict=True):
            block = self.blocks[index]
            blocks[block] = (blocks[block] * 1099511628211 + value) & _MASK
        return blocks

    def _non_finite(self, reduced: Mapping[int, float]) -> list[int]:
        return sorted({self.blocks[index] for index, square in reduced.items() if not math.isfinite(square)})


def _square(norms: Tensor) -> float:
    values: list[float] = norms.double().tolist()
    return sum(value * value for value in values)


def _squares(norms: Tensor | None, indices: Sequence[int]) -> dict[int, float]:
    """Squared norms by the index of the parameter."""
    if norms is None:
        return {}
    return {index: norm * norm for index, norm in zip(indices, norms.double().tolist(), strict=True)}


def _total(squares: Mapping[int, float]) -> float:
    return sum(squares.values(), 0.0)


def _share(part: Tensor | None, whole: Tensor | None) -> float:
    return NAN if part is None or whole is None or not int(whole) else int(part) / int(whole)


def _combine(values: Sequence[int]) -> int:
    total = 0
    for value in values:
        total = (total * 1099511628211 + value) & _MASK
    # 0 says that there are no buffers.
    return total or 1
