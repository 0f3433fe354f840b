"""Console text: whatever a training program prints, read line by line.

No program's layout is known here. What the file itself shows is used: which keys come together (a kind of line), which number
counts up through the file, which starts again in each epoch, which total stands behind a slash, which value is a running mean,
and which lines are about held-out data. The loss, the rate and the metrics are then chosen by the names that tables go by.
"""

from __future__ import annotations

import codecs
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import IO, Any

import numpy as np

from stallwatch.detector.importers import columns as by_name
from stallwatch.detector.importers import lines
from stallwatch.detector.importers.axis import Axis
from stallwatch.detector.importers.cells import Column
from stallwatch.detector.importers.columns import Selection
from stallwatch.detector.importers.errors import LogError, NotALogError
from stallwatch.detector.importers.lines import Plan
from stallwatch.detector.importers.log import Flags, Floats, Integers, TrainingLog
from stallwatch.detector.importers.source import Progress, opened, run_name
from stallwatch.detector.importers.table import Table, to_log

NAME = "console text"

_MOST_PLANS = 4096
_MOST_KINDS = 512
_MOST_KEYS = 400
# So many different lines are looked at in full, for what to say when no loss is found.
_LEARNING_LINES = 2000
_CHUNK_BYTES = 1 << 18
# Numbers of so many lines of one kind are converted at a time.
_WAITING = 2048
_WORTH_COMPILING = 6
_SHOWN_KINDS = 6
_SHOWN_CHARACTERS = 160
_BREAKS = re.compile(r"\r|\x08+|\x0b|\x0c")
_HEADER = re.compile(r"loss|epoch|step|iter|acc|val|metric|nll|err|map|bleu|wer|cer|ppl", re.IGNORECASE)
_TOTAL = "\0total"
_RANK = "\0rank"
_NAN = float("nan")
# A counter moves if it takes at least this share of the different values that there could be.
_MOVING_SHARE = 0.8
# Ranks' lines come interleaved; more ranks than this print no log in common.
_MOST_RANKS = 4096


@dataclass(slots=True)
class Kind:
    """Lines that have the same keys and are about the same data."""

    split: str
    context: str
    names: tuple[str, ...]
    rows: array[int] = field(default_factory=lambda: array("q"))
    data: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))
    redrawn: array[int] = field(default_factory=lambda: array("b"))
    """Whether something else was drawn over the line."""
    example: str = ""
    counters_only: bool = False
    labelled: bool = False
    """Whether the line begins with a number and a colon: a step, or the task that printed it."""
    all_keys: frozenset[str] = frozenset()
    """Also those that are not kept."""

    def column(self, name: str) -> Floats:
        """Values of one of the names, one a row."""
        width = len(self.names)
        return np.frombuffer(self.data, dtype=np.float64).reshape(-1, width)[:, self.names.index(name)]

    def only(self, mask: Flags | Integers | slice) -> Kind:
        """Some of its lines."""
        data = np.frombuffer(self.data, dtype=np.float64).reshape(-1, len(self.names))
        return replace(
            self,
            rows=_packed("q", self.places[mask]),
            data=_packed("d", data[mask].reshape(-1)),
            times=_packed("d", np.frombuffer(self.times, dtype=np.float64)[mask]),
            redrawn=_packed("b", np.frombuffer(self.redrawn, dtype=np.int8)[mask]),
        )

    def sort(self) -> None:
        """Put rows that came from several plans into the order of the file."""
        places = self.places
        if places.size > 1 and np.any(np.diff(places) < 0):
            order = np.argsort(places, kind="stable")
            sorted_one = self.only(order)
            self.rows, self.data, self.times, self.redrawn = (
                sorted_one.rows,
                sorted_one.data,
                sorted_one.times,
                sorted_one.redrawn,
            )

    @property
    def places(self) -> Integers:
        """Number of the line of each row."""
        return np.frombuffer(self.rows, dtype=np.int64)

    @property
    def keys(self) -> frozenset[str]:
        """The names that are no counters."""
        return frozenset(name for name in self.names if not _is_counter(name))


