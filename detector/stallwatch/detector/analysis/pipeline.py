"""Signals and checks: each sees the observations of the types it consumes, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stallwatch.detector.analysis.config import AnalysisConfig
from stallwatch.detector.checks.contract import Check, Signal
from stallwatch.detector.diagnosis import STANDALONE_CHECKS
from stallwatch.detector.rules import RuleBook
from stallwatch.detector.signals.loss import LossSignal
from stallwatch.detector.signals.noise_scale import NoiseScaleSignal
from stallwatch.detector.signals.step_windows import StepWindows
from stallwatch.detector.signals.vitals import VitalsSignal


@dataclass(slots=True)
class Pipeline:
    """All signals and checks of a run, by name."""

    signals: dict[str, Signal]
    checks: dict[str, Check]
    failures: dict[str, str] = field(default_factory=dict)
    """The last error of each signal or check that raised."""
    _signals_of: dict[type, tuple[tuple[str, Signal], ...]] = field(default_factory=dict)
    _checks_of: dict[type, tuple[tuple[str, Check], ...]] = field(default_factory=dict)

    @classmethod
    def build(cls, config: AnalysisConfig) -> Pipeline:
        """Fresh signals and checks, as configured."""
        signals: dict[str, Signal] = {
            "loss": LossSignal(config=config.loss),
            "noise_scale": NoiseScaleSignal(config=config.noise_scale),
            "vitals": VitalsSignal(),
            "step_windows": StepWindows(),
        }
        if config.rules:
            signals["rules"] = RuleBook(config=config.rules)
        built: dict[str, Any] = dict(config.checks.build())
        built |= {kind: make(config=config.causes) for kind, make in STANDALONE_CHECKS.items()}
        checks = {kind: check for kind, check in built.items() if kind not in config.disabled}
        return cls(signals, checks)

    def renew(self, kind: str, config: AnalysisConfig) -> None:
        """Let one of the configured checks begin anew."""
        self.checks[kind] = config.checks.build()[kind]
        self._checks_of.clear()
        self._signals_of.clear()

    def feed(self, observation: object) -> Iterator[object]:
        """Every derived observation and every verdict that follows from one observation, in order."""
        kind = type(observation)
        signals = self._signals_of.get(kind)
        if signals is None:
            signals = self._signals_of[kind] = tuple(
                each for each in self.signals.items() if kind in each[1].consumes
            )
            self._checks_of[kind] = tuple(each for each in self.checks.items() if kind in each[1].consumes)
        for name, signal in signals:
            for derived in self._ask(name, signal, observation):
                yield derived
                yield from self.feed(derived)
        for name, check in self._checks_of[kind]:
            try:
                verdict = check.update(observation)
            except Exception as error:
                # One check that fails must not take the others, and the alignment, with it.
                self.failures[name] = repr(error)
                continue
            if verdict is not None:
                yield verdict

    def _ask(self, name: str, signal: Signal, observation: object) -> Iterable[object]:
        try:
            return tuple(signal.update(observation))
        except Exception as error:
            self.failures[name] = repr(error)
            return ()
