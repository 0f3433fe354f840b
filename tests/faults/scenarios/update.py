"""What the optimizer does with a gradient: an old one, another on one rank, or nothing at all."""

from __future__ import annotations

import copy
from collections import deque

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from faults.job import Job
from faults.scenario import Bar, Scenario
from faults.tasks import TASKS, Batch, make_optimizer

STALE = "stale_gradient"
DIVERGENT = "divergent_update"
INEFFECTIVE = "ineffective_update"
# Replicas that were updated differently are different, and a loss that is made to rise does rise.
DIFFERS = ("replica_desync",)
SUFFERS = ("divergence", "loss_spike", "oscillation")


def stale(job: Job) -> None:
    """The gradient applied is that of `delay` steps ago."""
    training = job.training()
    delay = job.options["delay"]
    past: deque[list[torch.Tensor]] = deque(maxlen=delay + 1)
    for step in training.iterate():
        loss = training.backward(step)
        past.append([gradient.clone() for gradient in training.gradients()])
        if job.is_bad(step):
            for gradient, old in zip(training.gradients(), past[0], strict=True):
                gradient.copy_(old)
        training.finish(loss)
    training.close()


def repeated(job: Job) -> None:
    """The same gradient is applied again and again."""
    training = job.training()
    kept: list[torch.Tensor] = []
    for step in training.iterate():
        loss = training.backward(step)
        if step >= job.at:
            for gradient, old in zip(training.gradients(), kept, strict=True):
                gradient.copy_(old)
        else:
            kept = [gradient.clone() for gradient in training.gradients()]
        training.finish(loss)
    training.close()


def never_cleared(job: Job) -> None:
    """`zero_grad` is forgotten: every gradient holds all of those before."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        training.optimizer.step()
        if step + 1 < job.at:
            training.optimizer.zero_grad()
        training.agent.log(loss, training.samples)
    training.close()


def partly_cleared(job: Job) -> None:
    """Only the gradients of the first layer are cleared."""
    training = job.training()
    first = next(training.model.parameters())
    for step in training.iterate():
        loss = training.backward(step)
        training.optimizer.step()
        if step + 1 < job.at:
            training.optimizer.zero_grad()
        first.grad = None
        training.agent.log(loss, training.samples)
    training.close()


def late_hook(job: Job) -> None:
    """The user's communication hook returns what it had reduced in the iteration before, to hide the wait."""
    late = {"now": False}
    before: dict[int, torch.Tensor] = {}

    def hook(_state: object, bucket):  # torch compares annotations, and these would be text
        total = bucket.buffer().div_(job.world_size)

        def swap(future):
            fresh = future.value()[0].clone()
            old = before.get(bucket.index(), fresh)
            before[bucket.index()] = fresh
            return old if late["now"] else fresh

        return dist.all_reduce(total, async_op=True).get_future().then(swap)

    job.seed_model()
    model = DistributedDataParallel(TASKS[job.case.scenario.task].model())
    model.register_comm_hook(None, hook)
    training = job.training(model=model)
    for step in training.iterate():
        late["now"] = job.is_bad(step)
        training.train(step)
    training.close()


def stepped_twice(job: Job) -> None:
    """optimizer.step is called a second time, on the same gradients."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        if job.is_bad(step):
            training.optimizer.step()
        training.finish(loss)
    training.close()


def other_learning_rate(job: Job) -> None:
    """One rank's learning rate is another."""
    training = job.training()
    for step in training.iterate():
        if step == job.at and job.is_culprit:
            training.set_learning_rate(3 * training.learning_rate)
        training.train(step)
    training.close()


def lost_optimizer_state(job: Job) -> None:
    """One rank's optimizer forgets its moments."""
    training = job.training()
    for step in training.iterate():
        if step == job.at and job.is_culprit:
            for state in training.optimizer.state.values():
                for name, value in state.items():
                    if torch.is_tensor(value) and name != "step":
                        value.mul_(0.1)
        training.train(step)
    training.close()