@dataclass(slots=True)
class _Known:
    """A plan with where its numbers go."""

    plan: Plan
    kind: Kind | None
    scales: list[float] | None = None
    clock: int = -1
    """Which of the picks is the timestamp."""
    following: _Known | None = None
    """What came after such a line the last time."""
    match: Callable[[str], re.Match[str] | None] | None = None
    """Takes a whole line as it is, where nothing but the numbers differs."""
    rank: tuple[str, ...] = ()
    seen: int = 0
    waiting_rows: list[int] = field(default_factory=list)
    waiting: list[tuple[str, ...]] = field(default_factory=list)

    def seen_again(self, numbers: Sequence[str]) -> None:
        """Make the expression for lines of this kind, once there are enough of them to be worth it."""
        self.seen += 1
        if self.seen != _WORTH_COMPILING or self.kind is None:
            return
        self.plan.compile(numbers)
        if self.scales is None and not self.kind.counters_only and self.plan.fast is not None:
            self.match = self.plan.fast.fullmatch
            self.rank = (str(self.plan.rank),) if self.plan.rank >= 0 and self.plan.rank_place < 0 else ()

    def drain(self) -> None:
        """Hand the numbers that wait over to the kind."""
        if not self.waiting or self.kind is None:
            return
        rows, waiting = self.waiting_rows, self.waiting
        self.waiting_rows, self.waiting = [], []
        clock, width = self.clock, len(self.kind.names) + (self.clock >= 0)
        flat = list(chain.from_iterable(waiting))
        times: Iterable[float] = repeat(_NAN, len(rows))
        if clock >= 0:
            times = lines.moments(flat[clock::width])
            del flat[clock::width]
        try:
            values = list(map(float, flat))
        except ValueError:
            values = [lines.number_or_nan(number) for number in flat]
        self.kind.rows.extend(rows)
        self.kind.times.extend(times)
        self.kind.redrawn.frombytes(bytes(len(rows)))
        self.kind.data.extend(values)


def _is_counter(name: str) -> bool:
    return (
        name.startswith(("#", "\0")) or name.endswith(_TOTAL) or lines.is_step(name) or lines.is_epoch(name)
    )


