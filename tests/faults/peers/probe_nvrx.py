"""NVRx in a rank: straggler detection sections, and the fault tolerance client's heartbeats.

Two things that need CUDA are replaced, since there is none: the CUPTI extension (GPU kernel timings) and
`torch.cuda.synchronize`, which `generate_report` calls. Section timings and their scores are NVRx's own.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist

from faults.peers.probe import Probe

REPORT_EVERY = 50
"""Steps between reports. NVRx's example reports every 300 batches and its default is 60 s, longer than these jobs."""


class NoCupti:
    """In place of the extension's CuptiProfiler: no GPU kernel was seen."""

    def __init__(self, **_: Any) -> None:
        pass

    def get_stats(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class NVRx(Probe):
    """See the module."""

    def __init__(self, straggler: Any, client: Any) -> None:
        super().__init__()
        self.straggler = straggler
        self.client = client

    def start(self) -> None:
        """As in examples/straggler and examples/fault_tolerance."""
        self.straggler.Detector.initialize(gather_on_rank0=True)
        self.client.init_workload_monitoring()

    @contextmanager
    def step(self, model: Any) -> Iterator[None]:
        """The whole step is a section, as Megatron Bridge has it."""
        with self.section("train_step"):
            yield

    def section(self, name: str) -> AbstractContextManager[None]:
        """A detection section without GPU kernels."""
        made: AbstractContextManager[None] = self.straggler.Detector.detection_section(
            name, profile_cuda=False
        )
        return made

    def after_step(self, step: int) -> None:
        """A heartbeat each step, a report now and then."""
        self.client.send_heartbeat()
        if (step + 1) % REPORT_EVERY == 0:
            self.report(step)

    def report(self, step: int) -> None:
        """Print the stragglers on rank 0, where the results are gathered."""
        report = self.straggler.Detector.generate_report()
        if dist.get_rank() != 0:
            return
        found = report.identify_stragglers()
        for way in ("relative", "individual"):
            scores = getattr(report, f"section_{way}_perf_scores")
            for section, ranks in found[f"straggler_sections_{way}"].items():
                names = sorted(each.rank for each in ranks)
                told = {rank: round(score, 3) for rank, score in scores[section].items()}
                print(f"NVRX step {step} {way} section {section!r} ranks {names} scores {told}", flush=True)

    def close(self) -> None:
        """The end."""
        self.straggler.Detector.shutdown()
        self.client.shutdown_workload_monitoring()


def start() -> Probe:
    """Import NVRx, without what needs CUDA."""
    if not torch.cuda.is_available():
        stand_in: Any = types.ModuleType("nvrx_cupti_module")
        stand_in.CuptiProfiler = NoCupti
        sys.modules["nvrx_cupti_module"] = stand_in
        torch.cuda.synchronize = lambda *_: None
    from nvidia_resiliency_ext import fault_tolerance, straggler

    return NVRx(straggler, fault_tolerance.RankMonitorClient())
