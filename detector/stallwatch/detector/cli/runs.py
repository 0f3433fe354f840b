"""`stallwatch runs`."""

from __future__ import annotations

import json

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


def runs(
    server: ServerOption = DEFAULT_SERVER,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs that the detector knows, the latest first.

    Exits with 3 when a finding of severity warning or above is firing in one of them.
    """
    known = Server(server, token_file, tls_ca).runs()
    if as_json:
        typer.echo(json.dumps(known, indent=2))
    elif known:
        from stallwatch.detector.cli.text import ONE_LINE, console, runs_table

        console(ONE_LINE).print(runs_table(known))
    else:
        typer.echo("No run has reported yet.", err=True)
    if any(is_worrying(run["findings"]) for run in known):
        raise typer.Exit(EXIT_FOUND)