class Collector:
    """Takes the lines of a file, in any number of pieces, and keeps the numbers that may play a role."""

    def __init__(self, selection: Selection | None = None) -> None:
        self.selection = selection or Selection()
        self._told = {value for _, value in self.selection.named}
        self._told_plain = {by_name.plain(value) for value in self._told}
        self.kinds: dict[tuple[object, ...], Kind] = {}
        self.keys: dict[str, str] = {}
        """Every key that was seen among the first lines, with an example."""
        self.lines = 0
        self.cut_off = 0
        self._row = 0
        self._known: dict[tuple[object, ...], _Known] = {}
        self._last: _Known | None = None
        self._recent: deque[tuple[str, str]] = deque(maxlen=4)
        self._header: tuple[str, str] = ("", "")
        self._stored: Kind | None = None
        self._examined = 0
        self._redrawn = False

    def feed(self, text_lines: Iterable[str]) -> None:
        """Lines in order, each with or without its line end."""
        last, row, count, fast = self._last, self._row, 0, False
        for line in text_lines:
            count += 1
            known = last.following if last is not None else None
            if known is not None and known.match is not None and len(line) <= lines.MOST_CHARACTERS:
                match = known.match(line)
                if match is not None:
                    row += 1
                    known.waiting_rows.append(row)
                    known.waiting.append(match.groups() + known.rank)
                    if len(known.waiting) >= _WAITING:
                        known.drain()
                    last, fast = known, True
                    continue
            if fast:
                self._stored, fast = None, False
            self._last, self._row = last, row
            if "\r" in line or "\x08" in line or "\x0c" in line or "\x0b" in line:
                self._parts(line)
            else:
                self._one(line)
            last, row = self._last, self._row
        self._last, self._row = last, row
        self.lines += count

    def finish(self, *, more_to_come: bool = False) -> list[Kind]:
        """The kinds of lines that hold something, each with its rows in order; copies where more lines are to come."""
        for known in self._known.values():
            known.drain()
        kinds = [kind for kind in self.kinds.values() if kind.rows]
        if more_to_come:
            kinds = [kind.only(slice(None)) for kind in kinds]
        for kind in kinds:
            kind.sort()
        return kinds

    def _parts(self, line: str) -> None:
        """What is drawn over one another in one line."""
        parts = [part for part in _BREAKS.split(line) if part and not part.isspace()]
        for part in parts[:-1]:
            self._redrawn = True
            self._one(part)
        self._redrawn = False
        if parts:
            self._one(parts[-1])

    def _one(self, raw: str) -> None:
        self._row += 1
        text = lines.cleaned(raw)
        last = self._last
        known = last.following if last is not None else None
        if known is not None and known.plan.fast is not None:
            match = known.plan.fast.fullmatch(text)
            if match is not None:
                self._last = known
                self._store(known, match.groups())
                return
        if len(raw) > lines.MOST_CHARACTERS:
            self.cut_off += 1
        if not lines.has_number(text):
            if text and _HEADER.search(text) is not None:
                self._recent.append((text, raw))
                # A row of numbers below another header has other names.
                self._last = None
            return
        if "%|" in raw and (title := lines.before_bar(raw)) and _HEADER.search(title) is not None:
            self._recent.append((" ".join(title.split()), title))
            self._last = last = None
        parts = lines.cut(text)
        numbers = parts[1::2]
        if not numbers:
            return
        known = self._lookup(tuple(parts[::2]), numbers, text, raw)
        if known is None:
            return
        if last is not None:
            last.following = known
        self._last = known
        if known.kind is not None:
            self._store(known, [numbers[place] for place in known.plan.picks])

    def _lookup(self, texts: tuple[str, ...], numbers: list[str], text: str, raw: str) -> _Known | None:
        found = self._known.get(texts)
        if found is not None and not found.plan.bare:
            found.seen_again(numbers)
            return found
        if found is not None or self._may_be_bare(texts):
            header = self._recent[-1][0] if self._recent else ""
            found = self._known.get((header, texts))
            if found is not None:
                found.seen_again(numbers)
                return found
        if self._examined > _LEARNING_LINES and not self._promises(text):
            return None
        self._examined += 1
        plan = lines.planned(texts, numbers)
        known = self._adopted(plan, numbers, text, raw)
        if len(self._known) >= _MOST_PLANS:
            for each in self._known.values():
                each.drain()
            self._known.clear()
            self._last = None
        self._known[texts] = known
        if plan.bare:
            self._known[self._recent[-1][0] if self._recent else "", texts] = known
        return known

    @staticmethod
    def _may_be_bare(texts: tuple[str, ...]) -> bool:
        return len(texts) >= 3 and not any(any(c.isalpha() for c in text) for text in texts[1:3])

    def _promises(self, text: str) -> bool:
        """Whether a line is worth a closer look although thousands of other ones were seen."""
        if _HEADER.search(text) is not None or (self._header[0] and len(text) < 500):
            return True
        return any(word in text for word in self._told)

    def _adopted(self, plan: Plan, numbers: Sequence[str], text: str, raw: str) -> _Known:
        """Decide which of the numbers are kept, and under which names."""
        if plan.bare and not self._name_cells(plan, text, raw):
            names: list[tuple[str, int, float]] = []
        else:
            names = self._kept(plan, numbers)
        if plan.rank >= 0 or plan.rank_place >= 0:
            names.append((_RANK, plan.rank_place, 1.0))
        if not any(not name.startswith("\0") for name, _, _ in names):
            return _Known(plan, None)
        names.sort(key=lambda each: each[1] if each[1] >= 0 else 1 << 30)
        labels = tuple(name for name, _, _ in names)
        key = (plan.split.lower(), labels, self._context(plan))
        kind = self.kinds.get(key)
        if kind is None:
            if len(self.kinds) >= _MOST_KINDS:
                return _Known(plan, None)
            kind = self.kinds[key] = Kind(plan.split, plan.context, labels, example=text[:200])
            kind.counters_only = all(_is_counter(name) for name in labels)
            kind.labelled = plan.texts[0] == "" and plan.texts[1][:1] == ":" and "#1" in labels
            kind.all_keys = frozenset(one.key for one in plan.fields)
        plan.picks = sorted(
            {place for _, place, _ in names if place >= 0} | ({plan.clock} if plan.clock >= 0 else set())
        )
        scales = [scale for _, _, scale in names]
        clock = plan.picks.index(plan.clock) if plan.clock >= 0 else -1
        return _Known(plan, kind, scales if any(scale != 1.0 for scale in scales) else None, clock)

    @staticmethod
    def _context(plan: Plan) -> str:
        return " ".join(
            word
            for word in plan.context.split()
            if not any(c.isdigit() for c in word)
            and any(c.isalpha() for c in word)
            and not lines.is_wanted(word)
        )

    def _kept(self, plan: Plan, numbers: Sequence[str]) -> list[tuple[str, int, float]]:
        """Name, place and scale of each number that is kept."""
        kept: list[tuple[str, int, float]] = []
        seen: set[str] = set()
        unnamed = 0
        for one in plan.fields:
            name, place = one.key, one.place
            if not name:
                leading = not any(not n.startswith("#") for n in seen)
                if (one.total < 0 and (not leading or one.unit)) or unnamed >= 3:
                    continue
                unnamed += 1
                name = f"#{unnamed}"
            elif self._examined <= _LEARNING_LINES and name not in self.keys and len(self.keys) < _MOST_KEYS:
                self.keys[name] = numbers[place]
            if name in seen:
                continue
            told = name in self._told or by_name.plain(name) in self._told_plain
            if not (one.key == "" or told or lines.is_wanted(name)):
                continue
            seen.add(name)
            counter = _is_counter(name)
            if plan.split and one.mean >= 0 and not counter:
                place = one.mean
            kept.append((name, place, _scale(one.unit) if counter else 1.0))
            if one.total >= 0 and counter:
                kept.append((name + _TOTAL, one.total, 1.0))
        # Counters without any name say nothing by themselves unless a total stands behind them.
        named = [name for name, _, _ in kept if not name.startswith("#")]
        totals = any(name.endswith(_TOTAL) for name, _, _ in kept)
        return kept if named or totals else []

    def _name_cells(self, plan: Plan, text: str, raw: str) -> bool:
        """Give the numbers of a bare row the names in the header above it."""
        raw = lines.plain_raw(raw)
        candidates = [*reversed(self._recent), self._header]
        for header, header_raw in candidates:
            if not header:
                continue
            names = _match_cells(header, lines.plain_raw(header_raw), text, raw)
            if names is None:
                continue
            self._header = (header, header_raw)
            by_place = {one.place: one for one in plan.fields}
            kept = []
            for place, name in names.items():
                if place in by_place:
                    by_place[place].key = name
                    kept.append(by_place[place])
            rest = [
                one
                for one in plan.fields
                if one.total >= 0 and one.place not in names and one.place > max(names)
            ]
            plan.fields = [*kept, *rest]
            plan.bare = True
            return True
        # A bar alone, or two counters: `3/10 [00:12<01:00]`.
        return any(one.total >= 0 for one in plan.fields)

    def _store(self, known: _Known, numbers: Sequence[str]) -> None:
        kind = known.kind
        if kind is None:
            return
        time, clock = _NAN, known.clock
        if clock >= 0:
            time = lines.moment(numbers[clock])
            numbers = numbers[1:] if clock == 0 else [*numbers[:clock], *numbers[clock + 1 :]]
        try:
            values = list(map(float, numbers))
        except ValueError:
            try:
                values = [lines.number(number) for number in numbers]
            except ValueError:
                return
        if known.plan.rank >= 0 and len(values) < len(kind.names):
            values.append(float(known.plan.rank))
        if len(values) != len(kind.names):
            return
        if known.scales is not None:
            values = [value * scale for value, scale in zip(values, known.scales, strict=True)]
        if kind.counters_only and self._stored is kind:
            # Of a bar that is drawn again and again only where it stood last matters.
            width = len(kind.names)
            del kind.data[-width:]
            kind.rows.pop()
            kind.times.pop()
            kind.redrawn.pop()
        self._stored = kind
        kind.rows.append(self._row)
        kind.times.append(time)
        kind.redrawn.append(self._redrawn)
        kind.data.extend(values)


