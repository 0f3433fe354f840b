"""Healthy trainings that look like faulty ones: not one finding of severity warning or above."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from faults.job import Job, Training
from faults.scenario import Lane, Scenario
from faults.tasks import TASKS, Batch, Branching, make_optimizer


def plain(job: Job) -> None:
    """Nothing special."""
    job.training().run()


def _model(job: Job) -> nn.Module:
    job.seed_model()
    return TASKS[job.case.scenario.task].model()


# --- steps of another shape -------------------------------------------------------------------------------------


def accumulation(job: Job) -> None:
    """K micro-batches a step, synchronised on the last one."""
    count = 4
    training = job.training(accumulation_steps=count if job.options.get("declared") else None)
    for step in training.iterate():
        for micro in range(count):
            last = micro == count - 1
            with nullcontext() if last else training.model.no_sync():
                loss = training.backward(count * step + micro, scale=1 / count)
            if not last:
                training.agent.log(loss, training.samples)
        training.finish(loss)
    training.close()


def join(job: Job) -> None:
    """Ranks have unequal numbers of batches, and DDP's join takes care of it."""
    training = job.training()
    with training.model.join():
        for step in training.iterate(job.steps - 3 * job.rank):
            training.train(step)
    training.close()


def clear_before_backward(job: Job) -> None:
    """`zero_grad` comes before backward rather than after the step."""
    training = job.training()
    for step in training.iterate():
        training.optimizer.zero_grad()
        loss = training.backward(step)
        training.optimizer.step()
        training.agent.log(loss, training.samples)
    training.close()


def clear_to_zero(job: Job) -> None:
    """Gradients are set to zero rather than taken away."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=False)
        training.agent.log(loss, training.samples)
    training.close()


def clipped(job: Job) -> None:
    """All ranks clip the same averaged gradient."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        nn.utils.clip_grad_norm_(training.model.parameters(), 0.5)
        training.finish(loss)
    training.close()


