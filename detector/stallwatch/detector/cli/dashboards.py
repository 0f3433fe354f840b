"""`stallwatch dashboards`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stallwatch.detector.alerts.naming import DEFAULT_EXTERNAL_URL
from stallwatch.detector.cli.api import ExternalUrlOption
from stallwatch.detector.errors import UsageError
from stallwatch.detector.mixin.grafana import dashboards_of, file_text


def dashboards(
    names: Annotated[
        list[str] | None, typer.Argument(help="Uids of dashboards; all when none is given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write UID.json files into, instead of printing.")
    ] = None,
    external_url: ExternalUrlOption = DEFAULT_EXTERNAL_URL,
) -> None:
    """Print the Grafana dashboards as JSON, or write them into a folder for provisioning.

    One name prints that dashboard, ready to be imported; several are printed as one object by uid.
    """
    made = dashboards_of(external_url)
    unknown = [name for name in names or () if name not in made]
    if unknown:
        raise UsageError(f"there is no dashboard {unknown[0]}: there are {', '.join(made)}")
    wanted = {name: made[name] for name in names or made}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, board in wanted.items():
            path = out / f"{name}.json"
            path.write_text(file_text(board))
            typer.echo(f"wrote {path}", err=True)
    elif names is not None and len(names) == 1:
        typer.echo(file_text(wanted[names[0]]), nl=False)
    else:
        typer.echo(file_text(wanted), nl=False)
