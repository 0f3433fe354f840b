"""Rank and run name from what launchers leave in the environment."""

from __future__ import annotations

import sys

import pytest

from stallwatch.agent._config import NAME_PATTERN
from stallwatch.agent._identity import identify

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_RUN_ID": "job-7",
}


def test_torchrun():
    """All that torchrun says is taken."""
    identity = identify(None, TORCHRUN)
    assert (identity.rank, identity.world_size, identity.local_rank, identity.local_world_size) == (
        5,
        8,
        1,
        4,
    )
    assert (identity.node_rank, identity.restart_count, identity.launch_id) == (1, 2, "job-7")
    assert identity.run == "job-7"


def test_default_run_id_of_torchrun_is_no_name(monkeypatch):
    """The word none would be the run of everybody; the script's name is better."""
    monkeypatch.setattr(sys, "argv", ["/home/me/train_gpt.py"])
    identity = identify(None, {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"})
    assert identity.run == "train_gpt"
    assert identity.launch_id == ""


def test_slurm():
    """Srun's rank; the job's name made unique by its number."""
    identity = identify(
        None,
        {
            "SLURM_PROCID": "3",
            "SLURM_STEP_NUM_TASKS": "4",
            "SLURM_LOCALID": "1",
            "SLURM_NODEID": "1",
            "SLURM_JOB_ID": "991",
            "SLURM_JOB_NAME": "my job",
            "SLURM_RESTART_COUNT": "1",
        },
    )
    assert (identity.rank, identity.world_size, identity.node_rank, identity.restart_count) == (3, 4, 1, 1)
    assert identity.run == "my-job-991"


def test_slurm_batch_step_with_one_process_is_one_process():
    """SLURM_NTASKS counts what the job may start, not what runs."""
    identity = identify("x", {"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "1"})
    assert (identity.rank, identity.world_size) == (0, 1)


@pytest.mark.parametrize(
    ("pod", "job"),
    [("train-worker-3", "train"), ("train-master-0", "train"), ("gpt-small-2-x7k2p", "gpt-small")],
)
def test_kubernetes_pods_share_their_jobs_name(pod, job):
    """Kubeflow and indexed jobs."""
    assert identify(None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": pod}).run == job


@pytest.mark.parametrize("argument", ["", "-c", "/x/ .py", "/x/t\u00e4st.py", "/x/" + "y" * 300])
def test_derived_names_are_always_valid(monkeypatch, argument):
    """Whatever the script is called, the name can be sent."""
    monkeypatch.setattr(sys, "argv", [argument])
    assert NAME_PATTERN.match(identify(None, {}).run)


def test_nonsense_in_the_environment_is_left_out():
    """A rank beyond the world, a number that is none."""
    assert identify("x", {"RANK": "9", "WORLD_SIZE": "8"}).rank == 0
    assert identify("x", {"RANK": "one", "WORLD_SIZE": "8"}).world_size == 1


def test_later_process_has_a_larger_incarnation():
    """The incarnation orders the processes of a rank."""
    assert identify("x", {}).incarnation < identify("x", {}).incarnation


@pytest.mark.parametrize("value", ["²", "٣", "9" * 30, "9" * 5000, "-1", "1.5"])
def test_what_is_no_number_of_a_launcher_is_left_out(value):
    """Digits of other scripts, and numbers that no rank can have; found by fuzzing."""
    identity = identify("run", dict.fromkeys(TORCHRUN, value))
    assert (identity.rank, identity.world_size, identity.restart_count) == (0, 1, 0)


def test_a_launch_id_can_always_be_sent():
    """The wire takes text of a length, an environment any bytes; found by fuzzing."""
    identity = identify("run", {**TORCHRUN, "TORCHELASTIC_RUN_ID": "\udcff" * 300})
    assert identity.launch_id == "?" * 256
