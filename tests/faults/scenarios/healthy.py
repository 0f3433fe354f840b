"""Healthy trainings that look like faulty ones: not one finding of severity warning or above."""

from __future__ import annotations

from typing import Any

from faults.job import Job
from faults.scenario import Lane, Scenario
from faults.scenarios.healthy_data import (
    branch,
    dropout,
    imbalanced,
    metrics,
    one_batch_an_epoch,
    restarted,
    short_last_batches,
    shuffled_epochs,
    two_optimizers,
    uneven_lengths,
    variable_batches,
)
from faults.scenarios.healthy_steps import (
    accumulation,
    autocast,
    averaged_loss,
    checkpoints,
    clear_before_backward,
    clear_to_zero,
    clipped,
    closure_accumulation,
    closures,
    evaluation,
    half_weights,
    head_only,
    join,
    scaler,
    slow_first_step,
)
from faults.scenarios.healthy_wrappers import (
    compiled,
    compressed,
    frozen,
    local_sgd,
    power_sgd,
    rate_groups,
    scheduled,
    sharded,
    wrapped,
    zero_redundancy,
)


def plain(job: Job) -> None:
    """Nothing special."""
    job.training().run()


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
    _twin(
        "closure-accumulation",
        "`optimizer.step(closure)` with four micro-batches a step, as Lightning trains",
        closure_accumulation,
    ),
    _twin("closures", "LBFGS, whose closure runs several times a step", closures, steps=60),
    _twin(
        "head-only", "only the last layer is in the optimizer, the rest is not frozen", head_only, steps=100
    ),
    _twin("metrics", "collectives of the script's own every tenth step", metrics),
    _twin("two-optimizers", "two optimizers, the first of them watched", two_optimizers),
)
