"""`stallwatch watch`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from stallwatch.detector.cli import EXIT_FOUND
from stallwatch.detector.cli.api import (
    DEFAULT_SERVER,
    JsonOption,
    Server,
    ServerOption,
    TlsCaOption,
    TokenFileOption,
    UnreachableError,
    is_worrying,
)

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""A detector that is restarted comes back: until then the view stands still."""
OVER = frozenset({"finished"})


def watch(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Name of the run, as `stallwatch runs` lists it.")
    ],
    server: ServerOption = DEFAULT_SERVER,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow a run until it finishes: a live view in a terminal, otherwise a line for each change.

    Exits with 3 when a finding of severity warning or above is firing at the end.
    """
    answers = _follow(Server(server, token_file, tls_ca), run)
    shown = _lines(answers, as_json) if as_json or not sys.stdout.isatty() else _live(answers)
    last: deque[dict[str, Any]] = deque(maxlen=1)
    with contextlib.suppress(KeyboardInterrupt):
        last.extend(shown)
    if last and is_worrying(last[0]["findings"]):
        raise typer.Exit(EXIT_FOUND)


def _follow(server: Server, run: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The run and all its findings, once a second, until it is over."""
    answered_at = 0.0
    while True:
        try:
            answer, findings = server.run(run), server.findings(run)
        except UnreachableError:
            if not answered_at or time.monotonic() - answered_at > PATIENCE_SECONDS:
                raise
        else:
            answered_at = time.monotonic()
            yield answer, findings
            if answer["state"] in OVER:
                return
        time.sleep(POLL_SECONDS)


def _lines(
    answers: Iterator[tuple[dict[str, Any], list[dict[str, Any]]]], as_json: bool
) -> Iterator[dict[str, Any]]:
    from stallwatch.detector.cli.text import finding_line, number, words

    state, seen = "", dict[str, tuple[str, str]]()
    for answer, findings in answers:
        if answer["state"] != state:
            state = answer["state"]
            text = f"step {max(answer['step'], 0)}: {words(state)}, loss {number(answer['loss']['value'])}"
            typer.echo(json.dumps({"run": answer}) if as_json else text)
        for finding in findings:
            now = (finding["status"], finding["severity"])
            if seen.get(finding["id"]) != now:
                seen[finding["id"]] = now
                text = f"step {max(answer['step'], 0)}: {finding_line(finding)}"
                typer.echo(json.dumps({"finding": finding}) if as_json else text)
        sys.stdout.flush()
        yield answer


def _live(answers: Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
    from rich.live import Live

    from stallwatch.detector.cli.text import console, run_report

    with Live(console=console(), auto_refresh=False) as live:
        for answer, findings in answers:
            resolved = [finding for finding in findings if finding["status"] == "resolved"]
            live.update(run_report(answer, resolved), refresh=True)
            yield answer
