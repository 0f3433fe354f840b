"""Whatever happens on the way, and in any order: every step is counted once, or told as dropped.

Hypothesis decides what happens: batches, deliveries, repetitions, cut connections with and without what was on them, streams that
are late, analyzers that die, snapshots, restarts of the job, buffers that overflow.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.engine import snapshot
from stallwatch.detector.engine.messages import AnalyzerSettings
from stallwatch.detector.store import Store, sqlite_url
from stallwatch.v1 import telemetry_pb2 as pb
from support.wire_model import RUN, Agent, Connection, World

INCARNATION = 1_700_000_000_000_000_000
RANKS = st.integers(0, 7)
"""Which agent: modulo how many there are."""
MOST_STEPS = 400


@cache
def _empty_store() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(sqlite_url(Path(folder)))
        store.prepare()
        store.close()
        return (Path(folder) / "stallwatch.db").read_bytes()


def store_in(folder: Path) -> AnalyzerSettings:
    """A store of its own."""
    (folder / "stallwatch.db").write_bytes(_empty_store())
    return AnalyzerSettings(sqlite_url(folder), snapshot_seconds=1e-9)


def timeless(finding: Finding) -> Finding:
    """Without when it was opened and resolved: the two runs have clocks of their own."""
    return replace(finding, opened_at=0.0, resolved_at=None)


class Life(RuleBasedStateMachine):
    """A run's life, with everything that can happen to it."""

    @initialize(ranks=st.integers(1, 3), roomy=st.booleans())
    def begin(self, ranks: int, roomy: bool) -> None:
        """A job starts; its agents have room for everything, or for a few batches."""
        self.folder = tempfile.TemporaryDirectory()
        self.settings = store_in(Path(self.folder.name))
        self.world = World(self.settings)
        self.limit_bytes = 1 << 20 if roomy else 3000
        self.past: list[Agent] = []
        self.late: list[Connection] = []
        self.restarts = 0
        self.agents = [Agent(rank, ranks, INCARNATION + rank, 0, self.limit_bytes) for rank in range(ranks)]

    def agent(self, which: int) -> Agent:
        """One of them."""
        return self.agents[which % len(self.agents)]

    @rule(count=st.integers(1, 9), batches=st.integers(1, 4))
    def train(self, count: int, batches: int) -> None:
        """Steps are taken, by all ranks as a rule."""
        for agent in self.agents:
            for _ in range(batches):
                if agent.next_step < MOST_STEPS:
                    agent.train(count)

    @rule(which=RANKS, count=st.integers(1, 9))
    def train_alone(self, which: int, count: int) -> None:
        """One rank is ahead."""
        agent = self.agent(which)
        if agent.next_step < MOST_STEPS:
            agent.train(count)

    @rule(which=RANKS, count=st.integers(1, 6))
    def flow(self, which: int, count: int) -> None:
        """As it should be: connected, sent, arrived, and heard of."""
        agent = self.agent(which)
        if agent.connection is None or agent.connection.ended:
            self.world.connect_now(agent)
        agent.hear()
        for _ in range(count):
            agent.send()
        while agent.connection is not None and agent.connection.upward:
            agent.connection.arrive()
        self.world.rest()
        agent.hear()

    @rule(which=RANKS)
    def connect(self, which: int) -> None:
        """The agent opens a stream; one that is open already stays behind on the wire, with what is on it."""
        agent = self.agent(which)
        if agent.connection is not None and not agent.connection.ended:
            self.late.append(agent.connection)
        self.world.connect_now(agent)
        agent.hear()

    @rule(which=RANKS, count=st.integers(1, 4))
    def send(self, which: int, count: int) -> None:
        """Batches go onto the wire."""
        for _ in range(count):
            self.agent(which).send()

    @rule(which=RANKS, count=st.integers(1, 6))
    def arrive(self, which: int, count: int) -> None:
        """They come out of it."""
        connection = self.agent(which).connection
        if connection is not None:
            for _ in range(count):
                connection.arrive()
            self.world.rest()

    @rule(which=RANKS)
    def repeat(self, which: int) -> None:
        """A batch is on the wire twice."""
        connection = self.agent(which).connection
        if connection is not None and connection.upward:
            connection.upward.appendleft(connection.upward[0])

    @rule(which=RANKS)
    def hear(self, which: int) -> None:
        """The agent hears what the gateway says."""
        self.agent(which).hear()

    @rule(which=RANKS, lost=st.booleans(), quietly=st.booleans())
    def cut(self, which: int, lost: bool, quietly: bool) -> None:
        """A connection is gone: with what was on it, or after it has arrived; the gateway may not notice."""
        agent = self.agent(which)
        connection, agent.connection, agent.welcomed = agent.connection, None, False
        if connection is None:
            return
        while connection.upward and not lost:
            connection.arrive()
        self.world.rest()
        if quietly:
            self.late.append(connection)
        else:
            self.world.rest(connection.cancel())

    @precondition(lambda self: self.late)
    @rule(count=st.integers(1, 4))
    def come_late(self, count: int) -> None:
        """What is still on an older stream arrives after all, behind what a newer one has brought."""
        for connection in self.late:
            for _ in range(count):
                connection.arrive()
        self.world.rest()

    @rule()
    def save(self) -> None:
        """A snapshot is taken."""
        self.world.snapshot_now()

    @rule()
    def tick(self) -> None:
        """A moment passes."""
        self.world.tick_now()

    @rule()
    def kill_analyzer(self) -> None:
        """It dies, with what it had not saved; another one is restored, and agents come back."""
        self.world.kill_now()
        self.forget_wire()

    @rule(deliver=st.booleans())
    def restart_job(self, deliver: bool) -> None:
        """All rank processes die, and new ones go on from the same step."""
        for agent in self.agents:
            if agent.connection is not None:
                while agent.connection.upward and deliver:
                    agent.connection.arrive()
        self.world.rest()
        for agent in self.agents:
            if agent.connection is not None:
                self.world.rest(agent.connection.cancel())
        # What a dead process has left on older streams does not come any more.
        self.forget_wire()
        self.past += self.agents
        step = max(agent.next_step for agent in self.agents)
        self.restarts += 1
        self.agents = [
            Agent(old.rank, old.world_size, old.incarnation + 1000, step, self.limit_bytes, self.restarts)
            for old in self.agents
        ]

    def forget_wire(self) -> None:
        """Streams that nobody reads any more."""
        for connection in self.late:
            self.world.rest(connection.cancel())
        self.late = []

    @invariant()
    def what_was_said_to_be_durable_is(self) -> None:
        """In the newest snapshot, from which any analyzer is restored."""
        if not hasattr(self, "agents") or not any(agent.durable for agent in (*self.agents, *self.past)):
            return
        saved = snapshot.decode(self.world.analyzer.real._store.snapshots(RUN)[0].data)
        for agent in (*self.agents, *self.past[-3:]):
            if agent.durable:
                assert saved.accepted_sequence(agent.rank, agent.incarnation) >= agent.durable

    @invariant()
    def no_step_is_counted_twice(self) -> None:
        """However often it came."""
        if not hasattr(self, "agents"):
            return
        analysis = self.world.analyzer.real._analysis
        assert analysis.failures == {}
        formed = sum(
            map(len, [step for agent in (*self.agents, *self.past) for step in agent.contents.values()])
        )
        assert analysis.view().steps_received <= formed
        for shown in analysis.ranks():
            for agent in self.agents:
                if str(agent.incarnation) == shown.incarnation:
                    assert shown.steps_received <= agent.next_step - agent.first_step

    def teardown(self) -> None:
        """Everything that is left arrives in the end; then all is counted."""
        if not hasattr(self, "agents"):
            return
        try:
            self.deliver_the_rest()
            self.count()
        finally:
            self.world.close()
            self.folder.cleanup()

    def deliver_the_rest(self) -> None:
        """Connect, send, save, say goodbye."""
        self.forget_wire()
        for agent in self.agents:
            self.world.connect_now(agent)
            agent.hear()
        for agent in self.agents:
            self.send_all(agent)
            if agent.drops._losses:
                # Losses that no batch has told yet are told by the next, for which there is room now.
                agent.train(1)
                self.send_all(agent)
            assert not agent.drops._losses
            assert agent.connection is not None
            goodbye = pb.Goodbye(reason="finished", last_step=agent.next_step - 1)
            agent.connection.upward.append(pb.StreamRequest(goodbye=goodbye).SerializeToString())
            agent.connection.arrive()
            self.world.rest()

    def send_all(self, agent: Agent) -> None:
        """All that is in the buffer becomes durable."""
        while agent.send():
            assert agent.connection is not None
            agent.connection.arrive()
            self.world.rest()
        # Durable is what the last two snapshots hold.
        for _ in range(2):
            self.world.snapshot_now()
        agent.hear()
        assert agent.durable == max(agent.contents, default=0)
        assert len(agent.buffer) == 0

    def count(self) -> None:
        """Each step once, or dropped; and the findings of a run to which nothing happened."""
        analysis = self.world.analyzer.real._analysis
        assert analysis.failures == {}
        shown = {rank.rank: rank for rank in analysis.ranks()}
        for agent in self.agents:
            lost = sum(len(agent.contents[sequence]) for sequence in agent.lost)
            counted = shown[agent.rank]
            taken = agent.next_step - agent.first_step
            # A batch that was dropped before it was acknowledged may have arrived all the same.
            assert taken - lost <= counted.steps_received <= taken
            assert counted.dropped_steps == lost
        if not self.past and not any(agent.lost for agent in self.agents):
            assert [timeless(one) for one in analysis.findings()] == self.undisturbed()

    def undisturbed(self) -> list[Finding]:
        """The findings of the same steps with nothing in between."""
        with tempfile.TemporaryDirectory() as folder:
            twin = World(store_in(Path(folder)))
            agents = [Agent(old.rank, old.world_size, old.incarnation, 0, 1 << 20) for old in self.agents]
            for agent, old in zip(agents, self.agents, strict=True):
                twin.connect_now(agent)
                agent.hear()
                for steps in old.contents.values():
                    agent.train(len(steps))
            for agent in agents:
                while agent.send():
                    assert agent.connection is not None
                    agent.connection.arrive()
                    twin.rest()
            for agent in agents:
                assert agent.connection is not None
                goodbye = pb.Goodbye(reason="finished", last_step=agent.next_step - 1)
                agent.connection.upward.append(pb.StreamRequest(goodbye=goodbye).SerializeToString())
                agent.connection.arrive()
                twin.rest()
            found = [timeless(one) for one in twin.analyzer.real._analysis.findings()]
            twin.close()
        return found


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    # Making a failure smaller takes minutes: take this line out to have it done.
    phases=(Phase.generate,),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
