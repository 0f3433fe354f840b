"""`stallwatch tail`: follow a log that is still being written."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stallwatch.detector.errors import UsageError

if TYPE_CHECKING:
    from stallwatch.detector.cli.relay import Relay
    from stallwatch.detector.importers.follow import FollowedFile, FollowedSource, FollowedStream
    from stallwatch.detector.report.outcome import Outcome

EXIT_FOUND = 3
_POLL_SECONDS = 1.0
# An analysis of a long log takes a second or more: it may take this share of the time.
_BUSY_SHARE = 0.1
_COLUMNS = "Columns"


def tail(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A log that grows, a folder, or TensorBoard's events; - reads what is piped in.",
            allow_dash=True,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: an object a line for each change.")
    ] = False,
    idle: Annotated[
        float | None,
        typer.Option("--idle", metavar="SECONDS", min=0, help="End when nothing was written for so long."),
    ] = None,
    serve: Annotated[
        str | None,
        typer.Option(
            "--serve",
            metavar="HOST:PORT",
            help="Also send it to a detector, where agents stream to: it is a run there, with alerts and page.",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help="Name of the run there.  [default: that of the log]"),
    ] = None,
    total_steps: Annotated[
        int | None, typer.Option("--total-steps", min=1, help="Planned length of the run, where it is known.")
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            "--loss",
            help="Column or key of the training loss; several are added up.",
            rich_help_panel=_COLUMNS,
        ),
    ] = None,
    step: Annotated[
        str | None, typer.Option("--step", help="Column or key of the step.", rich_help_panel=_COLUMNS)
    ] = None,
    learning_rate: Annotated[
        str | None, typer.Option("--lr", help="Column or key of the learning rate.", rich_help_panel=_COLUMNS)
    ] = None,
) -> None:
    """Follow a log while it is written, and say what `watch` would: a line for each change of state and each finding.

    For jobs into which no agent can be put. The log may be rotated or emptied meanwhile. Ends with the input, after
    `--idle`, or with Ctrl-C; exits with 3 when a finding of severity warning or above is firing then.

    Examples: `stallwatch tail train.log`, `python train.py 2>&1 | tee log | stallwatch tail -`.
    """
    from stallwatch.detector.importers import LogError, Selection

    losses = tuple(loss or ())
    selection = Selection(
        losses[0] if len(losses) == 1 else None,
        step,
        learning_rate,
        losses=losses if len(losses) > 1 else (),
    )
    last: dict[str, Outcome] = {}
    teller = _Teller(as_json=as_json)
    relay: Relay | None = None
    ended = False
    try:
        with contextlib.suppress(KeyboardInterrupt):
            for outcomes in _looks(_source(path, selection), idle, total_steps):
                last = {outcome.log.name: outcome for outcome in outcomes}
                teller.tell(outcomes)
                if serve is not None:
                    # Of several runs in one log the last is the one that goes on.
                    relay = relay or _relay(serve, run or outcomes[-1].log.name, total_steps)
                    relay.send(outcomes[-1].log)
            ended = True
    except LogError as error:
        raise UsageError(str(error)) from None
    finally:
        if relay is not None and not relay.close(finished=ended):
            typer.echo(f"stallwatch tail: --serve {serve}: not all of it has reached the detector", err=True)
    if any(
        finding.status == "firing" and finding.severity != "info"
        for each in last.values()
        for finding in each.findings
    ):
        raise typer.Exit(EXIT_FOUND)


def _relay(endpoint: str, name: str, total_steps: int | None) -> Relay:
    try:
        from stallwatch.detector.cli.relay import Relay, run_name
        from stallwatch.v1 import telemetry_pb2  # noqa: F401  to know that gRPC is there
    except ImportError:
        raise UsageError("--serve needs gRPC: pip install stallwatch") from None
    if not endpoint.rpartition(":")[2].isdigit():
        raise UsageError(f"--serve {endpoint} is no address: give it like 127.0.0.1:9846")
    return Relay(endpoint, run_name(name), total_steps)


def _source(path: Path, selection: Any) -> FollowedFile | FollowedSource | FollowedStream:
    from stallwatch.detector.importers.follow import FollowedStream, followed

    if str(path) == "-":
        return FollowedStream(sys.stdin.buffer, "standard input", selection)
    return followed(path, selection)


def _looks(
    source: FollowedFile | FollowedSource | FollowedStream, idle: float | None, total_steps: int | None
) -> Iterator[list[Outcome]]:
    """The verdicts whenever there is something new, as often as their own cost allows."""
    from stallwatch.detector.importers import LogError
    from stallwatch.detector.report.replay import replay

    changed, heard, problem, due = False, time.monotonic(), None, 0.0
    while True:
        if source.wait(_POLL_SECONDS):
            changed, heard = True, time.monotonic()
        over = source.ended or (idle is not None and time.monotonic() - heard >= idle)
        if changed and (over or time.monotonic() >= due):
            begun = time.monotonic()
            try:
                logs = source.read()
            except LogError as error:
                problem = error
            else:
                problem = None
                yield [replay(log, total_steps=total_steps) for log in logs]
            changed = False
            due = time.monotonic() + max((time.monotonic() - begun) / _BUSY_SHARE, _POLL_SECONDS)
        if over:
            if problem is not None:
                raise problem
            return


class _Teller:
    """Says what is new in each verdict, once."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._states: dict[str, tuple[str, float]] = {}
        self._findings: dict[tuple[str, str, int], tuple[str, str]] = {}
        self._read: set[str] = set()

    def tell(self, outcomes: list[Outcome]) -> None:
        """Changes of state and findings, with the place at which each was called."""
        from stallwatch.detector.cli.text import finding_line, number, words
        from stallwatch.detector.report.document import document, finding_document

        for outcome in outcomes:
            log = outcome.log
            run = f"{log.name}: " if len(outcomes) > 1 else ""
            if log.name not in self._read:
                self._read.add(log.name)
                if not self._json:
                    taken = ", ".join(
                        f"{role.replace('_', ' ')} '{column}'" for role, column in log.columns.items()
                    )
                    typer.echo(f"{run}following {log.file}: {taken}")
            entry = outcome.states[-1]
            if self._states.get(log.name) != (entry.state, entry.from_step):
                self._states[log.name] = (entry.state, entry.from_step)
                level = outcome.final.level if outcome.final is not None else None
                since = "" if entry.state == "warming_up" else f" since {_place(entry.since_step)}"
                said = f"{run}{log.axis} {_place(entry.from_step)}: {words(entry.state)}{since}, loss {number(level)}"
                typer.echo(json.dumps({"run": document(outcome)}, allow_nan=False) if self._json else said)
            for finding in outcome.findings:
                key, now = (log.name, finding.kind, finding.since_step), (finding.status, finding.severity)
                if self._findings.get(key) == now:
                    continue
                self._findings[key] = now
                told = finding_document(finding)
                said = f"{run}{log.axis} {_place(outcome.last_step)}: {finding_line(told)}"
                typer.echo(json.dumps({"finding": told}, allow_nan=False) if self._json else said)
        sys.stdout.flush()


def _place(step: float) -> str:
    return f"{step:,.6g}" if step < 1e6 else f"{step:,.0f}"
