"""Why a run stalled: causes weighed by their evidence, ranked, and put under the verdict."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stallwatch.detector.diagnosis.causes import CAUSES, STANDALONE
from stallwatch.detector.diagnosis.explain import DIAGNOSED, explain
from stallwatch.detector.diagnosis.standalone import StandaloneCause, StandaloneConfig

STANDALONE_CHECKS: dict[str, Callable[..., StandaloneCause]] = {
    kind: partial(StandaloneCause, kind) for kind in STANDALONE
}

__all__ = ["CAUSES", "DIAGNOSED", "STANDALONE_CHECKS", "StandaloneCause", "StandaloneConfig", "explain"]
