"""One line of console text as named numbers.

`Epoch [3][ 10/500]  Loss 2.31 (2.40)  lr: 1e-4` has an epoch, a counter with its total, a loss with a running mean, and a rate. No layout is known here. A line is cut at its numbers; the text before a number, up to the last delimiter, is its key. What is
left of a line without its numbers is its skeleton: lines of one skeleton share one `Plan`, so that most lines cost one regular
expression. All expressions take linear time: no text can be matched by a repetition in more than one way, and runs are bounded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache

import numpy as np

from stallwatch.detector.importers import columns as by_name

MOST_CHARACTERS = 16_384
"""A line that is longer is cut: records of training are shorter, dumps of tensors and base64 are not."""
_MOST_NUMBERS = 400

_ANSI = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,8}[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)?|[@-Z\\^_])")
# The drawn part of a progress bar; its numbers stay.
_BAR = re.compile(
    r"\d{1,3}(?:\.\d{1,3})?%\|[^|]{0,400}\||\[[=>.\-#*~_ ]{4,400}\]|[━─╸╺╾╼╴█▉▊▋▌▍▎▏▁▂▃▄▅▆▇░▒▓●○■□⣿]{2,400}"
)
_FRAMES = str.maketrans(dict.fromkeys("│┃║┆┊▕▏", "|") | dict.fromkeys("┏┓┗┛┡┩┢┪╇┳┻╋┠┨┯┷┼├┤╭╮╰╯═╞╡╪", " "))

# Between a number and what is around it one blank belongs to the number: blanks pad numbers.
_DATE = r"\d{4}[-/]\d\d?[-/]\d\d?(?:[T_ ]\d\d?:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"
_CLOCK = r"\d{1,5}(?::\d\d){1,2}(?:[.,]\d{1,9})?(?![\w.])"
_THOUSANDS = r"[-+]?[1-9]\d{0,2}(?:,\d{3}){1,5}(?:\.\d+)?(?![\w,.])"
_DECIMAL = r"[-+]?(?:\d+(?:_\d{3}){0,5}(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_BROKEN = r"[-+]?(?:[nN][aA][nN]|[iI][nN][fF](?:inity|INITY)?)(?![\w.])"
NUMBER = re.compile(rf" ?(?<![\w.@])(?<!\w-)({_DATE}|{_CLOCK}|{_THOUSANDS}|{_DECIMAL}|{_BROKEN}) ?")
# What `NUMBER` finds, where the text around it is known. A number is taken or not, never a part of it: with two ways for each
# of some dozens of numbers, a line that does not match would be tried in all of them. Python 3.10 has no atomic groups.
_ATOMIC = sys.version_info >= (3, 11)
_GROUP = "(?>" if _ATOMIC else "(?:"
_FAST = rf"{_GROUP}{_THOUSANDS}|{_DECIMAL}|{_BROKEN})"
_FAST_CLOCK = rf"{_GROUP}{_DATE}|{_CLOCK})"
# Of numbers that nobody wants only the end matters.
_LOOSE = rf"(?>[-+]?\.?\d++(?:[.,_]\d++)*+\.?(?:[eE][-+]?\d++)?|{_BROKEN})" if _ATOMIC else _FAST
_MOST_FAST = 400 if _ATOMIC else 12
"""Numbers of a line that one expression may be made for."""
_DIGIT = re.compile(r"[0-9]|\b(?:nan|NaN|NAN|inf|Inf)\b")

_SEPARATORS = ":=>~≈"
# Text in front of a number that only wraps it.
_WRAPPER = re.compile(
    r"(?:(?:tensor|array|\w{0,20}float\d{0,3}|\w{0,20}int\d{0,3}|item)\(+|[\[({<$\"'~])\s?$"
)
_DELIMITER = re.compile(r"""[|,;{}\[\]()"'<>\t#*]|[:=]\s|(?:^|\s)-+\s|\s-+$|\.\s|=>|->|·|•|—|\u2013""")
_WORDS = re.compile(r"[^\W\d_][\w@.%/+-]*(?: [\w@.%/+-]+)*")
_ASSIGNED = re.compile(r"[=]\s?[\"']?[\w./-]{1,80}[\"']?[\s,;]+")
_ZONE = frozenset("+-Z")
_UNIX_EPOCH = date(1970, 1, 1).toordinal() * 86_400.0
_POINTS = frozenset(",.")
_UNITS = frozenset(
    [
        "s",
        "ms",
        "us",
        "ns",
        "sec",
        "secs",
        "second",
        "seconds",
        "min",
        "mins",
        "minutes",
        "h",
        "hr",
        "hrs",
        "hours",
        "d",
        "days",
        "day",
        "k",
        "m",
        "g",
        "b",
        "kb",
        "mb",
        "gb",
        "tb",
        "kib",
        "mib",
        "gib",
        "tib",
        "%",
        "x",
        "it/s",
        "s/it",
        "it/sec",
        "iter/s",
        "step/s",
        "steps/s",
        "samples/s",
        "tokens/s",
        "tok/s",
        "img/s",
        "imgs/s",
        "images/s",
        "ex/s",
        "batch/s",
        "ms/step",
        "s/step",
        "ms/it",
        "us/step",
        "ms/batch",
        "s/batch",
        "ms/iter",
        "s/iter",
        "s/epoch",
        "tflops",
        "gflops",
        "tflop/s",
        "mhz",
        "w",
        "c",
        "hz",
    ]
)
_KILO = {"k": 1e3, "m": 1e6}
_FILLERS = frozenset(
    [
        "the",
        "a",
        "an",
        "with",
        "and",
        "is",
        "was",
        "are",
        "of",
        "at",
        "in",
        "on",
        "for",
        "after",
        "finished",
        "done",
        "end",
        "at:",
        "to",
        "its",
        "this",
    ]
)

