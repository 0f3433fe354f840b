"""Console text: whatever a training program prints, read line by line.

No program's layout is known here. What the file itself shows is used: which keys come together (a kind of line), which number
counts up through the file, which starts again in each epoch, which total stands behind a slash, which value is a running mean,
and which lines are about held-out data. The loss, the rate and the metrics are then chosen by the names that tables go by.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np

from stallwatch.detector.importers import columns as by_name
from stallwatch.detector.importers import lines
from stallwatch.detector.importers.axis import Axis
from stallwatch.detector.importers.cells import Column
from stallwatch.detector.importers.columns import Selection
from stallwatch.detector.importers.counting import (
    MOST_RANKS,
    Counter,
    counted_through,
    epoch_counter,
    filled,
    global_counter,
    is_running_mean,
    labels_are_ranks,
    new_runs,
    plain_counter,
    with_record,
)
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.kinds import RANK, TOTAL, Collector, Kind, is_counter
from stallwatch.detector.importers.log import Flags, Floats, Integers, TrainingLog
from stallwatch.detector.importers.source import Progress, opened, run_name
from stallwatch.detector.importers.table import Table, to_log

NAME = "console text"

_CHUNK_BYTES = 1 << 18
_SHOWN_KINDS = 6
SHOWN_CHARACTERS = 160


@dataclass(slots=True)
class Family:
    """Kinds that are variants of one record: some of its keys may be missing at times."""

    evaluates: bool
    kinds: list[Kind]

    @property
    def rows(self) -> int:
        """How many lines."""
        return sum(len(kind.rows) for kind in self.kinds)


def _families(kinds: Sequence[Kind]) -> list[Family]:
    contexts: dict[tuple[bool, frozenset[str]], set[str]] = {}
    for kind in kinds:
        contexts.setdefault((bool(kind.split), kind.keys), set()).add(kind.context)
    # A word that is another one in each line, such as a name of a sample, says nothing.
    changing = {key for key, seen in contexts.items() if len(seen) > 4}
    families: list[tuple[object, Family, set[str]]] = []
    for kind in sorted(kinds, key=lambda each: -len(each.rows)):
        if not kind.keys:
            continue
        context = (
            "*" if (bool(kind.split), kind.keys) in changing else _plain_context(kind),
            frozenset(name for name in kind.names if is_counter(name) and "\0" not in name),
        )
        for known, family, keys in families:
            if family.evaluates == bool(kind.split) and known == context and keys & kind.keys:
                family.kinds.append(kind)
                keys.update(kind.keys)
                break
        else:
            families.append((context, Family(bool(kind.split), [kind]), set(kind.keys)))
    return [family for _, family, _ in families]


def _plain_context(kind: Kind) -> str:
    words = (
        word
        for word in kind.context.split()
        if any(c.isalpha() for c in word) and not any(c.isdigit() for c in word) and not lines.is_wanted(word)
    )
    return " ".join(dict.fromkeys(words))


def _column_name(kind: Kind, name: str) -> str:
    """The name with the word for held-out data before it, where only the line says so."""
    if not kind.split or by_name.is_evaluation(name) or by_name.is_training(name) or is_counter(name):
        return name
    if by_name.is_loss(name) or by_name.is_metric(name) or by_name.is_known_loss(name):
        return f"{kind.split}/{name}"
    return name


@dataclass(slots=True)
class _Series:
    """A named column of one family."""

    name: str
    family: Family
    rows: Integers
    values: Floats


def _in_order(parts: Sequence[tuple[Integers, Floats]]) -> tuple[Integers, Floats]:
    """Rows and values of several kinds as one series in the order of the file."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([rows for rows, _ in parts])
    values = np.concatenate([values for _, values in parts])
    order = np.argsort(rows, kind="stable")
    return rows[order], values[order]


def _among(rows: Integers, others: Integers) -> Flags:
    """Which of these ascending rows are among others, ascending as well."""
    if rows.size == others.size and np.array_equal(rows, others):
        return np.ones(rows.size, dtype=bool)
    if not others.size:
        return np.zeros(rows.size, dtype=bool)
    flags: Flags = others[np.minimum(np.searchsorted(others, rows), others.size - 1)] == rows
    return flags


