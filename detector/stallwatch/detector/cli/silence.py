"""`stallwatch silence`."""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Any

import typer

from stallwatch.detector.cli.api import (
    DEFAULT_SERVER,
    JsonOption,
    Server,
    ServerOption,
    TlsCaOption,
    TokenFileOption,
)
from stallwatch.detector.errors import UsageError
from stallwatch.detector.printable import printable_values

_PART = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def silence(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="Name of the run, or a pattern with * and ?; every run when not given."
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Only findings of this kind; every kind when not given."),
    ] = None,
    lasting: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long, like 30m, 2h or 1d12h.")
    ] = "2h",
    comment: Annotated[str, typer.Option(help="Why, for whoever finds the silence.")] = "",
    list_them: Annotated[bool, typer.Option("--list", help="List the silences that hold.")] = False,
    delete: Annotated[str | None, typer.Option(metavar="ID", help="End this silence now.")] = None,
    server: ServerOption = DEFAULT_SERVER,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep alerts about a run, or a kind of finding, quiet for a while.

    Nothing is sent about it, and the rules for Prometheus leave it out; findings are shown as before.

    Examples: `stallwatch silence bert-17 --for 2h --comment "new data"`, `stallwatch silence 'bert-*' --kind straggler`,
    `stallwatch silence --list`, `stallwatch silence --delete ID`.
    """
    detector = Server(server, token_file, tls_ca)
    if list_them or delete is not None:
        if run is not None or kind is not None or (list_them and delete is not None):
            raise UsageError("--list and --delete go alone: without a run, a kind, or each other")
        if delete is not None:
            detector.unsilence(delete)
            typer.echo(f"Silence {delete} is over.", err=True)
            return
        known = detector.silences()
        if as_json:
            typer.echo(json.dumps(known, indent=2))
        for each in () if as_json else known:
            typer.echo(_line(each))
        if not known and not as_json:
            typer.echo("No silence holds.", err=True)
        return
    if run is None and kind is None:
        raise UsageError("say which run is to be silenced, or with --kind which kind of finding")
    begun = detector.silence({"run": run, "kind": kind, "seconds": seconds(lasting), "comment": comment})
    typer.echo(json.dumps(begun, indent=2) if as_json else _line(begun))


def seconds(text: str) -> float:
    """A duration like 2h or 1d12h in seconds."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"--for {text!r} is no duration: write it like 30m, 2h or 1d12h")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _line(silence_: dict[str, Any]) -> str:
    silence_ = printable_values(silence_)
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(silence_["expires_at"]))
    comment = f": {silence_['comment']}" if silence_["comment"] else ""
    return f"{silence_['id']}  run {silence_['run'] or '*'}, kind {silence_['kind'] or '*'}, until {until}{comment}"
