"""Runs are told of their families: who belongs to one, and what an analyzer does with it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.core.family import Peer
from stallwatch.detector.core.views import RunView
from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.actor import RunAnalyzer
from stallwatch.detector.engine.apply import apply
from stallwatch.detector.engine.family import decode_family, encode_family
from stallwatch.detector.engine.messages import AnalyzerSettings
from stallwatch.detector.engine.recording import recording_path
from stallwatch.detector.engine.replay import replay
from stallwatch.detector.service.family import MOST_PEERS, Families, family, peer
from stallwatch.detector.store import Store, sqlite_url
from stallwatch.v1 import analyzer_pb2
from stallwatch.v1 import telemetry_pb2 as pb
from support.analyzer_inputs import START, item
from support.plateaus import flat_steps
from support.rank import hello

STEPS = 1500


def inputs(run: str, *, floor: float = 1.0, rate: float = 0.1, seed: int = 1, group: str = "sweep"):
    """What the analyzer of a run is fed, and the run goes flat."""
    yield item(START, hello=hello(run, group=group, parameters=1000))
    for number, block in enumerate(flat_steps(STEPS, floor, rate, seed), start=1):
        yield item(START + number, batch=pb.Batch(sequence=number, steps=block))


def flat(run: str, **settings) -> RunAnalysis:
    """A run that has gone flat."""
    analysis = RunAnalysis(run)
    for one in inputs(run, **settings):
        apply(analysis, one)
    return analysis


@pytest.fixture(scope="module")
def view() -> RunView:
    """One that is flat, in a group."""
    return flat("net-s1").view()


@pytest.fixture(scope="module")
def peers() -> tuple[Peer, ...]:
    """Two that are flat at the same loss, at other learning rates, and one that got through."""
    return (
        peer(flat("net-s2", rate=0.01, seed=2).view()),
        peer(flat("net-s3", rate=0.001, seed=5).view()),
        peer(flat("net-s4", rate=0.3, seed=4, floor=0.2).view()),
    )


def test_a_run_as_others_see_it(view):
    """Where it is flat, since when, and with which settings."""
    seen = peer(view)
    assert (seen.run, seen.flat, seen.model, seen.optimizer, seen.parameters) == (
        "net-s1",
        True,
        "Net",
        "SGD",
        1000,
    )
    assert seen.level == pytest.approx(1.0, rel=0.01)
    assert 100 < seen.since_step < 600
    assert (seen.learning_rate, seen.peak_learning_rate, seen.effective_batch) == (0.1, 0.1, 8.0)


def test_the_wire_changes_nothing(peers):
    """Unknown numbers included; the same family gives the same bytes."""
    family_of_two = (peers[0], Peer("unknown"))
    data = encode_family(family_of_two)
    assert data == encode_family(family_of_two)
    assert repr(decode_family(analyzer_pb2.Family.FromString(data))) == repr(family_of_two)


def test_a_family_is_a_group_or_a_name(view):
    """Declared, or told by the name when the model is the same too."""
    named = replace(view, group="")
    others = [
        replace(view, run="other"),
        replace(view, run="net-s2", group="another"),
        replace(view, run="net-s3", group=""),
        replace(view, run="net-s4", group="", parameters=5),
        replace(view, run="net-s5", group="", loss=replace(view.loss, value=None)),
        view,
    ]
    assert [each.run for each in family(view, others)] == ["other"]
    assert [each.run for each in family(named, others)] == ["net-s3"]


def test_a_family_is_bounded(view):
    """The latest ones, in an order that does not depend on who spoke last."""
    others = [replace(view, run=f"net-{number}", updated_at=float(number)) for number in range(100, 200)]
    found = family(view, others)
    assert {each.run for each in found} == {f"net-{number}" for number in range(200 - MOST_PEERS, 200)}
    assert found == family(view, reversed(others))


def causes(analysis: RunAnalysis) -> dict[str, str]:
    """Kinds and reasons under the plateau."""
    (plateau,) = [each for each in analysis.findings("firing") if each.kind == "plateau"]
    return {cause.kind: cause.reason for cause in plateau.causes}


def test_a_plateau_is_explained_anew_when_the_family_is_told(peers):
    """At once, also when the run has no more steps to come; and again without it when it is no more."""
    analysis = flat("net-s1")
    assert "common_plateau" not in causes(analysis)
    analysis.changes()
    analysis.compare(START + 100, peers)
    reason = causes(analysis)["common_plateau"]
    assert "net-s2, net-s3" in reason
    assert "net-s4 got through to 0.2" in reason
    assert [each.kind for each in analysis.changes()] == ["plateau"]
    restored = snapshot.decode(snapshot.encode(analysis))
    for each in (analysis, restored):
        each.compare(START + 101, ())
        assert "common_plateau" not in causes(each)
    assert restored.findings() == analysis.findings()


def test_the_family_does_not_move_the_looks_at_the_vitals(peers):
    """However often it is told, whatever else is found stays as it is."""
    alone, told = flat("net-s1"), RunAnalysis("net-s1")
    for one in inputs("net-s1"):
        apply(told, one)
        told.compare(one.received_unix_seconds, peers)
    stored = [snapshot.encode_part(each.pipeline.signals["vitals"]) for each in (alone, told)]
    assert stored[0] == stored[1]


@pytest.mark.slow
def test_a_recording_with_a_family_replays_to_the_same_findings(tmp_path, peers):
    """It is an input like any other."""
    store = Store(sqlite_url(tmp_path))
    store.prepare()
    store.close()
    settings = AnalyzerSettings(sqlite_url(tmp_path), record_directory=str(tmp_path / "recordings"))
    analyzer = RunAnalyzer("net-s1", settings)
    analyzer.ingest(analyzer.generation, [one.SerializeToString() for one in inputs("net-s1")])
    assert analyzer.compare(START + 100, encode_family(peers)) == analyzer.generation
    shown = analyzer.flush()
    analyzer.close()
    assert math.isfinite(shown.idle_seconds)
    (plateau,) = [each for each in shown.findings if each.kind == "plateau" and each.status == "firing"]
    assert "common_plateau" in [cause.kind for cause in plateau.causes]
    assert replay(recording_path(tmp_path / "recordings", "net-s1")).findings() == shown.findings


@dataclass
class Watched:
    """Stands for a run that is watched: what it shows, and what it is told."""

    view: RunView
    told: list[tuple[str, ...]] = field(default_factory=list)
    generation: str = "first"

    @property
    def shown(self) -> Any:
        """The latest poll."""
        return SimpleNamespace(view=self.view)

    @property
    def channel(self) -> Any:
        """Where the time comes from."""
        return SimpleNamespace(horizon=lambda now: now)

    @property
    def client(self) -> Any:
        """Its analyzer."""
        return SimpleNamespace(run=self.view.run, generation=self.generation, compare=self._compare)

    async def _compare(self, _now: float, data: bytes) -> None:
        peers = decode_family(analyzer_pb2.Family.FromString(data))
        self.told.append(tuple(each.run for each in peers))


class CountingStore(Store):
    """Counts how often its runs are read."""

    reads = 0

    def runs(self, most: int | None = None):
        """As the store does."""
        self.reads += 1
        return super().runs(most)


def test_a_run_is_told_when_it_is_flat_and_something_has_changed(tmp_path, view):
    """Nothing while none is flat, and nothing twice; a new life of the analyzer is told again."""
    store = CountingStore(sqlite_url(tmp_path))
    store.prepare()
    store.save(replace(view, run="stored"), b"", (), taken_at=1.0)
    improving = replace(view, findings=())
    first, second = Watched(replace(improving, run="net-s1")), Watched(replace(improving, run="net-s2"))
    families = Families(store, lambda: [first, second])
    asyncio.run(families.compare())
    assert (first.told, second.told, store.reads) == ([], [], 0)

    first.view = view
    asyncio.run(families.compare())
    asyncio.run(families.compare())
    assert (first.told, second.told, store.reads) == ([("net-s2", "stored")], [], 1)

    first.generation = "second"
    asyncio.run(families.compare())
    second.view = replace(view, run="net-s2")
    asyncio.run(families.compare())
    assert (len(first.told), len(second.told), store.reads) == (3, 1, 1)
    store.close()