def _series(families: Sequence[Family]) -> dict[str, _Series]:
    """The columns by name; of several families with the same name, the largest has it and the others a longer one."""
    found: dict[str, _Series] = {}
    for family in sorted(families, key=lambda each: -each.rows):
        pieces: dict[str, list[tuple[Integers, Floats]]] = {}
        for kind in family.kinds:
            for name in (each for each in kind.names if not is_counter(each)):
                pieces.setdefault(_column_name(kind, name), []).append((kind.places, kind.column(name)))
        for name, parts in pieces.items():
            rows, values = _in_order(parts)
            label, context = name, _plain_context(family.kinds[0])
            for more in (
                *((f"{name} ({context})",) if context else ()),
                *(f"{name} ({number})" for number in range(2, 99)),
            ):
                if label not in found:
                    break
                label = more
            found.setdefault(label, _Series(label, family, rows, values))
    return found


def _choose(series: dict[str, _Series], names: Sequence[str], told: str | None) -> str | None:
    """The column told, by its name or by the name without notation; else the best of the names that has enough points."""
    if told is not None:
        if told in series:
            return told
        return next((name for name in series if by_name.plain(name) == by_name.plain(told)), None)
    if not names:
        return None
    most = max(series[name].rows.size for name in names)
    enough = [name for name in names if series[name].rows.size >= _ENOUGH_SHARE * most]
    return enough[0] if enough else None


_SHARED_STEPS = 0.6
"""Two ranks that print every step leave half as many steps as lines; a job that was resumed repeats fewer."""
_FEW_AN_EPOCH = 6.0
"""Fewer values within an epoch than this show nothing that its end does not."""
_ENOUGH_SHARE = 0.2
"""A loss that is printed in a summary now and then gives way to one that is printed all the time."""


def recognises(_path: Path, _head: str) -> bool:
    """Any text that no other format claims: `read` says what is missing in it."""
    return True


def read(path: Path, selection: Selection, progress: Progress) -> list[TrainingLog]:
    """The run of the file, or its runs."""
    collector = Collector(selection)
    with opened(path, progress) as raw:
        for piece in text_pieces(raw):
            collector.feed(piece)
    return logs_of(collector, run_name(path), str(path))


