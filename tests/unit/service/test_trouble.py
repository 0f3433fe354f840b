"""What goes wrong again and again: said when it begins, once a minute while it lasts, and when it is over."""

from __future__ import annotations

import logging

from stallwatch.detector.trouble import Trouble

log = logging.getLogger("stallwatch.test")


def test_it_is_said_when_it_begins_once_a_minute_and_when_it_is_over(caplog):
    """With how often it failed, and for how long; then from the start again."""
    caplog.set_level(logging.INFO, log.name)
    now = 0.0
    trouble = Trouble(log, clock=lambda: now)
    trouble.over("written")
    for now in range(100, 230):
        trouble.failed(f"not written: {now}")
    now = 230
    trouble.over("written")
    trouble.over("written")
    trouble.failed("not written: full")
    trouble.over("written")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "not written: 100"),
        ("WARNING", "not written: 160 (61 failures in 60 s)"),
        ("WARNING", "not written: 220 (121 failures in 120 s)"),
        ("INFO", "written (after 130 failures in 130 s)"),
        ("WARNING", "not written: full"),
        ("INFO", "written (after 1 failure in 0 s)"),
    ]


def test_a_percent_sign_is_no_format(caplog):
    """Sentences hold names and what a library said."""
    Trouble(log, logging.ERROR).failed("100 %s")
    assert [(record.levelname, record.message) for record in caplog.records] == [("ERROR", "100 %s")]
