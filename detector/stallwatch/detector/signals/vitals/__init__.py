"""The state of health of a run: a signal that gathers what the causes of a stall are weighed by."""

from stallwatch.detector.signals.vitals.signal import VitalsSignal

__all__ = ["VitalsSignal"]
