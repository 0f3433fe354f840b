"""The agents of a scripted job: they keep what is not durable, send it again after a reconnect, and forget what is."""

from __future__ import annotations

from dataclasses import dataclass, field

from stallwatch.detector.engine.messages import Progress, RankKey
from stallwatch.v1 import analyzer_pb2

Input = analyzer_pb2.AnalyzerInput


@dataclass
class Process:
    """The agent of one rank process."""

    hello: Input
    born: int
    """The place of its hello in the script."""
    kept: dict[int, int] = field(default_factory=dict)
    """Batches that are not durable: place in the script by sequence."""
    goodbye: int | None = None
    """Its place, once said."""
    over: bool = False
    """Its goodbye is durable: the process has ended."""
    came_back_at: float = 0.0
    """When it last introduced itself again."""


class Agents:
    """All of them, and how far the script was read."""

    def __init__(self, script: list[Input]) -> None:
        self.script: list[Input | None] = list(script)
        self.reached = 0
        """Places below were sent, at least once."""
        self.processes: dict[RankKey, Process] = {}
        self.forgotten = 0
        self.said_goodbye = False
        """Since somebody last looked."""

    def learn(self, progress: Progress) -> None:
        """Forget what is durable: it cannot be sent again."""
        process = self.processes[progress.rank, progress.incarnation]
        for sequence in [each for each in process.kept if each <= progress.durable]:
            self.script[process.kept.pop(sequence)] = None
            self.forgotten += 1
        if process.goodbye is not None and progress.parted and not process.kept:
            process.over = True

    def reconnect(self, now: float) -> tuple[list[Input], list[int]]:
        """For a detector that has come back and knows all until `now`: hellos again, and the places to send again, in order."""
        hellos, places = [], []
        for key, process in sorted(self.processes.items(), key=lambda each: each[1].born):
            if process.over:
                continue
            if process.hello.received_unix_seconds <= now:
                again = Input()
                again.CopyFrom(process.hello)
                again.received_unix_seconds = process.came_back_at = now
                hellos.append(again)
            if process.goodbye is not None:
                places.append(process.goodbye)
            places.extend(process.kept.values())
            assert key[0] == process.hello.rank
        for place in range(self.reached):
            item = self.script[place]
            # Heartbeats and ticks of before are of no use, and those after it are new ones in any case.
            if item is None or item.WhichOneof("input") not in {"hello", "heartbeat", "tick"}:
                continue
            if item.received_unix_seconds > now and not self._is_of_one_that_ended(item):
                places.append(place)
        return hellos, sorted(places)

    def send(self, place: int) -> Input | None:
        """The input at a place of the script, which the agent then keeps if it is to be kept; None when it is durable by now."""
        item = self.script[place]
        if item is None:
            return None
        self.reached = max(self.reached, place + 1)
        key = (item.rank, item.incarnation)
        match item.WhichOneof("input"):
            case "hello":
                self.processes.setdefault(key, Process(item, place))
            case "batch":
                self.processes[key].kept[item.batch.sequence] = place
            case "goodbye":
                self.processes[key].goodbye = place
                self.said_goodbye = True
        return item

    def must_wait(self, place: int) -> bool:
        """Whether processes that have said goodbye must have ended first.

        Before another attempt begins, as a launcher has it; and before time goes on: who has to say goodbye again would end later
        than in the twin.
        """
        item = self.script[place]
        match item.WhichOneof("input") if item is not None else None:
            case "hello":
                older = item.incarnation - item.rank
                return any(
                    not process.over for key, process in self.processes.items() if key[1] - key[0] < older
                )
            case "tick":
                return any(
                    process.goodbye is not None and not process.over for process in self.processes.values()
                )
            case _:
                return False

    def last_heard(self, rank: int, undisturbed: float) -> float:
        """When a rank was last heard of: later than in an undisturbed job when it had to come back to say goodbye again."""
        return max(
            [undisturbed, *(each.came_back_at for key, each in self.processes.items() if key[0] == rank)]
        )

    def _is_of_one_that_ended(self, item: Input) -> bool:
        if item.WhichOneof("input") == "tick":
            return False
        process = self.processes.get((item.rank, item.incarnation))
        return process is not None and process.over
