"""`stallwatch doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stallwatch.detector.cli.api import JsonOption

EXIT_PROBLEM = 1
MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM "}


def doctor(
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that the detector is to use, or uses.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings as TOML.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Head of the Ray cluster that is to be used.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check versions, ports, store and Ray, send a message end to end, and say what to fix.

    The message goes into a temporary detector on free ports: one that runs already is left alone.

    Exits with 0 when all is well, and with 1 when something does not work.
    """
    from stallwatch.detector.service.examination import examine
    from stallwatch.detector.service.settings import load

    settings = load({"data_dir": data_dir, "ray_address": ray_address}, config)
    results = []
    for result in examine(settings):
        results.append(result)
        if not as_json:
            typer.echo(f"{MARKS[result.status]}{result.name}: {result.says}")
            if result.fix:
                typer.echo(f"        fix: {result.fix}")
    if as_json:
        rows = [{"name": one.name, "status": one.status, "says": one.says, "fix": one.fix} for one in results]
        typer.echo(json.dumps({"checks": rows}, indent=2))
    if any(result.status == "problem" for result in results):
        raise typer.Exit(EXIT_PROBLEM)
