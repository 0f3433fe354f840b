"""Changes values made of dicts, lists and scalars, as JSON, msgpack and TOML have them."""

from __future__ import annotations

import math
from random import Random
from typing import Any

_SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63 - 1, -(2**63), 10**30),
    *(0.0, -0.0, 1.5, -2.5, 1e308, 5e-324, math.nan, math.inf, -math.inf),
    *("", "a", "loss", "step", "nan", "1e5", "1,5", "2024-01-01T00:00:00Z", "\0", "é漢\U0001f600", "x" * 300),
)
_KEYS = ("", "loss", "step", "epoch", "eval_loss", "lr", "time", "a", "\0", "dtype", "shape", "data", "train")


def changed(value: Any, random: Random, depth: int = 0) -> Any:
    """The value with one change somewhere in it."""
    if isinstance(value, dict) and value and depth < 12 and random.random() < 0.9:
        kept = dict(value)
        key = random.choice(list(kept))
        action = random.random()
        if action < 0.75:
            kept[key] = changed(kept[key], random, depth + 1)
        elif action < 0.85:
            del kept[key]
        elif action < 0.93:
            kept[random.choice(_KEYS)] = kept[key]
        else:
            kept[random.choice(_KEYS)] = invented(random)
        return kept
    if isinstance(value, (list, tuple)) and value and depth < 12 and random.random() < 0.9:
        items = list(value)
        place = random.randrange(len(items))
        action = random.random()
        if action < 0.75:
            items[place] = changed(items[place], random, depth + 1)
        elif action < 0.85:
            del items[place]
        elif action < 0.95:
            items.insert(random.randrange(len(items) + 1), items[place])
        else:
            items = items[place:]
        return items
    if isinstance(value, bytes) and random.random() < 0.7:
        return value[: random.randrange(len(value) + 1)] + random.randbytes(random.randrange(9))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and random.random() < 0.4:
        return value + random.choice((-1, 1, 10, 0.5)) if math.isfinite(value) and abs(value) < 1e15 else 0
    return invented(random)


def invented(random: Random) -> Any:
    """A small value of any kind."""
    kind = random.random()
    if kind < 0.8:
        return random.choice(_SCALARS)
    if kind < 0.9:
        return [random.choice(_SCALARS) for _ in range(random.randrange(4))]
    return {random.choice(_KEYS): random.choice(_SCALARS) for _ in range(random.randrange(4))}
