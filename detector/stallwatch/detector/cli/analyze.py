"""`stallwatch analyze`: the verdict on training logs that lie in files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from stallwatch.detector.importers import LogSource, Selection, TrainingLog
    from stallwatch.detector.report.outcome import Outcome

EXIT_USAGE = 2
EXIT_FOUND = 3

_PLOTS = (".png", ".svg", ".html")
# Reading and analysing less than this is over before a bar could be read.
_BAR_FROM_BYTES = 4_000_000
_WIDTH_WITHOUT_TERMINAL = 110

_COLUMNS = "Columns"


def analyze(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Log files, or folders with logs: TensorBoard events, trainer_state.json, CSV, TSV, JSON Lines, "
            "Keras history, W&B export; also with .gz.",
            show_default=False,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: one object for one run, an array for several.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the runs into a .png, .svg or .html file."),
    ] = None,
    total_steps: Annotated[
        int | None, typer.Option("--total-steps", min=1, help="Planned length of the run, where it is known.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option("--loss", help="Column of the training loss.", rich_help_panel=_COLUMNS)
    ] = None,
    step: Annotated[
        str | None, typer.Option("--step", help="Column of the step.", rich_help_panel=_COLUMNS)
    ] = None,
    epoch: Annotated[
        str | None, typer.Option("--epoch", help="Column of the epoch.", rich_help_panel=_COLUMNS)
    ] = None,
    learning_rate: Annotated[
        str | None, typer.Option("--lr", help="Column of the learning rate.", rich_help_panel=_COLUMNS)
    ] = None,
    evaluation_loss: Annotated[
        str | None,
        typer.Option("--eval-loss", help="Column of the evaluation loss.", rich_help_panel=_COLUMNS),
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Column of the wall time.", rich_help_panel=_COLUMNS)
    ] = None,
) -> None:
    """Say of training logs whether the runs still learned, since when not, why, and what to do.

    Exits with 0 when nothing wrong was found, with 2 when nothing could be read, and with 3 when there is a finding of
    severity warning or above, also one that was over before the log ended.

    Examples: `stallwatch analyze runs/`, `stallwatch analyze metrics.csv --loss train_nll --plot curve.html`.
    """
    from stallwatch.detector.importers import Selection

    if plot is not None and plot.suffix.lower() not in _PLOTS:
        _complain(f"--plot {plot}: the file's name must end in {', '.join(_PLOTS)}")
        raise typer.Exit(EXIT_USAGE)
    selection = Selection(loss, step, learning_rate, evaluation_loss, time, epoch)
    outcomes = list(_outcomes(paths, selection, total_steps))
    if not outcomes:
        raise typer.Exit(EXIT_USAGE)
    if as_json:
        from stallwatch.detector.report.document import to_json

        typer.echo(to_json(outcomes))
    else:
        from stallwatch.detector.report.text import show

        show(outcomes, _console())
    if plot is not None:
        _draw(outcomes, plot)
    if any(outcome.alarming for outcome in outcomes):
        raise typer.Exit(EXIT_FOUND)


def _outcomes(paths: list[Path], selection: Selection, total_steps: int | None) -> Iterator[Outcome]:
    """The verdicts, in the order of the paths; what cannot be read is said and left out."""
    from stallwatch.detector.importers import LogError, find_logs
    from stallwatch.detector.report.replay import replay

    for path in paths:
        passed_over: list[str] = []
        found = 0
        try:
            sources = find_logs(path)
        except LogError as error:
            _complain(str(error))
            continue
        for source in sources:
            for log in _logs(source, selection, passed_over):
                with _progress(
                    log.name, log.points.loss.size, show=log.points.loss.size > 200_000
                ) as advance:
                    yield replay(log, total_steps=total_steps, progress=advance)
                found += 1
        if passed_over and found:
            files = "1 file" if len(passed_over) == 1 else f"{len(passed_over)} files"
            _complain(f"{path}: passed over {files} without a training log")
        elif passed_over:
            _complain(f"{path}: no training logs in this folder; for one: {passed_over[0]}")


def _logs(source: LogSource, selection: Selection, passed_over: list[str]) -> list[TrainingLog]:
    from stallwatch.detector.importers import LogError, NotALogError

    try:
        with _progress(
            f"reading {source.path.name}", source.size, show=source.size > _BAR_FROM_BYTES
        ) as advance:
            return source.read(selection, advance)
    except NotALogError as error:
        if source.named:
            _complain(str(error))
        else:
            passed_over.append(str(error))
    except LogError as error:
        _complain(str(error))
    return []


def _draw(outcomes: list[Outcome], plot: Path) -> None:
    try:
        from stallwatch.detector.report.plot import draw
    except ImportError:
        _complain("--plot needs matplotlib: pip install 'stallwatch[analyze]'")
        raise typer.Exit(EXIT_USAGE) from None
    try:
        draw(outcomes, plot)
    except OSError as error:
        _complain(f"--plot {plot}: {error.strerror or error}")
        raise typer.Exit(EXIT_USAGE) from None


@contextmanager
def _progress(label: str, total: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal and it is worth it."""
    from stallwatch.detector.importers import no_progress

    if not show or not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL, highlight=False)


def _complain(message: str) -> None:
    typer.echo(f"stallwatch analyze: {message}", err=True)
