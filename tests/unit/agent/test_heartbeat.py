"""What a background thread sees of the training thread."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType

import pytest
import torch

from stallwatch.agent._heartbeat import MAX_STACK_BYTES, is_suspicious, refine, stack_text, training_frame
from stallwatch.v1 import telemetry_pb2 as wire


def frame_in(name: str, file: str) -> FrameType:
    """A frame of a function called `name` in `file`."""
    space = {"sys": sys}
    exec(compile(f"def {name}(): return sys._getframe()", file, "exec"), space)
    frame: FrameType = space[name]()
    return frame


@pytest.mark.parametrize(
    ("name", "file", "phase"),
    [
        ("step", "/x/train.py", wire.PHASE_INPUT),
        ("save", "/lib/torch/serialization.py", wire.PHASE_CHECKPOINT),
        ("save_checkpoint", "/x/train.py", wire.PHASE_CHECKPOINT),
        ("save", "/lib/torch/distributed/checkpoint/state_dict_saver.py", wire.PHASE_CHECKPOINT),
        ("compile_inner", "/lib/torch/_inductor/compile_fx.py", wire.PHASE_COMPILATION),
        ("compile_wrapper", "/lib/torch/_dynamo/eval_frame.py", wire.PHASE_INPUT),
    ],
)
def test_phase_is_refined_by_the_stack(name, file, phase):
    """Checkpointing and compiling are told by files and names on the stack; running compiled code is not compiling."""
    assert refine(wire.PHASE_INPUT, frame_in(name, file)) == phase


def test_checkpoint_of_another_thread_is_seen():
    """A real torch.save that takes its time, looked at from outside."""
    saving, go_on = threading.Event(), threading.Event()

    class Slow:
        def write(self, data: bytes) -> int:
            saving.set()
            assert go_on.wait(30)
            return len(data)

        def flush(self) -> None: ...

    thread = threading.Thread(target=lambda: torch.save(torch.ones(3), Slow()))
    thread.start()
    assert saving.wait(30)
    frame = training_frame(thread.ident)
    assert refine(wire.PHASE_INPUT, frame) == wire.PHASE_CHECKPOINT
    assert Path(__file__).name in stack_text(frame)
    go_on.set()
    thread.join()
    assert training_frame(thread.ident) is None


def test_deep_stack_is_cut_from_the_outside():
    """At most 16 KiB, the innermost call last."""

    def deep(levels: int) -> str:
        if levels:
            return deep(levels - 1) + ""
        return stack_text(sys._getframe())  # the innermost call

    text = deep(300)
    assert len(text.encode()) <= MAX_STACK_BYTES
    assert "the innermost call" in text.splitlines()[-1]


def test_suspicion_grows_with_the_usual_step():
    """Five seconds at least, ten usual steps otherwise."""
    assert not is_suspicious(4.9, 0.0)
    assert is_suspicious(5.1, 0.1)
    assert not is_suspicious(15.0, 2.0)
    assert is_suspicious(20.1, 2.0)


def test_no_thread_no_stack():
    """A thread that has ended has no stack, which is no error."""
    assert stack_text(None) == ""
    assert refine(wire.PHASE_SYNC, None) == wire.PHASE_SYNC
