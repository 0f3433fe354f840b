"""The agent of one model in one rank process."""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from stallwatch.agent import _heartbeat as heartbeat
from stallwatch.agent._buffer import BatchBuffer, DropCounter
from stallwatch.agent._callback import FindingCallback
from stallwatch.agent._collector import Collector
from stallwatch.agent._cpu_wait import CpuWait
from stallwatch.agent._flight import FlightRecorder
from stallwatch.agent._lifecycle import CLOSE_SECONDS, follow, forget
from stallwatch.agent._probe import model as models
from stallwatch.agent._probe.device import DeviceReader
from stallwatch.agent._probe.hooks import Guard, is_of_signal_handler
from stallwatch.agent._probe.phases import EVALUATION
from stallwatch.agent._probe.sampling import SamplePeriod
from stallwatch.agent._probe.steps import StepProbe, restored_step
from stallwatch.agent._records import Losses
from stallwatch.agent._registry import release
from stallwatch.agent._transport import Transport
from stallwatch.agent._version import __version__
from stallwatch.v1 import telemetry_pb2 as wire

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._config import Settings
    from stallwatch.agent._identity import Identity

logger = logging.getLogger("stallwatch.agent")

PROTOCOL_MAJOR, PROTOCOL_MINOR = 1, 0
_WAITING_SHARE = 4
"""One part in so many of the memory is for what is not in a batch yet."""
_MOST_NAMES = 256
"""Of groups and components that a detector takes in a batch."""
_MOST_METRICS = 64
_KIND_LENGTH, _TEXT_LENGTH, _NAME_LENGTH = 64, 512, 128

_left_behind: list[object] = []
"""What a forked child must not free: gRPC objects whose threads did not come along."""


class Agent:
    """Watches one model. Every method is safe to call at any time and raises nothing.

    Made by `stallwatch.agent.attach`. Without an endpoint, or after `close`, its methods do nothing.
    """

    def __init__(self, core: Core | None = None) -> None:
        self._core = core

    @property
    def active(self) -> bool:
        """Whether anything is watched."""
        return self._core is not None

    def log(
        self,
        loss: float | torch.Tensor,
        samples: float,
        *,
        groups: Mapping[str, tuple[float | torch.Tensor, float]] | None = None,
        components: Mapping[str, float | torch.Tensor] | None = None,
    ) -> None:
        """Logs this rank's mean loss over `samples` samples of the step at hand; may be called for each micro-batch.

        Args:
            loss: The mean loss, a number or a scalar tensor. A tensor on a GPU is not waited for.
            samples: How many samples `loss` is the mean of.
            groups: Sum of losses and samples of classes, modalities or difficulty bins, by name.
            components: Mean of each term of a composite loss, by name.
        """
        core = self._core
        if core is not None:
            core.log(loss, samples, groups, components)

    def log_eval(
        self,
        loss: float | torch.Tensor,
        samples: float,
        step: int | None = None,
        **metrics: float | torch.Tensor,
    ) -> None:
        """Logs the result of an evaluation, by default as of the last finished step."""
        core = self._core
        if core is not None:
            core.log_eval(loss, samples, step, metrics)

    def event(self, text: str, kind: str = "user") -> None:
        """Notes that something was changed; findings that begin here say so."""
        core = self._core
        if core is not None:
            core.event(text, kind)

    def close(self) -> None:
        """Sends what is left, says goodbye and takes all hooks off. Waits at most five seconds; called at exit, too."""
        core, self._core = self._core, None
        if core is not None:
            core.close("finished")


