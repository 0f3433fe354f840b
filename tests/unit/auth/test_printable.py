"""What a terminal would obey is shown as a code, in every text that the commands print."""

from __future__ import annotations

import io
import unicodedata

import pytest
from rich.console import Console

from stallwatch.detector.cli.text import finding_line, run_report, runs_table
from stallwatch.detector.http.render import finding_json, plain, run_json
from stallwatch.detector.printable import printable, printable_values
from support.shown_runs import full_run

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e\u2066"


def test_only_text_goes_through():
    """Line end, tab and letters of every script do; no control character, and nothing that turns text around, does."""
    for number in range(0x110000):
        character = chr(number)
        unsafe = unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} and character not in "\n\t"
        if unsafe or unicodedata.bidirectional(character) in {
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        }:
            assert printable(character).isascii(), hex(number)
        elif unicodedata.category(character)[0] in "LMNPS" or character in "\n\t ":
            assert printable(character) == character, hex(number)
    assert printable(EVIL) == r"\x1b]0;owned\x07\x1b[2J\x9b31m\x0d\u202e\u2066"


def test_all_that_is_inside_is_made_printable():
    """Keys, values and lists; numbers stay."""
    given = {EVIL: [EVIL, 1, None, {"a": EVIL}]}
    assert not any(
        character in str(printable_values(given)) for character in EVIL if not character.isprintable()
    )


@pytest.mark.parametrize("of", ["run", "reason"])
def test_no_report_lets_it_through(of):
    """Of a run's name and of a sentence, in a table, in a report and in a line."""
    shown = full_run(EVIL if of == "run" else "run", ("hang",)).view
    run = plain(run_json(shown))
    (finding,) = [plain(finding_json(each)) for each in shown.findings]
    if of == "reason":
        finding["reason"] = run["findings"][0]["reason"] = EVIL
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(runs_table([run]))
    console.print(run_report(run, [finding]))
    out.write(finding_line(finding))
    assert not any(character in out.getvalue() for character in "\x1b\x07\x9b\r\u202e\u2066")
    assert r"\x1b]0;owned" in out.getvalue()