_RANK_WORDS = frozenset(
    {"rank", "local_rank", "global_rank", "rank_id", "gpu", "worker", "node_rank", "process"}
)
_RANK_TEXT = re.compile(r"\brank[ _:=-]{0,3}(\d{1,7})\b", re.IGNORECASE)

_STEP_WORDS = frozenset(
    [
        "step",
        "steps",
        "iter",
        "iters",
        "iteration",
        "iterations",
        "it",
        "its",
        "update",
        "updates",
        "batch",
        "batches",
        "minibatch",
        "minibatches",
        "mb",
        "tick",
        "ticks",
        "global_step",
        "globalstep",
        "num_updates",
        "niter",
    ]
)
_EPOCH_WORDS = frozenset(["epoch", "epochs", "ep", "eps"])
_QUALIFIERS = frozenset(
    [
        "global",
        "train",
        "training",
        "trainer",
        "tr",
        "num",
        "number",
        "n",
        "no",
        "current",
        "cur",
        "curr",
        "currently",
        "optimizer",
        "optim",
        "opt",
        "sgd",
        "the",
        "at",
        "after",
        "i",
        "idx",
        "index",
        "id",
        "this",
        "count",
        "done",
        "completed",
        "finished",
        "now",
        "in",
        "of",
        "on",
        "valid",
        "val",
        "validation",
        "eval",
        "evaluation",
        "test",
        "testing",
        "inner",
        "outer",
        "total",
        "processed",
    ]
)
_EVALUATION_WORDS = frozenset(
    [
        "val",
        "valid",
        "validation",
        "validate",
        "validating",
        "validated",
        "eval",
        "evaluation",
        "evaluate",
        "evaluating",
        "dev",
        "test",
        "testing",
        "heldout",
        "holdout",
    ]
)
_TRAINING_WORDS = frozenset(["train", "training", "tr"])


def words_of(key: str) -> tuple[str, ...]:
    """The words of a key, in lower case."""
    return tuple(word for word in by_name.plain(key).split("_") if word)


@lru_cache(maxsize=8192)
def is_step(key: str) -> bool:
    """Whether the key is one that counts steps: `iter`, `global_step`, `Number of updates`, not `time per iteration`."""
    if key.lower().endswith(("/s", "/sec", "/second")):
        return False
    found = words_of(key)
    return bool(set(found) & _STEP_WORDS) and set(found) <= _STEP_WORDS | _QUALIFIERS


@lru_cache(maxsize=8192)
def is_epoch(key: str) -> bool:
    """Whether the key is one that counts epochs."""
    found = words_of(key)
    return bool(set(found) & _EPOCH_WORDS) and set(found) <= _EPOCH_WORDS | _QUALIFIERS


