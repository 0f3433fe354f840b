"""What the training thread is doing, seen from another thread that costs it nothing."""

from __future__ import annotations

import sys
import traceback
from types import FrameType

from stallwatch.v1 import telemetry_pb2 as wire

STUCK = frozenset(
    {wire.PHASE_INPUT, wire.PHASE_FORWARD, wire.PHASE_BACKWARD, wire.PHASE_SYNC, wire.PHASE_OPTIMIZER}
)
"""Phases that may hang; the others take as long as they take."""
MAX_STACK_BYTES = 16 * 1024
_MAX_FRAMES = 200

_COMPILATION = ("/torch/_dynamo/", "/torch/_inductor/", "/torch/_functorch/")
_CHECKPOINT = ("/torch/serialization.py", "/torch/distributed/checkpoint/", "/safetensors/", "/orbax/")
_CHECKPOINT_NAMES = frozenset({"save_checkpoint", "load_checkpoint", "_save_checkpoint", "save_pretrained"})
# Runs compiled code too, so being in it does not mean to compile.
_NOT_COMPILING = (
    "/torch/_dynamo/eval_frame.py",
    "/torch/_dynamo/external_utils.py",
    "/torch/_functorch/_aot_autograd/runtime",
)


def is_suspicious(phase_seconds: float, typical_step_seconds: float) -> bool:
    """Whether a phase lasts so long that its stack is worth sending."""
    return phase_seconds > max(5.0, 10 * typical_step_seconds)


def training_frame(thread_id: int) -> FrameType | None:
    """The frame that a thread executes; None when it is gone."""
    return sys._current_frames().get(thread_id)  # noqa: SLF001 -- documented as for this very purpose


def refine(phase: int, frame: FrameType | None) -> int:
    """Names checkpointing and compilation, which no hook sees, by what is on the stack."""
    while frame is not None:
        file = frame.f_code.co_filename
        if any(part in file for part in _COMPILATION) and not any(part in file for part in _NOT_COMPILING):
            return wire.PHASE_COMPILATION
        if frame.f_code.co_name in _CHECKPOINT_NAMES or any(part in file for part in _CHECKPOINT):
            return wire.PHASE_CHECKPOINT
        frame = frame.f_back
    return phase


def stack_text(frame: FrameType | None) -> str:
    """The Python stack, innermost call last, cut in the outermost part to at most 16 KiB."""
    if frame is None:
        return ""
    # The source lines are left out of the walk and read by linecache, which the file system may take its time for: this is
    # a background thread.
    frames = [each for each, _ in zip(traceback.walk_stack(frame), range(_MAX_FRAMES), strict=False)]
    summary = traceback.StackSummary.extract(reversed(frames))
    text = "".join(summary.format())
    encoded = text.encode(errors="replace")
    if len(encoded) <= MAX_STACK_BYTES:
        return text
    return "...\n" + encoded[-(MAX_STACK_BYTES - 8) :].decode(errors="ignore")
