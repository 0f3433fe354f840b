"""Small trainings in real gloo processes, one function a scenario; run as `ddp_scenarios.py FOLDER ENDPOINT SCENARIO...`.

RANK and WORLD_SIZE come from the environment, the ranks meet in a file in FOLDER, and each scenario's run bears its name.
"""

from __future__ import annotations

import copy
import json
import os
import random
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stallwatch.agent import attach

STEPS = 40
SHORT = 12


def make_model() -> nn.Module:
    """A small network, the same on every rank."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def data(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of this rank's own."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    inputs = torch.randn(16, 8, generator=generator)
    return inputs, inputs.sum(1, keepdim=True)


class Training:
    """A DDP training with an agent; scenarios vary its parts."""

    def __init__(self, name: str, endpoint: str, **options: Any) -> None:
        self.rank = dist.get_rank()
        self.model = DistributedDataParallel(make_model(), **options.pop("ddp", {}))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.agent = attach(
            self.model, self.optimizer, run=name, endpoint=endpoint, **{"sample_every": 4, **options}
        )

    def forward_backward(self, step: int, model: nn.Module | None = None, scale: float = 1.0) -> torch.Tensor:
        """One micro-batch."""
        inputs, target = data(self.rank, step)
        loss = nn.functional.mse_loss((model or self.model)(inputs), target) * scale
        loss.backward()
        return loss

    def finish_step(self, loss: torch.Tensor, samples: int = 16) -> None:
        """The optimizer's part."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.agent.log(loss, samples)


def healthy(name: str, endpoint: str, _: Path) -> dict[str, Any]:
    training = Training(name, endpoint)
    training.model._set_ddp_runtime_logging_sample_rate(1)
    for step in range(SHORT):
        training.finish_step(training.forward_backward(step))
    iterations = training.model._get_ddp_logging_data()["iteration"]
    training.agent.close()
    return {"iterations": iterations}


def static_graph(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint, ddp={"static_graph": True})
    for step in range(SHORT):
        if training.rank == 1 and step > 2:
            time.sleep(0.03)
        training.finish_step(training.forward_backward(step))
    training.agent.close()


