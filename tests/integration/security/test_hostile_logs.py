"""`analyze` on files that mean harm: a sentence, never a traceback, never a full memory, and nothing that a terminal obeys."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys

import pytest

GOOD = "step,loss\n" + "".join(f"{step},{4.0 / (1 + step)}\n" for step in range(60))
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
MEMORY_BYTES = 3 * 1024**3


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which has so much memory."""
    return subprocess.run(
        [sys.executable, "-m", "stallwatch.detector", "analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES)),
    )


def bomb(letter: bytes, megabytes: int) -> bytes:
    """A compressed file that is a thousand times larger inside."""
    return gzip.compress(letter * 1024 * 1024, 9) * megabytes


FILES = {
    "deep.json": b'{"log_history": ' + b"[" * 200_000,
    "deep.jsonl": b'{"a": ' * 200_000,
    "deep-array.json": b"[" + b'{"loss": ' * 100_000,
    "deep-but-valid.jsonl": b'{"a":' * 900 + b"1" + b"}" * 900 + b"\n",
    "huge-integer.jsonl": b'{"step": 1, "loss": ' + b"9" * 100_000 + b"}\n" * 2,
    "huge-integer.csv": b"step,loss\n1," + b"9" * 100_000 + b"\n",
    "long-cell.csv": b"step,loss\n1," + b'"' + b"x" * 1_000_000 + b'"\n',
    "long-header.csv": b'"' + b"x" * 1_000_000 + b'",loss\n1,2\n',
    "wide.csv": b",".join(b"c%d" % number for number in range(20_000)) + b"\n1\n",
    "overflow.csv": b"step,loss\n1,1e999\n2,-1e999\n",
    "step-of-infinity.csv": b"step,loss\n1e999,1\ninf,2\n-inf,3\nnan,4\n",
    "bomb.csv.gz": gzip.compress(b"step,loss\n") + bomb(b"0", 2000),
    "bomb.json.gz": gzip.compress(b'{"log_history": [') + bomb(b" ", 2000),
    "cut.csv.gz": gzip.compress(GOOD.encode())[:-20],
    "nul.csv": b"step,loss\n\x00\x00,1\n",
    "latin.csv": b"step,loss\n1,\xff\xfe\n",
    "events.out.tfevents.1.evil": b"\xff" * 10_000,
    "surrogate.jsonl": b'{"step": 1, "loss": 1, "\\ud800": 2}\n' * 3,
}


def test_each_is_one_sentence(tmp_path):
    """Naming the file, those that are logs after all left out; a file that grows without end is called that."""
    paths = [tmp_path / name for name in FILES]
    for path in paths:
        path.write_bytes(FILES[path.name])
    done = analyze("--json", *paths)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.returncode in {2, 3}
    logs = [each["file"] for each in json.loads(done.stdout)]
    lines = done.stderr.strip().splitlines()
    for path in paths:
        said = [line for line in lines if f"{path}:" in line]
        assert len(said) == (0 if str(path) in logs else 1), (path, said)
        assert all(len(line) < 1200 for line in said)
    assert len(lines) == len(paths) - len(set(logs))
    assert sum("more than 100 times its size" in line for line in lines) == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_names_do_not_reach_the_terminal_as_they_are(tmp_path, as_json):
    """Of files, folders and columns, in verdicts and in errors: a title is not changed, nothing is hidden or turned around."""
    folder = tmp_path / EVIL.replace("/", "")
    folder.mkdir()
    (folder / f"{EVIL}.csv").write_text(GOOD.replace("loss", f"loss{EVIL}"))
    (folder / "bad.csv").write_text(f"step,loss\n1,{EVIL}\n")
    (folder / "[bold]x.csv").write_text(GOOD)
    done = analyze(folder, *(["--json"] if as_json else []))
    assert done.returncode in {2, 3}, done.stderr
    for text in (done.stdout, done.stderr):
        assert not any(character in text for character in "\x1b\x07\x9b\u202e"), ascii(text)
    assert "\\x1b]0;owned\\x07" in done.stderr
    if as_json:
        assert any(EVIL in each["file"] for each in json.loads(done.stdout))


def test_links_that_lead_in_circles_are_walked_once(tmp_path):
    """To the folder itself, to each other, and to nowhere."""
    (tmp_path / "good.csv").write_text(GOOD)
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    done = analyze(tmp_path, "--json")
    assert json.loads(done.stdout)["file"] == str(tmp_path / "good.csv")
    assert "Traceback" not in done.stderr
    assert "oop" in analyze(tmp_path / "loop.csv").stderr