def _scale(unit: str) -> float:
    return {"k": 1e3, "m": 1e6}.get(unit, 1.0)


def _match_cells(header: str, header_raw: str, text: str, raw: str) -> dict[int, str] | None:
    """The place of the number in each cell by the name above it; None where the two do not fit."""
    headers = dict(lines.cells(header, header_raw))
    for delimiter, cells in lines.cells(text, raw):
        names = headers.get(delimiter)
        if names is None or len(names) < 2 or not any(lines.is_wanted(name) for name in names):
            continue
        over = len(cells) - len(names)
        if over == 1 and delimiter in {" ", "  "} and header_raw[:1] in {" ", "\t"} and cells[0].isdigit():
            # The index that a data frame prints in front has no name.
            names, over = ["", *names], 0
        if over and not (over > 0 and delimiter == " " and cells[len(names)][:1] in "|[-0123456789"):
            continue
        found: dict[int, str] = {}
        place = 0
        for name, cell in zip(names, cells, strict=False):
            count = len(lines.NUMBER.findall(cell))
            if count and name and any(char.isalpha() for char in name):
                found[place] = name
            place += count
        if len(found) >= 2 and any(lines.is_wanted(name) for name in found.values()):
            return found
    return None


@dataclass(slots=True)
class Family:
    """Kinds that are variants of one record: some of its keys may be missing at times."""

    evaluates: bool
    kinds: list[Kind]

    @property
    def rows(self) -> int:
        """How many lines."""
        return sum(len(kind.rows) for kind in self.kinds)


