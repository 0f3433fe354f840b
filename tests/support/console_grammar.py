"""A grammar of console logs: spellings of a record that can be combined freely, with the truth about what they print."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

from hypothesis import strategies as st

PREFIXES = (
    "",
    "{date} {clock} ",
    "[{date} {clock}] ",
    "{date} {clock},123 - trainer - INFO - ",
    "{date}T{clock}.123Z INFO train.py:88] ",
    "INFO:root:",
    "[INFO] ",
    "I0201 {clock}.123456 31337 loop.py:42] ",
    "[rank0]: ",
    "node-7: ",
    "\x1b[32m{date} {clock}\x1b[0m | \x1b[1mINFO\x1b[0m | __main__:train:12 - ",
    "(trainer pid=812) ",
    "[2mtrain[0m ".replace("[", "\x1b["),
)
STEPS = (
    "step",
    "iter",
    "iteration",
    "Step",
    "global_step",
    "Iter",
    "num_updates",
    "it",
    "train/step",
    "Batch",
)
LOSSES = (
    "loss",
    "train_loss",
    "train/loss",
    "Train Loss",
    "lm_loss",
    "total_loss",
    "training loss",
    "Loss",
    "nll",
)
RATES = ("", "lr", "learning_rate", "LR", "learning rate", "train/lr")
EXTRAS = (
    "time{sep}211.30ms",
    "mem{sep}41.2GiB",
    "eta{sep}0:12:11",
    "grad_norm{sep}0.9134",
    "acc{sep}51.2%",
    "tok/s{sep}88.1k",
    "throughput{sep}7,102 tokens/s",
    "loss_scale{sep}65536.0",
    "samples{sep}{index}",
    "mfu{sep}40.66%",
    "data_time{sep}0.0031 (0.0029)",
    "elapsed{sep}12.5s",
)
NOISE = (
    "/usr/lib/python3/site.py:12: UserWarning: this overload is deprecated",
    "Saving model checkpoint to ./out/checkpoint-500",
    "",
    "GPU 0: 38 C, 81 W",
    "  warnings.warn(",
    "Epoch complete.",
    "--------------------------------------------",
    "sample: The year 1984 was 40 years ago, he said: 'no'.",
    "Traceback of worker 3 follows (pid 1233)",
)


@dataclass(frozen=True)
class Spelling:
    """One layout."""

    prefix: str = ""
    separator: str = ": "
    delimiter: str = ", "
    position: str = "step"
    step: str = "step"
    loss: str = "loss"
    rate: str = "lr"
    extras: tuple[str, ...] = ()
    form: str = "{:.4f}"
    wrapper: str = "plain"
    validation: str = "none"
    noise: tuple[int, ...] = ()
    stride: int = 10
    per_epoch: int = 12
    epochs: int = 5
    zero_based: bool = True
    broken: bool = False
    redrawn: bool = False


@dataclass
class Written:
    """A log and the truth."""

    text: str
    axis: str
    positions: list[float]
    losses: list[float]
    rates: list[float]
    evaluations: int
    spelling: Spelling = field(default_factory=Spelling)


SPELLINGS = st.builds(
    Spelling,
    prefix=st.sampled_from(PREFIXES),
    separator=st.sampled_from((": ", "=", " ", ":", " = ", " : ")),
    delimiter=st.sampled_from((", ", " ", " | ", "  ", "\t", "; ", " - ")),
    position=st.sampled_from(
        (
            *(
                "step",
                "step_total",
                "step_padded",
                "colon",
                "epoch_step",
                "bracket",
                "brackets",
                "epoch_slash",
                "pair",
            ),
            *("epoch_only", "epoch_total", "fraction", "bar", "header"),
        )
    ),
    step=st.sampled_from(STEPS),
    loss=st.sampled_from(LOSSES),
    rate=st.sampled_from(RATES),
    extras=st.lists(st.sampled_from(EXTRAS), max_size=4, unique=True).map(tuple),
    form=st.sampled_from(("{:.4f}", "{:.6f}", "{:.4e}", "{:.3E}", "{}", "{:8.4f}")),
    wrapper=st.sampled_from(
        ("plain", "plain", "plain", "python", "json", "colours", "mean", "tensor", "pipes")
    ),
    validation=st.sampled_from(("none", "none", "line", "key_line", "same_line", "passes")),
    noise=st.lists(st.integers(0, len(NOISE) - 1), max_size=3).map(tuple),
    stride=st.sampled_from((1, 5, 10, 20)),
    per_epoch=st.sampled_from((8, 12, 30)),
    epochs=st.sampled_from((2, 3, 5)),
    zero_based=st.booleans(),
    broken=st.booleans(),
    redrawn=st.booleans(),
)


def loss_of(index: int) -> float:
    """Falls, with some noise."""
    return 1.5 + 3 * math.exp(-index / 15) + 0.05 * math.sin(7.0 * index)


def write(how: Spelling) -> Written:
    """The log of this spelling."""
    positions: list[float] = []
    losses: list[float] = []
    rates: list[float] = []
    out: list[str] = []
    length, total = how.per_epoch * how.stride, how.epochs * how.per_epoch * how.stride
    once = how.position in {"epoch_only", "epoch_total"}
    evaluations = 0
    for index in range(how.epochs * how.per_epoch):
        epoch, inside = index // how.per_epoch, (index % how.per_epoch) * how.stride
        ends = index % how.per_epoch == how.per_epoch - 1
        if index % 7 == 3:
            # What others print begins on a line of its own.
            apart = "\n" if out and not out[-1].endswith("\n") else ""
            out += [apart + NOISE[number] + "\n" for number in how.noise]
        if once and not ends:
            continue
        shift = 0 if how.zero_based else 1
        step, inner = epoch * length + inside, inside
        if how.position == "bar":
            step, inner = step + how.stride, inside + how.stride
        nan = how.broken and epoch == how.epochs - 1
        value = "nan" if nan else how.form.format(loss_of(index))
        rate = how.form.replace(".3", ".6").replace(".4", ".6").format(1e-3 * (1 - index / 200))
        printed = float(value)
        where, place = _where(how, epoch + shift, step, inner, length, total)
        if how.position == "header" and inside == 0:
            out.append(f"{_prefix(how, index)}===== Epoch {epoch + shift}/{how.epochs} =====\n")
        pairs = [(how.loss, value)] + ([(how.rate, rate)] if how.rate else [])
        held_out = []
        if ends and how.validation == "same_line":
            held_out = [("val_loss", how.form.format(loss_of(index) + 0.1))]
            evaluations += 1
        body = _body(how, where, [*pairs, *held_out], index)
        line = f"{_prefix(how, index)}{body}"
        drawn = how.redrawn and how.position == "bar"
        out.append(("\r" if drawn else "") + line + ("" if drawn and not ends else "\n"))
        positions.append(place)
        losses.append(printed)
        rates.append(float(rate))
        if ends and how.validation in {"line", "key_line", "passes"}:
            evaluations += 1
            out += _validation(how, index, epoch + shift, step)
    text = "".join(out)
    axis = "epoch" if once or how.position == "fraction" else "step"
    return Written(text, axis, positions, losses, rates if how.rate else [], evaluations, how)


def _prefix(how: Spelling, index: int) -> str:
    return how.prefix.format(date="2026-02-01", clock=f"{index // 60:02d}:{index % 60:02d}:07")


def _where(how: Spelling, epoch: int, step: int, inner: int, length: int, total: int) -> tuple[str, float]:
    """How the position is written, and the place on the axis that it stands for."""
    sep, name = how.separator, how.step
    return {
        "step": (f"{name}{sep}{step}", step),
        "step_total": (f"{name} {step}/{total}", step),
        "step_padded": (f"{name}{sep}[{step:6d}/{total}]", step),
        "colon": (f"{name} {step}:", step),
        "epoch_step": (f"epoch{sep}{epoch}{how.delimiter}{name}{sep}{step}", step),
        "bracket": (f"Epoch: [{epoch}][{inner:4d}/{length}]", step),
        "brackets": (f"[Epoch {epoch}/{how.epochs}] [Batch {inner}/{length}]", step),
        "epoch_slash": (f"Epoch {epoch} {inner}/{length}", step),
        "pair": (f"[{epoch}, {inner:5d}]", step),
        "epoch_only": (f"epoch{sep}{epoch}", epoch),
        "epoch_total": (f"Epoch [{epoch}/{how.epochs}]", epoch),
        "fraction": (f"epoch{sep}{(step + how.stride) / length:.4f}", round((step + how.stride) / length, 4)),
        "bar": (
            f"Epoch {epoch}: {100 * inner // length:3d}%|{'#' * (10 * inner // length):<10}| {inner}/{length} [00:{inner % 60:02d}<01:00, 9.91it/s]",
            step,
        ),
        "header": (f"{name}{sep}{inner}", step),
    }[how.position]


def _body(how: Spelling, where: str, pairs: list[tuple[str, str]], index: int) -> str:
    sep, delimiter = how.separator, how.delimiter
    extras = [extra.format(sep=sep, index=index * 64) for extra in how.extras]
    if how.wrapper == "json":
        return where + delimiter + json.dumps({name: float(value) for name, value in pairs})
    if how.wrapper == "python":
        return (
            where + delimiter + str({name: float(value) for name, value in pairs}).replace(": nan", ": nan")
        )
    if how.wrapper == "pipes":
        return f"{where} | " + " | ".join([f"{name} {value}" for name, value in pairs] + extras) + " |"
    if how.wrapper == "colours":
        written = [f"\x1b[33m{name}{sep}\x1b[36m{value}\x1b[0m" for name, value in pairs]
    elif how.wrapper == "mean":
        written = [
            f"{name}{sep}{value} ({value})" if name == how.loss else f"{name}{sep}{value}"
            for name, value in pairs
        ]
    elif how.wrapper == "tensor":
        written = [
            f"{name}{sep}tensor({value}, device='cuda:0')" if name == how.loss else f"{name}{sep}{value}"
            for name, value in pairs
        ]
    else:
        written = [f"{name}{sep}{value}" for name, value in pairs]
    return delimiter.join([where, *written, *extras])


def _validation(how: Spelling, index: int, epoch: int, step: int) -> list[str]:
    sep, loss = how.separator, how.form.format(loss_of(index) + 0.1)
    prefix = _prefix(how, index)
    if how.validation == "key_line":
        return [f"{prefix}val_loss{sep}{loss}{how.delimiter}val_acc{sep}0.51\n"]
    if how.validation == "line":
        return [
            f"{prefix}Validation{how.delimiter}epoch{sep}{epoch}{how.delimiter}loss{sep}{loss}{how.delimiter}acc{sep}0.51\n"
        ]
    return [
        f"{prefix}Test: [{done:3d}/100]\tTime  0.3 ( 0.3)\tLoss {loss} ({loss})\tAcc@1  51.0 ( 51.2)\n"
        for done in (0, 50, 90)
    ] + [f"{prefix} * Acc@1 51.2 Acc@5 77.1\n"]
