"""Examples of the documentation that are run: code blocks behind a comment such as `<!-- example: run -->`.

| comment | what its block is |
| --- | --- |
| `example: service` | the command of a detector, which the test starts and leaves running |
| `example: file NAME` | the content of a file |
| `example: run` | commands that are run once and have to succeed |
| `example: ask` | commands that are repeated until they succeed: the detector takes a moment to know |
| `example: said` | what the block before printed, line breaks aside |

`, exits N` asks for that exit code instead of 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_EXAMPLE = re.compile(
    r"<!-- example: (?P<verb>[a-z]+)(?: (?P<name>[^\s,]+))?(?:, exits (?P<code>\d+))? -->\n"
    r"```(?P<language>[a-z]+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
VERBS = frozenset({"service", "file", "run", "ask", "said"})


@dataclass(frozen=True, slots=True)
class Example:
    """One block."""

    verb: str
    name: str
    code: int
    language: str
    text: str


def examples(page: Path) -> list[Example]:
    """The marked blocks of a page, in order."""
    content = page.read_text()
    found = [
        Example(match["verb"], match["name"] or "", int(match["code"] or 0), match["language"], match["text"])
        for match in _EXAMPLE.finditer(content)
    ]
    assert len(found) == content.count("<!-- example:"), f"{page.name} has a mark without a block"
    unknown = {example.verb for example in found} - VERBS
    assert not unknown, f"{page.name} has examples to {unknown}"
    return found