@dataclass(slots=True)
class _Counter:
    """A number that counts, at certain rows; NaN where it is not there."""

    name: str
    value: Floats
    total: float = float("nan")
    carried: bool = False
    """Whether it stands in other lines before."""

    @property
    def known(self) -> Floats:
        """The values that are there."""
        return self.value[np.isfinite(self.value)]


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
            frozenset(name for name in kind.names if _is_counter(name) and "\0" not in name),
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
    if not kind.split or by_name.is_evaluation(name) or by_name.is_training(name) or _is_counter(name):
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
            for name in (each for each in kind.names if not _is_counter(each)):
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
        if _RANK not in kind.names and _labels_are_ranks(kind):
            kind.names = tuple(_RANK if name == "#1" else name for name in kind.names)
    for kind in kinds:
        if _RANK in kind.names and kind.keys:
            ranks.update(np.unique(kind.column(_RANK)).tolist())
    if len(ranks) < 2 or len(ranks) > _MOST_RANKS:
        return kinds
    chosen = min(ranks)
    kept = []
    for kind in kinds:
        if _RANK in kind.names:
            mask: Flags = kind.column(_RANK) == chosen
            if not mask.any():
                continue
            kept.append(kind.only(mask))
            continue
        kept.append(kind)
    notes.append(f"{len(ranks)} ranks print their own lines: those of rank {chosen:.0f} are read.")
    return kept