@lru_cache(maxsize=8192)
def is_wanted(key: str) -> bool:
    """Whether a number of this key can play a role."""
    return is_step(key) or is_epoch(key) or bool(by_name.wanted([key], by_name.Selection()))


@dataclass(slots=True)
class Field:
    """A number of a line."""

    key: str
    """Empty for a number without a name."""
    place: int
    """Which number of the line it is."""
    total: int = -1
    """Place of the number after the slash in `10/500`."""
    mean: int = -1
    """Place of the running mean in brackets behind it."""
    unit: str = ""


@dataclass(slots=True)
class Plan:
    """What the numbers of all lines with one skeleton are."""

    fields: list[Field]
    clock: int
    """Place of the timestamp; -1 for none."""
    split: str
    """The word that says which data the line is about, as written: `val`, `Test`; empty for none or for training."""
    context: str
    """The words before the first key: lines of one kind have them in common."""
    rank: int
    """Rank named within a word, as in `[rank0]`; -1 for none."""
    rank_place: int
    """Place of the number that is a rank; -1 for none."""
    bare: bool
    """Numbers without any key: a row of a table, whose names stand in a header above."""
    texts: Sequence[str] = ()
    picks: list[int] = field(default_factory=list)
    """Places of the numbers that somebody wants, in order."""
    fast: re.Pattern[str] | None = None

    def compile(self, numbers: Sequence[str]) -> None:
        """An expression that finds the numbers at `picks` in a line of this skeleton, in one go, blanks and all."""
        if len(numbers) > _MOST_FAST:
            return
        wanted, parts = set(self.picks), []
        for place, text in enumerate(self.texts):
            # Two numbers with nothing between them have a blank between them.
            inside = 0 < place < len(numbers)
            literal = "[ \t]+".join(map(re.escape, text.split()))
            parts.append(f"[ \t]*{literal}[ \t]*" if literal else "[ \t]+" if inside else "[ \t]*")
            if place < len(numbers):
                kind = _FAST_CLOCK if is_clock(numbers[place]) else _FAST if place in wanted else _LOOSE
                parts.append(f"({kind})" if place in wanted else kind)
        self.fast = re.compile(f"{''.join(parts)}\r?")


def cleaned(line: str) -> str:
    """The line without colours, drawn bars and frames, with single blanks."""
    if len(line) > MOST_CHARACTERS:
        line = line[:MOST_CHARACTERS]
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    if not line.isascii():
        line = _BAR.sub("|", line.translate(_FRAMES))
    elif "%|" in line or "==" in line or ".." in line or "--" in line or "##" in line:
        line = _BAR.sub("|", line)
    return " ".join(line.split())


def has_number(line: str) -> bool:
    """Whether there may be a number in it."""
    return _DIGIT.search(line) is not None


def cut(line: str) -> list[str]:
    """The cleaned line as text, number, text, ..., number, text."""
    parts = NUMBER.split(line)
    return parts if len(parts) <= 2 * _MOST_NUMBERS else [*parts[: 2 * _MOST_NUMBERS], ""]


def is_clock(number: str) -> bool:
    """Whether the number is a date or a time of day or a duration."""
    return ":" in number or (number.count("-") == 2 and "e" not in number) or number.count("/") == 2


def number(text: str) -> float:
    """The number's value; raises ValueError for a date or time."""
    try:
        return float(text)
    except ValueError:
        return float(text.replace(",", ""))


def number_or_nan(text: str) -> float:
    """The number's value; NaN where it is none after all."""
    try:
        return number(text)
    except ValueError:
        return float("nan")


@lru_cache(maxsize=64)
def _day(text: str) -> float:
    year, month, day = (int(part) for part in re.split(r"[-/]", text))
    return date(year, month, day).toordinal() * 86_400.0


@lru_cache(maxsize=64)
def _minute(text: str) -> float:
    return _moment(f"{text}:00")


def moment(text: str) -> float:
    """Seconds of a date with a time of day; NaN for anything else."""
    if text[16:17] == ":" and text[4:5] in "-/":
        # Nearly always the same minute as that of the line before.
        try:
            second = float(text[17:19])
            return _minute(text[:16]) + (
                second + float(f"0.{text[20:]}") if text[19:20] in _POINTS else second
            )
        except ValueError:
            pass
    return _moment(text)


