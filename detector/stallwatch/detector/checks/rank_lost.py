"""A rank went silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stallwatch.detector.checks.wording import ranks_text, seconds_text
from stallwatch.detector.core.liveness import LivenessObservation
from stallwatch.detector.core.verdicts import Severity, Verdict


@dataclass(frozen=True, slots=True)
class RankLostConfig:
    """Settings of the lost rank check."""

    grace_seconds: float = 15.0
    """A rank whose stream ended without a goodbye may take so long to come back."""
    heartbeat_seconds: float = 3.0
    """How often agents send a sign of life; they are asked for one every 2 s, and machines are busy."""
    missed_heartbeats: int = 5
    """So many missed ones make an open stream silent."""
    all_grace_seconds: float = 60.0
    """When every rank is silent at once, the network or the detector may be to blame: wait so long."""

    def __post_init__(self) -> None:
        for name in ("grace_seconds", "heartbeat_seconds", "missed_heartbeats", "all_grace_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    @property
    def silent_seconds(self) -> float:
        """From when on an open stream is silent."""
        return self.heartbeat_seconds * self.missed_heartbeats


@dataclass(slots=True)
class RankLost:
    """Finds ranks that went silent without a goodbye, and whether the process is gone or only its agent.

    A stream that ended and did not come back within the grace, or an open one without heartbeats for five intervals. Replicas
    cannot go on without one another: when the others still finish steps, the process lives and only its agent is gone (a
    warning); when they stand still, it is the process. Goodbyes end a rank in order. Time in which the detector itself was
    not attentive does not count.

    It cannot tell a killed process from a machine or network that is gone, and with one rank left it has only silence.
    """

    kind: ClassVar[str] = "rank_lost"
    consumes: ClassVar[tuple[type, ...]] = (LivenessObservation,)

    config: RankLostConfig = field(default_factory=RankLostConfig)
    attempt: int = 0
    named: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    """Those of `named` whose process is gone, as far as the others' progress tells."""

    def update(self, observation: object) -> Verdict | None:
        """Take one observation."""
        if not isinstance(observation, LivenessObservation):
            return None
        if observation.attempt != self.attempt:
            self.attempt, self.named, self.gone = observation.attempt, (), ()
        return self._look(observation)

    def _look(self, seen: LivenessObservation) -> Verdict | None:
        running = ~seen.finished
        ended = running & ~seen.connected
        silent = running & (seen.silent_seconds > self.config.silent_seconds)
        missing = ended | silent
        age = np.where(ended, seen.gone_seconds, seen.silent_seconds)
        late = silent | (ended & (seen.gone_seconds > self.config.grace_seconds))
        if missing.all() and len(seen.ranks) > 0:
            # Nobody is left to say that it is this rank: it may be the way to all of them.
            late = missing & (np.maximum(age, 0.0) > self.config.all_grace_seconds)
            if np.count_nonzero(running) < len(seen.ranks):
                late = missing
        known = np.isin(np.array(seen.ranks), self.named) & missing
        lost = late | known
        ranks = tuple(seen.ranks[i] for i in np.flatnonzero(lost))
        if not ranks:
            if not self.named:
                return None
            back, self.named, self.gone = self.named, (), ()
            return Verdict(
                kind=self.kind,
                firing=False,
                step=max(seen.step, 0),
                reason=f"{ranks_text(back).capitalize()} is heard again."
                if len(back) == 1
                else f"{ranks_text(back).capitalize()} are heard again.",
                ranks=back,
            )
        others = running & ~missing
        gone = ranks if not self._go_on(seen, others, age[lost]) else ()
        if ranks == self.named and gone == self.gone:
            return None
        self.named, self.gone = ranks, gone
        return self._verdict(seen, lost, others, age)

    def _go_on(self, seen: LivenessObservation, others: NDArray[np.bool_], age: NDArray[np.float64]) -> bool:
        """Whether the others have finished steps clearly later than the lost ranks were last heard of."""
        if not others.any():
            return False
        slack = 2 * self.config.heartbeat_seconds + 1.0
        return bool(float(age.min()) - float(seen.stuck_seconds[others].min()) > slack)

    def _verdict(
        self,
        seen: LivenessObservation,
        lost: NDArray[np.bool_],
        others: NDArray[np.bool_],
        age: NDArray[np.float64],
    ) -> Verdict:
        index = np.flatnonzero(lost)
        first = int(index[age[index].argmax()])
        rank = seen.ranks[first]
        host = seen.hosts.get(rank, "")
        last = int(seen.last_step[index].min())
        count = int(np.count_nonzero(others))
        if self.gone:
            # Replicas are in step: what any other has finished, also one that has ended since, it has taken part in, though
            # it could not say so any more.
            last = max(last, seen.step)
        ending = seen.endings.get(rank, "") if not seen.connected[first] else ""
        after = f"after step {last:,}" if last >= 0 else "before its first step"
        who = ranks_text(self.named).capitalize() + (f" on {host}" if host and len(self.named) == 1 else "")
        node = lost_node(self.named, seen.hosts)
        if node:
            who = f"Node {node} ({ranks_text(self.named)})"
        how = (
            f"its stream ended ({ending})"
            if ending
            else "its stream ended"
            if not seen.connected[first]
            else "no heartbeat came"
        )
        heard = f"{who} went silent {after}: {how} {seconds_text(float(age[first]))} ago"
        if how == "no heartbeat came":
            heard = f"{who} went silent {after}: no heartbeat for {seconds_text(float(age[first]))}"
        if not self.gone:
            tail = (
                f"the other {count} ranks still finish steps, so the process lives and only its agent is gone"
            )
        elif count:
            tail = f"the other {count} ranks stand still at step {seen.step:,}, so the process or its machine is gone"
        else:
            tail = "no other rank is left"
        advice = (
            (f"Nothing to rescue: the training goes on. Look in rank {rank}'s log for why its agent ended.",)
            if not self.gone
            else (
                (
                    f"All ranks of {node} went silent: look at that machine and its network before any log."
                    if node
                    else f"Look at the end of rank {rank}'s log and at its machine{f' {host}' if host else ''}: killed for memory, a crash "
                    "without a traceback, or a node that is gone."
                ),
                "Restart the job from its last checkpoint if the launcher does not: the other ranks wait until their timeout.",
            )
        )
        return Verdict(
            kind=self.kind,
            firing=True,
            step=max(seen.step, 0),
            since_step=last + 1,
            severity=None if self.gone else Severity.WARNING,
            confidence=0.95 if self.gone else 0.9,
            score=float(age[first]),
            threshold=self.config.grace_seconds if not seen.connected[first] else self.config.silent_seconds,
            reason=f"{heard}; {tail}.",
            evidence={
                "silent_seconds": float(seen.silent_seconds[first]),
                "stream_open": bool(seen.connected[first]),
                "ending": ending,
                "last_step": last,
                "foremost_step": seen.step,
                "others": count,
                "process_gone": bool(self.gone),
                "host": host,
                "node": node,
            },
            advice=advice,
            ranks=self.named,
        )


def lost_node(ranks: Sequence[int], hosts: Mapping[int, str]) -> str:
    """The host all of whose ranks are lost, at least two, and nobody else; empty when it is another story."""
    lost = {hosts.get(rank, "") for rank in ranks}
    if len(lost) != 1 or len(ranks) < 2:
        return ""
    (host,) = lost
    theirs = sum(name == host for name in hosts.values())
    return host if host and theirs == len(ranks) < len(hosts) else ""
