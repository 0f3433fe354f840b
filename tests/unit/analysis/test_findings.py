"""The life of findings, and how one explains another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stallwatch.detector.analysis.findings import FindingBook
from stallwatch.detector.core.verdicts import Cause, Severity, Verdict


def verdict(kind, step, since=None, **fields):
    """A firing verdict."""
    fields = {"firing": True, "reason": f"{kind} at {step}.", **fields}
    return Verdict(kind=kind, step=step, since_step=step if since is None else since, **fields)


def over(kind, step):
    """A verdict that it is over."""
    return Verdict(kind=kind, step=step, firing=False)


@pytest.fixture
def book():
    """An empty book."""
    return FindingBook(run="r")


def firing(book):
    """Kinds that are firing."""
    return [finding.kind for finding in book.select("firing")]


def test_it_opens_updates_and_resolves(book):
    """One finding a kind: updated while it fires, resolved once, and the next one gets a new id."""
    opened = book.apply(1.0, verdict("plateau", 10, since=5, confidence=0.9))
    assert (opened.id, opened.status, opened.since_step, opened.detected_step) == (
        "r#plateau#1",
        "firing",
        5,
        10,
    )
    assert (opened.category, opened.severity, opened.opened_at) == ("learning", "warning", 1.0)
    assert book.apply(2.0, verdict("plateau", 20, since=6, confidence=0.95)) is None
    (now,) = book.select("firing")
    assert (now.id, now.detected_step, now.since_step, now.confidence) == ("r#plateau#1", 10, 6, 0.95)
    book.apply(3.0, over("plateau", 30))
    (done,) = book.select("resolved")
    assert (done.status, done.resolved_step, done.resolved_at) == ("resolved", 30, 3.0)
    assert book.apply(4.0, verdict("plateau", 40)).id == "r#plateau#2"
    assert book.opened == {"plateau": 2}


def test_changes_come_once_in_order(book):
    """What changed since the last call, and an update without news is none."""
    book.apply(1.0, verdict("plateau", 10))
    book.apply(1.0, verdict("divergence", 11))
    assert [each.kind for each in book.take_changes()] == ["plateau", "divergence"]
    book.apply(2.0, verdict("plateau", 10))
    assert book.take_changes() == ()
    book.apply(3.0, over("plateau", 12))
    assert [(each.kind, each.status) for each in book.take_changes()] == [("plateau", "resolved")]


def test_a_verdict_that_it_is_over_needs_something_to_end(book):
    """Nothing opens by ending."""
    book.apply(1.0, over("plateau", 10))
    assert book.select("all") == ()


def test_a_consequence_is_withheld_and_opens_when_its_explanation_ends(book):
    """A hang behind a lost rank is told when the rank is back and nothing moves still."""
    book.apply(1.0, verdict("rank_lost", 100))
    assert book.apply(2.0, verdict("hang", 101)) is None
    assert firing(book) == ["rank_lost"]
    book.apply(3.0, over("rank_lost", 101))
    assert [each.kind for each in book.step(4.0, 102)] == ["hang"]


def test_an_agent_that_is_gone_explains_no_hang(book):
    """A rank that is lost as a warning only, for its agent is gone, holds nobody."""
    book.apply(1.0, verdict("rank_lost", 100, severity=Severity.WARNING))
    assert book.apply(2.0, verdict("hang", 500)) is not None


def test_what_began_before_is_no_consequence(book):
    """A straggler from step 50 is not explained by a hang from step 100."""
    book.apply(1.0, verdict("hang", 100))
    assert book.apply(2.0, verdict("straggler", 101, since=50)) is not None


def test_an_explanation_that_comes_later_resolves_its_consequence(book):
    """The hang was told first; the lost rank behind it replaces it."""
    book.apply(1.0, verdict("hang", 100))
    book.apply(2.0, verdict("rank_lost", 100))
    assert firing(book) == ["rank_lost"]


def test_a_desync_waits_for_its_explanation(book):
    """It opens four steps after it was seen, unless missing synchronisation has been found by then."""
    assert book.apply(1.0, verdict("replica_desync", 100)) is None
    assert book.step(2.0, 103) == []
    (opened,) = book.step(3.0, 104)
    assert (opened.kind, opened.detected_step, opened.since_step) == ("replica_desync", 104, 100)


def test_a_straggler_is_explained_a_while_longer_than_its_cause_lasts(book):
    """Its check needs windows to see that it is over: until then it is no news."""
    book.apply(1.0, verdict("missing_gradient_sync", 100))
    assert book.apply(2.0, verdict("straggler", 160, since=101)) is None
    book.apply(3.0, over("missing_gradient_sync", 250))
    assert book.step(4.0, 260) == []
    book.apply(5.0, over("straggler", 300))
    assert book.step(6.0, 400) == []
    assert book.select("firing") == ()


def test_a_straggler_called_after_its_explanation_is_explained_wherever_it_is_dated(book):
    """Its onset is an estimate over many windows: one that nobody had called before is the cause's, or waits till that ends."""
    book.apply(1.0, verdict("missing_gradient_sync", 401, since=400))
    assert book.apply(2.0, verdict("straggler", 469, since=220)) is None
    assert firing(book) == ["missing_gradient_sync"]