def never_synchronised(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        with training.model.no_sync():
            loss = training.forward_backward(step)
        training.finish_step(loss)
    training.agent.close()


def module_bypass(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        training.finish_step(training.forward_backward(step, training.model.module if step >= 6 else None))
    training.agent.close()


def autograd_grad(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        inputs, target = data(training.rank, step)
        loss = nn.functional.mse_loss(training.model(inputs), target)
        parameters = list(training.model.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        training.finish_step(loss)
    training.agent.close()


def keeps_local_gradients(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        loss = training.forward_backward(step)
        if training.rank == 1 and step >= 7:
            for parameter in training.model.parameters():
                parameter.grad.mul_(1.5)
        training.finish_step(loss)
    training.agent.close()


def _stale(name: str, endpoint: str, delay: int | None, since: int = 6) -> None:
    """The gradient of `delay` steps before is applied, or, with None, the same one for good."""
    training = Training(name, endpoint)
    past: list[list[torch.Tensor]] = []
    for step in range(SHORT):
        loss = training.forward_backward(step)
        gradients = [parameter.grad for parameter in training.model.parameters()]
        past.append([gradient.clone() for gradient in gradients])
        if step >= since:
            for gradient, old in zip(gradients, past[step - delay if delay else since - 1], strict=True):
                gradient.copy_(old)
        training.finish_step(loss)
    training.agent.close()


def stale_by_1(name: str, endpoint: str, _: Path) -> None:
    _stale(name, endpoint, 1)


def stale_by_2(name: str, endpoint: str, _: Path) -> None:
    _stale(name, endpoint, 2)


def stale_by_5(name: str, endpoint: str, _: Path) -> None:
    _stale(name, endpoint, 5)


def frozen_gradient(name: str, endpoint: str, _: Path) -> None:
    _stale(name, endpoint, None)


def stale_reduction(name: str, endpoint: str, _: Path) -> None:
    """A communication hook that returns what the iteration before had reduced."""
    before: dict[int, torch.Tensor] = {}

    def hook(_state, bucket):  # torch compares annotations, and these would be text
        total = bucket.buffer().div_(dist.get_world_size())

        def swap(future):
            fresh = future.value()[0].clone()
            old = before.get(bucket.index(), fresh)
            before[bucket.index()] = fresh
            return old

        return dist.all_reduce(total, async_op=True).get_future().then(swap)

    training = Training(name, endpoint)
    training.model.register_comm_hook(None, hook)
    for step in range(SHORT):
        training.finish_step(training.forward_backward(step))
    training.agent.close()


def never_cleared(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        loss = training.forward_backward(step)
        training.optimizer.step()
        if step < 5:
            training.optimizer.zero_grad()
        training.agent.log(loss, 16)
    training.agent.close()


def clipped_on_one_rank(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        loss = training.forward_backward(step)
        if training.rank == 1 and step >= 6:
            nn.utils.clip_grad_norm_(training.model.parameters(), 1e-2)
        training.finish_step(loss)
    training.agent.close()


def stepped_twice(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        loss = training.forward_backward(step)
        training.optimizer.step()
        training.finish_step(loss)
    training.agent.close()


def skipped_on_one_rank(name: str, endpoint: str, _: Path) -> None:
    """Rank 1 skips the step of iteration 6, and so has one more to take all twelve."""
    training = Training(name, endpoint)
    for step in range(SHORT + 1):
        loss = training.forward_backward(step)
        if step == (6 if training.rank == 1 else SHORT):
            training.optimizer.zero_grad()
            continue
        training.finish_step(loss)
    training.agent.close()


def other_state_on_one_rank(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        if training.rank == 1 and step == 6:
            for state in training.optimizer.state.values():
                state["exp_avg"].zero_()
        training.finish_step(training.forward_backward(step))
    training.agent.close()


def scaled_loss(name: str, endpoint: str, _: Path) -> None:
    """A gradient scaler, whose scale is taken out before the step, and clipping after that."""
    training = Training(name, endpoint)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(SHORT):
        inputs, target = data(training.rank, step)
        loss = nn.functional.mse_loss(training.model(inputs), target)
        scaler.scale(loss).backward()
        scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.model.parameters(), 0.5)
        scaler.step(training.optimizer)
        scaler.update()
        training.optimizer.zero_grad()
        training.agent.log(loss.detach(), 16)
    training.agent.close()


def half_precision(name: str, endpoint: str, _: Path) -> None:
    """Weights in bfloat16, with updates below their last bit."""
    model = DistributedDataParallel(make_model().bfloat16())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7)
    agent = attach(model, optimizer, run=name, endpoint=endpoint, sample_every=4)
    for step in range(SHORT):
        inputs, target = data(dist.get_rank(), step)
        loss = nn.functional.mse_loss(model(inputs.bfloat16()), target.bfloat16())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss.detach().float(), 16)
    agent.close()


def _normalised(name: str, endpoint: str, **ddp: Any) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
    model = DistributedDataParallel(inner, **ddp)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    agent = attach(model, optimizer, run=name, endpoint=endpoint, sample_every=4)
    for step in range(SHORT):
        inputs, target = data(dist.get_rank(), step)
        loss = nn.functional.mse_loss(model(inputs), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss, 16)
    agent.close()


def broadcast_buffers(name: str, endpoint: str, _: Path) -> None:
    _normalised(name, endpoint)


def local_buffers(name: str, endpoint: str, _: Path) -> None:
    _normalised(name, endpoint, broadcast_buffers=False)


def slow_peer(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        loss_inputs, target = data(training.rank, step)
        output = training.model(loss_inputs)
        if training.rank == 1:
            time.sleep(0.05)
        loss = nn.functional.mse_loss(output, target)
        loss.backward()
        training.finish_step(loss)
    training.agent.close()


def accumulation(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        for micro in range(4):
            with training.model.no_sync() if micro < 3 else nullcontext():
                loss = training.forward_backward(4 * step + micro, scale=0.25)
            if micro < 3:
                training.agent.log(4 * loss, 16)
        training.finish_step(4 * loss)
    training.agent.close()


def evaluates(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        if step % 4 == 3:
            training.model.eval()
            with torch.no_grad():
                value = training.model(data(0, 999)[0]).square().mean()
                time.sleep(0.02)
                training.model(data(0, 999)[0])
            training.agent.log_eval(value, 16, accuracy=0.5)
            training.model.train()
        training.finish_step(training.forward_backward(step))
    training.agent.close()


def duplicated_data(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    training.rank = 0
    for step in range(SHORT):
        training.finish_step(training.forward_backward(step))
    training.agent.close()


def changed_parameter(name: str, endpoint: str, _: Path) -> None:
    training = Training(name, endpoint)
    for step in range(SHORT):
        if dist.get_rank() == 1 and step == 6:
            with torch.no_grad():
                training.model.module[2].weight.view(-1).view(torch.int32)[5] ^= 1 << 12
        training.finish_step(training.forward_backward(step))
    training.agent.close()


def undisturbed(_name: str, endpoint: str, _: Path) -> dict[str, bool]:
    """Trains with and without the agent, and compares bits."""
    states = []
    for watched in (False, True, False):
        model = DistributedDataParallel(make_model())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        agent = (
            attach(model, optimizer, run="undisturbed", endpoint=endpoint, sample_every=2)
            if watched
            else None
        )
        torch.manual_seed(5)
        random.seed(5)
        for step in range(SHORT):
            inputs, target = data(dist.get_rank(), step)
            loss = nn.functional.mse_loss(nn.functional.dropout(model(inputs)), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if agent is not None:
                agent.log(loss, 16)
        states.append(copy.deepcopy(model.module.state_dict()))
        if agent is not None:
            agent.close()
        states[-1]["torch's random state"] = torch.get_rng_state()
        states[-1]["Python's random state"] = torch.tensor(random.getstate()[1])
    return {"same": all(torch.equal(states[0][key], state[key]) for state in states for key in states[0])}


def sharded(name: str, endpoint: str, _: Path) -> dict[str, Any]:
    """FSDP2."""
    from torch.distributed.fsdp import fully_shard

    model = make_model()
    for layer in (model[0], model[2]):
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    agent = attach(model, optimizer, run=name, endpoint=endpoint, sample_every=4)
    for step in range(SHORT):
        inputs, target = data(dist.get_rank(), step)
        loss = nn.functional.mse_loss(model(inputs), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss, 16)
    errors = agent._core.guard.errors
    agent.close()
    return {"errors": errors}


def unwrapped(name: str, endpoint: str, _: Path) -> None:
    """Nobody wrapped the model."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    agent = attach(model, optimizer, run=name, endpoint=endpoint)
    for step in range(SHORT):
        inputs, target = data(dist.get_rank(), step)
        loss = nn.functional.mse_loss(model(inputs), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss, 16)
    agent.close()


def until_told(name: str, endpoint: str, folder: Path) -> dict[str, float]:
    """Trains until the file `stop` appears, in steps of about 5 ms, and tells the longest one."""
    training = Training(name, endpoint)
    longest, step, stopping = 0.0, 0, False
    while not stopping:
        began = time.perf_counter()
        training.finish_step(training.forward_backward(step))
        if step > 20:
            longest = max(longest, time.perf_counter() - began)
        step += 1
        time.sleep(0.004)
        # Every rank has to end at the same step.
        told = torch.tensor([float((folder / "stop").exists())])
        dist.all_reduce(told)
        stopping = bool(told > 0)
    training.agent.close()
    return {"longest_step_seconds": longest, "steps": step}


def stalls_when_told(name: str, endpoint: str, folder: Path) -> None:
    """Trains until the file `stop` appears; while the file `stall` is there, rank 1 gets no batch and all wait for it."""
    training = Training(name, endpoint)
    step, stopping = 0, False
    while not stopping:
        while training.rank == 1 and (folder / "stall").exists():
            time.sleep(0.02)
        training.finish_step(training.forward_backward(step))
        step += 1
        time.sleep(0.01)
        told = torch.tensor([float((folder / "stop").exists())])
        dist.all_reduce(told)
        stopping = bool(told > 0)
    training.agent.close()


def main(folder: Path, endpoint: str, names: list[str]) -> None:
    """Runs the scenarios one after another in one process group."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    for name in names:
        dist.barrier()
        result = globals()[name](name, endpoint, folder)
        (folder / f"{name}-{dist.get_rank()}.json").write_text(json.dumps(result or {}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
