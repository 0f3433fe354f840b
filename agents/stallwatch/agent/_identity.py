"""Which rank of which run this process is, from torch.distributed or what the launcher left in the environment."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stallwatch.agent._config import NAME_PATTERN

_LAUNCH_CHARACTERS = 256
"""The detector takes no more."""
_UNFIT = re.compile(r"[^A-Za-z0-9._/:-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One rank process of one run."""

    run: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    restart_count: int
    launch_id: str
    hostname: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    incarnation: int = field(default_factory=time.time_ns)


def identify(run: str | None, variables: Mapping[str, str] = os.environ) -> Identity:
    """Returns this process's identity; `run` is the name that the user gave, if any."""
    rank, world_size = _place(variables)
    launch_id = _launch_id(variables)
    return Identity(
        run=run or _run_name(variables, launch_id),
        rank=rank,
        world_size=world_size,
        local_rank=_number(variables, "LOCAL_RANK", "SLURM_LOCALID"),
        local_world_size=_number(variables, "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", default=1),
        node_rank=_number(variables, "GROUP_RANK", "NODE_RANK", "SLURM_NODEID"),
        restart_count=_number(variables, "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"),
        launch_id=launch_id,
    )


def _place(variables: Mapping[str, str]) -> tuple[int, int]:
    """Rank and world size: torch.distributed knows best, then torchrun, then srun."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank()), int(distributed.get_world_size())
    # SLURM_NTASKS is also there in a batch step that runs one plain process; the size of the step is not fooled.
    for rank_name, size_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        rank = _number(variables, rank_name, default=-1)
        size = _number(variables, size_name, default=-1)
        if 0 <= rank < size:
            return rank, size
    return 0, 1


def _launch_id(variables: Mapping[str, str]) -> str:
    # What cannot be sent is no more than a name for display: bytes that are no text are replaced, and it has an end.
    identifier = (
        variables.get("TORCHELASTIC_RUN_ID", "").encode(errors="replace").decode()[:_LAUNCH_CHARACTERS]
    )
    # "none" is torchrun's default of --rdzv-id: it says nothing, and every job on a cluster would share it.
    if identifier and identifier != "none":
        return identifier
    job = variables.get("SLURM_ARRAY_JOB_ID") or variables.get("SLURM_JOB_ID") or ""
    task = variables.get("SLURM_ARRAY_TASK_ID", "")
    name = f"slurm-{job}_{task}" if job and task else f"slurm-{job}" if job else ""
    return name.encode(errors="replace").decode()[:_LAUNCH_CHARACTERS]


def _run_name(variables: Mapping[str, str], launch_id: str) -> str:
    if variables.get("SLURM_JOB_ID") and launch_id.startswith("slurm-"):
        title = variables.get("SLURM_JOB_NAME", "")
        # The name of a job is not unique, its number is.
        candidates = [f"{title}-{launch_id.removeprefix('slurm-')}" if title else launch_id]
    else:
        candidates = [launch_id]
    candidates.append(_kubernetes_job(variables))
    candidates.append(Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in {"", "-c", "-m"} else "")
    for candidate in candidates:
        name = _UNFIT.sub("-", candidate).lstrip("._/:-")[:128]
        if NAME_PATTERN.match(name):
            return name
    return "training"


def _kubernetes_job(variables: Mapping[str, str]) -> str:
    """Name of the Kubernetes job, told by what all of its pods share of their names."""
    if "KUBERNETES_SERVICE_HOST" not in variables:
        return ""
    for variable in ("JOBSET_NAME", "RAYJOB_NAME", "JOB_NAME"):
        if variables.get(variable):
            return variables[variable]
    pod = variables.get("POD_NAME") or variables.get("HOSTNAME", "")
    # Kubeflow: train-worker-3, train-master-0; indexed Job: train-3-x7k2p.
    shared = re.match(r"(.+?)-(?:(?:master|worker|node|launcher)-(?:\d+-)*\d+|\d+)(?:-[a-z0-9]{5})?\Z", pod)
    return shared.group(1) if shared else ""


def _number(variables: Mapping[str, str], *names: str, default: int = 0) -> int:
    for name in names:
        value = variables.get(name, "")
        # ASCII and short: other digits and larger numbers are none that a launcher writes, or that the wire can hold.
        if value.isascii() and value.isdigit() and len(value) < 10:
            return int(value)
    return default
