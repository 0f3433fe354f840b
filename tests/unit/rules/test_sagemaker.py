"""SageMaker Debugger's rules, by their names and defaults."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.core.learning import LossPoint
from stallwatch.detector.core.observations import EvaluationObservation
from stallwatch.detector.engine.snapshot import decode_part, encode_part
from stallwatch.detector.http.render import run_json
from stallwatch.detector.rules import RuleBook
from support import simulation


def hits(book: RuleBook) -> dict[str, int]:
    """How often each rule held."""
    return {view.rule: view.hits for view in book.summary() if view.hits}


def feed(*losses: float, book: RuleBook | None = None) -> RuleBook:
    """A loss a step."""
    book = book or RuleBook()
    for step, loss in enumerate(losses):
        book.update(LossPoint(step, loss))
    return book


def test_a_loss_that_falls_passes():
    """One percent a step is more than a tenth of a percent in ten."""
    assert hits(feed(*(0.99**step for step in range(100)))) == {}


def test_a_flat_loss_is_not_decreasing():
    """Every ten steps, and no new best loss for five."""
    assert hits(feed(*[1.0] * 101)) == {"LossNotDecreasing": 10, "Overtraining": 20}


def test_a_slow_power_law_is_called_flat():
    """The rule cannot tell slow from flat: what makes people switch."""
    assert hits(feed(*((step + 1) ** -0.05 for step in range(2000))))["LossNotDecreasing"] > 100


def test_a_gap_to_the_evaluation_is_overfit():
    """More than a tenth above the training loss."""
    book = feed(*[1.0] * 5)
    book.update(EvaluationObservation(5, 1.05, 10))
    feed(*[1.0] * 5, book=book)
    book.update(EvaluationObservation(10, 1.2, 10))
    assert hits(book)["Overfit"] == 1


def test_the_live_service_runs_them_when_asked():
    """Set `rules`, and the run's document lists them; without, it does not."""
    job = simulation.Job(steps=100)
    view = simulation.analyze(job, AnalysisConfig(rules="sagemaker")).view()
    assert {"rule", "hits", "first_step", "last_step", "text"} == set(run_json(view)["rules"][0])
    assert json.dumps(run_json(view)["rules"])
    assert "rules" not in run_json(simulation.analyze(job).view())


def test_an_unknown_set_is_refused():
    """The error names the sets that there are."""
    with pytest.raises(ValueError, match="sagemaker"):
        AnalysisConfig(rules="debugger")


def test_state_survives_a_snapshot():
    """Counts and the rules' own memory go on where they were."""
    book = feed(*[1.0] * 47)
    again = decode_part(encode_part(book), RuleBook())
    for each in (book, again):
        feed(*np.linspace(2, 1, 30).tolist(), book=each)
    assert hits(book) == hits(again)
