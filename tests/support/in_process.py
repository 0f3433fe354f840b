"""A training and the analysis of it in one process: the real agent, the real analysis, no service; a thousand steps in seconds.

Several ranks are emulated: the batch of all ranks goes through the model at once, which is what averaging amounts to, the
loss of each rank is that of its part of the batch, and on sampled steps the gradient of each part is taken on its own, by a
twin of the model that nobody watches. What no rank process can show in this way (waiting, desynchronisation) is not there.

    training = train(Training("mlp", "adamw", steps=800, seed=1))
    plateaus = [seen for seen in training.findings if seen.kind == "plateau"]

A fault is a subclass of `Training` that overrides one of the parts of a step.
"""

from __future__ import annotations

import atexit
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from faults.tasks import TASKS as FAULT_TASKS
from stallwatch.agent import attach
from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.inputs import Parallelism, RankBatch, RankHello, StepBlock
from stallwatch.detector.engine.decode import decode_batch, decode_hello
from support.telemetry_server import RankRecord, TelemetryServer

Batch = tuple[torch.Tensor, torch.Tensor]
SAMPLE_EVERY = 4
_CHUNK = 8
"""Steps that the analysis is given at once, so that nothing depends on when the agent's thread sent what."""
_numbers = itertools.count()


@cache
def _server() -> TelemetryServer:
    server = TelemetryServer()
    atexit.register(server.stop)
    return server


# --- tasks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A model, batches for it, and the loss of each sample."""

    model: Callable[[], nn.Module]
    batch: Callable[[torch.Generator, int], Batch]
    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    rates: dict[str, float]
    """A learning rate at which each optimizer learns well."""
    samples: int = 32
    """Over all ranks."""


