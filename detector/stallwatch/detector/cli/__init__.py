"""The command line: `stallwatch COMMAND`. A command's module is imported only when it is the one that was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer

COMMANDS = {
    "serve": "Run the detector: agents stream to it, Prometheus scrapes it.",
    "runs": "List the runs that the detector knows.",
    "show": "Say how a run is doing, and what is wrong with it.",
    "watch": "Follow a run live.",
    "analyze": "Say of training logs whether the runs still learned.",
    "tail": "Follow a log that is still being written.",
    "silence": "Keep alerts about a run or a kind of finding quiet for a while.",
    "token": "Make, list and revoke tokens: who may write, read and administer which runs.",
    "rules": "Print the alerting and recording rules for Prometheus.",
    "dashboards": "Print or write the Grafana dashboards.",
    "doctor": "Check this machine and a detector, and say what to fix.",
    "demo": "Train a small model, break it in three ways, and show what Stallwatch says.",
}
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_FOUND = 3


def main() -> None:
    """Entry point of the `stallwatch` script."""
    from stallwatch.detector.errors import StallwatchError, UsageError

    try:
        build(sys.argv[1:])()
    except UsageError as error:
        _complain(error)
        sys.exit(EXIT_USAGE)
    except StallwatchError as error:
        _complain(error)
        sys.exit(EXIT_INTERNAL)


def build(arguments: Sequence[str]) -> typer.Typer:
    """The application, with the one command that `arguments` name, and stand-ins for the others' help."""
    app = typer.Typer(
        name="stallwatch",
        help="Watches distributed PyTorch training: says that it has stopped learning or moving, since when, why, and where.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Exit codes: 0 nothing wrong found, 1 internal error, 2 bad usage or unreadable input, "
        "3 a finding of severity warning or above.",
    )
    app.callback()(_root)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    completing = any(name.endswith("_COMPLETE") for name in os.environ)
    for name, summary in COMMANDS.items():
        module = f"{__name__}.{name}"
        if find_spec(module) is None:
            continue
        function: Callable[..., Any] = _stand_in
        if completing or name == wanted:
            function = getattr(import_module(module), name)
        if isinstance(function, typer.Typer):
            app.add_typer(function, name=name, short_help=summary)
        else:
            app.command(name, short_help=summary)(function)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from stallwatch.detector.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit


def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Hold the options that stand before the command."""


def _stand_in() -> None:
    raise AssertionError("a command that was not asked for")


def _complain(error: Exception) -> None:
    from stallwatch.detector.printable import printable

    typer.echo(f"stallwatch: {printable(str(error))}", err=True)
