"""CSV and TSV logs, read by the csv module and, as large ones are, by pandas."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from fuzz.logs import read
from stallwatch.detector.importers import Selection, delimited

MAX_BYTES = 4_096
_SMALL = delimited._SMALL_BYTES
_LARGE = 7
"""Of 8 inputs the one that is read as a large file is: pandas takes a millisecond."""
_TEXTS = (
    "step,loss,val_loss,lr\n0,2.0,,0.1\n10,1.5,1.7,0.1\n20,1.2,nan,0.05\n",
    "epoch\ttrain_loss\tval_acc\ttimestamp\n1\t0.9\t0.5\t2024-01-01T00:00:00Z\n2\t0.8\t0.6\t2024-01-01T00:01:00\n",
    "epoch;loss\n1;0,9\n2;0,8\n3;0,7\n",
    '\ufeff# "step","loss"\n0,1\n\n1,0.5\n"step","loss"\n2,0.25\n',
    "step,loss\n0,1\n1,0.5,\n0,0.9\n1,inf\n",
    ",step,epoch,loss,eval_loss\n0,0,0,3,\n1,1,0,2,2.5\n2,0,1,1,\n3,1,1,1,1.5\n",
)
_CELLS = (
    "",
    "nan",
    "inf",
    "-1",
    "1e999",
    "1e400",
    "0",
    "text",
    "1,5",
    '"',
    "-",
    "9" * 400,
    "1_0",
    "0x1",
    "\0",
    "\r",
    "infinity",
    "loss",
)


def seeds() -> Iterator[bytes]:
    """Logs of several programs, in each way of reading."""
    for number, text in enumerate(_TEXTS):
        yield bytes([number]) + text.encode()
        yield bytes([_LARGE]) + text.encode()


def one(data: bytes) -> None:
    """The first byte says which way."""
    choice = data[0] if data else 0
    delimited._SMALL_BYTES = 0 if choice % 8 == _LARGE else _SMALL
    name = "log.tsv" if choice & 8 else "log.csv.gz" if choice & 48 == 48 else "log.csv"
    read(name, data[1:], Selection(loss="loss") if choice & 64 else None)


def mutate(data: bytes, random: Random) -> bytes:
    """A cell, a line or a column."""
    try:
        lines = data[1:].decode().split("\n")
    except UnicodeDecodeError:
        return data
    place = random.randrange(len(lines))
    delimiter = max(",\t;|", key=lines[0].count)
    action = random.random()
    if action < 0.7:
        cells = lines[place].split(delimiter)
        cells[random.randrange(len(cells))] = random.choice((*_CELLS, str(random.uniform(-5, 5))))
        lines[place] = delimiter.join(cells)
    elif action < 0.8:
        lines.insert(place, random.choice(lines))
    elif action < 0.9:
        del lines[place]
    else:
        lines[place] += delimiter + random.choice(_CELLS)
    return data[:1] + "\n".join(lines).encode()
