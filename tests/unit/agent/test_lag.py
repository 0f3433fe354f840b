"""How old the applied gradient is, in trainings with one process and real hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from stallwatch.agent import attach
from stallwatch.agent._lag import CARRIED, EDITED, UNKNOWN, factor, vector
from support.telemetry_server import RankRecord, TelemetryServer

STEPS = 12
Edit = Callable[[int, list[torch.nn.Parameter]], None]


@pytest.fixture(scope="module")
def server() -> Iterator[TelemetryServer]:
    """A recording detector."""
    with TelemetryServer() as running:
        yield running


def train(
    server: TelemetryServer,
    run: str,
    edit: Edit | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    micro_batches: int = 1,
    clear: bool = True,
) -> RankRecord:
    """Trains on data that differs from step to step; `edit` sees the gradients before the optimizer does."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    agent = attach(model, optimizer, run=run, endpoint=server.endpoint, sample_every=4)
    for step in range(STEPS):
        for _ in range(micro_batches):
            loss = model(torch.randn(8, 4).to(dtype)).square().mean()
            loss.backward()
        if edit is not None:
            edit(step, list(model.parameters()))
        optimizer.step()
        if clear:
            optimizer.zero_grad()
        agent.log(loss, 8)
    agent.close()
    return server.rank(0, run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_fresh_gradient_has_no_age(server, dtype, micro_batches):
    """The optimizer sees what the last backward left, in every precision, with and without accumulation."""
    record = train(server, f"fresh-{dtype}-{micro_batches}", dtype=dtype, micro_batches=micro_batches)
    assert record.column("gradient_lag") == [0] * STEPS
    assert record.column("gradient_scale") == pytest.approx([1.0] * STEPS)
    assert record.column("produced_fingerprint") == record.column("gradient_fingerprint")
    assert all(sample.carried_gradient_square == 0 for sample in record.samples)


def test_clipping_is_a_factor(server):
    """A clipped gradient is fresh, and its factor is the one that clipping used."""
    used = []

    def clip(_step: int, parameters: list[torch.nn.Parameter]) -> None:
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 0.05))
        used.append(min(0.05 / (norm + 1e-6), 1.0))

    record = train(server, "clipped", clip)
    assert record.column("gradient_lag") == [0] * STEPS
    assert record.column("gradient_scale") == pytest.approx(used, rel=1e-4)
    sample = record.samples[1]
    assert sample.produced_gradient_square == pytest.approx(
        sample.reduced_gradient_square / used[sample.step] ** 2, rel=1e-3
    )


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_a_delayed_gradient_tells_its_age(server, delay):
    """A loop that applies the gradient of some steps ago is found out on every such step."""
    kept: list[list[torch.Tensor]] = []

    def swap(_step: int, parameters: list[torch.nn.Parameter]) -> None:
        kept.append([each.grad.clone() for each in parameters])
        if len(kept) > delay:
            for parameter, old in zip(parameters, kept[-1 - delay], strict=True):
                parameter.grad.copy_(0.5 * old)

    record = train(server, f"delayed-{delay}", swap)
    assert record.column("gradient_lag") == [0] * delay + [delay] * (STEPS - delay)


def test_a_frozen_gradient_grows_old(server):
    """The same gradient applied again and again is a step older each time."""
    kept: list[torch.Tensor] = []

    def freeze(step: int, parameters: list[torch.nn.Parameter]) -> None:
        if step == 3:
            kept.extend(each.grad.clone() for each in parameters)
        if step > 3:
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.grad.copy_(old)

    record = train(server, "frozen", freeze)
    assert record.column("gradient_lag") == [0] * 4 + list(range(1, STEPS - 3))


def test_noise_that_is_added_is_an_edit(server):
    """A gradient that is no multiple of any that was computed has no age."""

    def disturb(_step: int, parameters: list[torch.nn.Parameter]) -> None:
        for each in parameters:
            each.grad.add_(torch.randn_like(each.grad))

    assert train(server, "edited", disturb).column("gradient_lag") == [EDITED] * STEPS