def _packed(code: str, values: Any) -> array:  # type: ignore[type-arg]  # one of two kinds
    packed = array(code)
    packed.frombytes(np.ascontiguousarray(values).tobytes())
    return packed


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
        begins = sorted({at for counter in slow[:4] for at in _new_runs(counter, values)})
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

    def _first_line(self, before: int, at: int, slow: Sequence[_Counter]) -> int:
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
            or _is_running_mean(place, main.values, expected=more)
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
                if name.endswith(_TOTAL) and not lines.is_epoch(name.removesuffix(_TOTAL)):
                    place[here] = kind.column(name.removesuffix(_TOTAL))[at]
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
                found = _global_counter(counters, [*own, *carried])
                if found is not None:
                    return rows, values, "step", found.name, _filled(found.value)
                inner = _inner(counters, [*own, *carried], self.notes)
                if inner is not None:
                    label, position = inner
                    return rows, values, "step", label, position
            for counters in (own, carried):
                epochs = _epoch(counters)
                if epochs is not None:
                    return rows, values, "epoch", epochs.name, _filled(epochs.value)
        else:
            epochs = _epoch([*own, *carried])
            if epochs is not None:
                return rows, values, "epoch", epochs.name, _filled(epochs.value)
        plain = _plain_counter([*own])
        if plain is not None:
            return rows, values, "step", plain.name, _filled(plain.value)
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

    def _own(self, main: _Series, rows: Integers) -> list[_Counter]:
        """Counters in the lines of the series."""
        found: dict[str, _Counter] = {}
        for kind in main.family.kinds:
            here = _among(rows, kind.places)
            if not here.any():
                continue
            place = np.searchsorted(kind.places, rows[here])
            for name in kind.names:
                if not _is_counter(name) or name.startswith("\0") or name.endswith(_TOTAL):
                    continue
                counter = found.setdefault(name, _Counter(name, np.full(rows.size, np.nan)))
                counter.value[here] = kind.column(name)[place]
                if name + _TOTAL in kind.names:
                    counter.total = float(np.median(kind.column(name + _TOTAL)))
        return [c for c in found.values() if np.isfinite(c.value).mean() >= 0.9]

    def _carried(self, main: _Series, rows: Integers) -> list[_Counter]:
        """Counters in lines before those of the series, by name and total."""
        parts: dict[tuple[str, float], list[tuple[Integers, Floats]]] = {}
        for kind in self.kinds:
            if kind.split or kind in main.family.kinds:
                continue
            for name in kind.names:
                if not _is_counter(name) or name.startswith("\0") or name.endswith(_TOTAL):
                    continue
                value = kind.column(name)
                if name + _TOTAL in kind.names:
                    totals = kind.column(name + _TOTAL)
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
                found.append(_Counter(name, dense, total if total > 0 else float("nan"), carried=True))
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
                columns[n] = (_with_record(at, rows), value)
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
                f"{len(kind.rows):,} lines with {names or 'a counter'}{about}: {kind.example[:_SHOWN_CHARACTERS]}"
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
                        _is_counter(counter)
                        and not counter.startswith(("#", "\0"))
                        and not counter.endswith(_TOTAL)
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
                    if name.startswith(("#", "\0")) or name.endswith(_TOTAL) or not wanted(name):
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


def _moves(value: Floats) -> bool:
    known = value[np.isfinite(value)]
    return known.size == 1 or (known.size > 1 and bool(np.any(known != known[0])))


def _filled(value: Floats) -> Floats:
    """Where a counter is missing it stands where it last stood."""
    known = np.flatnonzero(np.isfinite(value))
    if not known.size:
        return np.zeros(value.size)
    place = np.maximum(np.searchsorted(known, np.arange(value.size), side="right") - 1, 0)
    return value[known[place]]


def _falls(value: Floats) -> int:
    return int(np.sum(np.diff(value[np.isfinite(value)]) < 0))


def _distinct(counter: _Counter) -> float:
    known = counter.known
    # A counter that never falls needs no sorting.
    moves = np.diff(known)
    if moves.size and moves.min() >= 0:
        return (int(np.count_nonzero(moves)) + 1) / known.size
    return np.unique(known).size / max(known.size, 1)


def _whole_numbers(value: Floats) -> bool:
    known = value[np.isfinite(value)]
    return bool(np.all(known == np.floor(known)))


def _global_counter(counters: Sequence[_Counter], every: Sequence[_Counter]) -> _Counter | None:
    """A number that counts up through the whole file; a few steps back are restarts."""
    found = []
    for counter in counters:
        if lines.is_epoch(counter.name) or not _whole_numbers(counter.value) or not _moves(counter.value):
            continue
        if counter.name.startswith("#") and not np.isfinite(counter.total):
            continue
        falls = _falls(counter.value)
        if falls and _starts_again(counter, every):
            continue
        least = _MOVING_SHARE if counter.carried else 0.3 if counter.name.startswith("#") else 1 / _MOST_RANKS
        if _distinct(counter) < least and counter.known.size > 2:
            continue
        found.append(((falls > 0, counter.name.startswith("#"), -_distinct(counter)), counter))
    return min(found, key=lambda each: each[0])[1] if found else None


