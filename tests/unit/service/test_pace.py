"""Long work of an analyzer is done in turns, with room for others in between."""

from __future__ import annotations

import pytest

from stallwatch.detector.engine import actor
from stallwatch.detector.engine.messages import AnalyzerSettings
from stallwatch.detector.engine.pace import PAUSE_SECONDS, TURN_SECONDS, Pace
from stallwatch.detector.store import Store, sqlite_url
from stallwatch.v1 import telemetry_pb2 as pb
from support.analyzer_inputs import START, item
from support.rank import hello, steps


class Time:
    """A clock that work moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        """What it says."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Note when somebody pauses."""
        assert seconds == PAUSE_SECONDS
        self.pauses.append(self.now)
        self.now += seconds


@pytest.mark.parametrize(("work", "pauses"), [(0.1, 9), (0.5, 9), (1.5, 100), (40.0, 100)])
def test_a_turn_is_a_millisecond_or_one_piece_of_work(work, pauses):
    """However long a piece is, it is not broken."""
    time = Time()
    pace = Pace(time, time.sleep)
    number = 100 if work > 1 else round(10.5 / work)
    for _ in range(number):
        time.now += work * TURN_SECONDS
        pace.breathe()
    assert len(time.pauses) == pytest.approx(pauses, abs=1)


def test_an_analyzer_pauses_in_a_long_call_and_not_in_a_short_one(tmp_path, monkeypatch):
    """Of the call of a small run, some batches, nothing is taken."""
    time = Time()
    monkeypatch.setattr(actor, "Pace", lambda: Pace(time, time.sleep))
    apply = actor.apply

    def slow(*arguments):
        time.now += 0.4 * TURN_SECONDS
        return apply(*arguments)

    monkeypatch.setattr(actor, "apply", slow)
    url = sqlite_url(tmp_path)
    store = Store(url)
    store.prepare()
    store.close()
    analyzer = actor.RunAnalyzer("run", AnalyzerSettings(url))
    inputs = [item(START, hello=hello("run"))] + [
        item(START + number, batch=pb.Batch(sequence=number, steps=steps(10 * number - 10, 10)))
        for number in range(1, 31)
    ]
    told = [one.SerializeToString() for one in inputs]
    assert analyzer.ingest(analyzer.generation, told[:3]).applied
    assert time.pauses == []
    result = analyzer.ingest(analyzer.generation, told[3:])
    assert result.progress[0].accepted == 30
    assert len(time.pauses) == 9
