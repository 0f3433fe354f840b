"""The readings of a sampled step: norms before and after averaging, the update, and bit-exact fingerprints.

The gradient that the optimizer sees and the bits of all parameters are read as a whole, one pass each. What costs more a
tensor is read of a part of the model, in turn (see `turns`): local gradients, parameters' norms, updates, zeros. `Latest`
keeps the last reading of every other part, so that records tell of the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from stallwatch.agent._probe.readings import Decay, Latest, SampledReadings
from stallwatch.agent._probe.turns import Turns
from stallwatch.agent._probe.zeros import count_filled, row_parameters

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._config import Probes
    from stallwatch.agent._probe.device import DeviceReader
    from stallwatch.agent._probe.model import WatchedModel

    Tensor = torch.Tensor

_TENSOR_ELEMENTS = 1 << 18
"""Elements of one tensor that are looked through for zeros: of a larger one, every n-th row."""
_COPIED_TENSORS = 128
"""Parameters up to which the update of all is read in every sample, at 5 us each; of more, a part in turn."""
_COPIED_ELEMENTS = 1 << 14
"""Elements of one parameter that are kept over optimizer.step to see its update: of a larger one, every n-th row. Of so many,
the norm of the whole is estimated to within a percent."""


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