def averaged_loss(job: Job) -> None:
    """The loss is averaged over ranks before it is logged, so all log the same."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        dist.all_reduce(loss)
        training.finish(loss / job.world_size)
    training.close()


# --- pauses -------------------------------------------------------------------------------------------------------


def evaluation(job: Job) -> None:
    """Every 40 steps, an evaluation that takes many times a step."""
    training = job.training()
    for step in training.iterate():
        training.train(step)
        if step % 40 == 39:
            training.model.eval()
            with torch.no_grad():
                losses = []
                for index in range(8):
                    inputs, target = training.batch(1_000_000 + index, rank=0)
                    losses.append(float(training.task.loss(training.module(inputs), target)))
                    time.sleep(job.options["seconds"] / 8)
            training.agent.log_eval(sum(losses) / len(losses), 8 * training.samples)
            training.model.train()
    training.close()


def save_checkpoint(training: Training, seconds: float) -> None:
    """Rank 0 writes, which takes long, and the others wait for it."""
    if training.job.rank == 0:
        torch.save(training.module.state_dict(), training.job.folder / "weights.pt")
        time.sleep(seconds)
    dist.barrier()


def checkpoints(job: Job) -> None:
    """Every 50 steps a checkpoint."""
    training = job.training()
    for step in training.iterate():
        training.train(step)
        if step % 50 == 49:
            save_checkpoint(training, job.options["seconds"])
    training.close()


def slow_first_step(job: Job) -> None:
    """The first step compiles, allocates, warms up."""
    training = job.training()
    for step in training.iterate():
        if step == 0:
            time.sleep(job.options["seconds"])
        training.train(step)
    training.close()


# --- numbers ------------------------------------------------------------------------------------------------------


def autocast(job: Job) -> None:
    """bfloat16 autocast."""
    training = job.training()
    for step in training.iterate():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = training.forward(training.batch(step))
        loss.backward()
        training.finish(loss.detach().float())
    training.close()


def scaler(job: Job) -> None:
    """A gradient scaler that begins too high, and tries higher now and then: its skipped steps are in order."""
    training = job.training()
    scale = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=25)
    for step in training.iterate():
        loss = training.forward(training.batch(step))
        scale.scale(loss).backward()
        scale.step(training.optimizer)
        scale.update()
        training.optimizer.zero_grad()
        training.agent.log(loss.detach(), training.samples)
    training.close()


def half_weights(job: Job) -> None:
    """Weights in bfloat16, and a learning rate that moves them."""
    model = _model(job).bfloat16()
    training = job.training(model=model, learning_rate=3e-3)
    for step in training.iterate():
        inputs, target = training.batch(step)
        loss = training.backward(step, batch=(inputs.bfloat16(), target.bfloat16()))
        training.finish(loss.float())
    training.close()


def closures(job: Job) -> None:
    """LBFGS runs forward and backward as often as it likes within one step; the loss it is given is that of all ranks."""
    model = DistributedDataParallel(_model(job))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    training = job.training(model=model, optimizer=optimizer)
    for step in training.iterate():

        def closure(step: int = step) -> torch.Tensor:
            optimizer.zero_grad()
            loss = training.backward(step)
            dist.all_reduce(loss)
            return loss / job.world_size

        training.agent.log(optimizer.step(closure), training.samples)
    training.close()


def head_only(job: Job) -> None:
    """Only the last layer is in the optimizer, and nobody has frozen the rest: its gradients pile up to no effect."""
    model = DistributedDataParallel(_model(job))
    optimizer = torch.optim.AdamW(list(model.parameters())[-2:], lr=1e-3)
    job.training(model=model, optimizer=optimizer).run()


# --- wrappers -----------------------------------------------------------------------------------------------------


def wrapped(job: Job) -> None:
    """DDP with the options that the scenario names."""
    job.training(ddp=job.options["ddp"]).run()


def compiled(job: Job) -> None:
    """torch.compile around DDP."""
    ddp = DistributedDataParallel(_model(job))
    model = torch.compile(ddp, backend=job.options["backend"])
    job.training(model=model, wrapped=False).run()


def frozen(job: Job) -> None:
    """The first layers are frozen on purpose before wrapping."""
    model = _model(job)
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    job.training(model=model).run()


def zero_redundancy(job: Job) -> None:
    """Optimizer state is sharded, and parameters are broadcast after the step."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DistributedDataParallel(_model(job))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.AdamW, lr=1e-3)
    job.training(model=model, optimizer=optimizer).run()


def compressed(job: Job) -> None:
    """The user's communication hook rounds gradients to half precision."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    model = DistributedDataParallel(_model(job))
    model.register_comm_hook(None, fp16_compress_hook)
    job.training(model=model).run()


def power_sgd(job: Job) -> None:
    """The user's communication hook sends a low-rank approximation."""
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

    model = DistributedDataParallel(_model(job))
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=20)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    job.training(model=model).run()


def sharded(job: Job) -> None:
    """FSDP2."""
    from torch.distributed.fsdp import fully_shard

    model = _model(job)
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    job.training(model=model, wrapped=False).run()


def local_sgd(job: Job) -> None:
    """Every rank steps on its own, and parameters are averaged every fourth step, as declared."""
    period = 4
    training = job.training(wrapped=False, local_steps=period)
    for step in training.iterate():
        training.train(step)
        if step % period == period - 1:
            with torch.no_grad():
                for parameter in training.model.parameters():
                    dist.all_reduce(parameter)
                    parameter.div_(job.world_size)
    training.close()


# --- learning rates -----------------------------------------------------------------------------------------------


def scheduled(job: Job) -> None:
    """A schedule of torch's."""
    training = job.training()
    schedules = torch.optim.lr_scheduler
    schedule = {
        "warm-up": lambda: schedules.LambdaLR(training.optimizer, lambda step: min(step / 60, 1.0)),
        "warm-restarts": lambda: schedules.CosineAnnealingWarmRestarts(training.optimizer, 40),
        "cosine": lambda: schedules.CosineAnnealingLR(training.optimizer, 2 * job.steps),
    }[job.options["schedule"]]()
    for step in training.iterate():
        training.train(step)
        schedule.step()
    training.close()


