"""`stallwatch show`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from stallwatch.detector.cli import EXIT_FOUND
from stallwatch.detector.cli.api import (
    DEFAULT_SERVER,
    JsonOption,
    Server,
    ServerOption,
    TlsCaOption,
    TokenFileOption,
    is_worrying,
)


def show(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Name of the run, as `stallwatch runs` lists it.")
    ],
    server: ServerOption = DEFAULT_SERVER,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how a run is doing, what is wrong with it, since when, where, and what to do.

    Exits with 3 when a finding of severity warning or above is firing.
    """
    detector = Server(server, token_file, tls_ca)
    answer = detector.run(run)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        from stallwatch.detector.cli.text import console, run_report

        resolved = [finding for finding in detector.findings(run) if finding["status"] == "resolved"]
        console().print(run_report(answer, resolved, detector.gaps(run)))
    if is_worrying(answer["findings"]):
        raise typer.Exit(EXIT_FOUND)
