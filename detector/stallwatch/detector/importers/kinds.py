"""Lines of console text, gathered into kinds: those that have the same keys and are about the same data."""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Any

import numpy as np

from stallwatch.detector.importers import columns as by_name
from stallwatch.detector.importers import lines
from stallwatch.detector.importers.columns import Selection
from stallwatch.detector.importers.lines import Plan
from stallwatch.detector.importers.log import Flags, Floats, Integers

_MOST_PLANS = 4096
_MOST_KINDS = 512
_MOST_KEYS = 400
# So many different lines are looked at in full, for what to say when no loss is found.
_LEARNING_LINES = 2000
# Numbers of so many lines of one kind are converted at a time.
_WAITING = 2048
_WORTH_COMPILING = 6
_BREAKS = re.compile(r"\r|\x08+|\x0b|\x0c")
_HEADER = re.compile(r"loss|epoch|step|iter|acc|val|metric|nll|err|map|bleu|wer|cer|ppl", re.IGNORECASE)
TOTAL = "\0total"
RANK = "\0rank"
_NAN = float("nan")


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
        return frozenset(name for name in self.names if not is_counter(name))


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


def is_counter(name: str) -> bool:
    """Whether a key stands for a position, not for a value that is followed."""
    return name.startswith(("#", "\0")) or name.endswith(TOTAL) or lines.is_step(name) or lines.is_epoch(name)


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
            names.append((RANK, plan.rank_place, 1.0))
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
            kind.counters_only = all(is_counter(name) for name in labels)
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
            counter = is_counter(name)
            if plan.split and one.mean >= 0 and not counter:
                place = one.mean
            kept.append((name, place, _scale(one.unit) if counter else 1.0))
            if one.total >= 0 and counter:
                kept.append((name + TOTAL, one.total, 1.0))
        # Counters without any name say nothing by themselves unless a total stands behind them.
        named = [name for name, _, _ in kept if not name.startswith("#")]
        totals = any(name.endswith(TOTAL) for name, _, _ in kept)
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


def _packed(code: str, values: Any) -> array:  # type: ignore[type-arg]  # one of two kinds
    packed = array(code)
    packed.frombytes(np.ascontiguousarray(values).tobytes())
    return packed
