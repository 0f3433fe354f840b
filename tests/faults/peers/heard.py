"""What a tool said of a job, and what it is worth: nothing, something else, the fault, the right rank, a false alarm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from faults.scenario import Case


@dataclass(frozen=True, slots=True)
class Statement:
    """One complaint of a tool, at the severity that the tool itself calls a warning or worse."""

    code: str
    """The same for the same complaint in another job."""
    text: str
    """Its own words, shortened."""
    kinds: frozenset[str] = frozenset()
    """Kinds of Stallwatch's vocabulary that these words name, read generously."""
    ranks: tuple[int, ...] = ()


@dataclass(slots=True)
class Heard:
    """All that a tool said of one job."""

    statements: Sequence[Statement] = ()
    exit_code: int | None = None
    seconds: float = 0.0
    unable: str = ""
    """Why the tool did not watch this job at all."""
    note: str = ""
    """What has to be known about how it was run."""


class Worth(Enum):
    """What it is worth, from best to worst."""

    RIGHT_RANK = "named, right rank"
    NAMED = "named"
    WRONG_RANK = "named, wrong rank"
    OTHER = "something else"
    NOTHING = "nothing"
    QUIET = "quiet"
    FALSE_ALARM = "false alarm"
    UNABLE = "not run"


@dataclass(slots=True)
class Result:
    """One tool on one case."""

    tool: str
    case: Case
    heard: Heard
    worth: Worth
    quote: str
    ranks: tuple[int, ...] = field(default_factory=tuple)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        scenario = self.case.scenario
        heard = asdict(self.heard)
        heard["statements"] = [{**each, "kinds": sorted(each["kinds"])} for each in heard["statements"]]
        return {
            "tool": self.tool,
            "scenario": scenario.name,
            "says": scenario.says,
            "expected": scenario.kind,
            "true_ranks": self.case.culprits,
            "seed": self.case.seed,
            "ranks": self.case.ranks,
            "worth": self.worth.value,
            "quote": self.quote,
            "named_ranks": self.ranks,
            **heard,
        }


def weigh(tool: str, case: Case, heard: Heard) -> Result:
    """Hold what was heard against the truth."""
    kind = case.scenario.kind
    if heard.unable:
        return Result(tool, case, heard, Worth.UNABLE, heard.unable)
    if kind is None:
        worth = Worth.FALSE_ALARM if heard.statements else Worth.QUIET
        return Result(tool, case, heard, worth, _quote(heard.statements))
    if not heard.statements:
        return Result(tool, case, heard, Worth.NOTHING, "")
    naming = [each for each in heard.statements if kind in each.kinds]
    if not naming:
        return Result(tool, case, heard, Worth.OTHER, _quote(heard.statements))
    named = [each for each in naming if each.ranks]
    if case.culprits and named:
        right = all(case.accepts(each.ranks) for each in named)
        worth = Worth.RIGHT_RANK if right else Worth.WRONG_RANK
        wrong = [each for each in named if not case.accepts(each.ranks)]
        quoted = named if right else wrong
        return Result(tool, case, heard, worth, _quote(quoted), quoted[0].ranks)
    return Result(tool, case, heard, Worth.NAMED, _quote(naming), naming[0].ranks)


def _quote(statements: Iterable[Statement]) -> str:
    different = list(dict.fromkeys(each.text for each in statements))
    more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
    return different[0] + more if different else ""