def moments(texts: list[str]) -> list[float]:
    """`moment` for many; those in the form of ISO 8601 at once."""
    joined = "\n".join(texts).replace(",", ".")
    if len(texts[0]) >= 19 and texts[0][4] == "-" and not _ZONE & set(texts[0][19:]) and "Z" not in joined:
        try:
            parsed = np.array(joined.split("\n"), dtype="datetime64[ms]")
        except ValueError:
            return list(map(moment, texts))
        # Days are counted from the year 1 here.
        seconds: list[float] = (parsed.astype(np.int64) / 1000 + _UNIX_EPOCH).tolist()
        return seconds
    return list(map(moment, texts))


def _moment(text: str) -> float:
    try:
        cut_at = next((place for place in (text.find(" "), text.find("T"), text.find("_")) if place > 0), -1)
        if cut_at < 0:
            return float("nan")
        clock = text[cut_at + 1 :].rstrip("Z").replace(",", ".")
        for sign in "+-":
            clock = clock.partition(sign)[0]
        seconds = 0.0
        for part in clock.split(":"):
            seconds = 60 * seconds + float(part)
        if clock.count(":") == 1:
            seconds *= 60
        return _day(text[:cut_at]) + seconds
    except ValueError:
        return float("nan")


def planned(texts: Sequence[str], numbers: Sequence[str]) -> Plan:  # noqa: PLR0912  one rule after the other, in this order
    """What the numbers between these texts are; `numbers` are those of one line of the skeleton."""
    fields: list[Field] = []
    nested: list[str] = []
    clock, rank_place, before, used_words = -1, -1, "", 0
    for place, text in enumerate(texts[:-1]):
        value, after = numbers[place], texts[place + 1]
        _nest(nested, text)
        text, before = before + text, ""  # noqa: PLW2901  words that look like a number belong to what follows
        if is_clock(value):
            if clock < 0 and moment(value) == moment(value):
                clock = place
            continue
        plain_text = text.strip()
        if value[-1] in "nNfFyY" and plain_text[-1:].isalpha() and after[:1].isalpha():
            # The word in "number of nan iterations" is no value.
            before = f"{text} {value} "
            continue
        if (
            plain_text in {"/", "of", "out of"}
            and fields
            and fields[-1].total < 0
            and fields[-1].place == place - 1
        ):
            fields[-1].total = place
            continue
        if plain_text in {"(", "(avg", "(avg:", "(mean", "(mean:", "(ave"} and fields and after[:1] == ")":
            fields[-1].mean = place
            continue
        key = _key(text, first=place == 0) or _cell_key(text, alone=len(numbers) == 1)
        if not key or not (is_wanted(key) or set(words_of(key)) & _RANK_WORDS):
            key = _suffix_key(text, after, named=bool(key)) or key
        if key and any(nested):
            key = "/".join([*filter(None, nested), key])
        if set(words_of(key)) & _RANK_WORDS and "".join(words_of(key)) in {
            w.replace("_", "") for w in _RANK_WORDS
        }:
            rank_place = place if rank_place < 0 else rank_place
            continue
        if key and value.isdigit() and text.rstrip()[-1:] in "[(" and not is_wanted(key):
            # What stands before a bracket that opens a list of counters is a prefix.
            key = ""
        if key and value.isdigit() and set(words_of(key)) <= _EVALUATION_WORDS | _TRAINING_WORDS:
            # `Test: 3` counts something that has no name.
            key = ""
        if key:
            used_words += 1
        fields.append(Field(key, place, unit=_unit(after)))
    for one in fields:
        if one.total >= 0 and not (is_step(one.key) or is_epoch(one.key)):
            one.key = ""
    found = next((match for text in texts if (match := _RANK_TEXT.search(text))), None)
    split, context = _split(texts, fields)
    if used_words == 1 and fields[0].place == 0 and fields[0].key and not is_wanted(fields[0].key):
        # The first cell of a row may be a word.
        used_words, fields[0].key = 0, "" if all(_is_empty(text) for text in texts[1:]) else fields[0].key
    bare = used_words == 0 and len(fields) >= 2 and all(_is_empty(text) for text in texts[1:])
    return Plan(
        fields, clock, split, context, int(found.group(1)) if found else -1, rank_place, bare, tuple(texts)
    )


