"""Replays a recording through the analysis: the same findings as live, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.engine.apply import apply
from stallwatch.detector.engine.recording import RecordingError, read_recording
from stallwatch.v1 import analyzer_pb2


def replay(path: Path, config: AnalysisConfig | None = None) -> RunAnalysis:
    """The analysis of the run after everything in the recording."""
    return replay_inputs(read_recording(path), str(path), config)


def replay_inputs(
    inputs: Iterable[analyzer_pb2.AnalyzerInput], source: str, config: AnalysisConfig | None = None
) -> RunAnalysis:
    """The analysis after `inputs`; the first `Hello` among them names the run."""
    waiting: list[analyzer_pb2.AnalyzerInput] = []
    analysis: RunAnalysis | None = None
    for item in inputs:
        if analysis is None:
            waiting.append(item)
            if item.WhichOneof("input") != "hello":
                continue
            analysis = RunAnalysis(item.hello.run, config or AnalysisConfig())
            for earlier in waiting:
                apply(analysis, earlier)
            continue
        apply(analysis, item)
    if analysis is None:
        raise RecordingError(f"{source} names no run: it is empty, or its beginning is missing")
    return analysis
