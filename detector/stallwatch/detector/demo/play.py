"""Plays the demo: follows the job over the service's API, tells each act as it ends, and judges."""

from __future__ import annotations

import json
import subprocess
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stallwatch.detector.demo.acts import ACTS, CUT_AT, RUN, Judgement, judge
from stallwatch.detector.demo.stage import DemoError

POLL_SECONDS = 0.5
SETTLE_SECONDS = 20.0
"""After the job has ended: time for what it sent last to be analyzed."""
PLAY_SECONDS = 600.0


class Api:
    """The service's JSON API, as far as the demo reads it."""

    def __init__(self, base: str) -> None:
        self.base = base

    def get(self, path: str) -> Any:
        """The decoded answer, or None when there is none yet."""
        try:
            with urllib.request.urlopen(self.base + path, timeout=10) as answer:  # noqa: S310  our own address
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise DemoError(f"{self.base}{path} answered {error.code}: {error.read().decode()}") from error
        except OSError as error:
            raise DemoError(f"{self.base}{path} did not answer: {error}") from error

    def run(self) -> Mapping[str, Any] | None:
        """The demo's run, once its first rank has reported."""
        return self.get(f"/api/v1/runs/{RUN}")  # type: ignore[no-any-return]

    def findings(self) -> list[Mapping[str, Any]]:
        """Every finding of the run, in the order in which they were called."""
        answer = self.get(f"/api/v1/runs/{RUN}/findings?status=all") or {"findings": []}
        return sorted(answer["findings"], key=lambda finding: finding["detected_step"])


def follow(api: Api, job: subprocess.Popen[bytes], directory: Path, console: Console) -> list[Judgement]:
    """Show the job's progress until it has ended, and return the judgement of every act."""
    deadline = time.monotonic() + PLAY_SECONDS
    told = 0
    with Progress(
        TextColumn("step {task.completed:>5.0f}"),
        BarColumn(40),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("starting four ranks", total=CUT_AT * 1.5)
        while job.poll() is None:
            if time.monotonic() > deadline:
                raise DemoError(
                    f"the job was still training after {PLAY_SECONDS:.0f} s; see {directory}/training.log"
                )
            run = api.run()
            if run is not None:
                progress.update(task, completed=run["step"], description=describe(run))
                told = tell_ended_acts(api, run["step"], told, console)
                if any(finding["kind"] == "plateau" for finding in run["findings"]):
                    (directory / "stop").touch()
            time.sleep(POLL_SECONDS)
    if job.returncode != 0:
        raise DemoError(
            f"the training job ended with exit code {job.returncode}; its log is {directory}/training.log"
        )
    wait_until_finished(api)
    judgements = judge(api.findings())
    for judgement in judgements[told:]:
        tell(judgement, console)
    return judgements


def describe(run: Mapping[str, Any]) -> str:
    """One line on where the run stands."""
    act = next((act for act in reversed(ACTS) if run["step"] >= act.from_step), ACTS[0])
    value = run["loss"]["value"]
    firing = ", ".join(finding["kind"] for finding in run["findings"]) or "no findings"
    return f"act {ACTS.index(act) + 1}: {act.title} | loss {'-' if value is None else format(value, '.3f')} | {firing}"


def tell_ended_acts(api: Api, step: int, told: int, console: Console) -> int:
    """Tell every act that is over for good; acts tell what was called in them, so they have to be over first."""
    while told < len(ACTS) - 1 and step >= ACTS[told].to_step:
        tell(judge(api.findings())[told], console)
        told += 1
    return told


def wait_until_finished(api: Api) -> None:
    """Wait until the service has seen every rank say goodbye."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        run = api.run()
        if run is not None and run["state"] == "finished":
            return
        time.sleep(POLL_SECONDS)
    raise DemoError(f"the job ended, but the service did not see it finish within {SETTLE_SECONDS:.0f} s")


def tell(judgement: Judgement, console: Console) -> None:
    """Print one act: what was injected, what was said, whether that is right."""
    act = judgement.act
    number = ACTS.index(act) + 1
    console.print(f"\n[bold]Act {number}: {act.title}[/bold]  (from step {act.from_step})", highlight=False)
    _print("injected  ", act.injected, console)
    if not judgement.said:
        _print("Stallwatch", "says nothing", console)
    for finding in judgement.said:
        _print("Stallwatch", f"{finding['severity']} {finding['kind']}: {finding['reason']}", console)
        _print("          ", _facts(finding), console)
        for step in finding["advice"]:
            _print("  advice  ", step, console)
    for sentence in judgement.wrong:
        console.print(f"  [red]{sentence}[/red]", highlight=False)
    if not judgement.wrong:
        console.print("  [green]as it should be[/green]", highlight=False)


def _facts(finding: Mapping[str, Any]) -> str:
    ranks = f", ranks {', '.join(map(str, finding['ranks']))}" if finding["ranks"] else ""
    end = f", resolved at step {finding['resolved_step']}" if finding["status"] == "resolved" else ""
    return f"since step {finding['since_step']}, called at step {finding['detected_step']}{ranks}{end}"


def _print(label: str, text: str, console: Console) -> None:
    indent = " " * (len(label) + 4)
    width = max(60, min(console.width, 110))
    console.print(
        textwrap.fill(text, width, initial_indent=f"  {label}  ", subsequent_indent=indent),
        highlight=False,
        markup=False,
    )
