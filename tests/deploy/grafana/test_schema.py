"""The dashboards, typed by TypeScript against Grafana's own schema."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.grafana import BOARDS, panels

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / "build" / "grafana-schema"
PACKAGES = ("@grafana/schema@13.2.3", "typescript@7.0.2")
OPTIONS = ("--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext")


@pytest.fixture(scope="module")
def compile_typescript():
    """Compile a text beside the packages; returns the compiler's complaints."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = CACHE / "installed.json"
    if not wanted.exists() or json.loads(wanted.read_text()) != list(PACKAGES):
        command = [
            "npm",
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--fetch-retries=0",
        ]
        # Without this file npm would install into the next folder above that looks like a package.
        (CACHE / "package.json").write_text('{"private": true}')
        try:
            installed = subprocess.run(
                [*command, *PACKAGES], cwd=CACHE, capture_output=True, text=True, timeout=90, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip("npm could not fetch @grafana/schema within 90 s")
        if installed.returncode:
            pytest.skip(f"npm could not fetch @grafana/schema: {installed.stderr.strip().splitlines()[0]}")
        wanted.write_text(json.dumps(PACKAGES))

    def complaints(name: str, *constants: str) -> str:
        schema = Path(__file__).with_name("schema.ts").read_text()
        (CACHE / name).write_text("\n".join([schema, *constants]))
        compiler = CACHE / "node_modules" / ".bin" / "tsc"
        done = subprocess.run(
            [compiler, *OPTIONS, name], cwd=CACHE, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    return complaints


def constant(name: str, kind: str, value: object) -> str:
    """A typed constant."""
    return f"export const {name}: {kind} = {json.dumps(value)};"


def nested(settings: list[dict]) -> dict:
    """An override's properties, `custom.x` and the like, as the field settings that they replace."""
    made: dict = {}
    for setting in settings:
        *parents, last = setting["id"].split(".")
        place = made
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = setting["value"]
    return made


def test_the_dashboards_are_of_grafanas_types(compile_typescript):
    """Every field, option, enum value and override of both is one that Grafana declares."""
    constants = [constant(f"board{index}", "Board", board) for index, board in enumerate(BOARDS.values())]
    for board in BOARDS:
        for panel in panels(board):
            for override in panel["fieldConfig"]["overrides"]:
                kind = f"Settings<{json.dumps(panel['type'])}>"
                constants.append(constant(f"override{len(constants)}", kind, nested(override["properties"])))
    assert compile_typescript("dashboards.ts", *constants) == ""


def test_the_check_sees_what_is_wrong(compile_typescript):
    """A misspelt field, a number for an expression, and settings that no panel of the kind has: one complaint each."""
    wrong = [
        constant(f"settings{index}", f"Settings<{json.dumps(kind)}>", settings)
        for index, (kind, settings) in enumerate(
            [
                ("timeseries", {"custom": {"fillBelow": "x"}}),
                ("timeseries", {"custom": {"showPoints": "sometimes"}}),
                ("table", {"custom": {"cellOptions": {"type": "colour"}}}),
                ("stat", {"units": "s"}),
            ]
        )
    ]
    for index, change in enumerate(({"expr": 1}, {"expresion": "up"})):
        board = copy.deepcopy(BOARDS["stallwatch-run"])
        board["panels"][0]["targets"][0].update(change)
        wrong.append(constant(f"board{index}", "Board", board))
    complaints = compile_typescript("wrong.ts", *wrong)
    first = len(Path(__file__).with_name("schema.ts").read_text().split("\n")) + 1
    complained = {int(line) for line in re.findall(r"wrong\.ts\((\d+),\d+\): error", complaints)}
    assert complained == set(range(first, first + len(wrong))), complaints
