"""What other runs of the family say about a plateau: who is flat at the same place, who got through, and what differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stallwatch.detector.core.family import Peer
from stallwatch.detector.core.vitals import Vitals

_OF_FALL = 0.05
_OF_LEVEL = 0.1
_OTHER = 1.25
"""Settings whose ratio is below this count as the same."""
_NAMED = 3
"""Runs that are named, at most."""


@dataclass(frozen=True, slots=True)
class Relatives:
    """The family as seen from a run that is flat."""

    own: Peer
    fall: float
    """What the run has learnt before it went flat, in units of its loss."""
    tolerance: float
    """Losses that differ by less are the same."""
    same: tuple[Peer, ...]
    """Flat at the same loss."""
    above: tuple[Peer, ...]
    """Flat at a higher one."""
    through: tuple[Peer, ...]
    """Clearly below it, flat or not: the lowest first."""
    together: tuple[Peer, ...]
    """Flat after as many samples, at whatever loss."""

    @property
    def surprise(self) -> float:
        """How unlikely it is, in nats, that one run ends as near as this by chance: anywhere on the way down is as good."""
        if not self.fall > 0:
            return 0.0
        return max(math.log(self.fall / (2 * self.tolerance)), 0.0)


def relatives(vitals: Vitals) -> Relatives | None:
    """The family, or None when there is none or this run's loss is not known.

    Two losses are the same when they differ by less than would count as learning or could be told from noise, and by less
    than 5 % of what was learnt and 10 % of what is left: of runs that have learnt nearly everything or nothing, all are near
    each other. Only runs of the same model can be compared, as far as that is known.
    """
    loss = vitals.loss
    if not vitals.family or loss is None or not math.isfinite(loss.level):
        return None
    own = _own(vitals)
    peers = [each for each in vitals.family if math.isfinite(each.level) and _comparable(own, each)]
    if not peers:
        return None
    start = vitals.loss_start
    fall = start - loss.level if math.isfinite(start) else math.nan
    near = min((each for each in (_OF_FALL * fall, _OF_LEVEL * abs(loss.level)) if each > 0), default=0.0)
    tolerance = max(near, loss.material_gain)

    def differs(peer: Peer) -> float:
        # A level is a mean over many losses: a quarter of their deviation is that of the mean of sixteen.
        noise = math.hypot(own.noise, peer.noise) / 4
        return (peer.level - own.level) / max(tolerance, noise if math.isfinite(noise) else 0.0, 1e-300)

    return Relatives(
        own=own,
        fall=fall,
        tolerance=max(tolerance, own.noise / 4, 1e-300),
        same=tuple(each for each in peers if each.flat and abs(differs(each)) <= 1),
        above=tuple(each for each in peers if each.flat and differs(each) > 2),
        through=tuple(
            sorted((each for each in peers if differs(each) < -2), key=lambda each: (each.level, each.run))
        ),
        together=tuple(each for each in peers if each.flat and _same_time(own, each, loss.since_step_error)),
    )


def spread(values: Sequence[float]) -> float:
    """The largest over the smallest, of those that are known and above zero; NaN when fewer than two are."""
    known = [each for each in values if each > 0]
    return max(known) / min(known) if len(known) > 1 else math.nan


def differences(own: Peer, other: Peer) -> tuple[str, ...]:
    """The settings in which another run is known to differ."""
    found = []
    rates = (other.peak_learning_rate, own.peak_learning_rate)
    now = (other.learning_rate, own.learning_rate)
    if spread(rates) > _OTHER:
        found.append(f"learning rate {rates[0]:.3g} instead of {rates[1]:.3g}")
    elif spread(now) > _OTHER:
        found.append(f"learning rate now {now[0]:.3g} instead of {now[1]:.3g}")
    if spread((other.effective_batch, own.effective_batch)) > 1.01:
        found.append(f"effective batch {other.effective_batch:.4g} instead of {own.effective_batch:.4g}")
    if 0 < other.world_size != own.world_size > 0:
        found.append(f"{other.world_size} ranks instead of {own.world_size}")
    if other.optimizer and own.optimizer and other.optimizer != own.optimizer:
        found.append(f"{other.optimizer} instead of {own.optimizer}")
    if 0 < other.parameters != own.parameters > 0:
        found.append(f"{other.parameters:,} parameters instead of {own.parameters:,}")
    return tuple(found)


def got_through(found: Relatives) -> str:
    """The run that got furthest below, and what differs; empty when none did."""
    if not found.through:
        return ""
    best = found.through[0]
    different = differences(found.own, best)
    how = (
        f"with {' and '.join(different)}"
        if different
        else "with the same settings but for the seed, as far as is known"
    )
    more = len(found.through) - 1
    also = f" (and {more} more)" if more else ""
    return f"{best.run}{also} got through to {best.level:.4g}, {how}"


def names(peers: Sequence[Peer]) -> str:
    """Some of their names."""
    shown = ", ".join(each.run for each in peers[:_NAMED])
    return f"{shown} and {len(peers) - _NAMED} more" if len(peers) > _NAMED else shown


def described(vitals: Vitals) -> tuple[str, ...]:
    """What the family shows, for the evidence of a finding: one line a run that is flat at the same loss or got through."""
    found = relatives(vitals)
    if found is None:
        return ()
    lines = [
        f"{each.run}: flat at {each.level:.4g}{_settings(found.own, each)}" for each in found.same[:_NAMED]
    ]
    lines += [
        f"{each.run}: got through to {each.level:.4g}{_settings(found.own, each)}"
        for each in found.through[:_NAMED]
    ]
    return tuple(lines)


def _settings(own: Peer, other: Peer) -> str:
    different = differences(own, other)
    return f" ({', '.join(different)})" if different else ""


def _own(vitals: Vitals) -> Peer:
    declared, loss = vitals.declaration, vitals.loss
    assert loss is not None
    return Peer(
        run="",
        flat=True,
        since_step=loss.since_step,
        level=loss.level,
        noise=loss.noise,
        learning_rate=vitals.rate.now,
        peak_learning_rate=vitals.rate.peak,
        effective_batch=vitals.effective_batch,
        world_size=vitals.world_size,
        optimizer=declared.optimizer if declared else "",
        model=declared.model if declared else "",
        parameters=declared.parameters if declared else 0,
    )


def _comparable(own: Peer, other: Peer) -> bool:
    return not own.model or not other.model or own.model == other.model


def _same_time(own: Peer, other: Peer, error: float) -> bool:
    """Whether both went flat after as many samples: of the same data, that is the same epoch."""
    mine, theirs = own.since_step * own.effective_batch, other.since_step * other.effective_batch
    if not (mine > 0 and theirs > 0):
        return False
    return abs(mine - theirs) <= max(0.1 * max(mine, theirs), 2 * error * own.effective_batch)