def _nest(nested: list[str], text: str) -> None:
    """Follow objects within objects: the keys that lead to where the text ends."""
    if "{" not in text and "}" not in text:
        return
    for match in _NESTING.finditer(text):
        if match.group() == "}":
            if nested:
                nested.pop()
        else:
            bare = match.group(2) or ""
            nested.append(
                match.group(1) or (bare if bare.lower() in _EVALUATION_WORDS | _TRAINING_WORDS else "")
            )


_NESTING = re.compile(r"""["']([\w./-]{1,80})["']\s?[:=]\s?\{|(?:^|[\s,;|])(\w{2,10})\s?[:=]\s?\{|\{|\}""")


def _is_empty(text: str) -> bool:
    """Whether there is nothing between two cells but a delimiter, a unit or a slash."""
    stripped = text.strip(" |/,;%[]()<-:?").lower()
    return not stripped or stripped in _UNITS or not any(char.isalpha() for char in stripped)


def _unit(after: str) -> str:
    match = _UNIT.match(after)
    return match.group().lower() if match is not None else ""


_UNIT = re.compile(r"%|[^\W\d_]{1,12}")


def _key(text: str, *, first: bool) -> str:  # noqa: PLR0912  one rule after the other, in this order
    """The name at the end of the text before a number."""
    text = text.rstrip()
    for _ in range(4):
        shorter = _WRAPPER.sub("", text).rstrip()
        if shorter == text:
            break
        text = shorter
    if text.endswith(",") and text[-2:-1] in "\"'":
        text = text[:-1]
    if "'s " in text:
        text = text.replace("'s ", " ")
    bare_end = text.rstrip(_SEPARATORS + " \"'")
    separated = bare_end != text
    text = bare_end
    if not text:
        return ""
    if not separated and text[-1] in "|,;/%)]}-":
        # Brackets may belong to a key only where a colon or the like follows: `time (s): 3`, and `Epoch(train) [3]`.
        closed = text[-1:] in ")]" and text[:-1].rstrip()[-1:].isalnum()
        if not closed:
            return ""
    inner = ""
    if text[-1] in ")]":
        opening = text.rfind("(" if text[-1] == ")" else "[")
        if opening < 0:
            return ""
        inner, text = text[opening:], text[:opening].rstrip()
        if not text or not (text[-1].isalnum() or text[-1] in "_'\""):
            return "" if not separated else inner.strip("()[] ")
        text = text.rstrip("'\"")
    if "=" in text:
        text = _ASSIGNED.sub("|", text)
    last = 0
    for match in _DELIMITER.finditer(text):
        last = match.end()
    name = text[last:].strip(" :=/\\.+&!?^`-_" if not text[last:].startswith("_") else " :=/\\.+&!?^`-")
    if ":" in name:
        name = name.rpartition(":")[2].strip()
    if "=" in name:
        name = name.rpartition("=")[2].strip()
    pieces = name.split()
    # What follows a number at once may be its unit.
    while len(pieces) > 1 and not first and last == 0 and pieces[0].lower() in _UNITS:
        pieces = pieces[1:]
    if len(pieces) == 1 and not first and last == 0 and not separated and pieces[0].lower() in _UNITS:
        return ""
    while len(pieces) > 1 and pieces[0].lower() in _FILLERS:
        pieces = pieces[1:]
    while len(pieces) > 1 and pieces[-1].lower() in _FILLERS:
        pieces = pieces[:-1]
    name = " ".join(pieces[-5:])
    if inner and name:
        hint = inner.strip("()[] ")
        name += f" ({hint})" if hint and len(hint) <= 24 else ""
    return name if any(char.isalpha() for char in name) and len(name) <= 120 else ""


def _cell_key(text: str, *, alone: bool) -> str:
    """`| loss | 2.31 |`: a name in the cell before."""
    match = _CELL.search(text.rstrip())
    name = match.group(1).strip() if match is not None else ""
    return name if name and (alone or is_wanted(name)) else ""