def skipped_step(job: Job) -> None:
    """One rank takes its gradient for infinite and skips the step."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        if step == job.at and job.is_culprit:
            training.optimizer.zero_grad()
            continue
        training.finish(loss)
    training.close()


def clipped_on_one_rank(job: Job) -> None:
    """One rank clips after the reduction."""
    training = job.training()
    for step in training.iterate():
        loss = training.backward(step)
        if job.is_bad(step):
            nn.utils.clip_grad_norm_(training.model.parameters(), 0.05)
        training.finish(loss)
    training.close()


def other_weight_decay(job: Job) -> None:
    """One rank's weight decay is another from the start."""
    training = job.training()
    if job.is_culprit:
        training.optimizer.param_groups[0]["weight_decay"] = 0.5
    training.run()


def old_tensors(job: Job) -> None:
    """The optimizer was made before the model was copied, so it steps the original."""
    job.seed_model()
    original = TASKS[job.case.scenario.task].model()
    rate = TASKS[job.case.scenario.task].learning_rate[job.case.scenario.optimizer]
    optimizer = make_optimizer(job.case.scenario.optimizer, original.parameters(), rate)
    model = DistributedDataParallel(copy.deepcopy(original))
    training = job.training(model=model, optimizer=optimizer)
    for step in training.iterate():
        loss = training.backward(step)
        training.optimizer.step()
        training.model.zero_grad()
        training.agent.log(loss, training.samples)
    training.close()


def zero_learning_rate(job: Job) -> None:
    """The schedule has ended at nothing, and the job goes on."""
    training = job.training()
    for step in training.iterate():
        if step == job.at:
            training.set_learning_rate(0.0)
        training.train(step)
    training.close()


def below_precision(job: Job) -> None:
    """Weights in bfloat16, and updates smaller than their last bit."""
    job.seed_model()
    model = TASKS[job.case.scenario.task].model().bfloat16()
    training = job.training(model=model, learning_rate=job.options["learning_rate"])

    def batch(step: int) -> Batch:
        inputs, target = training.batch(step)
        return inputs.bfloat16(), target.bfloat16()

    for step in training.iterate():
        training.finish(training.backward(step, batch=batch(step)).float())
    training.close()


