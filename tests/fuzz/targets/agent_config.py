"""What an agent makes of any environment and any arguments of `attach`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from fuzz.trees import changed, invented
from stallwatch.agent import _environment as environment
from stallwatch.agent._config import disabled, resolve
from stallwatch.agent._errors import ConfigurationError
from stallwatch.agent._identity import identify
from stallwatch.v1 import telemetry_pb2 as pb

MAX_BYTES = 4_096
_VARIABLES = (
    *(environment.ENDPOINT, environment.RUN, environment.GROUP, environment.TOKEN, environment.TOKEN_FILE),
    *(environment.TLS_CA, environment.TLS_CERT, environment.TLS_KEY, environment.DISABLED),
    *(
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "NODE_RANK",
        "TORCHELASTIC_RUN_ID",
    ),
    *("TORCHELASTIC_RESTART_COUNT", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "SLURM_JOB_NAME"),
    *(
        "SLURM_ARRAY_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_NTASKS_PER_NODE",
        "KUBERNETES_SERVICE_HOST",
        "POD_NAME",
    ),
    *("JOBSET_NAME", "HOSTNAME", "SLURM_RESTART_COUNT"),
)
_ARGUMENTS = (
    *("run", "group", "endpoint", "token", "dataset_size", "base_lr", "base_batch_size", "sample_every"),
    *("overhead_budget", "on_finding", "start_step", "total_steps", "local_steps", "accumulation_steps"),
)
_VALUES = (
    *(
        "127.0.0.1:9846",
        "http://host:1",
        "https://[::1]:9846/",
        "unix:///tmp/x",
        "grpc://h:0",
        "h:²",
        "h:" + "9" * 5000,
    ),
    *(
        "a",
        "a/b:c",
        "team run",
        "é",
        "\n",
        "1",
        "0",
        "yes",
        "²",
        "٣",
        "-1",
        "9" * 30,
        "9" * 5000,
        "/dev/null",
        "/",
        "\udcff",
        "a" * 129,
    ),
)
_PLAIN = json.dumps(
    {"environment": {"RANK": "0", "WORLD_SIZE": "2", environment.ENDPOINT: "h:1"}, "arguments": {}}
)


def seeds() -> Iterator[bytes]:
    """A rank of torchrun, one of Slurm, a pod, and arguments."""
    yield _PLAIN.encode()
    for variables, arguments in (
        (
            {
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_JOB_ID": "7",
                "SLURM_JOB_NAME": "train",
            },
            {},
        ),
        ({"KUBERNETES_SERVICE_HOST": "h", "POD_NAME": "train-worker-3"}, {"run": "a", "sample_every": 4}),
        (
            {environment.TLS_CA: "/dev/null", environment.DISABLED: "no"},
            {"total_steps": 10, "overhead_budget": 0.5},
        ),
    ):
        yield json.dumps({"environment": variables, "arguments": arguments}).encode()


def one(data: bytes) -> None:
    """Settings and an identity that the wire can hold, or one kind of error."""
    try:
        given = json.loads(data)
        variables = {str(name): str(value) for name, value in given["environment"].items()}
        arguments = {name: value for name, value in given["arguments"].items() if name in _ARGUMENTS}
        probes = given.get("probes")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
    if any("\0" in text for text in (*variables, *variables.values())):
        # No environment can hold it.
        return
    with contextlib.suppress(ConfigurationError):
        disabled(variables)
    with contextlib.suppress(ConfigurationError):
        settings = resolve(variables, **arguments, probes=probes if isinstance(probes, dict) else None)
        identity = identify(settings.run, variables)
        pb.Hello(
            run=identity.run,
            group=settings.group,
            rank=identity.rank,
            world_size=identity.world_size,
            local_rank=identity.local_rank,
            local_world_size=identity.local_world_size,
            node_rank=identity.node_rank,
            restart_count=identity.restart_count,
            launch_id=identity.launch_id,
            dataset_size=settings.dataset_size,
            total_steps=settings.total_steps,
            local_steps=settings.local_steps,
            accumulation_steps=settings.accumulation_steps,
            first_step=settings.start_step or 0,
            base_learning_rate=settings.base_lr,
            base_batch_size=settings.base_batch_size,
        )


def mutate(data: bytes, random: Random) -> bytes:
    """A variable or an argument."""
    try:
        given: dict[str, Any] = json.loads(data)
        for _ in range(random.randint(1, 3)):
            action = random.random()
            if action < 0.6:
                given["environment"][random.choice(_VARIABLES)] = random.choice(_VALUES)
            elif action < 0.9:
                value = random.choice((random.choice(_VALUES), invented(random)))
                given["arguments"][random.choice(_ARGUMENTS)] = value
            else:
                given["probes"] = changed({"stacks": True, "inputs": False}, random)
        return json.dumps(given).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return _PLAIN.encode()
