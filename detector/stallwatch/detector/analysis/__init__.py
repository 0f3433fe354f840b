"""The pure analysis of one run: inputs of its ranks in, findings and read models out."""

from __future__ import annotations

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.analysis.run import RunAnalysis
from stallwatch.detector.analysis.series import SeriesPoint

__all__ = ["AnalysisConfig", "RunAnalysis", "SeriesPoint"]