def squares(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared errors, by sample."""
    return (output - target).square().mean(1)


def entropies(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropies, by sample: of sequences, their mean."""
    each = functional.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none")
    return each.view(len(target), -1).mean(1)


def deep(
    layers: int = 12,
    width: int = 32,
    activation: type[nn.Module] = nn.ReLU,
    inputs: int = 16,
    outputs: int = 10,
    *,
    normalised: bool = False,
) -> nn.Module:
    """A plain stack of linear layers, initialised for its activation."""
    parts: list[nn.Module] = []
    gain = nn.init.calculate_gain("tanh" if activation is nn.Tanh else "relu")
    for index in range(layers):
        layer = nn.Linear(inputs if index == 0 else width, width)
        nn.init.kaiming_normal_(layer.weight, a=0, nonlinearity="linear")
        with torch.no_grad():
            layer.weight.mul_(gain)
        nn.init.zeros_(layer.bias)
        parts += [layer, *([nn.LayerNorm(width)] if normalised else []), activation()]
    return nn.Sequential(*parts, nn.Linear(width, outputs))


@cache
def _clusters(classes: int = 10, inputs: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(99)
    return 1.2 * torch.randn(3 * classes, inputs, generator=generator)


def clusters(generator: torch.Generator, samples: int) -> Batch:
    """Ten classes of three overlapping clouds each: learnable, and never without errors."""
    which = torch.randint(30, (samples,), generator=generator)
    noise = torch.randn(samples, 16, generator=generator)
    return _clusters()[which] + noise, which % 10


def _of_faults(name: str, losses: Callable[..., torch.Tensor], samples: int, **rates: float) -> Task:
    found = FAULT_TASKS[name]
    return Task(found.model, found.batch, losses, rates, samples)


TASKS: dict[str, Task] = {
    "mlp": _of_faults("mlp", squares, 32, sgd=0.03, momentum=0.01, adam=2e-3, adamw=2e-3),
    "cnn": _of_faults("cnn", entropies, 32, sgd=0.05, momentum=0.01, adam=2e-3, adamw=2e-3),
    "gpt": _of_faults("gpt", entropies, 8, sgd=0.3, momentum=0.05, adam=2e-3, adamw=2e-3),
    "lstm": _of_faults("lstm", entropies, 8, sgd=1.0, momentum=0.2, adam=5e-3, adamw=5e-3),
    "classes": Task(
        lambda: deep(3, 48), clusters, entropies, {"sgd": 0.1, "momentum": 0.02, "adam": 2e-3, "adamw": 2e-3}
    ),
    "deep": Task(
        lambda: deep(12, 32, normalised=True),
        clusters,
        entropies,
        {"sgd": 0.03, "momentum": 0.005, "adam": 1e-3, "adamw": 1e-3},
    ),
    "deep_tanh": Task(
        lambda: deep(10, 32, nn.Tanh),
        clusters,
        entropies,
        {"sgd": 0.03, "momentum": 0.005, "adam": 1e-3, "adamw": 1e-3},
    ),
}


def make_optimizer(name: str, parameters: Any, rate: float, **options: Any) -> torch.optim.Optimizer:
    """By its name: `sgd`, `momentum`, `adam`, `adamw`."""
    if name in ("sgd", "momentum"):
        options.setdefault("momentum", 0.9 if name == "momentum" else 0.0)
        return torch.optim.SGD(parameters, lr=rate, **options)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](parameters, lr=rate, **options)


# --- training -----------------------------------------------------------------------------------------------------


class Training:
    """A healthy training. Override what a fault changes; every part may use `self.options`."""

    def __init__(
        self,
        task: str = "mlp",
        optimizer: str = "adamw",
        *,
        steps: int = 800,
        seed: int = 0,
        ranks: int = 1,
        rate: float = 1.0,
        samples: int = 0,
        sample_every: int = SAMPLE_EVERY,
        first_step: int = 0,
        attach_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """`rate` is a multiple of the rate at which the task learns well; `samples` are over all ranks."""
        self.task = TASKS[task]
        self.optimizer_name, self.steps, self.seed, self.ranks = optimizer, steps, seed, ranks
        self.samples = samples or self.task.samples
        self.sample_every, self.first_step, self.options = sample_every, first_step, options
        self.attach_options = attach_options or {}
        self.good_rate = self.task.rates[optimizer]
        torch.manual_seed(seed)
        self.model = self.make_model()
        self.optimizer = self.make_optimizer(rate * self.good_rate)
        self.run = f"in-process-{next(_numbers)}"
        self.findings: list[Finding] = []
        """Findings as they were when they opened, and as they were last, in the order of their changes."""
        self.history: list[Finding] = []
        """Every change of a finding."""
        self.analysis: RunAnalysis

    # The parts of a step.

    def make_model(self) -> nn.Module:
        """The model."""
        return self.task.model()

    def make_optimizer(self, rate: float) -> torch.optim.Optimizer:
        """The optimizer."""
        return make_optimizer(self.optimizer_name, self.model.parameters(), rate)

    def before(self, step: int) -> None:
        """Before the forward of a step: schedules, freezing, events."""

    def batch(self, step: int) -> Batch:
        """The samples of all ranks, one rank's after the other's."""
        return self.task.batch(self.generator(step), self.samples)

    def losses(self, model: nn.Module, batch: Batch, step: int) -> torch.Tensor:
        """The loss of each sample, as it is logged."""
        return self.task.losses(model(batch[0]), batch[1])

    def objective(self, losses: torch.Tensor, step: int) -> torch.Tensor:
        """What is differentiated."""
        return losses.mean()

    def between(self, step: int) -> bool:
        """Between backward and step (clipping, unscaling); False skips the step."""
        return True

    def log(self, step: int, batch: Batch, losses: torch.Tensor) -> None:
        """Tell the agent."""
        self.agent.log(losses.mean(), self.samples)

    def recordings(self) -> list[Recorded]:
        """The attempts of the job; a job that restarts has several."""
        return [record(self)]

    # For those.

    def generator(self, step: int) -> torch.Generator:
        """Random numbers of a step."""
        return torch.Generator().manual_seed((self.seed << 32) + step)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    @rate.setter
    def rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    @property
    def gradients(self) -> list[torch.Tensor]:
        """What the optimizer is going to see."""
        return [each.grad for each in self.model.parameters() if each.grad is not None]


@dataclass
class Recorded:
    """What an attempt left: the agent's record, and what the emulated ranks have of their own."""

    record: RankRecord
    rank_losses: dict[int, list[float]]
    """By step: mean loss of each rank's samples."""
    rank_squares: dict[int, list[float]]
    """By sampled step: squared norm of each rank's own gradient."""


def record(training: Training) -> Recorded:
    """Trains, watched by a real agent."""
    torch.manual_seed(training.seed + 1000 * training.first_step)
    server = _server()
    training.agent = attach(
        training.model,
        training.optimizer,
        run=training.run,
        endpoint=server.endpoint,
        sample_every=training.sample_every,
        start_step=training.first_step,
        **training.attach_options,
    )
    rank_losses: dict[int, list[float]] = {}
    rank_squares: dict[int, list[float]] = {}
    taken = training.first_step
    for step in range(training.first_step, training.steps):
        training.before(step)
        batch = training.batch(step)
        losses = training.losses(training.model, batch, step)
        if training.ranks > 1 and taken % training.sample_every == 0:
            rank_squares[taken] = _local_squares(training, batch, step)
        training.objective(losses, step).backward()
        rank_losses[taken] = [part.mean().item() for part in losses.detach().chunk(training.ranks)]
        if training.between(step):
            training.optimizer.step()
            taken += 1
        training.optimizer.zero_grad()
        training.log(step, batch, losses.detach())
    training.agent.close()
    return Recorded(server.rank(0, training.run), rank_losses, rank_squares)


def _local_squares(training: Training, batch: Batch, step: int) -> list[float]:
    with torch.random.fork_rng():
        twin = training.make_model()
    twin.load_state_dict(training.model.state_dict())
    parts = zip(*(each.chunk(training.ranks) for each in batch), strict=True)
    found = []
    trained = [
        mine
        for mine, watched in zip(twin.parameters(), training.model.parameters(), strict=True)
        if watched.requires_grad
    ]
    for part in parts:
        loss = training.objective(training.losses(twin, part, step), step)
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        found.append(sum(float(each.square().sum()) for each in gradients if each is not None))
    return found


def train(training: Training) -> Training:
    """Trains and analyses."""
    analyse(training, *training.recordings())
    return training


# --- analysis -----------------------------------------------------------------------------------------------------


def analyse(training: Training, *attempts: Recorded, config: AnalysisConfig | None = None) -> RunAnalysis:
    """Gives the attempts to an analysis, in small pieces; leaves it and its findings in `training`."""
    analysis = training.analysis = RunAnalysis(training.run, config)
    now, opened = 1000.0, {}
    for number, attempt in enumerate(attempts, start=1):
        hello = decode_hello(attempt.record.hellos[-1])
        parallelism = Parallelism.DATA_PARALLEL if training.ranks > 1 else hello.parallelism
        for rank in range(training.ranks):
            identity = replace(
                hello, rank=rank, world_size=training.ranks, incarnation=number, parallelism=parallelism
            )
            analysis.hello(now, identity)
        for batch in _pieces(attempt.record, hello):
            now += 1.0
            for rank in range(training.ranks):
                analysis.batch(now, rank, number, _of_rank(batch, rank, training, attempt))
            for finding in analysis.changes():
                training.history.append(finding)
                if finding.id not in opened:
                    training.findings.append(finding)
                opened[finding.id] = finding
        for rank in range(training.ranks):
            analysis.goodbye(now, rank, number, "finished", training.steps)
    training.findings += [each for each in opened.values() if each not in training.findings]
    if analysis.failures:
        raise AssertionError(f"signals or checks raised: {analysis.failures}")
    return analysis


def _pieces(record: RankRecord, hello: RankHello) -> Iterator[RankBatch]:
    """All that was sent, cut anew by steps."""
    batches = [decode_batch(each) for each in record.batches]
    blocks = [each.steps for each in batches if each.steps is not None]
    whole = {
        each.name: np.concatenate([getattr(block, each.name) for block in blocks])
        for each in fields(StepBlock)
    }
    last = int(whole["step"].max())
    for sequence, begin in enumerate(range(hello.first_step, last + 1, _CHUNK), start=1):
        end = begin + _CHUNK if begin + _CHUNK <= last else 1 << 60

        def inside(values: Any, begin: int = begin, end: int = end) -> Any:
            return tuple(each for each in values if begin <= each.step < end)

        rows = (whole["step"] >= begin) & (whole["step"] < end)
        yield RankBatch(
            sequence=sequence,
            steps=StepBlock(
                **{name: column[rows] if column.size else column for name, column in whole.items()}
            ),
            samples=inside(sample for batch in batches for sample in batch.samples),
            evaluations=inside(each for batch in batches for each in batch.evaluations),
            events=inside(each for batch in batches for each in batch.events),
            directions=inside(each for batch in batches for each in batch.directions),
            named_losses=tuple(
                replace(
                    each,
                    step=each.step[chosen],
                    loss_sum=each.loss_sum[chosen],
                    samples=each.samples[chosen],
                )
                for batch in batches
                for each in batch.named_losses
                if (chosen := (each.step >= begin) & (each.step < end)).any()
            ),
        )


def _of_rank(batch: RankBatch, rank: int, training: Training, attempt: Recorded) -> RankBatch:
    """The same as an emulated rank would have sent it."""
    if training.ranks == 1 or batch.steps is None:
        return batch
    steps = batch.steps
    samples = steps.samples / training.ranks
    losses = np.array([attempt.rank_losses[int(step)][rank] for step in steps.step])
    prints = steps.input_fingerprint
    return replace(
        batch,
        steps=replace(
            steps,
            samples=samples,
            loss_sum=losses * samples,
            # No two ranks train on the same samples.
            input_fingerprint=np.where(prints >= 0, prints ^ (rank << 40), prints),
        ),
        samples=tuple(
            replace(
                each,
                samples=each.samples / training.ranks,
                local_gradient_square=attempt.rank_squares.get(each.step, [np.nan] * training.ranks)[rank],
                local_anchors=(),
                produced_anchor=(),
                anchor_elements=0,
            )
            for each in batch.samples
        ),
        named_losses=tuple(
            replace(each, loss_sum=each.loss_sum / training.ranks, samples=each.samples / training.ranks)
            for each in batch.named_losses
        ),
    )
