"""The readings of a sampled step: norms before and after averaging, the update, and bit-exact fingerprints.

The gradient that the optimizer sees and the bits of all parameters are read as a whole, one pass each. What costs more a
tensor is read of a part of the model, in turn (see `turns`): local gradients, parameters' norms, updates, zeros. `Latest`
keeps the last reading of every other part, so that records tell of the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from stallwatch.agent._fingerprint import (
    fingerprint,
    fingerprints,
    flat,
    gather,
    local_part,
    local_parts,
    word_sums,
)
from stallwatch.agent._probe.anchor import ELEMENTS
from stallwatch.agent._probe.turns import Turns
from stallwatch.agent._probe.zeros import count_filled, row_parameters
from stallwatch.v1 import telemetry_pb2 as wire

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._config import Probes
    from stallwatch.agent._probe.device import DeviceReader
    from stallwatch.agent._probe.model import WatchedModel
    from stallwatch.agent._records import StepRecord

    Tensor = torch.Tensor

NAN = math.nan
_NAME = 128
_MASK = (1 << 64) - 1
_TENSOR_ELEMENTS = 1 << 18
"""Elements of one tensor that are looked through for zeros: of a larger one, every n-th row."""
_COPIED_TENSORS = 128
"""Parameters up to which the update of all is read in every sample, at 5 us each; of more, a part in turn."""
_COPIED_ELEMENTS = 1 << 14
"""Elements of one parameter that are kept over optimizer.step to see its update: of a larger one, every n-th row. Of so many,
the norm of the whole is estimated to within a percent."""


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
        self.decay = _NO_DECAY
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


class SampledPass:
    """Takes the readings, in the order of a step: arm at its first forward, before and after optimizer.step."""

    def __init__(
        self,
        model: WatchedModel,
        blocks: Sequence[int],
        probes: Probes,
        reader: DeviceReader,
        failed: Callable[[BaseException], None],
        *,
        base_period: int = 1,
        block_count: int | None = None,
        details: bool = True,
    ) -> None:
        self._model = model
        self._details = details
        self._rows = row_parameters(model.inner) if details and probes.gradient_zeros else None
        self._blocks = blocks
        self._block_count = max(blocks, default=-1) + 1 if block_count is None else block_count
        self._probes = probes
        self._fetch = reader.fetch
        self._number = reader.number
        self._failed = failed
        self._latest = Latest()
        self.turns = Turns(len(model.parameters), base_period)
        self._part: frozenset[int] = frozenset()
        self.is_whole = False
        """Whether the sample at hand reads all of a model that is read in turn."""
        self._handles: list[Any] = []
        self._armed: list[int] = []
        self._local: dict[int, Tensor] = {}
        self._carried: dict[int, Tensor] = {}
        self._buffer_bits: Tensor | None = None
        self._copies: list[Tensor] = []
        self._copied: list[int] = []
        self.hook_seconds = 0.0
        """Spent in the hooks that `arm` puts on, since the last call of it."""

    def arm(self, step: int) -> None:
        """Chooses what the sample at this step reads, and puts hooks on those parameters to see their local gradients."""
        self.disarm()
        self._buffer_bits = None
        self.hook_seconds = 0.0
        self._part = self.turns.begin(step)
        self.is_whole = len(self._part) > len(self.turns.part(step))
        if not self._probes.local_gradients:
            return
        for index in sorted(self._part):
            parameter = self._model.parameters[index][1]
            if parameter.requires_grad:
                self._armed.append(index)
                self._handles.append(parameter.register_hook(self._local_hook(index, parameter)))

    def disarm(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._armed = []
        self._local.clear()
        self._carried.clear()

    def forget(self) -> None:
        """Gives back the memory of a step that cannot be read to its end."""
        self.disarm()
        self._copies = []

    def _local_hook(self, index: int, parameter: Tensor) -> Callable[[Tensor], None]:
        import torch

        def hook(gradient: Tensor) -> None:
            began = perf_counter()
            try:
                with torch.no_grad():
                    # Under no_sync, what came before is there already and this is only the last micro-batch's share.
                    before = parameter.grad
                    self._see_carried(index, before)
                    total = gradient if before is None else local_part(gradient) + local_part(before)
                    self._local[index] = torch.linalg.vector_norm(local_part(total), dtype=_norm_dtype(total))
            except Exception as error:
                self._failed(error)
            self.hook_seconds += perf_counter() - began

        return hook

    def _see_carried(self, index: int, before: Tensor | None) -> None:
        """What is in a gradient before a backward adds to it; the least of all micro-batches, for it may be cleared late."""
        import torch

        if before is None:
            self._carried.pop(index, None)
        elif index not in self._local:
            self._carried[index] = torch.linalg.vector_norm(local_part(before), dtype=_norm_dtype(before))
        elif index in self._carried:
            norm = torch.linalg.vector_norm(local_part(before), dtype=_norm_dtype(before))
            self._carried[index] = torch.minimum(self._carried[index], norm)

    def see_buffers(self) -> None:
        """Reads the buffers as the forward finds them."""
        import torch

        if not self._probes.fingerprints:
            return
        with torch.no_grad():
            buffers = [
                each for each in self._model.inner.buffers() if each.layout is torch.strided and each.numel()
            ]
            if buffers:
                self._buffer_bits = self._fetch(gather([fingerprint(each) for each in buffers]))

    def before_step(self, optimizer: torch.optim.Optimizer, *, local_valid: bool) -> SampledReadings:
        """Reads the gradients that the optimizer is about to see."""
        import torch

        readings = SampledReadings(self._blocks, self._block_count, self._latest, details=self._details)
        with torch.no_grad():
            readings.armed = self._armed
            if self._local and local_valid:
                readings.local = self._fetch(gather(list(self._local.values())))
            # What this optimizer does not update, it needs not clear.
            if self._carried:
                held = {id(each) for group in optimizer.param_groups for each in group["params"]}
                carried = [
                    norm
                    for index, norm in self._carried.items()
                    if id(self._model.parameters[index][1]) in held
                ]
                if carried:
                    readings.carried = self._fetch(gather(carried))
            readings.buffer_bits = self._buffer_bits
            self.disarm()
            gradients = []
            for index, (_, parameter) in enumerate(self._model.parameters):
                gradient = parameter.grad
                if gradient is not None and gradient.layout is torch.strided:
                    readings.reduced_indices.append(index)
                    gradients.append(gradient)
            if gradients:
                gradients = local_parts(gradients)
                readings.reduced = self._fetch(gather(_norms(gradients)))
                if self._rows is not None:
                    self._count_zeros(readings, gradients, self._rows)
                if self._probes.fingerprints:
                    readings.gradient_bits = self._fetch(word_sums(gradients))
            if self._probes.updates:
                self._copy_parameters()
        return readings

    def _count_zeros(
        self, readings: SampledReadings, gradients: Sequence[Tensor], row_ids: frozenset[int]
    ) -> None:
        parts, by_row = [], []
        for index, gradient in zip(readings.reduced_indices, gradients, strict=True):
            if index in self._part:
                part = _thin(gradient, _TENSOR_ELEMENTS)
                readings.zero_indices.append(index)
                readings.zero_sizes.append((part.numel(), part.shape[0] if part.dim() else 1))
                parts.append(part)
                by_row.append(id(self._model.parameters[index][1]) in row_ids and part.dim() >= 2)
        if parts:
            readings.zeros = self._fetch(count_filled(parts, by_row))

    def _copy_parameters(self) -> None:
        parameters = self._model.parameters
        trainable = [index for index, (_, each) in enumerate(parameters) if each.requires_grad]
        self._copied = (
            trainable
            if len(trainable) <= _COPIED_TENSORS
            else [index for index in trainable if index in self._part]
        )
        wholes = local_parts([parameters[index][1] for index in self._copied])
        self._copies = [_thin(each, _COPIED_ELEMENTS).clone() for each in wholes]

    def after_step(self, readings: SampledReadings, optimizer: torch.optim.Optimizer) -> None:
        """Reads the parameters that the optimizer has changed."""
        import torch

        parameters = self._model.parameters
        with torch.no_grad():
            readings.trainable_indices = [
                index for index, (_, each) in enumerate(parameters) if each.requires_grad
            ]
            copies, self._copies = self._copies, []
            copied, self._copied = self._copied, []
            if copies:
                wholes = local_parts([parameters[index][1] for index in copied])
                thin = [_thin(each, _COPIED_ELEMENTS) for each in wholes]
                if [each.shape for each in thin] == [each.shape for each in copies]:
                    torch._foreach_sub_(copies, thin)
                    readings.update = self._fetch(gather(_norms(copies)))
                    readings.update_indices = copied
                    readings.update_scales = [
                        whole.numel() / max(part.numel(), 1) for whole, part in zip(wholes, thin, strict=True)
                    ]
                    if any(_norm_dtype(each) is not None for each in thin):
                        # In half precision, updates below half a unit in the last place are lost one by one.
                        self._count_unchanged(readings, copied, copies)
            read = [index for index in readings.trainable_indices if index in self._part]
            if read:
                norms = _norms(local_parts([parameters[index][1] for index in read]))
                readings.parameter = self._fetch(gather(norms))
                readings.parameter_indices = read
            if self._probes.fingerprints:
                readings.parameter_bits = self._fetch(
                    fingerprints(local_parts([each for _, each in parameters]))
                )
        readings.optimizer_state_step = state_step(optimizer, self._number)
        readings.decay = decay_of(optimizer)

    def _count_unchanged(
        self, readings: SampledReadings, copied: Sequence[int], changes: Sequence[Tensor]
    ) -> None:
        """Counts elements with a gradient, and those of them that did not change: others were not meant to."""
        import torch

        elements, unchanged = [], []
        for index, change in zip(copied, changes, strict=True):
            gradient = self._model.parameters[index][1].grad
            if gradient is not None and gradient.layout is torch.strided:
                some = _thin(local_part(gradient), _COPIED_ELEMENTS) != 0
                elements.append(torch.count_nonzero(some))
                unchanged.append(torch.count_nonzero(some & (change == 0)))
        if elements:
            readings.elements = self._fetch(gather(elements).sum())
            readings.unchanged = self._fetch(gather(unchanged).sum())


def _thin(tensor: Tensor, limit: int) -> Tensor:
    """A view of about so many elements of a tensor, spread over all of it; the tensor itself when it is no larger."""
    if tensor.numel() <= limit:
        return tensor
    stride = -(-tensor.numel() // limit)
    if tensor.dim() >= 2 and tensor.shape[0] >= 2 * stride:
        # Whole rows, which lie together in memory.
        return tensor[::stride]
    return flat(tensor)[::stride]


@dataclass(frozen=True, slots=True)
class Decay:
    """How the optimizer pulls parameters towards zero, and how much of the past it keeps: largest over its groups."""

    weight_decay: float
    momentum: float
    decoupled: bool


_NO_DECAY = Decay(-1.0, -1.0, decoupled=False)


def decay_of(optimizer: torch.optim.Optimizer) -> Decay:
    """Weight decay and momentum (beta1 of Adam and its kin); -1 when the optimizer knows none."""
    decays, momenta, decoupled = [-1.0], [-1.0], "AdamW" in type(optimizer).__name__
    for group in optimizer.param_groups:
        betas = group.get("betas") or (group.get("momentum"),)
        for values, value in ((decays, group.get("weight_decay")), (momenta, betas[0])):
            if isinstance(value, int | float):
                values.append(float(value))
        decoupled = decoupled or group.get("decoupled_weight_decay") is True
    return Decay(max(decays), max(momenta), decoupled)


def state_step(
    optimizer: torch.optim.Optimizer, number: Callable[[float | Tensor], float | Tensor]
) -> float | Tensor:
    """The step count in one parameter's optimizer state; -1 when the optimizer keeps none."""
    for state in optimizer.state.values():
        step = state.get("step") if isinstance(state, dict) else None
        if step is None:
            return -1
        # At once on a CPU: the optimizer counts on in the same tensor.
        return number(step)
    return -1


def _norm_dtype(tensor: Tensor) -> torch.dtype | None:
    import torch

    return torch.float32 if tensor.dtype in {torch.float16, torch.bfloat16} else None


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    import torch

    if not {each.dtype for each in tensors}.isdisjoint((torch.float16, torch.bfloat16)):
        return list(torch._foreach_norm(tensors, 2, dtype=torch.float32))  # noqa: SLF001
    return list(torch._foreach_norm(tensors, 2))  # noqa: SLF001


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
