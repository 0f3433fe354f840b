"""Read models as bytes, for the columns that hold them whole."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import RunView


def _plain(value: Any) -> Any:
    """Numpy scalars find their way into evidence; they are stored as what they mean."""
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} cannot be stored")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_views = msgspec.msgpack.Decoder(RunView)
_findings = msgspec.msgpack.Decoder(Finding)


def encode_view(view: RunView) -> bytes:
    """A run's view as bytes."""
    return _encoder.encode(view)


def decode_view(data: bytes) -> RunView:
    """The view that `encode_view` wrote."""
    return _views.decode(data)


def encode_finding(finding: Finding) -> bytes:
    """A finding as bytes."""
    return _encoder.encode(finding)


def decode_finding(data: bytes) -> Finding:
    """The finding that `encode_finding` wrote."""
    return _findings.decode(data)
