"""The family of a run, to the wire and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields

from stallwatch.detector.core.family import Peer
from stallwatch.v1 import analyzer_pb2

_FIELDS = tuple(each.name for each in fields(Peer))


def encode_family(peers: Iterable[Peer]) -> bytes:
    """A serialized `Family`; equal families give equal bytes."""
    family = analyzer_pb2.Family(peers=[analyzer_pb2.Peer(**asdict(each)) for each in peers])
    return family.SerializeToString(deterministic=True)


def decode_family(family: analyzer_pb2.Family) -> tuple[Peer, ...]:
    """The peers of a `Family`."""
    return tuple(Peer(**{name: getattr(each, name) for name in _FIELDS}) for each in family.peers)