def test_a_straggler_that_outlives_its_explanation_has_to_be_seen_anew(book):
    """Waits were not what they are in order: after a hundred steps its check begins anew, and what it says then is told."""
    book.apply(1.0, verdict("missing_gradient_sync", 100))
    book.apply(2.0, verdict("straggler", 160, since=101))
    book.apply(3.0, over("missing_gradient_sync", 250))
    assert book.step(5.0, 349) == []
    assert book.take_spoiled() == ()
    assert book.step(6.0, 351) == []
    assert book.take_spoiled() == ("straggler",)
    assert book.take_spoiled() == ()
    assert book.apply(7.0, verdict("straggler", 410, since=352)).kind == "straggler"


def test_a_straggler_that_outlives_a_hang_is_told(book):
    """What the check saw of it was in order: after a hundred steps it stands on its own."""
    book.apply(1.0, verdict("hang", 100))
    book.apply(2.0, verdict("straggler", 160, since=101))
    book.apply(3.0, over("hang", 250))
    assert [each.kind for each in book.step(6.0, 351)] == ["straggler"]


def test_a_restart_ends_findings_about_processes_only(book):
    """What the loss does outlives the processes."""
    book.apply(1.0, verdict("plateau", 10))
    book.apply(1.0, verdict("straggler", 10))
    book.apply(1.0, verdict("missing_gradient_sync", 10))
    book.restart(2.0, 50)
    assert firing(book) == ["plateau"]


def test_evidence_is_plain(book):
    """Numbers of numpy become plain ones, so that every reader of JSON can have them."""
    evidence = {"a": np.float64(1.5), "b": np.int64(2), "c": np.array([1, 2]), "d": np.bool_(True)}
    found = book.apply(
        1.0, verdict("plateau", 10, score=3.0, threshold=2.0, since_step_error=1.0, evidence=evidence)
    )
    assert dict(found.evidence) == {
        "a": 1.5, "b": 2, "c": (1, 2), "d": True, "score": 3.0, "threshold": 2.0, "since_step_error": 1.0,
    }  # fmt: skip
    assert all(type(value) in {float, int, bool, tuple} for value in found.evidence.values())


def test_resolved_findings_are_bounded(book):
    """A flapping check does not fill the memory."""
    for step in range(2000):
        book.apply(1.0, verdict("plateau", step))
        book.apply(1.0, over("plateau", step))
    assert len(book.select("all")) == 512
    assert book.opened["plateau"] == 2000


def test_an_unknown_status_is_refused(book):
    """The three that exist are named."""
    with pytest.raises(ValueError, match="firing, resolved or all"):
        book.select("open")


def test_a_named_cause_explains_a_batch_that_looks_too_large(book):
    """Weight decay balances the gradient, which then points the same way at each step; without a name, it is a finding."""
    cause = Cause("over_regularized", 0.9, "because")
    book.apply(1.0, verdict("slow_convergence", 300, since=100, causes=(cause,)))
    assert book.apply(2.0, verdict("batch_beyond_critical", 400, since=200)) is None
    book.apply(3.0, verdict("slow_convergence", 300, since=100, causes=(replace(cause, confidence=0.3),)))
    assert [each.kind for each in book.step(4.0, 800)] == ["batch_beyond_critical"]


def test_what_is_no_number_is_not_called_frozen(book):
    """Its gradient is none either, for the rest of the attempt."""
    book.apply(1.0, verdict("non_finite", 300))
    book.apply(2.0, over("non_finite", 400))
    assert book.apply(3.0, verdict("frozen_parameters", 500, since=310)) is None


def test_a_batch_that_looks_too_large_since_before_the_units_died_is_explained_by_them(book):
    """The noise scale is an estimate over half of the run: its excess may be dated before what brought it about."""
    book.apply(1.0, verdict("dead_units", 540, since=491))
    assert book.apply(2.0, verdict("batch_beyond_critical", 616, since=400)) is None
    assert firing(book) == ["dead_units"]


def test_a_batch_stays_explained_until_the_cause_has_left_half_of_the_run(book):
    """The noise scale rests on the latest half: at step 1,400, that still begins before the cause was over."""
    cause = Cause("optimizer_starved", 0.9, "because")
    book.apply(1.0, verdict("plateau", 400, since=300, causes=(cause,)))
    book.apply(2.0, over("plateau", 700))
    book.step(2.0, 700)
    assert book.apply(3.0, verdict("batch_beyond_critical", 900, since=600)) is None
    assert book.step(4.0, 1399) == []
    assert [each.kind for each in book.step(5.0, 1400)] == ["batch_beyond_critical"]


def test_steps_that_are_too_short_for_so_large_a_batch_do_not_explain_it(book):
    """At a batch beyond the critical one the rate is as a rule lower than it could be: both are said."""
    cause = Cause("lr_too_low", 0.99, "because")
    book.apply(1.0, verdict("slow_convergence", 96, since=65, causes=(cause,)))
    assert [book.apply(2.0, verdict("batch_beyond_critical", 176, since=56)).kind] == [
        "batch_beyond_critical"
    ]