class Core:
    """What an active agent consists of."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        model: models.WatchedModel,
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        self.settings = settings
        self.identity = identity
        self.model = model
        self.drops = DropCounter()
        waiting = settings.buffer_bytes // _WAITING_SHARE
        self.buffer = BatchBuffer(settings.buffer_bytes - waiting, self.drops, settings.buffer_seconds)
        self.collector = Collector(self.buffer, self.drops, waiting)
        self.guard = Guard(self._on_disabled)
        self._optimizer_name = type(optimizers[0]).__name__ if optimizers else ""
        self._block_names, blocks = models.block_layout([name for name, _ in model.parameters])
        self._block_elements = [0] * len(self._block_names)
        for (_, parameter), block in zip(model.parameters, blocks, strict=True):
            self._block_elements[block] += parameter.numel()
        self._elements = sum(each.numel() for _, each in model.parameters)
        self.period = SamplePeriod(settings.sample_every, self._elements, settings.overhead_budget)
        start_step = settings.start_step
        if start_step is None and optimizers:
            start_step = restored_step(optimizers[0]) or None
        self.reader = DeviceReader(model.device)
        self.probe = StepProbe(
            model,
            blocks,
            settings.probes,
            self.period,
            self.reader,
            self.collector.add_record,
            self.guard,
            start_step,
            self._on_note,
            lambda step: self.drops.add(wire.DROP_REASON_INTERNAL_ERROR, 1, step, step),
            self._on_over_budget,
            details=identity.rank == 0 or model.parallelism != wire.PARALLELISM_DATA_PARALLEL,
        )
        self._thread_id = threading.get_ident()
        self._cpu_wait = CpuWait(threading.get_native_id())
        self._flight = FlightRecorder()
        self._complained: set[str] = set()
        self._names: set[str] = set()
        self._callback = FindingCallback(settings.on_finding) if settings.on_finding is not None else None
        self.closed = False
        self.automatic = False
        """Attached without the script's asking, so that its own call of `attach` takes over."""
        self.transport = Transport(
            settings,
            self.hello,
            self.heartbeat,
            self.collector,
            self.buffer,
            self._on_advice,
            self._on_finding,
        )
        self.collector.on_crowded = self.transport.wake
        self._adoption: list[torch.utils.hooks.RemovableHandle] = []
        try:
            self.probe.install()
            self.probe.optimizers = tuple(optimizers)
            if optimizers:
                self.probe.adopt(optimizers[0])
            else:
                self._adopt_first()
            self.probe.check_parts()
            follow(self)
            self.transport.start()
        except BaseException:
            self.closed = True
            forget(self)
            self.guard.active = False
            self._forget_adoption()
            self.probe.remove()
            raise

    def _adopt_first(self) -> None:
        """Without an optimizer, the first that steps any of the model's parameters is followed."""
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        watched = {id(each) for _, each in self.model.parameters}

        def adopt(optimizer: torch.optim.Optimizer, _arguments: object, _keywords: object) -> None:
            try:
                if self._adoption and self.guard.active and _holds(optimizer, watched):
                    self._forget_adoption()
                    self._optimizer_name = type(optimizer).__name__
                    self.probe.adopt(optimizer)
            except Exception as error:
                self.guard.failed(error)

        self._adoption.append(register_optimizer_step_pre_hook(adopt))

    def _forget_adoption(self) -> None:
        for handle in self._adoption:
            handle.remove()
        self._adoption.clear()

    # --- what the user says -------------------------------------------------------------------------------------

    def log(
        self,
        loss: float | torch.Tensor,
        samples: float,
        groups: Mapping[str, tuple[float | torch.Tensor, float]] | None,
        components: Mapping[str, float | torch.Tensor] | None,
    ) -> None:
        """See `Agent.log`."""
        if not self.guard.active:
            return
        began = perf_counter()
        try:
            self._log(self.probe.losses(), loss, samples, groups, components)
        except (TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            self._unusable("log", error)
        except Exception as error:
            self.guard.failed(error)
        self.guard.seconds += perf_counter() - began

    def _log(
        self,
        losses: Losses,
        loss: float | torch.Tensor,
        samples: float,
        groups: Mapping[str, tuple[float | torch.Tensor, float]] | None,
        components: Mapping[str, float | torch.Tensor] | None,
    ) -> None:
        count = float(samples)
        if not 0 <= count < math.inf:
            message = f"samples={samples!r} must be a finite number of at least 0"
            raise ValueError(message)
        number = self.reader.number
        losses.add(number(loss), count)
        for name, (total, group_samples) in (groups or {}).items():
            if key := self._name(name):
                losses.add_named(losses.groups, key, number(total), float(group_samples))
        for name, value in (components or {}).items():
            if key := self._name(name):
                losses.add_named(losses.components, key, number(value), count)

    def _name(self, name: str) -> str:
        """The name of a group or component, cut to size; empty for one more than a detector takes."""
        key = str(name)[:_NAME_LENGTH]
        if key not in self._names:
            if len(self._names) >= _MOST_NAMES:
                self._invalid(
                    "log", f"more than {_MOST_NAMES} names of groups and components, {key!r} is one more"
                )
                return ""
            self._names.add(key)
        return key

    def log_eval(
        self,
        loss: float | torch.Tensor,
        samples: float,
        step: int | None,
        metrics: Mapping[str, float | torch.Tensor],
    ) -> None:
        """See `Agent.log_eval`. Evaluations are rare, and their results are on the host or awaited by the user anyway."""
        if self.closed:
            return
        if len(metrics) > _MOST_METRICS:
            self._invalid("log_eval", f"{len(metrics)} metrics, of which the first {_MOST_METRICS} are taken")
        try:
            self.collector.add_evaluation(
                wire.EvaluationPoint(
                    step=max(self.probe.last_step, 0) if step is None else step,
                    loss=float(loss),
                    samples=float(samples),
                    metrics={
                        name[:_NAME_LENGTH]: float(value)
                        for name, value in islice(metrics.items(), _MOST_METRICS)
                    },
                )
            )
        except Exception as error:
            self._unusable("log_eval", error)

    def event(self, text: str, kind: str, *, automatic: bool = False) -> None:
        """See `Agent.event`."""
        if self.closed:
            return
        try:
            self.collector.add_event(
                wire.Event(
                    step=self.probe.next_step,
                    kind=str(kind).lower()[:_KIND_LENGTH] or "user",
                    text=str(text)[:_TEXT_LENGTH],
                    automatic=automatic,
                )
            )
        except Exception as error:
            self._unusable("event", error)

    def _unusable(self, where: str, error: Exception) -> None:
        if is_of_signal_handler(error):
            raise error
        self._invalid(where, str(error) or type(error).__name__)

    def _invalid(self, where: str, problem: str) -> None:
        step = self.probe.next_step
        self.drops.add(wire.DROP_REASON_INVALID_VALUE, 1, step, step)
        if where not in self._complained:
            self._complained.add(where)
            # What handles the script's log may fail, too.
            with contextlib.suppress(Exception):
                logger.warning(
                    "stallwatch: a value given to %s() cannot be used, and is left out: %s", where, problem
                )

    # --- what the detector is told --------------------------------------------------------------------------------

    def hello(self) -> wire.Hello:
        """Who speaks."""
        import torch

        identity, settings, model = self.identity, self.settings, self.model
        trainable = sum(each.numel() for each in model.trainable)
        return wire.Hello(
            run=identity.run,
            group=settings.group,
            rank=identity.rank,
            world_size=identity.world_size,
            local_rank=identity.local_rank,
            local_world_size=identity.local_world_size,
            node_rank=identity.node_rank,
            hostname=identity.hostname,
            pid=identity.pid,
            incarnation=identity.incarnation,
            restart_count=identity.restart_count,
            launch_id=identity.launch_id,
            protocol_major=PROTOCOL_MAJOR,
            protocol_minor=PROTOCOL_MINOR,
            agent_version=__version__,
            torch_version=str(torch.__version__),
            python_version=platform.python_version(),
            backend=models.backend_name(model),
            device=model.device.type,
            parallelism=model.parallelism,
            model=type(getattr(model.inner, "_orig_mod", model.inner)).__name__,
            optimizer=self._optimizer_name,
            parameters=self._elements,
            trainable_parameters=trainable,
            first_step=self.probe.first_step,
            sample_period=self.period.steps,
            dataset_size=settings.dataset_size,
            base_learning_rate=settings.base_lr,
            base_batch_size=settings.base_batch_size,
            blocks=self._block_names,
            block_elements=self._block_elements,
            local_steps=settings.local_steps,
            total_steps=settings.total_steps,
            accumulation_steps=settings.accumulation_steps,
        )

    def heartbeat(self) -> wire.Heartbeat:
        """What the training thread is doing, from the background thread."""
        probe = self.probe
        phase, since = probe.phases.now, probe.phases.since
        seconds = max(perf_counter() - since, 0.0)
        stack = flight_record = ""
        # Looking at the stack costs little, but only an unusually long phase can be something that no hook sees.
        if seconds > max(1.0, 3 * probe.typical_step_seconds):
            frame = heartbeat.training_frame(self._thread_id)
            if phase != EVALUATION:
                phase = heartbeat.refine(phase, frame)
            if self.settings.probes.stacks and heartbeat.is_suspicious(seconds, probe.typical_step_seconds):
                stack = heartbeat.stack_text(frame)
                if phase in heartbeat.STUCK:
                    flight_record = self._flight.read(probe.last_step)
            del frame
        return wire.Heartbeat(
            sent_unix_seconds=time.time(),
            phase=wire.PHASE_FINISHED if self.closed else wire.Phase.ValueType(phase),
            phase_seconds=seconds,
            last_step=probe.last_step,
            ddp_iteration=probe.ddp_iteration,
            collectives=probe.count_collectives(),
            stack=stack,
            flight_record=flight_record,
            cpu_wait_seconds=self._cpu_wait.seconds(),
            agent=wire.AgentHealth(
                training_thread_seconds=self.guard.seconds,
                background_seconds=self.transport.seconds,
                buffered_batches=len(self.buffer),
                buffered_bytes=self.buffer.bytes,
                dropped_steps=self.drops.total_steps,
                reconnects=self.transport.reconnects,
                sample_period=self.period.steps,
            ),
        )

    def _on_advice(self, advice: wire.Advice) -> None:
        if advice.sample_period_factor:
            self.period.advise(advice.sample_period_factor)
        if advice.reason:
            logger.info("stallwatch: the detector advises: %s", advice.reason)

    def _on_finding(self, finding: wire.FindingNotice) -> None:
        if self._callback is not None:
            self._callback.deliver(finding)
        level = (
            logging.INFO if finding.status == "resolved" or finding.severity == "info" else logging.WARNING
        )
        if self.identity.rank == 0:
            logger.log(
                level,
                "stallwatch: %s (%s, %s): %s",
                finding.kind,
                finding.severity,
                finding.status,
                finding.reason,
            )

    # --- the end --------------------------------------------------------------------------------------------------

    def _on_note(self, kind: str, text: str) -> None:
        self.event(text, kind, automatic=True)
        if self.identity.rank == 0 and kind in {"optimizer", "ddp"}:
            logger.warning("stallwatch: %s", text)

    def _on_over_budget(self, what: str) -> None:
        # Ranks of one job cost about the same: one line is enough.
        if self.identity.rank == 0:
            logger.warning("stallwatch: %s", what)

    def _on_disabled(self) -> None:
        self.event("the agent turned itself off after internal errors", "agent", automatic=True)

    def close(self, reason: str) -> None:
        """See `Agent.close`."""
        deadline = monotonic() + CLOSE_SECONDS
        if self.begin_close(reason, deadline):
            self.end_close(deadline)

    def begin_close(self, reason: str, deadline: float) -> bool:
        """Takes the hooks off and asks for a goodbye by a time of `monotonic`; false when that was done before."""
        if self.closed:
            return False
        self.closed = True
        with contextlib.suppress(Exception):
            self._forget_adoption()
            self.probe.remove()
        self.guard.active = False
        forget(self)
        release(self)
        if self._callback is not None:
            self._callback.close()
        self.transport.begin_close(wire.Goodbye(reason=reason, last_step=self.probe.last_step), deadline)
        return True

    def end_close(self, deadline: float) -> None:
        """Waits until it was said, or it is time."""
        try:
            if not self.transport.end_close(deadline):
                logger.warning(
                    "stallwatch: closed with %d batches not yet safe at the detector", len(self.buffer)
                )
        except Exception as error:
            logger.warning("stallwatch: could not close in order: %r", error)

    def abandon(self) -> None:
        """In a forked child: no thread, no connection, no hooks at work; nothing is freed that belongs to the parent."""
        _left_behind.append((self.transport, self.buffer))
        self.closed = True
        self.guard.active = False
        release(self)


def _holds(optimizer: torch.optim.Optimizer, identities: set[int]) -> bool:
    return any(id(each) in identities for group in optimizer.param_groups for each in group["params"])
