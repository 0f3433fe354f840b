"""What every check and signal must do, whichever it is. Registering one is enough to have it tested here."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest

from stallwatch.detector.checks import CHECKS, CheckConfigs
from stallwatch.detector.checks.contract import Check, Signal
from stallwatch.detector.core.inputs import Parallelism, Phase
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.observations import (
    AttemptObservation,
    EvaluationObservation,
    EventObservation,
    RunDeclaration,
    StepObservation,
)
from stallwatch.detector.core.sampled import SampledObservation
from stallwatch.detector.core.verdicts import Verdict
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.engine.snapshot import decode_part, encode_part
from stallwatch.detector.signals.loss import LossSignal
from stallwatch.detector.signals.noise_scale import NoiseScaleSignal
from stallwatch.detector.signals.step_windows import StepWindows

RANKS = 4
STREAMS = (
    "flat",
    "noisy",
    "nan",
    "infinite",
    "gaps",
    "out_of_order",
    "duplicates",
    "restart",
    "faulty",
    "slow",
    "scaled",
    "partial",
    "unknown",
)
SLOW = ("input_bound", "throughput_regression")
"""Found in the stream whose ranks all wait for data from step 150 on; the others have faults in the stream of that name."""
SCALED = ("scaling_efficiency_loss",)
"""Found in the stream that is restarted with twice the ranks at step 160, which are less than half as fast."""
SIGNALS = {"step_windows": StepWindows, "noise_scale": NoiseScaleSignal, "loss": LossSignal}


def make(name: str) -> Check | Signal:
    """A fresh check or signal."""
    if name in SIGNALS:
        return SIGNALS[name]()
    return CheckConfigs().build()[name]


def step_of(stream: str, step: int, index: int, attempt: int, rng: np.random.Generator) -> StepObservation:
    """One step of a stream."""
    ranks = tuple(range(RANKS))
    if stream == "scaled" and not attempt:
        ranks = ranks[: RANKS // 2]
    world_size = len(ranks)
    if stream == "partial" and index % 3:
        ranks = ranks[: 1 + index % RANKS]
    count = len(ranks)
    noise = 0.0 if stream == "flat" else 0.05
    loss = (
        (1.0 + (0.0 if stream == "flat" else math.exp(-step / 60)))
        * 8
        * (1 + noise * rng.standard_normal(count))
    )
    if stream == "nan" and 150 <= index < 180:
        loss[index % count] = np.nan
    if stream == "infinite" and index >= 200:
        loss[:] = np.inf
    own = 0.1 * (1 + noise * rng.random((4, count)))
    sync = 0.02 + own.sum(axis=0).max() - own.sum(axis=0)
    prints = np.full(count, 1000 + step, np.int64)
    inputs = 7919 * step + 104_729 * np.array(ranks, np.int64)
    samples, micro_batches = np.full(count, 8.0), 4
    lags, rates = np.zeros(count, np.int64), np.full(count, 0.1)
    advance = step + 1
    if stream == "faulty" and index >= 120:
        # Ranks 2 and 3 get the same samples, so that they have the same gradients without any averaging.
        prints = prints + np.minimum(np.arange(count), 2)
        own[1, 0] += 0.2
        sync[1:] += 0.2
        # The exchange takes longer than everything else.
        sync += 0.5
        advance = 121
        loss *= 1 + (index - 120) / 20
        # All get their samples again every 25 steps, and the last rank more of them than the others.
        inputs = 7919 * (step % 25) + 104_729 * np.minimum(np.array(ranks, np.int64), 2)
        samples[-1] *= 2
        loss[-1] *= 2
        loss[1] *= 1.5
        micro_batches = 2
        # The last rank's learning rate is another, and the first applies the gradient of the step before.
        rates[-1], lags[0] = 0.3, 1
    if stream == "slow" and index >= 150:
        own[0] += 0.5
    if stream == "scaled" and attempt:
        own[1] += 0.6
    seconds = own.sum(axis=0) + sync
    if stream == "unknown":
        prints[:] = inputs[:] = -1
        own[:] = np.nan
        sync[:] = np.nan
        seconds[:] = np.nan
        advance = -1
    return StepObservation(
        step=step,
        attempt=attempt,
        world_size=world_size,
        ranks=ranks,
        loss_sum=loss,
        samples=samples,
        micro_batches=np.full(count, micro_batches, np.int64),
        learning_rates=(0.1,),
        step_seconds=seconds,
        input_seconds=own[0],
        forward_seconds=own[1],
        backward_seconds=own[2],
        sync_seconds=sync,
        optimizer_seconds=own[3],
        ddp_iterations=np.full(count, advance, np.int64),
        collectives=np.full(count, advance if advance < 0 else 3 * advance, np.int64),
        gradient_fingerprint=prints,
        sync_expected=True,
        parallelism=Parallelism.DATA_PARALLEL,
        input_fingerprint=inputs,
        gradient_lag=lags,
        learning_rate_sums=rates,
    )


def sample_of(
    stream: str, step: int, index: int, attempt: int, rng: np.random.Generator
) -> SampledObservation:
    """One sampled step of a stream."""
    prints = np.full((RANKS, 3), 7 + step, np.uint64)
    parameters = prints + np.uint64(1)
    updates = np.full(RANKS, 0.04)
    if stream == "faulty" and index >= 120:
        # Parameters stay where they are, and on one rank they are others.
        parameters[:] = 8
        parameters[2, 1] += np.uint64(5)
        updates[:] = 0.0
    squares = np.full(RANKS, 4.0) * (1 + 0.1 * rng.random(RANKS))
    # Gradients are mostly noise; in the faulty stream there is next to none.
    averaged = squares.mean() * (0.95 if stream == "faulty" else 0.3)
    if stream == "nan" and 150 <= index < 180:
        squares[:] = np.nan
    return SampledObservation(
        step=step,
        attempt=attempt,
        world_size=RANKS,
        ranks=tuple(range(RANKS)),
        parallelism=Parallelism.DATA_PARALLEL,
        blocks=("a", "b", "c"),
        gradient_fingerprints=prints,
        gradient_ranks=tuple(range(RANKS)),
        parameter_fingerprints=parameters,
        parameter_ranks=tuple(range(RANKS)),
        local_gradient_square=squares,
        reduced_gradient_square=np.full(RANKS, averaged),
        update_square=updates,
        parameter_square=np.full(RANKS, 100.0),
        samples=np.full(RANKS, 8.0),
        optimizer_state_step=np.full(RANKS, step, np.int64),
        buffer_fingerprint=np.zeros(RANKS, np.uint64),
        non_finite_blocks=((),) * RANKS,
    )


def liveness_of(stream: str, step: int, index: int, attempt: int) -> LivenessObservation:
    """One tick of a stream."""
    stuck = max(index - 150, 0.0) * 2.0 if stream == "faulty" and index >= 150 else 0.2
    gone = np.zeros(RANKS)
    if stream == "faulty" and index >= 260:
        gone[3] = 2.0 * (index - 260)
    if stream == "faulty":
        step = min(step, 149)
    phases = np.full(RANKS, Phase.SYNC, np.int64)
    phases[1] = Phase.INPUT
    collectives = np.full(RANKS, 3 * step, np.int64)
    collectives[1] -= 1
    return LivenessObservation(
        now=1e9 + index,
        attempt=attempt,
        world_size=RANKS,
        step=step,
        total_steps=0,
        ranks=tuple(range(RANKS)),
        connected=gone == 0,
        finished=np.zeros(RANKS, np.bool_),
        silent_seconds=np.maximum(gone, 1.0),
        gone_seconds=gone,
        stuck_seconds=np.full(RANKS, stuck),
        last_step=np.full(RANKS, step, np.int64),
        collectives=collectives,
        phase=phases,
        phase_seconds=np.full(RANKS, stuck),
        heard=np.ones(RANKS, np.bool_),
        stacks={1: '  File "train.py", line 3, in fetch'} if stuck > 60 else {},
        hosts={},
        endings={},
    )


def declaration_of(stream: str, step: int, attempt: int) -> RunDeclaration:
    """What the ranks of a stream say of themselves: in the faulty one, that its rate was tuned for another batch."""
    return RunDeclaration(
        step=step,
        attempt=attempt,
        world_size=RANKS,
        parallelism=Parallelism.DATA_PARALLEL,
        backend="gloo",
        device="cpu",
        model="GPT",
        optimizer="SGD",
        parameters=1000,
        trainable_parameters=1000,
        sample_period=10,
        dataset_size=0,
        base_learning_rate=0.1,
        base_batch_size=8.0 if stream == "faulty" else 8.0 * RANKS,
        local_steps=0,
        total_steps=0,
        accumulation_steps=4,
        hosts={rank: f"node{rank // 2}" for rank in range(RANKS)},
    )


@functools.cache
def observations(stream: str, length: int = 320, seed: int = 3) -> list[object]:
    """A stream of every sort of observation, with what signals derive from it."""
    rng = np.random.default_rng(seed)
    steps = list(range(length))
    if stream == "gaps":
        steps = [step + 40 * (step // 50) for step in steps if step % 7]
    if stream == "out_of_order":
        steps = [step + (3 if step % 5 == 0 else -3 if step % 5 == 3 else 0) for step in steps]
        steps = [max(step, 0) for step in steps]
    if stream == "duplicates":
        steps = [step // 2 for step in steps]
    made: list[object] = [declaration_of(stream, steps[0], 0)]
    attempt = 0
    for index, step in enumerate(steps):
        number = step
        if stream == "restart" and index >= 160:
            number = step - 60
        if stream in ("restart", "scaled") and index == 160:
            attempt = 1
            made.append(AttemptObservation(number, attempt, RANKS))
            made.append(declaration_of(stream, number, attempt))
        made.append(step_of(stream, number, index, attempt, rng))
        made.append(liveness_of(stream, number, index, attempt))
        if index % 10 == 0:
            made.append(sample_of(stream, number, index, attempt, rng))
        if index % 25 == 0:
            rising = 2.0 + (index / 100 if stream == "faulty" else math.exp(-index / 60))
            made.append(EvaluationObservation(number, rising, 100.0, {"accuracy": min(index / 300, 0.8)}))
        if index == 100:
            made.append(EventObservation(number, "augmentation", "mixup on"))
    signals = [make(name) for name in SIGNALS]
    derived: list[object] = []
    for each in made:
        for signal in signals:
            if type(each) in signal.consumes:
                derived.extend(signal.update(each))
        derived.append(each)
    return derived


def feed(part: Check | Signal, stream: list[object]) -> list[object]:
    """All that a check or signal says."""
    said: list[object] = []
    for observation in stream:
        if type(observation) in part.consumes:
            result = part.update(observation)
            said.extend([result] if isinstance(result, Verdict) else result or ())
    return said


@functools.cache
def verdicts(name: str, stream: str) -> tuple[object, ...]:
    """All that a fresh check or signal says to a stream."""
    return tuple(feed(make(name), observations(stream)))


every_part = pytest.mark.parametrize("name", [*CHECKS, *SIGNALS])
every_stream = pytest.mark.parametrize("stream", STREAMS)


@every_part
@every_stream
def test_verdicts_are_well_formed(name, stream):
    """Whatever comes in, nothing is raised, and verdicts are complete: a sentence with numbers, plain evidence, an onset."""
    part = make(name)
    assert isinstance(part, Signal if name in SIGNALS else Check)
    for verdict in verdicts(name, stream):
        if not isinstance(verdict, Verdict):
            continue
        assert verdict.kind == part.kind
        assert verdict.kind in VOCABULARY
        assert 0 <= verdict.confidence <= 1 + 1e-9
        if verdict.firing:
            assert any(character.isdigit() for character in verdict.reason), verdict.reason
            assert verdict.reason[0].isupper()
            assert verdict.reason.endswith(".")
            assert "nan" not in verdict.reason.replace("NaN", "")
            assert "\n" not in verdict.reason
            assert verdict.advice, "advice says what to do next"
            assert len(verdict.advice) <= 3
            assert verdict.since_step <= max(verdict.step, verdict.since_step - 1) + 1
            for value in verdict.evidence.values():
                assert isinstance(value, (bool, int, float, str, tuple, type(None))), value
            assert all(isinstance(rank, int) for rank in verdict.ranks)


@every_part
@every_stream
def test_a_restored_one_goes_on_as_if_nothing_had_been(name, stream):
    """Snapshot and restore again and again: the same is said, bit for bit, as by one that was never interrupted."""
    whole = observations(stream)
    part = make(name)
    said: list[object] = []
    cuts = [0, *(int(share * len(whole)) for share in (0.08, 0.3, 0.4, 0.55, 0.85)), len(whole)]
    for low, high in itertools.pairwise(cuts):
        part = decode_part(encode_part(part), make(name))
        said.extend(feed(part, whole[low:high]))
    assert repr(tuple(said)) == repr(verdicts(name, stream))


@every_part
@pytest.mark.parametrize("stream", ["noisy", "faulty"])
def test_memory_does_not_grow_with_the_run(name, stream):
    """Five times as many steps take at most a few blocks more."""
    short, long = make(name), make(name)
    feed(short, observations(stream, 320))
    feed(long, observations(stream, 1600))
    assert len(encode_part(long)) <= 2 * len(encode_part(short)) + 20_000


@pytest.mark.parametrize("name", [kind for kind in CHECKS if VOCABULARY[kind].category != "learning"])
@pytest.mark.parametrize("stream", [each for each in STREAMS if each not in ("faulty", "slow", "scaled")])
def test_streams_without_a_fault_of_the_processes_give_no_verdict(name, stream):
    """Noise, NaN losses, gaps, repeated or missing steps, restarts and partial reports are no fault of synchronisation."""
    assert not [verdict for verdict in verdicts(name, stream) if verdict.firing]


@pytest.mark.parametrize("name", [kind for kind in CHECKS if VOCABULARY[kind].category != "learning"])
def test_the_faulty_stream_is_called(name):
    """The stream that has every fault of the processes makes every such check speak: the suite would notice a dead one."""
    stream = "slow" if name in SLOW else "scaled" if name in SCALED else "faulty"
    assert [verdict for verdict in verdicts(name, stream) if verdict.firing]


@pytest.mark.parametrize("name", list(CHECKS))
def test_a_check_is_known_to_the_vocabulary_and_has_settings(name):
    """Every registered check has its word, and frozen settings that are nested in the analysis's."""
    assert name in VOCABULARY
    config = getattr(CheckConfigs(), name)
    assert type(config).__dataclass_params__.frozen
    assert make(name).config == config