def rate_groups(job: Job) -> None:
    """Parameter groups with learning rates of their own, one of them 0."""
    model = DistributedDataParallel(_model(job))
    parameters = list(model.parameters())
    groups = [
        {"params": parameters[:2], "lr": 0.0},
        {"params": parameters[2:4], "lr": 3e-4},
        {"params": parameters[4:], "lr": 1e-3, "weight_decay": 0.0},
    ]
    job.training(model=model, optimizer=torch.optim.AdamW(groups)).run()


# --- data ---------------------------------------------------------------------------------------------------------


class _Dropped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.model(functional.dropout(inputs, 0.2, self.training))


def dropout(job: Job) -> None:
    """Random numbers differ across ranks, as they should."""
    model = _Dropped(_model(job))
    torch.manual_seed(1000 + job.rank)
    job.training(model=model).run()


def branch(job: Job) -> None:
    """A branch that ranks take in turn, with find_unused_parameters."""
    job.seed_model()
    model = Branching(job.case.scenario.task)
    training = job.training(model=model, ddp={"find_unused_parameters": True})
    for step in training.iterate():
        training.module.branch = (step + job.rank) % job.world_size != 0
        training.train(step)
    training.close()


def variable_batches(job: Job) -> None:
    """Batches vary from step to step and rank to rank, with the same mean."""
    training = job.training()
    for step in training.iterate():
        samples = int(torch.randint(8, 25, (1,), generator=job.generator(step + (1 << 20))))
        training.finish(training.backward(step, batch=training.batch(step, samples=samples)), samples)
    training.close()


def short_last_batches(job: Job) -> None:
    """The last batch of every epoch of 25 steps is smaller, on one rank more than on the others."""
    training = job.training(dataset_size=(24 * 16 + 5) * job.world_size)
    for step in training.iterate():
        last = step % 25 == 24
        samples = (3 if job.rank == job.world_size - 1 else 6) if last else 16
        training.finish(training.backward(step, batch=training.batch(step, samples=samples)), samples)
    training.close()


def one_batch_an_epoch(job: Job) -> None:
    """The whole data set is one batch a rank."""
    training = job.training(dataset_size=16 * job.world_size)
    for step in training.iterate():
        training.finish(training.backward(step, batch=training.batch(0)))
    training.close()