_CELL = re.compile(r"(?:^|\|)([^|]{1,80})\|$")


def _suffix_key(before: str, after: str, *, named: bool) -> str:
    """`200 steps`, `2.4 avg loss,`: a name behind its number."""
    match = _WORDS.match(after)
    if match is None:
        return ""
    phrase = match.group()
    first = phrase.split()[0].rstrip(".:")
    if first.lower() in _STEP_WORDS | _EPOCH_WORDS and "/" not in first:
        rest = after[len(first) :].lstrip(" ")
        # `200 step=5` and `3 epoch: 4`: the word belongs to what follows.
        return "" if rest[:1] in {":", "="} or (not rest and named) else first
    rest = after[match.end() :].lstrip()
    if named or before.strip()[-1:] in {":", "="} or rest[:1] in {":", "="}:
        return ""
    return phrase if (not rest or rest[0] in ",;|)]") and is_wanted(phrase) else ""


def _split(texts: Sequence[str], fields: Sequence[Field]) -> tuple[str, str]:
    """The word for the data the line is about, and the words before its first key that plays a role."""
    keyed = [f for f in fields if f.key and is_wanted(f.key)]
    counters = [f.place for f in keyed if is_step(f.key) or is_epoch(f.key)]
    firsts = [f.place for f in keyed if not (is_step(f.key) or is_epoch(f.key))]
    until = (min(firsts) if firsts else max(counters, default=len(texts) - 1)) + 1
    split, context, training = "", [], False
    begins = min((f.place for f in fields), default=0)
    for place, text in enumerate(texts[:until]):
        own = next((f.key for f in keyed if f.place == place and f.place not in counters), "")
        for token in re.split(r"[\s|,;:=\[\]{}()<>\"'#*]+", text):
            if not token or "." in token.strip(".") or "/" in token.strip("/"):
                continue
            for word in re.split(r"[^0-9A-Za-z]+|(?<=[a-z])(?=[A-Z])", token):
                lowered = word.lower()
                if own and lowered in by_name.plain(own).split("_"):
                    continue
                if lowered in _EVALUATION_WORDS:
                    split, training = word, False
                elif lowered in _TRAINING_WORDS:
                    split, training = "", True
            if place <= begins and token.lower() not in _UNITS and not any(char.isdigit() for char in token):
                context.append(token.lower())
    for f in keyed:
        found = {word.lower() for word in words_of(f.key)}
        if f.place in counters and not training and not split and found & _EVALUATION_WORDS:
            split = next(word for word in words_of(f.key) if word in _EVALUATION_WORDS)
    mode = next((m for text in texts if (m := _MODE.search(text))), None)
    if mode is not None:
        word = mode.group(1)
        split = word if word.lower() in _EVALUATION_WORDS else ""
    return split, " ".join(context[:12])


_MODE = re.compile(
    r"""\b(?:mode|split|phase|stage|subset|partition)["']?\s?[:=]\s?["']?(\w{1,20})\b""", re.IGNORECASE
)


def plain_raw(line: str) -> str:
    """The line without colours and drawn bars, with its blanks and tabs."""
    line = _ANSI.sub("", line[:MOST_CHARACTERS])
    return _BAR.sub("|", line.translate(_FRAMES) if not line.isascii() else line).strip("\r\n")


def cells(line: str, raw: str) -> list[tuple[str, list[str]]]:
    """The ways to read a line as cells, by delimiter; `line` is the cleaned one and `raw` the one with its blanks."""
    ways: list[tuple[str, list[str]]] = []
    if line.count("|") >= 1:
        ways.append(("|", [cell.strip() for cell in line.strip("| ").split("|")]))
    for delimiter in ("\t", ",", ";"):
        if delimiter in raw:
            ways += [(delimiter, [cell.strip() for cell in raw.strip().split(delimiter)])]
    ways.append(("  ", re.split(r"\s{2,40}", raw.strip()[:4000])))
    ways.append((" ", line.split(" ")))
    return ways


def before_bar(raw: str) -> str:
    """The text in front of a drawn bar, if there is no number in it."""
    match = _BAR.search(raw[:2000])
    title = _ANSI.sub("", raw[: match.start()]).rstrip(" :") if match is not None else ""
    return title if title and NUMBER.search(title) is None else ""
