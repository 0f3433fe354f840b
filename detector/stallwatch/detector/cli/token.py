"""`stallwatch token`: makes, lists and revokes the tokens of a detector."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from stallwatch.detector.auth.access import LIMITS
from stallwatch.detector.cli.api import JsonOption
from stallwatch.detector.errors import UsageError

token = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke tokens: who may write, read and administer which runs. "
    "The file holds hashes only; the detector reads it again within seconds.",
)
_LASTING = re.compile(r"(\d{1,5})([hdw])\Z")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar="STALLWATCH_TOKENS",
        metavar="FILE",
        help="The tokens file, that of `serve --tokens`.",
    ),
]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Who holds it; shown in logs, so no secret.")
]


@token.command()
def create(
    name: NameArgument,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="SCOPE", help="write, read or administer; may be given again."),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="PATTERN",
            help="Run, or pattern with *, that it is for; may be given again.  [default: *]",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="LASTING", help="How long it is valid, like 90d, 12h or 52w.  [default: for good]"
        ),
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(help="Ranks that may be connected with it at the same time.")
    ] = None,
    max_bytes_per_second: Annotated[int | None, typer.Option(help="Telemetry that is taken from it.")] = None,
    max_runs: Annotated[
        int | None, typer.Option(help="Runs opened with it that may be watched at the same time.")
    ] = None,
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token: print it, this once, and append its hash to the file.

    Example: `stallwatch token create bert --scope write --run 'bert-*' --expires 90d --file tokens.toml > bert.token`
    """
    from stallwatch.detector.auth import files, tokens

    path = _file(file)
    if not scope:
        raise UsageError("say with --scope what the token is for: write, read or administer")
    secret = tokens.new_secret()
    fields: dict[str, Any] = {"name": name, "hash": tokens.hash_of(secret), "scopes": scope}
    fields |= {} if not run else {"runs": run}
    fields |= {} if expires is None else {"expires": _until(expires)}
    limits = (max_streams, max_bytes_per_second, max_runs)
    fields |= dict(zip(LIMITS, limits, strict=True))
    entry = tokens.entry_of(fields)
    files.add(path, entry)
    if as_json:
        typer.echo(json.dumps({"token": secret, "file": str(path), **_shown(entry)}, indent=2))
        return
    typer.echo(secret)
    typer.echo(f"Token {name} is in {path}, as a hash: this is the only time that it is shown.", err=True)


@token.command(name="list")
def list_tokens(file: FileOption = None, as_json: JsonOption = False) -> None:
    """List the tokens: what each is for, and until when."""
    from stallwatch.detector.auth import files

    entries = files.read(_file(file)).entries
    if as_json:
        typer.echo(json.dumps([_shown(entry) for entry in entries], indent=2))
        return
    if not entries:
        typer.echo("There is no token.", err=True)
    for entry in entries:
        shown = _shown(entry)
        word = "expired" if shown["status"] == "expired" else "until"
        until = f", {word} {shown['expires']}" if shown["expires"] else ""
        limits = "".join(
            f", {name.replace('_', ' ')} {shown[name]}" for name in LIMITS if shown[name] is not None
        )
        typer.echo(f"{entry.name}: {', '.join(shown['scopes'])} for {', '.join(entry.runs)}{until}{limits}")


@token.command()
def revoke(name: NameArgument, file: FileOption = None) -> None:
    """Take a token out of the file: its streams end and its readers are refused within seconds."""
    from stallwatch.detector.auth import files

    path = _file(file)
    files.remove(path, name)
    typer.echo(f"Token {name} is no longer in {path}.", err=True)


def _file(file: Path | None) -> Path:
    if file is None:
        raise UsageError("say with --file or STALLWATCH_TOKENS which tokens file is meant")
    return file


def _until(lasting: str) -> datetime:
    found = _LASTING.match(lasting)
    if found is None or not int(found[1]):
        raise UsageError(f"--expires {lasting!r} is no duration: write it like 90d, 12h or 52w")
    now = datetime.now(timezone.utc).replace(microsecond=0)
    return now + int(found[1]) * _UNITS[found[2]]


def _shown(entry: Any) -> dict[str, Any]:
    """What may be shown of an entry: not even its hash."""
    now = datetime.now(timezone.utc).timestamp()
    until = entry.expires_at
    return {
        "name": entry.name,
        "scopes": [scope.value for scope in entry.scopes],
        "runs": list(entry.runs),
        "status": "expired" if entry.is_expired(now) else "valid",
        "expires": None
        if until is None
        else datetime.fromtimestamp(until, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **{name: getattr(entry, name) for name in LIMITS},
    }
