"""Console text of any layout, and what stands between the lines."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from fuzz.logs import read
from stallwatch.detector.importers import Selection
from support.console_layouts import LAYOUTS

MAX_BYTES = 16_384
_PIECES = (
    *(
        "\r",
        "\x08\x08",
        "\x1b[31m",
        "\x1b]0;",
        "\0",
        "\ufeff",
        "nan",
        "-inf",
        "1e999",
        "9" * 400,
        "1,234,567",
        "0x1f",
        "1_000",
    ),
    *(
        "{",
        "}",
        "[",
        "](",
        "((((",
        '{"a": {',
        "tensor(",
        "rank 7 ",
        "[rank1]",
        "0: ",
        "mode=val ",
        "epoch ",
        "step=",
        "loss: ",
        "/",
        "|",
    ),
    *(
        "12:34:56",
        "2026-13-99 99:99:99",
        "50%|####|",
        "100%|" + "█" * 30 + "| 5/5 [00:01<?, ?it/s]",
        "(1.5)",
        "=" * 300,
        " " * 300,
        "\t",
    ),
    *(
        "val_loss",
        "Acc@1 ",
        "| a | b |",
        "epoch  train_loss  valid_loss",
        "²",
        "١٢",
        "K",
        "e",
        ".",
        "-",
        "+",
        ",",
        "'s ",
        "#",
    ),
)


def seeds() -> Iterator[bytes]:
    """A part of each layout; the first byte says what the user names."""
    for number, layout in enumerate(LAYOUTS.values()):
        text = layout().text
        yield bytes([number % 8]) + text[: 1500 + 37 * number].encode()


def one(data: bytes) -> None:
    """As a file of the name that such logs have."""
    choice = data[0] if data else 0
    selection = (
        Selection(loss="loss") if choice & 7 == 5 else Selection(step="step") if choice & 7 == 6 else None
    )
    read("train.log", data[1:], selection)


def mutate(data: bytes, random: Random) -> bytes:
    """A piece put in or taken out, a line doubled, moved or torn, a number changed."""
    text = data[1:].decode("utf-8", "replace")
    lines = text.split("\n")
    place = random.randrange(len(lines))
    line = lines[place]
    at = random.randrange(len(line) + 1)
    action = random.random()
    if action < 0.4:
        lines[place] = line[:at] + random.choice(_PIECES) + line[at:]
    elif action < 0.5:
        lines[place] = line[:at] + line[min(len(line), at + random.randrange(1, 9)) :]
    elif action < 0.6:
        lines.insert(random.randrange(len(lines) + 1), line)
    elif action < 0.7:
        lines[place] = line[:at]
    elif action < 0.8 and len(lines) > 1:
        other = random.randrange(len(lines))
        lines[place], lines[other] = lines[other], line
    elif action < 0.9:
        lines[place] = "".join(
            random.choice("0123456789") if char.isdigit() and random.random() < 0.3 else char for char in line
        )
    else:
        lines[place] = (
            line + lines.pop((place + 1) % len(lines))
            if len(lines) > 1 and place + 1 < len(lines)
            else line * 2
        )
    return data[:1] + "\n".join(lines).encode("utf-8", "replace")