def text_pieces(raw: IO[bytes]) -> Iterator[list[str]]:
    """Lines in pieces of bounded size, a line that does not end included."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    rest = ""
    while data := raw.read(_CHUNK_BYTES):
        text = rest + decoder.decode(data)
        found = text.split("\n")
        rest = found.pop()
        if len(rest) > _CHUNK_BYTES:
            # Progress bars that never end their line: cut where one begins anew.
            at = max(rest.rfind("\r"), rest.rfind("\x08")) + 1 or len(rest)
            found.append(rest[:at])
            rest = rest[at:]
        yield found
    rest += decoder.decode(b"", final=True)
    if rest:
        yield [rest]


def logs_of(collector: Collector, name: str, file: str, *, more_to_come: bool = False) -> list[TrainingLog]:
    """What the lines hold, a log a run; raises `NotALogError` with what was found where there is no loss among it."""
    kinds = collector.finish(more_to_come=more_to_come)
    notes: list[str] = []
    kinds = _one_rank(kinds, notes)
    first = _learner(collector, kinds, file, notes)
    parts = first.runs()
    if len(parts) < 2:
        return [first.log(name, file)]
    logs = []
    for number, part in enumerate(parts, 1):
        note = f"The file holds {len(parts)} runs one after the other: this is number {number}."
        logs.append(_learner(collector, part, file, [*notes, note]).log(f"{name} ({number})", file))
    return logs


def _learner(collector: Collector, kinds: list[Kind], file: str, notes: list[str]) -> _Learner:
    notes = list(notes)
    series = _series(_families(kinds))
    selection = collector.selection
    _require(series, kinds, selection, file)
    training = [
        n
        for n, s in series.items()
        if not (s.family.evaluates or by_name.is_evaluation(n)) or by_name.is_training(n)
    ]
    held_out = [n for n, s in series.items() if n not in training]
    loss = _training_loss(series, training, selection, file, notes)
    candidates = [n for n in by_name.evaluation_loss_candidates(list(series)) if n != loss]
    if not candidates and (loss is None or not by_name.is_loss(loss)):
        candidates = by_name.objective_candidates(held_out, evaluation=True)
    elif not candidates and loss is not None and by_name.is_training(loss):
        # `loss train: 2.31, val: 2.42`
        candidates = [n for n in held_out if by_name.is_only_split(n)]
    evaluation_loss = _choose(series, candidates, selection.evaluation_loss)
    if loss is None and evaluation_loss is None:
        raise _no_loss(collector, file)
    return _Learner(collector, kinds, series, loss, evaluation_loss, notes)


def _require(series: dict[str, _Series], kinds: Sequence[Kind], selection: Selection, file: str) -> None:
    """Whatever the user named has to be there."""
    counters = {name for kind in kinds for name in kind.names if "\0" not in name}
    known = [*series, *sorted(counters - set(series))]
    for option, told in selection.named:
        if told not in known and by_name.plain(told) not in map(by_name.plain, known):
            listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            raise LogError(f"{file}: key '{told}' ({option}) is not there; there are: {listed}")


def _training_loss(
    series: dict[str, _Series], training: list[str], selection: Selection, file: str, notes: list[str]
) -> str | None:
    """The name of the training loss; a sum where one objective is printed in parts."""
    if selection.losses:
        names = [name for told in selection.losses if (name := _choose(series, [], told)) is not None]
        return _summed(series, names, file, notes, told=True)
    if selection.loss is not None:
        return _choose(series, [], selection.loss)
    # A family that holds nearly nothing has no say.
    candidates = by_name.best_losses([n for n in training if not by_name.is_evaluation(n)])
    if not candidates:
        candidates = by_name.objective_candidates(training)
        return _choose(series, candidates[:1] if candidates else [], None)
    if by_name.is_known_loss(candidates[0]) or len(candidates) == 1:
        return _choose(series, candidates, None)
    most = max(series[name].rows.size for name in candidates)
    enough = [name for name in candidates if series[name].rows.size >= _ENOUGH_SHARE * most]
    if len(enough) == 1:
        return enough[0]
    return _summed(series, enough, file, notes)


def _summed(
    series: dict[str, _Series], names: list[str], file: str, notes: list[str], *, told: bool = False
) -> str:
    """The sum of losses that stand in the same lines, unless they belong to opponents."""
    first = series[names[0]]
    rows = first.rows
    for name in names[1:]:
        rows = rows[_among(rows, series[name].rows)]
    if not told and (by_name.are_opponents(names) or rows.size < first.rows.size):
        raise LogError(
            f"{file}: more than one key may be the loss ({', '.join(names)}): choose one with --loss, or several to add them up"
        )
    if not rows.size:
        raise LogError(
            f"{file}: {', '.join(names)} (--loss) never stand in one line: they cannot be added up"
        )
    total = "+".join(names)
    values = np.sum([series[n].values[_among(series[n].rows, rows)] for n in names], axis=0)
    series[total] = _Series(total, first.family, rows, values)
    notes.append(f"The loss is the sum of {', '.join(names)}.")
    return total


def _one_rank(kinds: list[Kind], notes: list[str]) -> list[Kind]:
    """Of ranks that all print their records, the first."""
    ranks: set[float] = set()
    for kind in kinds:
        if RANK not in kind.names and labels_are_ranks(kind):
            kind.names = tuple(RANK if name == "#1" else name for name in kind.names)
    for kind in kinds:
        if RANK in kind.names and kind.keys:
            ranks.update(np.unique(kind.column(RANK)).tolist())
    if len(ranks) < 2 or len(ranks) > MOST_RANKS:
        return kinds
    chosen = min(ranks)
    kept = []
    for kind in kinds:
        if RANK in kind.names:
            mask: Flags = kind.column(RANK) == chosen
            if not mask.any():
                continue
            kept.append(kind.only(mask))
            continue
        kept.append(kind)
    notes.append(f"{len(ranks)} ranks print their own lines: those of rank {chosen:.0f} are read.")
    return kept


def _no_loss(collector: Collector, file: str) -> NotALogError:
    keys = ", ".join(f"{key} ({value})" for key, value in list(collector.keys.items())[:20])
    if not keys:
        return NotALogError(
            f"{file}: not a training log of a known kind: none of its {collector.lines} lines names a number, as 'loss: 2.31' does"
        )
    return NotALogError(
        f"{file}: no loss found in {collector.lines} lines; name it with --loss (keys with an example: {keys})"
    )


@dataclass(slots=True)
class _Learner:
    """What the file shows about its own layout."""

    collector: Collector
    kinds: list[Kind]
    series: dict[str, _Series]
    loss: str | None
    evaluation_loss: str | None
    notes: list[str]
    dropped: set[int] = field(default_factory=set)

    def runs(self) -> list[list[Kind]]:
        """The lines of each run, where a file holds several: counters and loss both go back to where they began."""
        judged = self.loss or self.evaluation_loss
        assert judged is not None
        main = self.series[judged]
        rows, values = main.rows, main.values
        counters = [*self._own(main, rows), *self._carried(main, rows)]
        slow = [c for c in counters if lines.is_epoch(c.name)] or [
            c for c in counters if lines.is_step(c.name)
        ]
        begins = sorted({at for counter in slow[:4] for at in new_runs(counter, values)})
        if not begins:
            return [self.kinds]
        bounds = [0, *(self._first_line(int(rows[at - 1]), int(rows[at]), slow) for at in begins), 1 << 62]
        return [
            [
                kind.only(mask)
                for kind in self.kinds
                if (mask := (kind.places >= start) & (kind.places < stop)).any()
            ]
            for start, stop in pairwise(bounds)
        ]

    def _first_line(self, before: int, at: int, slow: Sequence[Counter]) -> int:
        """The line at which a run begins: that of its first record, or of the header above it."""
        names = {counter.name for counter in slow if counter.carried}
        found = at
        for kind in self.kinds:
            for name in names & set(kind.names):
                value, between = kind.column(name), (kind.places > before) & (kind.places < at)
                back = (
                    between
                    & (value <= value[0])
                    & (value < value[kind.places <= before].max(initial=-np.inf))
                )
                found = min(found, int(kind.places[back].min(initial=found)))
        return found

    def log(self, name: str, file: str) -> TrainingLog:
        """The run."""
        judged = self.loss or self.evaluation_loss
        assert judged is not None
        main = self.series[judged]
        rows, values = self._whole(main)
        rows, values, axis_name, label, position = self._positions(main, rows, values)
        if axis_name == "step" and label is not None:
            rows, values, position = self._once_a_step(rows, values, position)
        return self._table(name, file, judged, rows, values, axis_name, label, position)

    def _whole(self, main: _Series) -> tuple[Integers, Floats]:
        """Without the lines about a part of an epoch, where the line at its end says what it came to."""
        holders = [kind for kind in main.family.kinds if np.isin(kind.places[:1], main.rows).any()]
        place, at_end, redrawn = self._progress(holders, main.rows)
        if at_end is None:
            return main.rows, main.values
        inside, last = ~at_end, np.concatenate([place[1:] < place[:-1], [True]])
        if not inside.any() or at_end.sum() < 2:
            return main.rows, main.values
        an_epoch = inside.sum() / last.sum()
        more = self._says_more(holders, main.rows[inside], main.rows[at_end])
        few = an_epoch < _FEW_AN_EPOCH
        other_form = self._other_form(holders, main.rows[inside], main.rows[at_end])
        if not (
            (more and (few or other_form))
            or (redrawn[inside].mean() > 0.9 and few)
            or is_running_mean(place, main.values, expected=more)
        ):
            return main.rows, main.values
        # The epoch that is under way has no end yet: its newest mean is left out as well.
        keep = at_end & last if not few else at_end
        self.notes.append("Values from within an epoch are left out: they are means over a part of it.")
        return main.rows[keep], main.values[keep]

    def _progress(self, holders: Sequence[Kind], rows: Integers) -> tuple[Floats, Flags | None, Flags]:
        """Of each row how far the epoch was, whether it was at its end, and whether the line was drawn over."""
        place, total, redrawn = (
            np.full(rows.size, np.nan),
            np.full(rows.size, np.nan),
            np.zeros(rows.size, dtype=bool),
        )
        for kind in holders:
            here = _among(rows, kind.places)
            at = np.searchsorted(kind.places, rows[here])
            redrawn[here] = np.frombuffer(kind.redrawn, dtype=np.int8)[at] != 0
            for name in kind.names:
                if name.endswith(TOTAL) and not lines.is_epoch(name.removesuffix(TOTAL)):
                    place[here] = kind.column(name.removesuffix(TOTAL))[at]
                    total[here] = kind.column(name)[at]
        if not np.isfinite(place).all():
            return place, None, redrawn
        return place, place >= total, redrawn

    @staticmethod
    def _says_more(holders: Sequence[Kind], inside: Integers, ends: Integers) -> bool:
        """Whether the lines at the end hold an evaluation that those before have not."""
        before = {key for kind in holders if _among(kind.places, inside).any() for key in kind.keys}
        after = {key for kind in holders if _among(kind.places, ends).any() for key in kind.keys}
        return _evaluated(after - before)

    @staticmethod
    def _other_form(holders: Sequence[Kind], inside: Integers, ends: Integers) -> bool:
        """Whether the lines before the end say something that the last one does not, such as how long it will take."""
        before = {key for kind in holders if _among(kind.places, inside).any() for key in kind.all_keys}
        after = {key for kind in holders if _among(kind.places, ends).any() for key in kind.all_keys}
        return bool(before - after)

    def _positions(
        self, main: _Series, rows: Integers, values: Floats
    ) -> tuple[Integers, Floats, str, str | None, Floats]:
        """The axis: its name, the column it is read from, and one position a row."""
        own = self._own(main, rows)
        carried = self._carried(main, rows)
        told = self.collector.selection.step
        if told is not None:
            own = [c for c in own if by_name.plain(c.name) == by_name.plain(told)] or own
        if self.collector.selection.epoch is None or told is not None:
            for counters in (own, carried):
                found = global_counter(counters, [*own, *carried])
                if found is not None:
                    return rows, values, "step", found.name, filled(found.value)
                inner = counted_through(counters, [*own, *carried], self.notes)
                if inner is not None:
                    label, position = inner
                    return rows, values, "step", label, position
            for counters in (own, carried):
                epochs = epoch_counter(counters)
                if epochs is not None:
                    return rows, values, "epoch", epochs.name, filled(epochs.value)
        else:
            epochs = epoch_counter([*own, *carried])
            if epochs is not None:
                return rows, values, "epoch", epochs.name, filled(epochs.value)
        plain = plain_counter([*own])
        if plain is not None:
            return rows, values, "step", plain.name, filled(plain.value)
        self.notes.append("No number counts steps or epochs: records are counted, from 0.")
        return rows, values, "step", None, np.arange(rows.size, dtype=np.float64)

    def _once_a_step(
        self, rows: Integers, values: Floats, position: Floats
    ) -> tuple[Integers, Floats, Floats]:
        """One record a step, where ranks that do not say who they are print the same step."""
        # A bar is drawn once more at its end, and an epoch begins with the loss of the one before.
        repeated = (position[1:] == position[:-1]) & (values[1:] == values[:-1])
        if repeated.any() and repeated.mean() < 1 - _SHARED_STEPS:
            kept = np.concatenate([[True], ~repeated])
            rows, values, position = rows[kept], values[kept], position[kept]
        if rows.size < 8 or np.unique(position).size > _SHARED_STEPS * rows.size:
            return rows, values, position
        reached = np.maximum.accumulate(position)
        new = np.concatenate([[True], position[1:] > reached[:-1]])
        times = rows.size / max(int(new.sum()), 1)
        self.notes.append(
            f"Steps are printed {times:.0f} times each, as by several ranks: the first of each is read."
        )
        return rows[new], values[new], position[new]

    def _own(self, main: _Series, rows: Integers) -> list[Counter]:
        """Counters in the lines of the series."""
        found: dict[str, Counter] = {}
        for kind in main.family.kinds:
            here = _among(rows, kind.places)
            if not here.any():
                continue
            place = np.searchsorted(kind.places, rows[here])
            for name in kind.names:
                if not is_counter(name) or name.startswith("\0") or name.endswith(TOTAL):
                    continue
                counter = found.setdefault(name, Counter(name, np.full(rows.size, np.nan)))
                counter.value[here] = kind.column(name)[place]
                if name + TOTAL in kind.names:
                    counter.total = float(np.median(kind.column(name + TOTAL)))
        return [c for c in found.values() if np.isfinite(c.value).mean() >= 0.9]

    def _carried(self, main: _Series, rows: Integers) -> list[Counter]:
        """Counters in lines before those of the series, by name and total."""
        parts: dict[tuple[str, float], list[tuple[Integers, Floats]]] = {}
        for kind in self.kinds:
            if kind.split or kind in main.family.kinds:
                continue
            for name in kind.names:
                if not is_counter(name) or name.startswith("\0") or name.endswith(TOTAL):
                    continue
                value = kind.column(name)
                if name + TOTAL in kind.names:
                    totals = kind.column(name + TOTAL)
                    for total in np.unique(totals)[:16].tolist():
                        at = totals == total
                        parts.setdefault((name, total), []).append((kind.places[at], value[at]))
                elif not name.startswith("#"):
                    parts.setdefault((name, -1.0), []).append((kind.places, value))
        found = []
        for (name, total), pieces in parts.items():
            at, value = _in_order(pieces)
            place = np.searchsorted(at, rows, side="right") - 1
            dense = np.where(place >= 0, value[np.maximum(place, 0)], np.nan)
            if np.isfinite(dense).mean() >= 0.8:
                found.append(Counter(name, dense, total if total > 0 else float("nan"), carried=True))
        return found

    def _table(
        self,
        name: str,
        file: str,
        judged: str,
        rows: Integers,
        values: Floats,
        axis_name: str,
        label: str | None,
        position: Floats,
    ) -> TrainingLog:
        columns: dict[str, tuple[Integers, Floats]] = {judged: (rows, values)}
        evaluations: list[_Series] = []
        for one in self.series.values():
            if one.name == judged:
                continue
            columns[one.name] = (one.rows, one.values)
            if one.family.evaluates or by_name.is_evaluation(one.name) or _apart(one, rows):
                evaluations.append(one)
        group = self._passes(evaluations, rows)
        for one in evaluations:
            if group:
                at = np.array([group.get(row, row) for row in one.rows.tolist()], dtype=np.int64)
                # Of several lines about one pass over the data the last one says how it came out.
                last = np.concatenate([at[1:] != at[:-1], [True]])
                columns[one.name] = (at[last], one.values[last])
        for n, (at, value) in columns.items():
            if n != judged and not any(n == one.name for one in evaluations):
                columns[n] = (with_record(at, rows), value)
        self._times(columns, rows)
        every = np.unique(np.concatenate([r for r, _ in columns.values()]))
        place = np.maximum(np.searchsorted(rows, every, side="right") - 1, 0)
        at_rows = position[place]
        self._own_places(evaluations, group, every, at_rows, rows, position, axis_name)
        table = Table(
            name,
            file,
            every.size,
            {n: Column(np.searchsorted(every, r), v) for n, (r, v) in columns.items()},
            tuple(columns),
            tuple(self.notes),
        )
        axis = Axis(axis_name, label, at_rows)  # type: ignore[arg-type]  # one of the two names
        told = self.collector.selection
        selection = Selection(learning_rate=self._same(told.learning_rate), time=self._same(told.time))
        log = to_log(table, selection, axis=axis, loss=self.loss, evaluation_loss=self.evaluation_loss)
        return replace(log, details=self._details())

    def _details(self) -> tuple[str, ...]:
        """The kinds of lines that were read, the most frequent first, each with an example, and how many lines were left."""
        found = sorted(self.kinds, key=lambda kind: -len(kind.rows))
        said = []
        for kind in found[:_SHOWN_KINDS]:
            names = ", ".join(name for name in kind.names if "\0" not in name and not name.startswith("#"))
            about = f", about '{kind.split}'" if kind.split else ""
            said.append(
                f"{len(kind.rows):,} lines with {names or 'a counter'}{about}: {kind.example[:SHOWN_CHARACTERS]}"
            )
        used = sum(len(kind.rows) for kind in found)
        said.append(f"{max(self.collector.lines - used, 0):,} of {self.collector.lines:,} lines were left.")
        return tuple(said)

    def _same(self, told: str | None) -> str | None:
        """The series that the user means."""
        return None if told is None else _choose(self.series, [], told)

    def _passes(self, evaluations: Sequence[_Series], rows: Integers) -> dict[int, int]:
        """The last row of the pass over held-out data that each row belongs to."""
        counted: dict[int, float] = {}
        families = {id(one.family): one.family for one in evaluations}
        for family in families.values():
            for kind in family.kinds:
                for counter in kind.names:
                    if (
                        is_counter(counter)
                        and not counter.startswith(("#", "\0"))
                        and not counter.endswith(TOTAL)
                    ):
                        value = kind.column(counter)
                        if np.all(np.diff(value) >= 0) and value[-1] > value[0]:
                            counted.update(zip(kind.places.tolist(), value.tolist(), strict=True))
                            break
        own = (
            np.unique(np.concatenate([one.rows for one in evaluations]))
            if evaluations
            else np.zeros(0, dtype=np.int64)
        )
        own = own[~_among(own, rows)]
        before = np.searchsorted(rows, own, side="right")
        group: dict[int, int] = {}
        pass_rows: list[int] = []
        key: tuple[int, float | None] | None = None
        for row, index in zip(own.tolist(), before.tolist(), strict=True):
            count = counted.get(row)
            if key is not None and (
                index != key[0] or (count is not None and key[1] is not None and count != key[1])
            ):
                group.update(dict.fromkeys(pass_rows, pass_rows[-1]))
                pass_rows, key = [], None
            key = (index, count if count is not None else key[1] if key is not None else None)
            pass_rows.append(row)
        if pass_rows:
            group.update(dict.fromkeys(pass_rows, pass_rows[-1]))
        return group

    def _times(self, columns: dict[str, tuple[Integers, Floats]], rows: Integers) -> None:
        """Times of day become a column; a name like `time` is one only where it goes forward."""
        for name in by_name.time_candidates(list(columns)):
            value = columns[name][1]
            if not (np.all(np.diff(value) >= 0) and value.size > 1 and value[-1] > value[0]):
                del columns[name]
        at: list[Integers] = []
        value_parts: list[Floats] = []
        for kind in self.kinds:
            times = np.frombuffer(kind.times, dtype=np.float64)
            here = np.isfinite(times) & _among(kind.places, rows)
            if here.any():
                at.append(kind.places[here])
                value_parts.append(times[here])
        if at:
            columns["_timestamp"] = _in_order(list(zip(at, value_parts, strict=True)))

    def _own_places(
        self,
        evaluations: Sequence[_Series],
        group: dict[int, int],
        every: Integers,
        at_rows: Floats,
        rows: Integers,
        position: Floats,
        axis_name: str,
    ) -> None:
        """Where an evaluation counts as the training does, its own count is its place."""
        if not rows.size:
            return
        pace = float(np.median(np.abs(np.diff(position)))) if position.size > 1 else 1.0
        wanted = lines.is_step if axis_name == "step" else lines.is_epoch
        for family in {id(one.family): one.family for one in evaluations}.values():
            for kind in family.kinds:
                for name in kind.names:
                    if name.startswith(("#", "\0")) or name.endswith(TOTAL) or not wanted(name):
                        continue
                    apart = ~_among(kind.places, rows)
                    at, value = kind.places[apart], kind.column(name)[apart]
                    if not at.size:
                        continue
                    before = np.searchsorted(rows, at, side="right") - 1
                    low = (
                        np.where(before >= 0, position[np.maximum(before, 0)], position[0] - pace)
                        - 1.5 * pace
                    )
                    high = position[np.minimum(before + 1, rows.size - 1)] + 1.5 * pace
                    if np.mean((value >= low) & (value <= np.maximum(high, low + 3 * pace))) >= 0.9:
                        to = np.array([group.get(row, row) for row in at.tolist()], dtype=np.int64)
                        place = np.searchsorted(every, to)
                        good = (place < every.size) & (every[np.minimum(place, every.size - 1)] == to)
                        at_rows[place[good]] = value[good]
                    break


def _evaluated(names: Iterable[str]) -> bool:
    return any(by_name.is_evaluation(name) for name in names)


def _apart(one: _Series, rows: Integers) -> bool:
    """Whether a metric stands in lines without a training loss."""
    return (
        by_name.is_metric(one.name) and not by_name.is_training(one.name) and not _among(one.rows, rows).any()
    )