def test_gradients_that_are_not_cleared_are_carried(server):
    """What was there before the first backward is measured on sampled steps."""
    record = train(server, "uncleared", clear=False)
    first, *later = [sample.carried_gradient_square for sample in record.samples]
    assert first == 0
    assert all(value > 0 for value in later)


def test_blocks_add_up_to_the_whole(server):
    """Squared norms by block are the parts of those over all parameters."""
    for sample in train(server, "blocks").samples:
        assert sum(sample.gradient_squares) == pytest.approx(sample.reduced_gradient_square, rel=1e-4)
        assert sum(sample.parameter_squares) == pytest.approx(sample.parameter_square, rel=1e-4)
        assert sum(sample.update_squares) == pytest.approx(sample.update_square, rel=1e-3)


def test_half_precision_tells_what_an_update_lost(server):
    """In bfloat16 some elements are too large for their update; in single precision nothing is counted."""
    half = train(server, "half", dtype=torch.bfloat16).samples[-1]
    assert 0 < half.unchanged_share < 1
    assert math.isnan(train(server, "single").samples[-1].unchanged_share)


def test_zeros_and_infinities_are_no_direction():
    """Nothing is concluded from an anchor that is all zeros or not finite."""
    assert vector(bytes(16), torch.float32) is None
    assert vector(b"\0\0\x80\x7f" * 4, torch.float32) is None
    assert vector(None, torch.float32) is None


def test_factor_asks_for_one_direction():
    """Multiples have a factor, anything else has none, the opposite direction included."""
    assert factor((2.0, 4.0, 0.0, 2.0), (1.0, 2.0, 0.0, 1.0), 1e-6) == pytest.approx(2.0)
    assert math.isnan(factor((-1.0, -2.0, 0.0, -1.0), (1.0, 2.0, 0.0, 1.0), 1e-6))
    assert math.isnan(factor((1.0, 2.0, 0.0, 1.001), (1.0, 2.0, 0.0, 1.0), 1e-6))
    assert UNKNOWN < 0


