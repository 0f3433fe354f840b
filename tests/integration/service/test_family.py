"""Runs of one family are compared by the service: where they go flat together, and who got through."""

from __future__ import annotations

import pytest

from support.plateaus import flat_steps
from support.waiting import wait_until

STEPS = 1500


def plateau(service, run: str):
    """The firing plateau of a run, if it has one."""
    answer = service.get(f"/api/v1/runs/{run}/findings?status=firing")
    return next((each for each in answer["findings"] if each["kind"] == "plateau"), None) if answer else None


def common(service, run: str) -> str:
    """What is said of a run's family under its plateau; empty when nothing is."""
    found = plateau(service, run)
    causes = found["causes"] if found else []
    return next((each["reason"] for each in causes if each["kind"] == "common_plateau"), "")


@pytest.mark.timeout(240)
def test_runs_of_a_group_that_go_flat_at_the_same_loss_are_told_so(service, attach, run):
    """At learning rates from 0.001 to 0.1; a fourth one got through, and is named with what differs."""
    settings = {"a": (0.1, 1.0, 1), "b": (0.01, 1.0, 2), "c": (0.001, 1.0, 5), "d": (0.3, 0.2, 4)}
    for number, (name, (rate, floor, seed)) in enumerate(settings.items()):
        rank = attach(
            run=f"{run}/{name}", group=run, model="Net", incarnation=1_700_000_000_000_000_000 + number
        )
        for block in flat_steps(STEPS, floor, rate, seed):
            rank.send(block)
        rank.wait_durable()

    for name in ("a", "b", "c"):
        others = ", ".join(f"{run}/{other}" for other in "abc" if other != name)

        def told(name: str = name, others: str = others) -> bool:
            reason = common(service, f"{run}/{name}")
            through = (
                f"instead of {settings[name][0]:g}" in reason and f"{run}/d got through to 0.2" in reason
            )
            return through and f"({others}), at learning rates from 0.001 to 0.1" in reason

        wait_until(f"the family under the plateau of {name}", told)
    found = plateau(service, f"{run}/a")
    line = next(
        each for each in found["evidence"]["family"] if each.startswith(f"{run}/d: got through to 0.2")
    )
    assert line.endswith("(learning rate 0.3 instead of 0.1)")
    assert service.get(f"/api/v1/runs/{run}/a")["group"] == run
    assert "at the same loss," not in common(service, f"{run}/d")


@pytest.mark.timeout(240)
def test_a_family_goes_on_from_the_store(service, attach, run):
    """Two seeds are over and out of memory when the third goes flat where they did; their names make them a family."""
    for seed, rate in ((1, 0.1), (2, 0.01)):
        rank = attach(run=f"{run}-s{seed}", incarnation=1_700_000_000_000_000_000 + seed)
        for block in flat_steps(STEPS, 1.0, rate, seed):
            rank.send(block)
        rank.finish()
        wait_until(
            "the end of a run's metrics",
            lambda seed=seed: service.metric("stallwatch_step", run=f"{run}-s{seed}") is None,
        )
    rank = attach(run=f"{run}-s3", incarnation=1_700_000_000_000_000_003)
    for block in flat_steps(STEPS, 1.0, 0.001, 5):
        rank.send(block)
    reason = wait_until("the family from the store", lambda: common(service, f"{run}-s3"))
    assert f"({run}-s1, {run}-s2), at learning rates from 0.001 to 0.1" in reason