SCENARIOS = (
    *(
        Scenario(
            name=f"update/stale-{delay}",
            says=f"the gradient of {delay} step{'s' if delay > 1 else ''} ago is applied",
            train=stale,
            kind=STALE,
            options={"delay": delay},
            at=50,
            steps=110,
            also=SUFFERS,
        )
        for delay in (1, 2, 5)
    ),
    Scenario(
        name="update/stale-1-gpt-sgd",
        says="the gradient of one step ago is applied, in a GPT with SGD",
        train=stale,
        kind=STALE,
        options={"delay": 1},
        at=50,
        steps=110,
        task="gpt",
        optimizer="sgd",
        also=SUFFERS,
        ranks=(3,),
    ),
    Scenario(
        name="update/repeated",
        says="the same gradient is applied again and again",
        train=repeated,
        kind=STALE,
        at=50,
        steps=100,
        also=SUFFERS,
    ),
    Scenario(
        name="update/never-cleared-from-start",
        says="zero_grad is never called",
        train=never_cleared,
        kind=STALE,
        at=1,
        pinned=True,
        steps=100,
        also=SUFFERS,
    ),
    Scenario(
        name="update/never-cleared-later-lstm",
        says="zero_grad is not called any more, in an LSTM with SGD",
        train=never_cleared,
        kind=STALE,
        at=50,
        steps=110,
        task="lstm",
        optimizer="sgd",
        also=SUFFERS,
    ),
    Scenario(
        name="update/stale-on-one-rank",
        says="one rank applies the gradient of two steps ago",
        train=stale,
        kind=STALE,
        options={"delay": 2},
        at=50,
        culprits=(1,),
        ranks=(2, 4),
        steps=110,
    ),
    Scenario(
        name="update/partly-cleared",
        says="zero_grad misses all but one parameter",
        train=partly_cleared,
        kind=STALE,
        at=50,
        steps=110,
        also=SUFFERS,
    ),
    Scenario(
        name="update/late-hook",
        says="the communication hook returns the average of the step before",
        train=late_hook,
        kind=STALE,
        at=50,
        steps=110,
        also=SUFFERS,
    ),
    Scenario(
        name="update/stepped-twice",
        says="every gradient is applied twice",
        train=stepped_twice,
        kind=STALE,
        at=50,
        steps=110,
        also=SUFFERS,
    ),
    Scenario(
        name="update/stepped-twice-on-one-rank",
        says="one rank applies every gradient twice",
        train=stepped_twice,
        kind=DIVERGENT,
        at=45,
        culprits=(1,),
        steps=110,
        also=DIFFERS,
    ),
    Scenario(
        name="update/other-learning-rate",
        says="one rank's learning rate is three times the others'",
        train=other_learning_rate,
        kind=DIVERGENT,
        at=45,
        culprits=(1,),
        ranks=(2, 3, 4),
        steps=110,
        also=DIFFERS,
    ),
    Scenario(
        name="update/lost-optimizer-state",
        says="one rank's moments shrink to a tenth",
        train=lost_optimizer_state,
        kind=DIVERGENT,
        at=45,
        culprits=(1,),
        steps=110,
        also=DIFFERS,
    ),
    Scenario(
        name="update/lost-momentum-sgd",
        says="one rank's momentum shrinks to a tenth",
        train=lost_optimizer_state,
        kind=DIVERGENT,
        at=45,
        culprits=(2,),
        steps=110,
        task="cnn",
        optimizer="sgd",
        ranks=(4,),
        also=DIFFERS,
    ),
    Scenario(
        name="update/skipped-step",
        says="one rank skips one optimizer step",
        train=skipped_step,
        kind=DIVERGENT,
        at=45,
        culprits=(1,),
        steps=110,
        also=DIFFERS,
    ),
    Scenario(
        name="update/clipped-on-one-rank",
        says="one rank clips its averaged gradient",
        train=clipped_on_one_rank,
        kind=DIVERGENT,
        at=45,
        culprits=(1,),
        ranks=(2, 3, 4),
        steps=110,
        also=DIFFERS,
    ),
    Scenario(
        name="update/other-weight-decay",
        says="one rank's weight decay is another from the start",
        train=other_weight_decay,
        kind=DIVERGENT,
        culprits=(1,),
        steps=80,
        also=DIFFERS,
    ),
    Scenario(
        name="update/old-tensors",
        says="the optimizer holds the parameters of another copy of the model",
        train=old_tensors,
        kind=INEFFECTIVE,
        steps=100,
        # Nothing learns, so nothing is to be expected.
        also=("plateau",),
    ),
    Scenario(
        name="update/zero-learning-rate",
        says="the learning rate is 0 for good",
        train=zero_learning_rate,
        kind=INEFFECTIVE,
        at=60,
        steps=200,
        also=("plateau",),
        bar=Bar(onset_steps=8),
    ),
    Scenario(
        name="update/below-precision-sgd",
        says="bfloat16 weights, updates below their last bit",
        train=below_precision,
        kind=INEFFECTIVE,
        options={"learning_rate": 1e-7},
        steps=120,
        optimizer="sgd",
        also=("plateau",),
    ),
    Scenario(
        name="update/below-precision-adamw",
        says="the same with AdamW, where a few weights near zero do move",
        train=below_precision,
        kind=INEFFECTIVE,
        options={"learning_rate": 1e-7},
        steps=120,
        also=("plateau",),
    ),
)
