"""`stallwatch silence` on a real service: what is silenced stays so over a restart, and Prometheus is told."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from support.rank import steps
from support.waiting import wait_until


def stallwatch(service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command against the service."""
    command = [sys.executable, "-m", "stallwatch.detector", *arguments, "--server", service.url]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.timeout(150)
def test_a_silence_holds_over_a_restart_until_it_is_deleted(service, attach, run):
    """And is seen in the metrics that the rules read."""
    rank = attach()
    block = steps(0, 20)
    block.loss_sum[15] = math.nan
    rank.send(block)
    rank.wait_durable()
    wait_until("the finding", lambda: service.metric("stallwatch_finding_active", run=run, kind="non_finite"))
    begun = stallwatch(
        service, "silence", run, "--kind", "non_finite", "--for", "1h30m", "--comment", "known"
    )
    assert begun.returncode == 0, begun.stderr
    identity = begun.stdout.split()[0]
    assert f"run {run}, kind non_finite, until " in begun.stdout

    def silenced() -> bool:
        return service.metric("stallwatch_finding_silenced", run=run, kind="non_finite") == 1

    assert silenced()
    service.restart()
    wait_until("the silence again", silenced)
    (alert,) = service.get(f"/api/v1/alerts?run={run}")["alerts"]
    assert (alert["status"], alert["silence"]) == ("firing", identity)
    assert identity in stallwatch(service, "silence", "--list").stdout
    assert stallwatch(service, "silence", "--delete", identity).returncode == 0
    assert not silenced()
    again = stallwatch(service, "silence", "--delete", identity)
    assert (again.returncode, f"no silence '{identity}' holds" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--for", "1h"), "say which run is to be silenced"),
        (("a", "--for", "soon"), "--for 'soon' is no duration"),
        (("a", "--kind", "hung"), "kind is 'hung'"),
        (("a", "--list"), "go alone"),
        (("--list", "--delete", "x"), "go alone"),
    ],
)
def test_what_is_wrong_is_said_and_exits_with_2(service, arguments, says):
    """The message names the option, or the service's own words are shown."""
    done = stallwatch(service, "silence", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
