"""docs/faults-peers.md: what each tool said, scenario by scenario."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TOOLS = ("stallwatch", "torch", "traceml", "nvrx", "traincheck")
TITLES = {
    "stallwatch": "Stallwatch",
    "torch": "torch",
    "traceml": "TraceML",
    "nvrx": "NVRx",
    "traincheck": "TrainCheck",
}
QUOTE = 220


def write(results: Sequence[dict[str, Any]], docs: Path) -> None:
    """Put the tables between the marks."""
    before, _, rest = docs.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    docs.write_text(f"{before}{BEGIN}\n\n{markdown(results)}\n{END}{after}")


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """A summary, a row a scenario, and the words."""
    found = {(each["scenario"], each["tool"]): each for each in results}
    faults = list(dict.fromkeys(each["scenario"] for each in results if each["expected"]))
    twins = list(dict.fromkeys(each["scenario"] for each in results if not each["expected"]))
    lines = ["| tool | faults run | named, right rank or none to name | named, wrong rank | something else | nothing | healthy twins run | false alarms |",
             "| --- " * 8 + "|"]  # fmt: skip
    for tool in TOOLS:
        counts = Counter(found[name, tool]["worth"] for name in faults if (name, tool) in found)
        quiet = Counter(found[name, tool]["worth"] for name in twins if (name, tool) in found)
        ran = sum(counts.values()) - counts["not run"]
        right = counts["named, right rank"] + counts["named"]
        lines.append(
            f"| {TITLES[tool]} | {ran} | {right} | {counts['named, wrong rank']} | {counts['something else']} | "
            f"{counts['nothing']} | {sum(quiet.values()) - quiet['not run']} | {quiet['false alarm']} |"
        )
    lines += ["", "| scenario | expected | " + " | ".join(TITLES[tool] for tool in TOOLS) + " |",
              "| --- " * (2 + len(TOOLS)) + "|"]  # fmt: skip
    for name in faults + twins:
        first = next(each for each in results if each["scenario"] == name)
        expected = f"`{first['expected']}`" if first["expected"] else "nothing"
        if first["true_ranks"]:
            expected += f", rank {', '.join(map(str, first['true_ranks']))}"
        cells = [found[name, tool]["worth"] if (name, tool) in found else "-" for tool in TOOLS]
        lines.append(f"| {name} | {expected} | " + " | ".join(cells) + " |")
    lines += ["", "### In their own words", ""]
    for name in faults + twins:
        first = next(each for each in results if each["scenario"] == name)
        lines.append(f"**{name}**: {first['says']}.")
        lines.append("")
        for tool in TOOLS:
            each = found.get((name, tool))
            if each is not None and each["quote"]:
                quote = textwrap.shorten(each["quote"].replace("|", "/").replace("`", "'"), QUOTE)
                said = quote if each["worth"] == "not run" else f"`{quote}`"
                lines.append(f"- {TITLES[tool]}, {each['worth']}: {said}")
        lines.append("")
    return "\n".join(lines)
