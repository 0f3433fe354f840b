"""What a run's processes say of themselves, as checks see it."""

from __future__ import annotations

from dataclasses import replace

from stallwatch.detector.analysis.state import RunState
from stallwatch.detector.core.observations import RunDeclaration


def new_declaration(state: RunState, step: int) -> RunDeclaration | None:
    """What the attempt's processes have declared, before `step`; None when checks have been told the same."""
    state.undeclared = False
    hello = state.hello
    if hello is None:
        return None
    declaration = RunDeclaration(
        step=step,
        attempt=state.attempt.number,
        world_size=state.aligner.world_size,
        parallelism=state.aligner.parallelism,
        backend=hello.backend,
        device=hello.device,
        model=hello.model,
        optimizer=hello.optimizer,
        parameters=hello.parameters,
        trainable_parameters=hello.trainable_parameters,
        sample_period=hello.sample_period,
        dataset_size=hello.dataset_size,
        base_learning_rate=hello.base_learning_rate,
        base_batch_size=hello.base_batch_size,
        local_steps=hello.local_steps,
        total_steps=hello.total_steps,
        accumulation_steps=hello.accumulation_steps,
        block_elements=hello.block_elements,
        hosts=dict(sorted(state.ranks.hosts.items())),
    )
    if state.declared is not None and replace(declaration, step=state.declared.step) == state.declared:
        return None
    state.declared = declaration
    return declaration
