"""What the documentation shows is what happens: its examples run, page by page, against a real detector."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.examples import Example, examples
from support.service import Service
from support.waiting import wait_until

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if examples(page)]
ASK_SECONDS = 60.0
RUN_SECONDS = 120.0


class Walk:
    """Goes through the examples of a page, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.detector: Service | None = None
        self.said = ""

    def __enter__(self) -> Walk:
        """Nothing runs yet."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """End the detector, if the page had one."""
        if self.detector is not None:
            self.detector.__exit__()

    def take(self, example: Example) -> None:
        """Do what an example says."""
        match example.verb:
            case "service":
                self.detector = Detector(self.folder, example.text).start()
            case "file":
                (self.folder / example.name).write_text(example.text)
            case "run":
                code = self.run(example.text)
                assert code == example.code, self.said
            case "ask":
                wait_until(
                    f"exit code {example.code} of {example.text}",
                    lambda: self.run(example.text) == example.code,
                    ASK_SECONDS,
                )
            case "said":
                assert " ".join(example.text.split()) in " ".join(self.said.split()), self.said

    def run(self, text: str) -> int:
        """Run commands as bash would, with the detector's real ports in place of the usual ones."""
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        if self.detector is not None:
            for usual, real in (("9846", self.detector.grpc_port), ("9847", self.detector.http_port)):
                text = text.replace(f":{usual}", f":{real}")
            environment["STALLWATCH_SERVER"] = self.detector.url
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=RUN_SECONDS,
        )
        self.said = ran.stdout
        return ran.returncode


class Detector(Service):
    """The detector that a page starts, on free ports."""

    def __init__(self, folder: Path, text: str) -> None:
        arguments = shlex.split(text, comments=True)
        assert arguments[:2] == ["stallwatch", "serve"]
        ports = {"STALLWATCH_GRPC_PORT": "0", "STALLWATCH_HTTP_PORT": "0"}
        super().__init__(folder / arguments[arguments.index("--data-dir") + 1], environment=ports)
        self.cwd = folder
        self.shown = [*arguments[1:], "--data-dir", str(self.directory)]

    def command(self) -> list[str]:
        """The page's own command, in its folder."""
        return [sys.executable, "-m", "stallwatch.detector", *self.shown]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples ask with curl, which is not installed")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page, tmp_path):
    """From top to bottom, each does what the page says of it."""
    with Walk(tmp_path) as walk:
        for example in examples(page):
            walk.take(example)