def shuffled_epochs(job: Job) -> None:
    """A DataLoader with workers and a DistributedSampler that is told every epoch."""
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    samples, size = 16, 16 * 20 * job.world_size
    task = TASKS[job.case.scenario.task]
    inputs, target = task.batch(torch.Generator().manual_seed(job.case.seed), size)
    dataset = TensorDataset(inputs, target)
    sampler: DistributedSampler[Batch] = DistributedSampler(dataset, seed=job.case.seed)
    loader = DataLoader(dataset, samples, sampler=sampler, num_workers=1, persistent_workers=True)
    training = job.training(dataset_size=size)
    step = 0
    while step < job.steps:
        sampler.set_epoch(step // len(loader))
        for batch in loader:
            training.finish(training.backward(step, batch=batch))
            step += 1
    training.close()


def imbalanced(job: Job) -> None:
    """Nine of ten samples are of one class, on every rank."""
    training = job.training()
    for step in training.iterate():
        images, classes = training.batch(step, samples=64)
        rare = torch.rand(64, generator=job.generator(step + (1 << 20))) < 0.1
        chosen = torch.argsort(((classes == 0) | rare).int(), descending=True, stable=True)[:16]
        training.finish(training.backward(step, batch=(images[chosen], classes[chosen])))
    training.close()


def uneven_lengths(job: Job) -> None:
    """Sequences vary in length, so every step some other rank is the slow one."""
    training = job.training()
    usual = training.compute_seconds
    for step in training.iterate():
        spread = torch.randn(1, generator=job.generator(step + (1 << 20)))
        training.compute_seconds = usual * float(torch.exp(0.3 * spread))
        training.train(step)
    training.close()


# --- processes ----------------------------------------------------------------------------------------------------


def restarted(job: Job) -> None:
    """Goes on from a checkpoint with as many ranks as before, or with others and everything scaled as it should be."""
    training = job.training()
    samples = job.options.get("samples", (training.samples, training.samples))
    training.samples = samples[job.attempt]
    training.set_learning_rate(training.learning_rate * job.options.get("rates", (1.0, 1.0))[job.attempt])
    until = 80 if job.attempt == 0 else job.steps
    for step in training.iterate(until):
        training.train(step)
    training.save(until)
    training.close()


def metrics(job: Job) -> None:
    """Collectives of the script's own between steps, and rank 0 alone writes a line now and then."""
    training = job.training()
    for step in training.iterate():
        training.train(step)
        if step % 10 == 9:
            value = torch.tensor([float(step)])
            dist.all_reduce(value)
            if job.rank == 0:
                (job.folder / "metrics.txt").write_text(f"{step} {float(value)}\n")
    training.close()


def two_optimizers(job: Job) -> None:
    """Two optimizers, each for a part of the model."""
    model = DistributedDataParallel(_model(job))
    parameters = list(model.parameters())
    first = make_optimizer("adamw", parameters[:2], 1e-3)
    second = make_optimizer("sgd", parameters[2:], 0.02)
    training = job.training(model=model, optimizer=first)
    for step in training.iterate():
        loss = training.backward(step)
        second.step()
        second.zero_grad()
        training.finish(loss)
    training.close()


def _twin(name: str, says: str, train: Any, **fields: Any) -> Scenario:
    return Scenario(name=f"healthy/{name}", says=says, train=train, **{"steps": 160, **fields})


SCENARIOS = (
    _twin("plain-mlp", "an MLP with AdamW", plain, steps=240, ranks=(2, 3, 4)),
    _twin("plain-gpt-sgd", "a GPT with SGD", plain, task="gpt", optimizer="sgd"),
    _twin("plain-cnn", "a CNN with batch normalisation, whose buffers DDP broadcasts", plain, task="cnn"),
    _twin("plain-lstm-sgd", "an LSTM with SGD", plain, task="lstm", optimizer="sgd"),
    _twin("single-process", "one process, no DDP", plain, ranks=(1,), steps=240),
    _twin("accumulation", "4 micro-batches a step under no_sync", accumulation, steps=100),
    _twin(
        "accumulation-declared",
        "the same, and attach was told",
        accumulation,
        steps=100,
        options={"declared": True},
    ),
    _twin("join", "uneven numbers of batches under join", join, steps=100),
    _twin("clear-before-backward", "zero_grad before backward", clear_before_backward),
    _twin("clear-to-zero", "zero_grad(set_to_none=False)", clear_to_zero),
    _twin("clipped", "all ranks clip", clipped),
    _twin("averaged-loss", "the loss is averaged over ranks before it is logged", averaged_loss),
    _twin("evaluation", "evaluations of half a second", evaluation, options={"seconds": 0.5}),
    _twin(
        "long-evaluation",
        "evaluations of 40 s",
        evaluation,
        options={"seconds": 40.0},
        steps=60,
        lane=Lane.IDLE,
        patience_seconds=120.0,
    ),
    _twin("checkpoints", "checkpoints of a second, written by rank 0", checkpoints, options={"seconds": 1.0}),
    _twin(
        "long-checkpoint",
        "a checkpoint of 40 s, written by rank 0",
        checkpoints,
        options={"seconds": 40.0},
        steps=80,
        lane=Lane.IDLE,
        patience_seconds=120.0,
    ),
    _twin(
        "slow-first-step",
        "a first step of 40 s",
        slow_first_step,
        options={"seconds": 40.0},
        steps=80,
        lane=Lane.IDLE,
        patience_seconds=120.0,
    ),
    _twin("autocast", "bfloat16 autocast", autocast),
    _twin("scaler", "a gradient scaler's ordinary skipped steps", scaler),
    _twin("static-graph", "static_graph=True", wrapped, options={"ddp": {"static_graph": True}}),
    _twin(
        "bucket-view",
        "gradient_as_bucket_view=True",
        wrapped,
        options={"ddp": {"gradient_as_bucket_view": True}},
    ),
    _twin(
        "small-buckets",
        "many small buckets",
        wrapped,
        options={"ddp": {"bucket_cap_mb": 0.01}},
        task="gpt",
        steps=120,
    ),
    _twin("compiled", "torch.compile, backend eager", compiled, options={"backend": "eager"}),
    _twin(
        "compiled-aot",
        "torch.compile, backend aot_eager",
        compiled,
        options={"backend": "aot_eager"},
        ranks=(2,),
        patience_seconds=120.0,
    ),
    _twin("frozen", "layers frozen on purpose before wrapping", frozen),
    _twin("zero-redundancy", "ZeroRedundancyOptimizer", zero_redundancy),
    _twin("compressed", "the communication hook fp16_compress", compressed),
    _twin("power-sgd", "the communication hook PowerSGD", power_sgd),
    _twin("sharded", "FSDP2", sharded),
    _twin("local-sgd", "LocalSGD with its period declared", local_sgd),
    _twin("warm-up", "warm-up from a learning rate of 0", scheduled, options={"schedule": "warm-up"}),
    _twin(
        "warm-restarts",
        "cosine warm restarts",
        scheduled,
        options={"schedule": "warm-restarts"},
        optimizer="sgd",
    ),
    _twin("cosine", "cosine decay", scheduled, options={"schedule": "cosine"}, task="gpt"),
    _twin("rate-groups", "learning rates by group, one of them 0", rate_groups),
    _twin("dropout", "dropout, random numbers differ across ranks", dropout),
    _twin("branch", "a branch that ranks take in turn, find_unused_parameters=True", branch),
    _twin("variable-batches", "batches of 8 to 24 samples, at random", variable_batches),
    _twin("short-last-batches", "the last batch of an epoch is short, and uneven", short_last_batches),
    _twin("one-batch-an-epoch", "the data set is one batch a rank", one_batch_an_epoch),
    _twin("shuffled-epochs", "a DataLoader with a worker, set_epoch called", shuffled_epochs, steps=200),
    _twin("imbalanced", "nine of ten samples are of one class, on every rank", imbalanced, task="cnn"),
    _twin(
        "uneven-lengths",
        "compute varies by 30 % from step to step and rank to rank",
        uneven_lengths,
        compute_seconds=0.02,
        steps=240,
        lane=Lane.ALONE,
    ),
    _twin(
        "steady-timing",
        "steps of 30 ms with nothing special",
        plain,
        compute_seconds=0.03,
        steps=240,
        ranks=(2, 4),
        lane=Lane.ALONE,
    ),
    _twin("restarted", "restarted from a checkpoint", restarted, worlds=lambda ranks: (ranks, ranks)),
    _twin(
        "restarted-larger",
        "restarted with twice the ranks, learning rate doubled",
        restarted,
        worlds=lambda ranks: (ranks, 2 * ranks),
        options={"rates": (1.0, 2.0)},
        optimizer="sgd",
        ranks=(2,),
    ),
    _twin(
        "restarted-same-batch",
        "restarted with twice the ranks, half the samples each",
        restarted,
        worlds=lambda ranks: (ranks, 2 * ranks),
        options={"samples": (16, 8)},
        optimizer="sgd",
        ranks=(2,),
    ),
    _twin("half-weights", "weights in bfloat16", half_weights),
    _twin("closures", "LBFGS, whose closure runs several times a step", closures, steps=60),
    _twin(
        "head-only", "only the last layer is in the optimizer, the rest is not frozen", head_only, steps=100
    ),
    _twin("metrics", "collectives of the script's own every tenth step", metrics),
    _twin("two-optimizers", "two optimizers, the first of them watched", two_optimizers),
)
