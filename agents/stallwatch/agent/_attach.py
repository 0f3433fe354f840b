"""`attach`: the one call a user makes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from stallwatch.agent import _config as config
from stallwatch.agent import _environment as environment
from stallwatch.agent._errors import AlreadyAttachedError, ConfigurationError
from stallwatch.agent._lifecycle import is_forked_from_a_watched_process, leave_forks_alone

if TYPE_CHECKING:
    import torch

    from stallwatch.agent._agent import Agent
    from stallwatch.v1.telemetry_pb2 import FindingNotice

logger = logging.getLogger("stallwatch.agent")


def attach(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    *,
    run: str | None = None,
    group: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    dataset_size: int | None = None,
    base_lr: float | None = None,
    base_batch_size: float | None = None,
    sample_every: int | Literal["auto"] = "auto",
    overhead_budget: float = 0.01,
    on_finding: Callable[[FindingNotice], object] | None = None,
    start_step: int | None = None,
    total_steps: int | None = None,
    local_steps: int | None = None,
    accumulation_steps: int | None = None,
    **probes: bool,
) -> Agent:
    """Begins to watch a model, and returns the agent that does.

    Wrong arguments raise here; nothing after it raises into training. Without an endpoint the agent does nothing.

    Args:
        model: DDP-wrapped, FSDP2, or plain; compiled or not.
        optimizer: Its calls of `step` are the steps. Of a sequence, the first counts. None: the first optimizer that steps
            one of the model's parameters.
        run: Name of the run; by default `STALLWATCH_RUN`, else what the launcher calls it.
        group: Family of runs to compare with; by default `STALLWATCH_GROUP`.
        endpoint: Address of the detector; by default `STALLWATCH_ENDPOINT`.
        token: Bearer token; by default `STALLWATCH_TOKEN`, or the content of `STALLWATCH_TOKEN_FILE`.
        dataset_size: Samples in an epoch.
        base_lr: Learning rate that was tuned for `base_batch_size`.
        base_batch_size: Batch size over all ranks that `base_lr` was tuned for.
        sample_every: Steps between sampled records. "auto": 16 or, to stay within the budget, 32 (more where a step takes less than
            5 ms).
        overhead_budget: Share of the training thread's time that hooks and samples may take. What is over it although samples are
            as rare as they may be is said once.
        on_finding: Called with each finding about this run, on a background thread.
        start_step: Optimizer steps done before; by default what the optimizer's restored state says, else 0.
        total_steps: Optimizer steps of the whole run, where known.
        local_steps: Optimizer steps between synchronisations, for LocalSGD, DiLoCo and the like.
        accumulation_steps: Micro-batches an optimizer step, where gradients are accumulated.
        **probes: Readings to turn off, by name: see `Probes`.

    Raises:
        ConfigurationError: An argument or environment variable cannot be used.
        AlreadyAttachedError: The model, or the run in this process, is watched already.
    """
    settings = config.resolve(
        run=run,
        group=group,
        endpoint=endpoint,
        token=token,
        dataset_size=dataset_size,
        base_lr=base_lr,
        base_batch_size=base_batch_size,
        sample_every=sample_every,
        overhead_budget=overhead_budget,
        on_finding=on_finding,
        start_step=start_step,
        total_steps=total_steps,
        local_steps=local_steps,
        accumulation_steps=accumulation_steps,
        probes=probes,
    )
    off = config.disabled()
    if not off and settings.endpoint is not None:
        leave_forks_alone()
    from stallwatch.agent._agent import Agent, Core
    from stallwatch.agent._identity import identify
    from stallwatch.agent._probe import model as models
    from stallwatch.agent._registry import claim, watched, watched_run

    if not off and settings.endpoint is not None and is_forked_from_a_watched_process():
        logger.warning(
            "stallwatch: not watching: this process was forked from one that had an agent, whose connection cannot be used here; "
            "start processes that train with the start method 'spawn' or 'forkserver', or attach in them only"
        )
        return Agent(None)
    if off or settings.endpoint is None:
        reason = (
            f"{environment.DISABLED} is set"
            if off
            else f"no endpoint: set {environment.ENDPOINT} or pass endpoint="
        )
        logger.info("stallwatch: not watching, %s", reason)
        return Agent(None)
    identity = identify(settings.run)
    seen = models.inspect(model, identity.world_size, settings.local_steps)
    optimizers = _optimizers(optimizer)
    already = watched(seen.given) or watched(seen.inner)
    if already is not None and already.automatic:
        already.close("replaced by the script's own attach()")
    elif already is not None:
        message = (
            "model is watched already: attach once a model, and use the agent that the first call returned"
        )
        raise AlreadyAttachedError(message)
    if watched_run(identity.run) is not None:
        message = (
            f"run={identity.run!r} is spoken for by another model of this process: "
            f"pass run='{identity.run}/name' with a name for this one"
        )
        raise AlreadyAttachedError(message)
    try:
        core = Core(settings, identity, seen, optimizers)
    except Exception as error:
        # Not the user's mistake, so not the user's trouble.
        logger.warning("stallwatch: not watching, internal error: %r", error, exc_info=error)
        return Agent(None)
    claim(core)
    return Agent(core)


def _optimizers(given: Any) -> list[torch.optim.Optimizer]:
    import torch

    if given is None:
        return []
    several = list(given) if isinstance(given, Sequence) else [given]
    if not several:
        message = "optimizer is an empty sequence: pass at least one optimizer, or None to follow the first that steps"
        raise ConfigurationError(message)
    found = []
    for each in several:
        inner = each
        # Accelerate and others wrap an optimizer in one that never calls its own hooks.
        while isinstance(getattr(inner, "optimizer", None), torch.optim.Optimizer):
            inner = inner.optimizer
        if not isinstance(inner, torch.optim.Optimizer):
            message = f"optimizer is a {type(each).__name__}, not a torch.optim.Optimizer: pass the optimizer that steps"
            raise ConfigurationError(message)
        found.append(inner)
    return found
