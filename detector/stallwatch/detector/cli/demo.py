"""`stallwatch demo`: four acts of a real job, and what Stallwatch says of each."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

EXIT_WRONG_VERDICT = 1
EXIT_USAGE = 2


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the service running, with its address.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the acts and findings as JSON.")] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where logs and data go; a temporary folder by default.")
    ] = None,
) -> None:
    """Train a small GPT on 4 ranks, break it in three ways, and show what Stallwatch says of each.

    Exits with 0 when every verdict is right, and with 1 when one is missing, wrong or extra.
    """
    from rich.console import Console

    from stallwatch.detector.demo.play import Api, follow
    from stallwatch.detector.demo.stage import DemoError, job, service

    if importlib.util.find_spec("torch") is None:
        typer.echo("The demo trains a model and needs PyTorch: pip install torch", err=True)
        raise typer.Exit(EXIT_USAGE)
    folder = directory or Path(tempfile.mkdtemp(prefix="stallwatch-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stop").unlink(missing_ok=True)
    console = Console(stderr=as_json, width=None if sys.stdout.isatty() else 110)
    console.print(f"Starting the service and a training job of four ranks; logs in {folder}", highlight=False)
    try:
        with service(folder, keep=lambda: keep) as addresses:
            base = f"http://127.0.0.1:{addresses['http_port']}"
            with job(folder, addresses["grpc_port"]) as process:
                judgements = follow(Api(base), process, folder, console)
            if keep:
                console.print(
                    f"\nThe service is still up: {base} (pid {addresses['pid']}). Try: "
                    f"stallwatch show demo --server {base}",
                    highlight=False,
                )
    except DemoError as error:
        typer.echo(f"demo: {error}", err=True)
        raise typer.Exit(EXIT_WRONG_VERDICT) from None
    if as_json:
        typer.echo(json.dumps([asdict(judgement) for judgement in judgements], default=str, indent=2))
    wrong = [sentence for judgement in judgements for sentence in judgement.wrong]
    console.print()
    if wrong:
        console.print(f"{len(wrong)} verdicts are missing, wrong or extra.", highlight=False)
        raise typer.Exit(EXIT_WRONG_VERDICT)
    console.print(
        "Every verdict is right: kind, rank and step; and nothing was said of the healthy act.",
        highlight=False,
    )
