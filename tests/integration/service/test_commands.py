"""The commands against a running detector: data on standard output, exit codes, one sentence for what is wrong."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys

import pytest

from support.rank import Rank, hello, steps
from support.waiting import wait_until


def command(*arguments: str) -> list[str]:
    """A command line of ours."""
    return [sys.executable, "-m", "stallwatch.detector", *arguments]


def stallwatch(service, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command against the detector."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        env={**os.environ, "STALLWATCH_SERVER": service.url, **environment},
    )


def sick(rank: Rank) -> None:
    """Send steps of which one has a NaN loss."""
    block = steps(0, 20)
    block.loss_sum[15] = math.nan
    rank.send(block)


def shown(service, rank: Rank, step: int):
    """Wait until the API shows a step."""
    wait_until("the step", lambda: service.metric("stallwatch_step", run=rank.hello.run) == step)


@pytest.mark.timeout(120)
def test_show_and_runs_tell_a_finding_and_exit_with_3(service, attach, run):
    """The same sentence in text and JSON; no colour codes in a pipe."""
    rank = attach()
    sick(rank)
    shown(service, rank, 19)
    text = stallwatch(service, "show", run)
    assert text.returncode == 3, text.stderr
    data = stallwatch(service, "show", run, "--json")
    assert data.returncode == 3
    (finding,) = json.loads(data.stdout)["findings"]
    for part in (finding["reason"], *finding["advice"], f"since step {finding['since_step']}, rank 0"):
        assert part in " ".join(text.stdout.split())
    assert "\x1b" not in text.stdout
    assert text.stderr == data.stderr == ""
    listed = stallwatch(service, "runs", "--json")
    assert listed.returncode == 3
    assert run in [one["run"] for one in json.loads(listed.stdout)]
    (row,) = [line for line in stallwatch(service, "runs").stdout.splitlines() if line.startswith(f"{run} ")]
    assert "non_finite" in row


@pytest.mark.timeout(120)
def test_show_of_a_healthy_run_exits_with_0(service, attach, run):
    """And says so."""
    rank = attach()
    rank.send(steps(0, 60))
    shown(service, rank, 59)
    ran = stallwatch(service, "show", run)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "No finding is firing." in ran.stdout


def test_show_of_an_unknown_run_says_where_to_look(service):
    """One sentence, exit code 2."""
    ran = stallwatch(service, "show", "nobody")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "stallwatch: there is no run 'nobody': GET /api/v1/runs lists the runs\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("as_json", [False, True])
def test_watch_prints_a_line_a_change_until_the_run_ends(service, run, as_json):
    """Without a terminal; it exits with 3 when a finding is left."""
    rank = Rank(service.grpc_address, hello(run))
    rank.send(steps(0, 10))
    shown(service, rank, 9)
    arguments = ["watch", run, "--server", service.url, *(["--json"] if as_json else [])]
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        first = watching.stdout.readline()
        block = steps(10, 20)
        block.loss_sum[15] = math.nan
        rank.send(block)
        second = watching.stdout.readline()
        rank.finish()
        lines = [first, second, *watching.stdout]
        assert watching.stderr.read() == ""
    if as_json:
        decoded = [json.loads(line) for line in lines]
        assert decoded[0]["run"]["run"] == run
        assert any(line.get("finding", {}).get("kind") == "non_finite" for line in decoded)
        assert decoded[-1].get("run", decoded[-1]).get("state", "finished") == "finished"
    else:
        assert any("non_finite since step 25, rank 0" in line for line in lines), lines
        assert any("finished" in line for line in lines), lines
    assert watching.returncode == 3


@pytest.mark.timeout(120)
def test_watch_draws_in_a_terminal(service, attach, run):
    """A live view, with the finding's sentence."""
    import pty
    import select

    rank = attach()
    sick(rank)
    shown(service, rank, 19)
    master, slave = pty.openpty()
    with subprocess.Popen(
        # Whoever runs the tests in the background ignores interrupts, and children inherit that.
        ["env", "--default-signal=INT", *command("watch", run, "--server", service.url)],
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    ) as watching:
        os.close(slave)
        seen = b""

        def drawn() -> bool:
            nonlocal seen
            if select.select([master], [], [], 0.1)[0]:
                # When nobody holds the other end any more, there is nothing to read, which is an error of a terminal.
                with contextlib.suppress(OSError):
                    seen += os.read(master, 65536)
            return b"The loss was NaN first at step 15" in seen and b"\x1b[" in seen

        wait_until("the view", drawn)
        watching.send_signal(2)
        # A terminal that nobody reads fills up, and its writer waits for ever, on its way out as well.
        wait_until("its end", lambda: (drawn(), watching.poll() is not None)[1], seconds=20)
        assert watching.returncode == 3
    os.close(master)


@pytest.mark.timeout(180)
def test_doctor_sends_a_message_end_to_end(service, tmp_path):
    """Through a detector of its own; the one that runs is left alone."""
    ran = stallwatch(
        service,
        *("doctor", "--json", "--data-dir", str(tmp_path)),
        STALLWATCH_GRPC_PORT=str(service.grpc_port),
        STALLWATCH_HTTP_PORT=str(service.http_port),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    checks = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    assert "used by a detector that is running" in checks["grpc_port"]["says"]
    assert checks["end to end"]["status"] == "ok"
    assert service.get("/api/v1/runs/doctor") is None


def test_doctor_says_what_to_fix(service, tmp_path):
    """A port that something else has, a folder that is none, a cluster that is not there."""
    (tmp_path / "file").write_text("")
    ran = stallwatch(
        service,
        *("doctor", "--data-dir", str(tmp_path / "file" / "data"), "--ray-address", "127.0.0.1:9"),
        STALLWATCH_GRPC_PORT=str(service.http_port),
        STALLWATCH_HTTP_PORT="0",
    )
    assert ran.returncode == 1
    assert "PROBLEM grpc_port" in ran.stdout
    assert "choose another --grpc-port" in ran.stdout
    assert "PROBLEM store: cannot write to" in ran.stdout
    assert "PROBLEM ray: no Ray cluster at 127.0.0.1:9" in ran.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("which", ["grpc", "http"])
def test_a_port_in_use_is_one_sentence(service, tmp_path, which):
    """Exit code 2, naming the option."""
    ports = {"grpc": 0, "http": 0, which: getattr(service, f"{which}_port")}
    ran = stallwatch(
        service,
        *("serve", "--data-dir", str(tmp_path)),
        *("--grpc-port", str(ports["grpc"]), "--http-port", str(ports["http"])),
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    (sentence,) = ran.stderr.splitlines()
    assert f"choose another --{which}-port" in sentence


def test_the_page_and_the_probes_answer(service):
    """As a browser and a kubelet see them."""
    status, page = service.fetch("/")
    assert status == 200
    assert "<h1>Runs</h1>" in page
    assert service.fetch("/readyz") == (200, "ok\n")
