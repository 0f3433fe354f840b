"""Follows a training step through its phases and closes one record an optimizer step. Runs on the training thread."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from stallwatch.agent._fingerprint import GradientSentinel, ParameterSentinel
from stallwatch.agent._probe.anchor import GradientAnchor
from stallwatch.agent._probe.directions import DirectionProbe
from stallwatch.agent._probe.hooks import ArgumentHook, Guard, Hook, WatchedClosure, let_jit_pass
from stallwatch.agent._probe.inputs import InputProbe
from stallwatch.agent._probe.last_gradient import LastGradient
from stallwatch.agent._probe.model import collective_counter
from stallwatch.agent._probe.phases import (
    BACKWARD,
    EVALUATION,
    FORWARD,
    INPUT,
    NOWHERE,
    OPTIMIZER,
    STARTING,
    SYNC,
    PhaseTimes,
)
from stallwatch.agent._probe.readings import SampledReadings
from stallwatch.agent._probe.sample_cost import SampleCost
from stallwatch.agent._probe.sampled import SampledPass
from stallwatch.agent._probe.saturation import SaturationProbe
from stallwatch.agent._probe.structure import Structure, followed, unheld, unreduced
from stallwatch.agent._records import NAN, Losses, StepRecord

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._config import Probes
    from stallwatch.agent._probe.device import DeviceReader
    from stallwatch.agent._probe.model import WatchedModel
    from stallwatch.agent._probe.sampling import SamplePeriod

_MOST_RATES = 1024
"""Parameter groups whose learning rate is sent: more a detector does not take."""

_RATE_JUMP = 1.5
"""A learning rate that has changed so many times since the sample before makes readings of other parts old: a schedule that
moves smoothly takes many samples for it, or is in its first steps."""

# What the time before a training forward was spent on, by the phase that it ends. Between two forwards of one backward it
# is forward work; after a backward that no optimizer step followed, the next micro-batch was loaded.
_BEFORE_FORWARD = (NOWHERE, NOWHERE, INPUT, FORWARD, FORWARD, SYNC, INPUT, NOWHERE)


class StepProbe:
    """The state machine behind the hooks.

    A record is closed at the optimizer's step and handed on at the next training forward, so that a loss logged after
    `optimizer.step()` still belongs to the step it was computed for.
    """

    def __init__(
        self,
        model: WatchedModel,
        blocks: Sequence[int],
        probes: Probes,
        period: SamplePeriod,
        reader: DeviceReader,
        deliver: Callable[[StepRecord], None],
        guard: Guard,
        start_step: int | None,
        note: Callable[[str, str], None] | None = None,
        lost: Callable[[int], None] | None = None,
        over_budget: Callable[[str], None] | None = None,
        *,
        details: bool = True,
    ) -> None:
        self._model = model
        self._period = period
        self._reader = reader
        self._deliver = deliver
        self._guard = guard
        self._collectives = collective_counter(model)
        self._probes, self._details = probes, details
        self._block_of = dict(zip((name for name, _ in model.parameters), blocks, strict=True))
        self._saturated: dict[str, torch.Tensor] = {}
        self._input_statistics = probes.input_statistics
        self._input: torch.Tensor | None = None
        self._note = note
        self._lost = lost if lost is not None else _nothing
        self._optimizer: torch.optim.Optimizer | None = None
        self.optimizers: Sequence[torch.optim.Optimizer] = ()
        """All that the script named: together they hold what is trained."""
        self._held: tuple[int, ...] = ()
        self._told: set[str] = set()
        self._read_of: tuple[tuple[bool, ...], tuple[int, ...], list[float]] = ((), (), [])
        """What was trained at the sample before: parameters, sizes of groups, learning rates."""
        self._structure = Structure(model)
        self._read_parameters()
        self._inputs = InputProbe(reader) if probes.inputs else None
        self._start_known = start_step is not None

        self.phases = PhaseTimes(reader.clock)
        self._last_gradient = LastGradient(
            model,
            guard,
            any_ready=self._on_any_ready,
            learned=self._on_learned,
            ready=self._on_ready,
            over=self._on_backward_end,
        )
        self._cost = SampleCost(guard, period, over_budget if over_budget is not None else _nothing)
        self.next_step = self.first_step = start_step or 0
        self.last_step = self.collectives = -1
        self.ddp_iteration = 0 if model.wrapper is not None else -1
        self.typical_step_seconds = 0.0

        self._forwards = self._micro_batches = self._synchronised = 0
        self._evaluation_trains = False
        self._losses = Losses()
        self._pending: StepRecord | None = None
        self._stray: Losses | None = None
        """Where losses go that are logged for a step whose record was lost."""
        self._readings: SampledReadings | None = None
        self._fingerprint: int | torch.Tensor = -1
        self._produced: int | torch.Tensor = -1
        """Fingerprint of the gradients as the last backward left them."""
        self._before: int | torch.Tensor = -1
        """Of the parameters as optimizer.step found them."""
        self._began = -1
        """The step whose first forward or backward has been seen."""
        self._sampling = self._stepping = False
        """Whether this step is sampled; whether optimizer.step has begun and not ended."""
        self._handles: list[Any] = []

    def _read_parameters(self) -> None:
        """Makes what reads the model's parameters, as they are now."""
        model, probes, reader, details = self._model, self._probes, self._reader, self._details
        self._sampled_pass = SampledPass(
            model,
            [self._block_of[name] for name, _ in model.parameters],
            probes,
            reader,
            self._guard.failed,
            base_period=self._period.base,
            block_count=max(self._block_of.values(), default=-1) + 1,
            details=details,
        )
        self._directions = DirectionProbe(model, reader) if details and probes.directions else None
        self._saturation = (
            SaturationProbe(model, reader, self._guard.failed) if details and probes.activations else None
        )
        self._sentinel = GradientSentinel(model.trainable) if probes.gradient_fingerprint else None
        # Only replicas have parameters that are meant to be equal.
        self._parameters = (
            ParameterSentinel(model.trainable) if probes.fingerprints and model.wrapper is not None else None
        )
        self._anchor = (
            GradientAnchor(model.trainable, reader, self._guard) if probes.gradient_anchor else None
        )

    # --- installation -------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Puts the hooks on the model; those on the optimizer come with `adopt`."""
        from torch import is_grad_enabled

        self._grad_enabled = is_grad_enabled
        let_jit_pass()
        model, add = self._model, self._handles.append
        if model.compiled or model.wrapper is None:
            add(self._before_forward(model.given, self._on_forward))
            add(model.given.register_forward_hook(Hook(self._guard, self._on_forward_end)))
        if not model.compiled and model.wrapper is not None:
            add(self._before_forward(model.wrapper, self._on_wrapper_forward))
            add(self._before_forward(model.inner, self._on_forward))
            add(model.inner.register_forward_hook(Hook(self._guard, self._on_forward_end)))
        elif model.wrapper is not None:
            add(self._before_forward(model.wrapper, self._on_wrapper_forward))
        add(model.inner.register_load_state_dict_post_hook(Hook(self._guard, self._on_load)))
        self._last_gradient.learn()

    def _on_load(self, _now: float, *_: object) -> None:
        """Weights, or the state of the optimizer, were loaded: what was read before says nothing of them."""
        self._sampled_pass.turns.read_everything()

    def _before_forward(self, module: torch.nn.Module, function: Callable[..., object]) -> Any:
        return module.register_forward_pre_hook(Hook(self._guard, function), with_kwargs=True)

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Follows this optimizer: its calls of `step` are the steps."""
        self._optimizer = optimizer
        self._held = tuple(len(group["params"]) for group in optimizer.param_groups)
        if self._anchor is not None:
            self._anchor.adopt(optimizer)
        self._handles.append(optimizer.register_step_pre_hook(ArgumentHook(self._guard, self._on_optimizer)))
        self._handles.append(optimizer.register_step_post_hook(Hook(self._guard, self._on_optimizer_end)))
        self._handles.append(optimizer.register_load_state_dict_post_hook(Hook(self._guard, self._on_load)))

    def remove(self) -> None:
        """Takes all hooks off and hands on what is pending."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._last_gradient.remove()
        self._sampled_pass.disarm()
        if self._anchor is not None:
            self._anchor.remove()
        if self._saturation is not None:
            self._saturation.take()
        self._hand_on()

    # --- hooks, in the order of a step --------------------------------------------------------------------------

    def _on_wrapper_forward(
        self, now: float, module: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> None:
        if not self._begin_forward(now, module, arguments, keywords):
            return
        if self._model.wrapper.require_backward_grad_sync:  # type: ignore[union-attr]
            # What DDP's own logger counts; asking that for it would take forty times as long.
            self.ddp_iteration += 1
            self._synchronised += 1
        if not self._model.compiled:
            self.phases.now = SYNC

    def _on_forward(
        self, now: float, module: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> None:
        if self.phases.now == SYNC and self._forwards:
            self.phases.enter(FORWARD, now, SYNC)
            if self._sampling and self._forwards == 1:
                # DDP has just broadcast the buffers of rank 0: only now are they meant to be equal.
                self._sampled_pass.see_buffers()
                self._skip_own_time(now)
        elif (
            self._begin_forward(now, module, arguments, keywords)
            and self._sampling
            and self._forwards == 1
            and self._model.wrapper is None
        ):
            self._sampled_pass.see_buffers()

    def _begin_forward(
        self, now: float, module: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> bool:
        """Whether this is a forward that trains; in evaluation, only the phase changes."""
        if not self._grad_enabled() or not (module.training or self._evaluation_trains):
            if not module.training and self.phases.now in {STARTING, INPUT, OPTIMIZER}:
                self.phases.enter(EVALUATION, now, INPUT)
            return False
        charge = _BEFORE_FORWARD[self.phases.now]
        if not self._forwards:
            self._hand_on()
            self._begin_step()
            self._sampling = self._period.hits(self.next_step)
            self.phases.enter(FORWARD, now, charge)
            if self._sampling:
                self._arm()
                self._skip_own_time(now)
        else:
            self.phases.enter(FORWARD, now, charge)
        self._forwards += 1
        if self._inputs is not None:
            self._inputs.see(arguments, keywords)
            if self._sampling and self._input_statistics and self._input is None:
                self._input = self._inputs.statistics(arguments, keywords)
        return True

    def _arm(self) -> None:
        """A sampled step begins."""
        if self._is_changed():
            self._sampled_pass.turns.read_everything()
        self._sampled_pass.arm(self.next_step)
        if self._saturation is not None:
            self._saturation.arm()

    def _is_changed(self) -> bool:
        """Whether what is trained, by which groups or how fast has changed since the sample before."""
        trained = tuple(each.requires_grad for _, each in self._model.parameters)
        groups: tuple[int, ...] = ()
        rates: list[float] = []
        if self._optimizer is not None:
            groups = tuple(len(group["params"]) for group in self._optimizer.param_groups)
            for group in self._optimizer.param_groups[:_MOST_RATES]:
                rate = group.get("lr")
                # A rate on a GPU would have to be waited for.
                rates.append(float(rate) if isinstance(rate, int | float) else NAN)
        before, self._read_of = self._read_of, (trained, groups, rates)
        return before[:2] != (trained, groups) or any(
            max(now, then) > _RATE_JUMP * min(now, then) for now, then in zip(rates, before[2], strict=True)
        )

    def _begin_step(self) -> None:
        self._began = self.next_step
        if self._anchor is not None:
            self._anchor.begin(self.next_step)

    def _skip_own_time(self, began: float) -> None:
        now = perf_counter()
        self._cost.add(now - began)
        self.phases.enter(self.phases.now, now, NOWHERE)

    def _on_forward_end(self, now: float, *_: object) -> None:
        if self.phases.now == FORWARD:
            self.phases.enter(BACKWARD, now, FORWARD)
            if self._sampling and self._saturation is not None and self._forwards == 1:
                self._saturated = self._saturation.take()

    def _on_any_ready(self, now: float) -> None:
        # Until the last is known, every gradient might be it.
        self.phases.enter(SYNC, now, SYNC if self.phases.now == SYNC else BACKWARD)

    def _on_learned(self) -> None:
        # The times before the last gradient were counted as waiting.
        self.phases.wait_was_backward()
        self._micro_batches += 1

    def _on_ready(self, now: float) -> None:
        """All local gradients of this micro-batch are there; what follows is waiting for other ranks."""
        if self.phases.now == EVALUATION:
            # Some fine-tune a model in evaluation mode.
            self._evaluation_trains = True
        if not self._forwards:
            self._hand_on()
            if self._began != self.next_step:
                self._begin_step()
        self._micro_batches += 1
        self.phases.enter(SYNC, now, BACKWARD)

    def _on_backward_end(self, now: float) -> None:
        if self.phases.now == SYNC:
            self.phases.enter(OPTIMIZER, now, SYNC)
        # After every micro-batch: which of them is the last, only the optimizer's step will tell.
        self._produced = self._take_fingerprint(self._sentinel)
        if self._anchor is not None:
            self._anchor.produced()

    def _take_fingerprint(self, sentinel: GradientSentinel | None) -> int | torch.Tensor:
        if sentinel is None:
            return -1
        taken = sentinel.take(self.next_step)
        if taken is None:
            return -1
        return taken if isinstance(taken, int) else self._reader.fetch_integer(taken)

    def _on_optimizer(
        self,
        now: float,
        optimizer: torch.optim.Optimizer,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # First: whatever fails below, the step is one.
        self._stepping = True
        self.phases.enter(
            OPTIMIZER,
            now,
            self.phases.now if self.phases.now in {FORWARD, BACKWARD, SYNC, OPTIMIZER} else INPUT,
        )
        if not self._start_known:
            self._start_known = True
            self._restore_step(optimizer)
        self._before = self._take_fingerprint(self._parameters)
        watched = self._watch_closure(optimizer, arguments, keywords)
        if watched is None:
            self._read_applied(optimizer)
        return watched

    def _watch_closure(
        self, optimizer: torch.optim.Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments of a step with a closure, which computes the gradients, watched; None when there is no closure."""
        # The first of the positional ones is the optimizer.
        closure = arguments[1] if len(arguments) > 1 else keywords.get("closure")
        if not callable(closure):
            return None
        if isinstance(closure, WatchedClosure):
            # A subclass that calls its parent's step.
            return arguments, keywords
        reference = weakref.ref(optimizer)

        def returned(_now: float) -> None:
            alive = reference()
            if alive is not None and self._stepping:
                self._read_applied(alive)

        watched = WatchedClosure(closure, Hook(self._guard, returned))
        if len(arguments) > 1:
            return (arguments[0], watched, *arguments[2:]), keywords
        return arguments, {**keywords, "closure": watched}

    def _read_applied(self, optimizer: torch.optim.Optimizer) -> None:
        """Reads the gradients that the optimizer is about to see.

        Where a closure computes them, it may be called several times in a step (LBFGS): sampled readings are those of the first, which
        is evaluated at the parameters that the step begins with.
        """
        self._fingerprint = self._take_fingerprint(self._sentinel)
        if self._anchor is not None:
            self._anchor.applied()
        if self._sampling and self._micro_batches:
            if self._readings is not None:
                return
            began = perf_counter()
            # When DDP averaged after every micro-batch, no local gradient of the whole step ever existed.
            self._readings = self._sampled_pass.before_step(optimizer, local_valid=self._synchronised <= 1)
            if self._directions is not None:
                self._directions.before_step(self._sampled_pass.turns.part(self.next_step))
            self._skip_own_time(began)
        elif self._directions is not None and self._directions.step >= 0:
            began = perf_counter()
            if self._directions.step == self.next_step - 1 and self._micro_batches:
                self._directions.compare()
            else:
                self._directions.forget()
            self._skip_own_time(began)

    def _on_optimizer_end(self, now: float, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not self._stepping:
            # The step of a subclass that ends after its parent's: one step, two calls of hooks.
            self.phases.enter(INPUT, now, OPTIMIZER)
            return
        self._stepping = False
        pending = self._pending
        if pending is not None and not self._micro_batches and not self._forwards:
            # The same gradients applied once more.
            self.phases.enter(INPUT, now, OPTIMIZER)
            pending.optimizer_steps += 1
            return
        record = None
        try:
            self.phases.enter(INPUT, now, OPTIMIZER)
            self._hand_on()
            record = self._close_record(now, optimizer)
        finally:
            # A step that could not be read has been made all the same: the next one must not go by its number, nor have its loss.
            if self._pending is not None:
                self._lost(self._pending.step)
            if record is None:
                self._lost(self.next_step)
                self._stray = self._losses
            self._pending = record
            self._end_step(now)
        if record.sampled is not None:
            self._cost.settle(
                record.step, self._sampled_pass.hook_seconds, counts=not self._sampled_pass.is_whole
            )

    def _close_record(self, now: float, optimizer: torch.optim.Optimizer) -> StepRecord:
        self.collectives = self._collectives()
        record = StepRecord(
            step=self.next_step,
            losses=self._losses,
            micro_batches=self._micro_batches,
            learning_rates=tuple(
                [self._reader.number(group.get("lr", NAN)) for group in optimizer.param_groups[:_MOST_RATES]]
            ),
            seconds=self.phases.of_step(now, seen=bool(self._forwards)),
            ddp_iteration=self.ddp_iteration,
            collectives=self.collectives,
            gradient_fingerprint=self._fingerprint,
            produced_fingerprint=self._produced,
            parameters_before=self._before,
            parameters_after=self._take_fingerprint(self._parameters),
            anchor=None if self._anchor is None else self._anchor.take(),
            inputs=[] if self._inputs is None else self._inputs.take(),
            optimizer_steps=1,
            direction=None if self._directions is None else self._directions.take(),
        )
        if self._readings is not None:
            self._close_sample(record, optimizer)
        elif record.seconds[0] > 0:
            self._period.observe_step(record.seconds[0])
            typical = self.typical_step_seconds or record.seconds[0]
            self.typical_step_seconds = typical + 0.05 * (min(record.seconds[0], 4 * typical) - typical)
        self._watch_structure(optimizer)
        if self._reader.clock is not None:
            record.clock = self._reader.clock.close()
        if not self._micro_batches and self._forwards and not self._last_gradient.is_learning:
            self._last_gradient.learn()
        return record

    def _watch_structure(self, optimizer: torch.optim.Optimizer) -> None:
        """Follows parameters that were replaced, frozen or unfrozen, and says what that means for optimizer and DDP."""
        structure, model = self._structure, self._model
        held = tuple(len(group["params"]) for group in optimizer.param_groups)
        regrouped = held != self._held
        self._held = held
        replaced, refrozen = structure.is_replaced(), structure.is_refrozen()
        if not (replaced or refrozen or regrouped):
            return
        before = [(name, id(each)) for name, each in model.parameters]
        trained = len(model.trainable) if replaced else structure.trained
        if replaced:
            model.parameters = tuple(followed(model, self._block_of))
        structure.note()
        changed = [(name, id(each)) for name, each in model.parameters] != before
        if changed:
            self._say(
                "parameters",
                f"parameters of the model were replaced; {len(model.parameters)} are followed from here on",
            )
        elif refrozen:
            now = len(model.trainable)
            self._say("requires_grad", f"{now} parameters require a gradient, {trained} did before")
        if changed or refrozen:
            anchor = self._anchor
            if anchor is not None:
                anchor.remove()
            self._sampled_pass.forget()
            self._read_parameters()
            if self._anchor is not None:
                self._anchor.adopt(optimizer)
            self._last_gradient.learn()
        if changed or refrozen or regrouped:
            self.check_parts(optimizer)

    def check_parts(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Says whether the optimizers hold, and DDP averages, what is to be trained: known without any step."""
        optimizers = self.optimizers or ([] if optimizer is None else [optimizer])
        for kind, text in (
            ("optimizer", unheld(self._model, optimizers) if optimizers else ""),
            ("ddp", unreduced(self._model)),
        ):
            if text and text not in self._told:
                self._told.add(text)
                self._say(kind, text)

    def _say(self, kind: str, text: str) -> None:
        if self._note is not None:
            self._note(kind, text)

    def _close_sample(self, record: StepRecord, optimizer: torch.optim.Optimizer) -> None:
        """What a sampled step reads after it. Where it fails, the step goes without."""
        began = perf_counter()
        readings, self._readings = self._readings, None
        assert readings is not None
        try:
            self._sampled_pass.after_step(readings, optimizer)
            readings.saturated, self._saturated = self._saturated, {}
            readings.inputs, self._input = self._input, None
            if self._directions is not None:
                self._directions.after_step(record.step)
            record.sampled = readings
        except Exception as error:
            self._sampled_pass.forget()
            self._guard.failed(error)
        self._skip_own_time(began)

    def _end_step(self, now: float) -> None:
        self.last_step = self.next_step
        self.next_step += 1
        self.phases.end_step(now)
        self._forwards = self._micro_batches = self._synchronised = 0
        self._sampling = False
        # Of this step only: what the next one cannot read is unknown, and not what this one read.
        self._produced = self._fingerprint = self._before = -1
        self._readings = None
        self._losses = Losses()

    def _restore_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A checkpoint may have been loaded between `attach` and the first step."""
        restored = restored_step(optimizer)
        if restored > self.next_step:
            self.next_step = self.first_step = restored

    def count_collectives(self) -> int:
        """Collectives issued until now, for a heartbeat."""
        return self._collectives()

    # --- what the user says -------------------------------------------------------------------------------------

    def losses(self) -> Losses:
        """Where a loss that is logged now belongs."""
        if self._pending is not None:
            return self._pending.losses
        return self._losses if self._stray is None else self._stray

    def _hand_on(self) -> None:
        self._stray = None
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.arrived = self._reader.fence()
            self._deliver(pending)
        except Exception as error:
            self._lost(pending.step)
            self._guard.failed(error)


def _nothing(_what: object) -> None:
    pass


def restored_step(optimizer: torch.optim.Optimizer) -> int:
    """The step an optimizer was restored to, by what it keeps; 0 when it is new or keeps no count."""
    for state in optimizer.state.values():
        step = state.get("step") if isinstance(state, dict) else None
        if step is None:
            return 0
        # On a GPU, reading it would wait for all queued work; that is paid once, before the first step.
        return int(step)
    return 0
