"""Logs in JSON: Hugging Face trainer states, JSON Lines, arrays of records, Keras histories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from fuzz.logs import read
from fuzz.trees import changed

MAX_BYTES = 8_192
_NAMES = ("trainer_state.json", "log.jsonl", "history.json", "records.json")
_HISTORY = [
    {"epoch": 0.1, "step": 10, "loss": 2.0, "learning_rate": 1e-3, "grad_norm": 0.5},
    {"epoch": 0.2, "step": 20, "eval_loss": 1.9, "eval_accuracy": 0.5, "eval_runtime": 1.0},
    {"epoch": 0.2, "step": 20, "loss": 1.5, "learning_rate": 5e-4},
    {"train_runtime": 10.0, "train_loss": 1.7, "step": 20, "epoch": 0.2},
]
_LINES = [
    {"step": 1, "loss": 2.0, "time": "2024-01-01T00:00:00Z"},
    {"step": 2, "train": {"loss": 1.5}, "loss": None},
    {"step": 3, "loss": float("nan"), "mode": "train"},
]


def seeds() -> Iterator[bytes]:
    """One of each kind; the first byte says which name the file has."""
    yield b"\0" + json.dumps({"global_step": 20, "log_history": _HISTORY}).encode()
    yield b"\1" + "\n".join(map(json.dumps, _LINES)).encode()
    yield (
        b"\2"
        + json.dumps({"loss": [2, 1.5, 1], "val_loss": [2.1, 1.8], "lr": {"0": 0.1, "1": 0.05}}).encode()
    )
    yield b"\3" + json.dumps(_LINES).encode()
    for kind in range(len(_NAMES)):
        for nested in (
            "[" * 4000,
            '{"a":' * 1400 + "1" + "}" * 1400,
            '{"log_history":[' + '{"a":' * 900 + "1" + "}" * 900 + "]}",
        ):
            yield bytes([kind]) + nested.encode()


def one(data: bytes) -> None:
    """Read by its name and its beginning."""
    choice = data[0] if data else 0
    read(_NAMES[choice % len(_NAMES)], data[1:])


def mutate(data: bytes, random: Random) -> bytes:
    """A value somewhere in it."""
    text = data[1:]
    try:
        if data[:1] == b"\1":
            records = changed([json.loads(line) for line in text.splitlines()], random)
            return (
                b"\1"
                + "\n".join(map(json.dumps, records if isinstance(records, list) else [records])).encode()
            )
        return data[:1] + json.dumps(changed(json.loads(text), random)).encode()
    except (ValueError, TypeError, RecursionError):
        return data
