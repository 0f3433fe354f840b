"""The one way of an input into the analysis, live or replayed."""

from __future__ import annotations

from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.engine.decode import decode_batch, decode_heartbeat, decode_hello
from stallwatch.detector.engine.family import decode_family
from stallwatch.v1 import analyzer_pb2


def apply(analysis: RunAnalysis, item: analyzer_pb2.AnalyzerInput) -> bool:
    """Give the analysis one input; False when it was a batch that the analysis already had."""
    now, rank, incarnation = item.received_unix_seconds, item.rank, item.incarnation
    match item.WhichOneof("input"):
        case "batch":
            return analysis.batch(now, rank, incarnation, decode_batch(item.batch))
        case "heartbeat":
            analysis.heartbeat(now, rank, incarnation, decode_heartbeat(item.heartbeat))
        case "tick":
            analysis.tick(now)
        case "hello":
            analysis.hello(now, decode_hello(item.hello))
        case "goodbye":
            analysis.goodbye(now, rank, incarnation, item.goodbye.reason, item.goodbye.last_step)
        case "disconnect":
            analysis.disconnect(now, rank, incarnation, item.disconnect.reason)
        case "family":
            analysis.compare(now, decode_family(item.family))
        case _:
            # Written by a newer version: what it does not know cannot change this analysis.
            pass
    return True