def test_gradients_that_are_never_cleared_show_on_every_step(server):
    """From the second step on, the gradient of the step before is still there."""
    record = train(server, "never-cleared", clear=False)
    assert record.column("gradient_lag") == [0] + [CARRIED] * (STEPS - 1)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_are_cleared_between_two_backwards_are_not_carried(server, set_to_none):
    """A GAN's other loss adds to the old gradients before the loop clears them: nothing of it reaches the optimizer."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    run = f"late-clear-{set_to_none}"
    agent = attach(model, optimizer, run=run, endpoint=server.endpoint, sample_every=4)
    for _ in range(STEPS):
        model(torch.randn(8, 4)).sum().backward()
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = model(torch.randn(8, 4)).square().mean()
        loss.backward()
        optimizer.step()
        agent.log(loss, 8)
    agent.close()
    record = server.rank(0, run)
    assert record.column("gradient_lag") == [0] * STEPS
    assert all(sample.carried_gradient_square == 0 for sample in record.samples)


def test_what_the_optimizer_does_not_hold_needs_no_clearing(server):
    """Only the head is trained, and only its gradients are cleared: those of the rest pile up to no effect."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model[2].parameters(), lr=1e-2)
    agent = attach(model, optimizer, run="head", endpoint=server.endpoint, sample_every=4)
    for _ in range(STEPS):
        loss = model(torch.randn(8, 4)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.log(loss, 8)
    agent.close()
    record = server.rank(0, "head")
    assert CARRIED not in record.column("gradient_lag")
    assert all(sample.carried_gradient_square == 0 for sample in record.samples)


def test_values_that_were_all_clipped_do_not_count_as_repeated(server):
    """Element-wise clipping leaves the same few values again and again; that is no old gradient."""

    def saturate(_step: int, parameters: list[torch.nn.Parameter]) -> None:
        for each in parameters:
            each.grad.copy_(each.grad.sign() * 1e-3)

    record = train(server, "saturated", saturate)
    assert set(record.column("gradient_lag")) <= {0, EDITED}


def test_a_step_without_a_backward_repeats_the_gradient(server):
    """A loop that runs the backward on every second step only, and does not clear, applies the same gradient twice."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    agent = attach(model, optimizer, run="every-second", endpoint=server.endpoint, sample_every=4)
    for step in range(STEPS):
        loss = model(torch.randn(8, 4)).square().mean()
        if step % 2 == 0:
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        agent.log(loss, 8)
    agent.close()
    assert server.rank(0, "every-second").column("gradient_lag") == [0, 1] * (STEPS // 2)


class Derived(torch.optim.SGD):
    """An optimizer whose step goes on after its parent's, as people write them."""

    def step(self, closure=None):
        """One step."""
        return super().step(closure)


@pytest.mark.parametrize("make", [torch.optim.SGD, Derived])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_computes_the_gradient_that_counts(server, make, accumulation, by_name):
    """As Lightning trains: what is there before the closure has run is the share of the micro-batches before, or nothing."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    optimizer = make(model.parameters(), lr=1e-2)
    run = f"closure-{make.__name__}-{accumulation}-{by_name}"
    agent = attach(model, optimizer, run=run, endpoint=server.endpoint, sample_every=2)
    norms, results = [], []
    for _ in range(STEPS):
        for micro in range(accumulation):

            def closure(inputs=None, first: bool = micro == 0) -> torch.Tensor:
                loss = model(torch.randn(8, 4)).square().mean()
                if first:
                    optimizer.zero_grad()
                loss.backward()
                return loss

            if micro < accumulation - 1:
                closure()
        results.append(optimizer.step(closure=closure) if by_name else optimizer.step(closure))
        norms.append(sum(float(each.grad.square().sum()) for each in model.parameters()))
        agent.log(results[-1], 8)
    agent.close()
    assert all(isinstance(each, torch.Tensor) for each in results)
    record = server.rank(0, run)
    assert record.column("gradient_lag") == [0] * STEPS
    assert record.column("gradient_fingerprint") == record.column("produced_fingerprint")
    assert record.column("micro_batches") == [accumulation] * STEPS
    assert record.column("optimizer_steps") == [1] * STEPS
    seen = [each.reduced_gradient_square for each in record.samples]
    assert seen == pytest.approx(norms[::2], rel=1e-5)
    assert all(each.carried_gradient_square == 0 for each in record.samples)


def test_an_error_in_a_closure_is_the_scripts(server):
    """It comes out of `step` as it was raised, and the next step is watched again."""
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    agent = attach(model, optimizer, run="closure-raises", endpoint=server.endpoint)

    def closure(fails: bool = False) -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        if fails:
            raise KeyError("the script's own")
        return loss

    optimizer.step(closure)
    with pytest.raises(KeyError, match="the script's own"):
        optimizer.step(lambda: closure(fails=True))
    optimizer.step(closure)
    optimizer.step(closure)
    agent.close()
    assert server.rank(0, "closure-raises").column("gradient_lag")[-1] == 0


@pytest.mark.parametrize("kind", ["twice", "derived", "lbfgs"])
def test_optimizer_steps_counts_calls_not_hooks(server, kind):
    """Two calls a backward count as two; a subclass that calls its parent's step, and a closure that runs many times, as one."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    torch.optim.SGD(model.parameters(), lr=1e-2)
    made = {"twice": torch.optim.SGD, "derived": Derived, "lbfgs": torch.optim.LBFGS}[kind]
    optimizer = made(model.parameters(), lr=1e-2)
    agent = attach(model, optimizer, run=f"calls-{kind}", endpoint=server.endpoint, sample_every=4)
    for _ in range(STEPS):
        inputs = torch.randn(8, 4)

        def closure(inputs: torch.Tensor = inputs) -> torch.Tensor:
            optimizer.zero_grad()
            value = model(inputs).square().mean()
            value.backward()
            return value

        if kind == "lbfgs":
            loss = optimizer.step(closure)
        else:
            loss = closure()
            for _ in range(1 + (kind == "twice")):
                optimizer.step()
        agent.log(loss, 8)
    agent.close()
    record = server.rank(0, f"calls-{kind}")
    assert record.column("optimizer_steps") == [2 if kind == "twice" else 1] * STEPS
    assert max(record.column("gradient_lag")) <= 0