def _starts_again(counter: _Counter, counters: Sequence[_Counter]) -> bool:
    """Whether it starts again in each epoch, rather than where a job was resumed."""
    value = _filled(counter.value)
    falls = np.flatnonzero(np.diff(value) < 0) + 1
    for other in counters:
        if other is not counter and _slow(other) and not _falls(other.value):
            outer = _filled(other.value)
            if np.mean(outer[falls] > outer[falls - 1]) >= 0.8:
                return True
    low, high = value.min(), value.max()
    near_start = float(np.mean(value[falls] <= low + 0.25 * (high - low)))
    at_end = float(np.mean(value[falls - 1] >= high - 0.25 * (high - low)))
    return falls.size >= 2 and near_start >= 0.8 and at_end >= 0.8


def _slow(counter: _Counter) -> bool:
    return lines.is_epoch(counter.name) or counter.name.startswith("#") or lines.is_step(counter.name)


def _inner(
    counters: Sequence[_Counter], every: Sequence[_Counter], notes: list[str]
) -> tuple[str, Floats] | None:
    """A counter within each epoch, counted through: epoch x total + counter."""
    for counter in counters:
        if lines.is_epoch(counter.name) or not _moves(counter.value) or not _whole_numbers(counter.value):
            continue
        if counter.name.startswith("#") and not np.isfinite(counter.total) and len(every) < 2:
            continue
        value = _filled(counter.value)
        falls = np.flatnonzero(np.diff(value) < 0) + 1
        if counter.carried and np.mean(np.diff(value) != 0) < _MOVING_SHARE:
            continue
        outer = next(
            (o for o in every if o is not counter and lines.is_epoch(o.name) and _turns(o, falls)), None
        )
        outer = outer or next((o for o in every if o is not counter and _slow(o) and _turns(o, falls)), None)
        if outer is None and not (falls.size and _starts_again(counter, counters)):
            continue
        step = np.diff(value)
        pace = float(np.median(step[step > 0])) if np.any(step > 0) else 1.0
        length = (
            counter.total
            if np.isfinite(counter.total)
            else value.max() + (pace if value.min() < pace else 0.0)
        )
        if outer is not None:
            epoch = _filled(outer.value)
            base = 0.0 if epoch.min() < 1 else 1.0
            label = _label(counter)
            notes.append(
                f"Steps are ({_label(outer)} - {base:.0f}) x {length:,.0f} + {label}."
                if base
                else f"Steps are {_label(outer)} x {length:,.0f} + {label}."
            )
            return label, (np.floor(epoch) - base) * length + value
        number = np.zeros(value.size)
        number[falls] = 1
        notes.append(
            f"{_label(counter)} starts again {falls.size} times: steps are counted through, {length:,.0f} each time."
        )
        return _label(counter), np.cumsum(number) * length + value
    return None


def _turns(outer: _Counter, falls: Integers) -> bool:
    """Whether this counter goes on where another one starts again."""
    value = _filled(outer.value)
    if _falls(outer.value) or not _whole_numbers(outer.value):
        return False
    if not falls.size:
        return lines.is_epoch(outer.name) and not _moves(outer.value)
    changes = int(np.sum(np.diff(value) != 0))
    return bool(np.mean(value[falls] > value[falls - 1]) >= 0.8) and changes <= 2 * falls.size


def _label(counter: _Counter) -> str:
    return "the counter" if counter.name.startswith("#") else counter.name


def _epoch(counters: Sequence[_Counter]) -> _Counter | None:
    """A number that counts epochs or parts of them."""
    found = [c for c in counters if lines.is_epoch(c.name) and _moves(c.value)]
    return max(found, key=_distinct) if found else None


