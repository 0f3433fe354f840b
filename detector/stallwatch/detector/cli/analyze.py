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
_BAR_FROM_POINTS = 50_000
_MOST_CHARACTERS = 1000
_BAR_FROM_FILES = 8
_WIDTH_WITHOUT_TERMINAL = 110

_COLUMNS = "Columns"


def analyze(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Log files, or folders with logs: what a program printed, TensorBoard events, trainer_state.json, CSV, "
            "TSV, JSON Lines, Keras history, W&B export, MLflow metrics; also compressed.",
            show_default=False,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: one object for one run, an array for several.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print JSON: one object a line, for any number of runs.")
    ] = False,
    sort: Annotated[
        str, typer.Option("--sort", metavar="BY", help="Order of several runs: loss, state, name or given.")
    ] = "loss",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also say how each log was read, with example lines.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the runs into a .png, .svg or .html file."),
    ] = None,
    total_steps: Annotated[
        int | None, typer.Option("--total-steps", min=1, help="Planned length of the run, where it is known.")
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules",
            metavar="SET",
            help="Also run another tool's rules, by their names and defaults: sagemaker.",
        ),
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            "--loss",
            help="Column or key of the training loss; several are added up.",
            rich_help_panel=_COLUMNS,
        ),
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

    Exits with 3 when there is a finding of severity warning or above, also one that was over before the log ended;
    else with 2 when something could not be read, and with 0 when nothing wrong was found.

    Examples: `stallwatch analyze runs/`, `stallwatch analyze metrics.csv --loss train_nll --plot curve.html`.
    """
    from stallwatch.detector.importers import Selection
    from stallwatch.detector.report.compare import ORDERS, ordered
    from stallwatch.detector.rules import RULE_SETS

    if plot is not None and plot.suffix.lower() not in _PLOTS:
        _complain(f"--plot {plot}: the file's name must end in {', '.join(_PLOTS)}")
        raise typer.Exit(EXIT_USAGE)
    if rules is not None and rules not in RULE_SETS:
        _complain(f"--rules {rules}: the rule sets are {', '.join(RULE_SETS)}")
        raise typer.Exit(EXIT_USAGE)
    if sort not in ORDERS:
        _complain(f"--sort {sort}: the orders are {', '.join(ORDERS)}")
        raise typer.Exit(EXIT_USAGE)
    losses = tuple(loss or ())
    one = losses[0] if len(losses) == 1 else None
    selection = Selection(
        one, step, learning_rate, evaluation_loss, time, epoch, losses if len(losses) > 1 else ()
    )
    unread: list[str] = []
    outcomes = list(_outcomes(paths, selection, total_steps, rules or "", unread))
    for message in unread:
        _complain(message)
    if not outcomes:
        raise typer.Exit(EXIT_USAGE)
    if as_json or json_lines:
        from stallwatch.detector.report.document import to_json, to_json_lines

        typer.echo(to_json_lines(outcomes) if json_lines else to_json(outcomes))
    else:
        from stallwatch.detector.report.text import show

        show(ordered(outcomes, sort), _console(), verbose=verbose)
    if plot is not None:
        _draw(outcomes, plot)
    if any(outcome.alarming for outcome in outcomes):
        raise typer.Exit(EXIT_FOUND)
    if unread:
        raise typer.Exit(EXIT_USAGE)


def _outcomes(
    paths: list[Path], selection: Selection, total_steps: int | None, rules: str, unread: list[str]
) -> Iterator[Outcome]:
    """The verdicts, in the order of the paths; what cannot be read goes to `unread`, with the reason."""
    from stallwatch.detector.importers import LogError, find_logs
    from stallwatch.detector.report.replay import replay

    for path in paths:
        others: list[str] = []
        found = len(unread)
        try:
            sources = find_logs(path)
        except LogError as error:
            unread.append(str(error))
            continue
        # One bar at a time: over the files when there are many, over the bytes and points when there are few.
        many = len(sources) > _BAR_FROM_FILES
        with _progress(f"analysing {path}", len(sources), show=many) as next_file:
            for source in sources:
                for log in _logs(source, selection, unread, others, bar=not many):
                    points = log.points.loss.size
                    show = not many and points > _BAR_FROM_POINTS
                    with _progress(f"analysing {log.name}", points, show=show) as advance:
                        yield replay(log, total_steps=total_steps, rules=rules, progress=advance)
                next_file(1)
        if others and len(others) == len(sources) and len(unread) == found:
            unread.append(f"{path}: no training logs in this folder; for one: {others[0]}")
        elif others:
            files = "1 file" if len(others) == 1 else f"{len(others)} files"
            _complain(f"{path}: passed over {files} without a training log")


def _logs(
    source: LogSource, selection: Selection, unread: list[str], others: list[str], *, bar: bool
) -> list[TrainingLog]:
    """What the source holds; a file that is no log at all belongs to `others`, unless it was named."""
    from stallwatch.detector.importers import LogError, NotALogError

    try:
        show = bar and source.size > _BAR_FROM_BYTES
        with _progress(f"reading {source.path.name}", source.size, show=show) as advance:
            return source.read(selection, advance)
    except NotALogError as error:
        (unread if source.named else others).append(str(error))
    except LogError as error:
        unread.append(str(error))
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
    from stallwatch.detector.printable import printable

    # Names in a file may be of any length.
    shown = message if len(message) <= _MOST_CHARACTERS else f"{message[:_MOST_CHARACTERS]}..."
    typer.echo(f"stallwatch analyze: {printable(shown)}", err=True)
