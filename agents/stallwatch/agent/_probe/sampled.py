"""The readings of a sampled step: norms before and after averaging, the update, and bit-exact fingerprints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from stallwatch.agent._fingerprint import fingerprint, flat, local_part
from stallwatch.agent._probe.anchor import ELEMENTS
from stallwatch.agent._probe.zeros import count_zeros, row_parameters
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
_COPIED_ELEMENTS = 1 << 24
"""Parameter elements kept over optimizer.step to see the update; of larger models, every n-th element is."""


class SampledReadings:
    """Tensors of one sampled step, on their way to the host; numbers are made of them on the background thread."""

    def __init__(self, blocks: Sequence[int]) -> None:
        self.blocks = blocks
        self.block_count = max(blocks, default=-1) + 1
        self.local: Tensor | None = None
        self.reduced: Tensor | None = None
        self.reduced_indices: list[int] = []
        self.update: Tensor | None = None
        self.update_scale = 1.0
        self.parameter: Tensor | None = None
        self.gradient_bits: Tensor | None = None
        self.parameter_bits: Tensor | None = None
        self.buffer_bits: Tensor | None = None
        self.optimizer_state_step: float | Tensor = -1
        self.carried: Tensor | None = None
        self.unchanged: Tensor | None = None
        self.elements: Tensor | None = None
        """Number of elements with a gradient."""
        self.trainable_indices: list[int] = []
        self.zeros: Tensor | None = None
        self.reduced_sizes: list[tuple[int, int]] = []
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
        reduced = _square(self.reduced)
        return wire.SampledRecord(
            step=record.step,
            local_gradient_square=_square(self.local),
            reduced_gradient_square=reduced,
            update_square=_square(self.update) * self.update_scale,
            parameter_square=_square(self.parameter),
            gradient_fingerprints=self._by_block(self.gradient_bits, self.reduced_indices),
            parameter_fingerprints=self._by_block(self.parameter_bits, range(len(self.blocks))),
            buffer_fingerprint=_combine(self.buffer_bits.tolist()) if self.buffer_bits is not None else 0,
            non_finite_blocks=self._non_finite(),
            optimizer_state_step=int(self.optimizer_state_step),
            samples=record.losses.samples,
            carried_gradient_square=0.0 if self.carried is None else _square(self.carried),
            produced_gradient_square=reduced / self.gradient_scale**2,
            anchor_elements=ELEMENTS if self.local_anchors else 0,
            local_anchors=self.local_anchors,
            produced_anchor=self.produced_anchor,
            gradient_squares=self._squares_by_block(self.reduced, self.reduced_indices),
            parameter_squares=self._squares_by_block(self.parameter, self.trainable_indices),
            update_squares=self._squares_by_block(self.update, self.trainable_indices, self.update_scale),
            unchanged_share=_share(self.unchanged, self.elements),
            gradient_zero_shares=self._zero_shares(0),
            gradient_zero_row_shares=self._zero_shares(1),
            weight_decay=self.decay.weight_decay,
            momentum=self.decay.momentum,
            decoupled_weight_decay=self.decay.decoupled,
            saturated_shares={name[:_NAME]: float(share) for name, share in self.saturated.items()},
            input_mean=NAN if self.inputs is None else float(self.inputs[0]),
            input_deviation=NAN if self.inputs is None else float(self.inputs[1]),
        )

    def _zero_shares(self, column: int) -> list[float]:
        """By block, the share of elements (column 0) or rows (column 1) that are zero."""
        if self.zeros is None:
            return []
        zeros, wholes = [0] * self.block_count, [0] * self.block_count
        for index, counts, sizes in zip(
            self.reduced_indices, self.zeros.tolist(), self.reduced_sizes, strict=True
        ):
            if counts[column] >= 0:
                zeros[self.blocks[index]] += counts[column]
                wholes[self.blocks[index]] += sizes[column]
        return [zero / whole if whole else NAN for zero, whole in zip(zeros, wholes, strict=True)]

    def _squares_by_block(
        self, norms: Tensor | None, indices: Sequence[int], scale: float = 1.0
    ) -> list[float]:
        if norms is None:
            return []
        squares = [NAN] * self.block_count
        for index, norm in zip(indices, norms.double().tolist(), strict=True):
            block = self.blocks[index]
            before = squares[block]
            squares[block] = scale * norm * norm + (0.0 if math.isnan(before) else before)
        return squares

    def _by_block(self, bits: Tensor | None, indices: Sequence[int]) -> list[int]:
        if bits is None:
            return []
        blocks = [0] * self.block_count
        for index, value in zip(indices, bits.tolist(), strict=True):
            block = self.blocks[index]
            blocks[block] = (blocks[block] * 1099511628211 + value) & _MASK
        return blocks

    def _non_finite(self) -> list[int]:
        if self.reduced is None:
            return []
        norms = zip(self.reduced_indices, self.reduced.tolist(), strict=True)
        return sorted({self.blocks[index] for index, norm in norms if not math.isfinite(norm)})


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
        details: bool = True,
    ) -> None:
        self._model = model
        self._rows = row_parameters(model.inner) if details and probes.gradient_zeros else None
        self._blocks = blocks
        self._probes = probes
        self._fetch = reader.fetch
        self._number = reader.number
        self._failed = failed
        self._handles: list[Any] = []
        self._local: dict[int, Tensor] = {}
        self._carried: dict[int, Tensor] = {}
        self._buffer_bits: Tensor | None = None
        self._copies: list[Tensor] = []
        self._stride = 1
        self.hook_seconds = 0.0
        """Spent in the hooks that `arm` puts on, since the last call of it."""

    def arm(self) -> None:
        """Puts a hook on every trainable parameter, to see its local gradient."""
        self.disarm()
        self._buffer_bits = None
        self.hook_seconds = 0.0
        if not self._probes.local_gradients:
            return
        for index, (_, parameter) in enumerate(self._model.parameters):
            if parameter.requires_grad:
                self._handles.append(parameter.register_hook(self._local_hook(index, parameter)))

    def disarm(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
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
                self._buffer_bits = self._fetch(_gather([fingerprint(each) for each in buffers]))

    def before_step(self, optimizer: torch.optim.Optimizer, *, local_valid: bool) -> SampledReadings:
        """Reads the gradients that the optimizer is about to see."""
        import torch

        readings = SampledReadings(self._blocks)
        with torch.no_grad():
            if self._local and local_valid:
                readings.local = self._fetch(_gather(list(self._local.values())))
            # What this optimizer does not update, it needs not clear.
            held = {id(each) for group in optimizer.param_groups for each in group["params"]}
            carried = [
                norm for index, norm in self._carried.items() if id(self._model.parameters[index][1]) in held
            ]
            if carried:
                readings.carried = self._fetch(_gather(carried))
            readings.buffer_bits = self._buffer_bits
            self.disarm()
            gradients = []
            for index, (_, parameter) in enumerate(self._model.parameters):
                gradient = parameter.grad
                if gradient is not None and gradient.layout is torch.strided:
                    readings.reduced_indices.append(index)
                    gradients.append(local_part(gradient))
            if gradients:
                readings.reduced = self._fetch(_gather(_norms(gradients)))
                if self._rows is not None:
                    self._count_zeros(readings, gradients, self._rows)
                if self._probes.fingerprints:
                    readings.gradient_bits = self._fetch(_gather([fingerprint(each) for each in gradients]))
            if self._probes.updates:
                self._copy_parameters()
        return readings

    def _count_zeros(
        self, readings: SampledReadings, gradients: Sequence[Tensor], row_ids: frozenset[int]
    ) -> None:
        by_row = [
            id(self._model.parameters[index][1]) in row_ids and gradient.dim() >= 2
            for index, gradient in zip(readings.reduced_indices, gradients, strict=True)
        ]
        readings.zeros = self._fetch(count_zeros(gradients, by_row))
        readings.reduced_sizes = [(each.numel(), each.shape[0] if each.dim() else 1) for each in gradients]

    def _copy_parameters(self) -> None:
        trainable = [local_part(each) for each in self._model.trainable]
        elements = sum(each.numel() for each in trainable)
        self._stride = -(-elements // _COPIED_ELEMENTS)
        self._copies = [self._thin(each).clone() for each in trainable]

    def _thin(self, tensor: Tensor) -> Tensor:
        return tensor if self._stride == 1 else flat(tensor)[:: self._stride]

    def after_step(self, readings: SampledReadings, optimizer: torch.optim.Optimizer) -> None:
        """Reads the parameters that the optimizer has changed."""
        import torch

        with torch.no_grad():
            trainable = [local_part(each) for each in self._model.trainable]
            readings.trainable_indices = [
                index for index, (_, each) in enumerate(self._model.parameters) if each.requires_grad
            ]
            copies, self._copies = self._copies, []
            if len(copies) == len(trainable):
                torch._foreach_sub_(copies, [self._thin(each) for each in trainable])
                readings.update = self._fetch(_gather(_norms(copies)))
                readings.update_scale = float(self._stride)
                if any(_norm_dtype(each) is not None for each in trainable):
                    # In half precision, updates below half a unit in the last place are lost one by one.
                    self._count_unchanged(readings, copies)
            readings.parameter = self._fetch(_gather(_norms(trainable)))
            if self._probes.fingerprints:
                everything = [fingerprint(each) for _, each in self._model.parameters]
                readings.parameter_bits = self._fetch(_gather(everything))
        readings.optimizer_state_step = state_step(optimizer, self._number)
        readings.decay = decay_of(optimizer)

    def _count_unchanged(self, readings: SampledReadings, changes: Sequence[Tensor]) -> None:
        """Counts elements with a gradient, and those of them that did not change: others were not meant to."""
        import torch

        elements, unchanged = [], []
        for parameter, change in zip(self._model.trainable, changes, strict=True):
            gradient = parameter.grad
            if gradient is not None and gradient.layout is torch.strided:
                some = self._thin(local_part(gradient)) != 0
                elements.append(torch.count_nonzero(some))
                unchanged.append(torch.count_nonzero(some & (change == 0)))
        if elements:
            readings.elements = self._fetch(_gather(elements).sum())
            readings.unchanged = self._fetch(_gather(unchanged).sum())


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

    if any(_norm_dtype(each) is not None for each in tensors):
        return list(torch._foreach_norm(tensors, 2, dtype=torch.float32))  # noqa: SLF001
    return list(torch._foreach_norm(tensors, 2))  # noqa: SLF001


def _gather(scalars: list[Tensor]) -> Tensor:
    """Scalars as one vector on the device of the first."""
    import torch

    device, dtype = scalars[0].device, scalars[0].dtype
    return torch.stack([each.to(device=device, dtype=dtype, non_blocking=True) for each in scalars])


def _square(norms: Tensor | None) -> float:
    return math.nan if norms is None else sum(value * value for value in norms.double().tolist())


def _share(part: Tensor | None, whole: Tensor | None) -> float:
    return NAN if part is None or whole is None or not int(whole) else int(part) / int(whole)


def _combine(values: Sequence[int]) -> int:
    total = 0
    for value in values:
        total = (total * 1099511628211 + value) & _MASK
    # 0 says that there are no buffers.
    return total or 1