def _fine(counter: _Counter) -> bool:
    """Whether most rows have a value of their own."""
    return _distinct(counter) >= _MOVING_SHARE


def _plain_counter(counters: Sequence[_Counter]) -> _Counter | None:
    """A number without a name that goes up in every row."""
    found = [
        c for c in counters if c.name.startswith("#") and _moves(c.value) and not _falls(c.value) and _fine(c)
    ]
    return found[0] if found else None


def _with_record(at: Integers, rows: Integers) -> Integers:
    """Lines that follow each record, one for one, belong to it: `loss: 2.31` and below it `lr: 0.1`."""
    if (
        not at.size
        or abs(at.size - rows.size) > 0.1 * rows.size + 1
        or np.isin(at[:1], rows).all()
        or at[0] < rows[0]
    ):
        return at
    place = np.searchsorted(rows, at, side="right") - 1
    return rows[place] if np.unique(place).size == place.size else at


def _is_running_mean(place: Floats, value: Floats, *, expected: bool) -> bool:
    """Whether a series is averaged since the start of each epoch: what is new then counts less and less.

    The mean of k values moves by 1/k of what is new. So in the first half of an epoch it moves more than in the second, and
    where the next epoch begins it jumps; a series of single values moves as much everywhere. The first epoch does not count:
    there the loss itself falls fastest.
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(place) < 0) + 1, [place.size]])
    ratios, jumps = [], []
    for start, stop in zip(starts[1:-1].tolist(), starts[2:].tolist(), strict=True):
        moves = np.abs(np.diff(value[start:stop]))
        if moves.size >= 8 and np.isfinite(moves).all():
            half = moves.size // 2
            late = max(float(moves[half:].mean()), 1e-300)
            ratios.append(float(moves[:half].mean()) / late)
            jumps.append(abs(float(value[start] - value[start - 1])) / late)
    enough = 2 if expected or place.size >= 40 * (len(starts) - 1) else 4
    return len(ratios) >= enough and bool(np.median(ratios) >= _AVERAGED and np.median(jumps) >= _JUMPS)


_JUMPS = 2.5
"""From a mean of k values to a single one it jumps some k / 2 times as far as it last moved; single values once as far."""
_AVERAGED = 1.8
"""For 10 values an epoch the ratio of a running mean is 2.5 and that of single values 1 with a spread of 0.4 an epoch."""


def _labels_are_ranks(kind: Kind) -> bool:
    """Whether the number before the colon is the task that printed the line: it does not count, and something else does."""
    counter = next((n for n in kind.names if lines.is_step(n) and not n.endswith(_TOTAL)), None)
    if not kind.labelled or counter is None:
        return False
    label, step = kind.column("#1"), kind.column(counter)
    ranks = np.unique(label)
    if (
        ranks.size < 2
        or ranks.size > _MOST_RANKS
        or not np.array_equal(ranks, np.floor(ranks))
        or not np.any(np.diff(label) < 0)
    ):
        return False
    order = np.lexsort((np.arange(label.size), label))
    same = label[order][1:] == label[order][:-1]
    return bool(np.mean(np.diff(step[order])[same] > 0) > 0.9)


def _new_runs(counter: _Counter, loss: Floats) -> list[int]:
    """Where a run begins anew: the counter goes back to its first value, and the loss to about its first level."""
    value = _filled(counter.value)
    forward = np.diff(value)
    pace = float(np.median(forward[forward > 0])) if np.any(forward > 0) else 0.0
    found: list[int] = []
    start = 0
    for at in (np.flatnonzero(forward < 0) + 1).tolist():
        if value[at] > value[0] + 1.5 * pace or at - start < _SHORTEST_RUN or value.size - at < _SHORTEST_RUN:
            continue
        first, before, now = (
            float(np.median(part)) for part in (loss[:3], loss[at - 3 : at], loss[at : at + 3])
        )
        if abs(now - first) < 0.5 * abs(first - before):
            found.append(at)
            start = at
    return found


_SHORTEST_RUN = 5
"""Records of which a run is at least made, to be one of its own."""
