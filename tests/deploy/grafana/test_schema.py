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

SCHEMA = Path(__file__).with_name("schema.ts").read_text()
ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / "build" / "grafana-schema"
TYPESCRIPT = "typescript@7.0.2"
OLDEST, NEWEST = "11.6.0", "13.2.3"
"""Of `@grafana/schema`, which has the numbers of Grafana: that of the dashboards' schema version, and the latest."""
OPTIONS = ("--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler")


class Compiler:
    """TypeScript beside one version of Grafana's schema."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.folder = CACHE / version

    def install(self) -> None:
        """Fetch the packages once; without npm or a registry, skip."""
        if shutil.which("node") is None or shutil.which("npm") is None:
            pytest.skip("node and npm are not installed")
        packages = [f"@grafana/schema@{self.version}", TYPESCRIPT]
        installed = self.folder / "installed.json"
        if installed.exists() and json.loads(installed.read_text()) == packages:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Without this file npm would install into the next folder above that looks like a package.
        (self.folder / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
        try:
            done = subprocess.run(
                [*command, *packages],
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pytest.skip("npm could not fetch @grafana/schema within 60 s")
        if done.returncode:
            pytest.skip(f"npm could not fetch @grafana/schema: {done.stderr.strip().splitlines()[0]}")
        installed.write_text(json.dumps(packages))

    def complaints(self, name: str, *constants: str) -> str:
        """What the compiler says of constants of the types in schema.ts."""
        schema = SCHEMA
        if self.version == OLDEST:
            # Its package does not let others import what it does not export: the file itself, then.
            inside = r'"./node_modules/@grafana/schema/\1.js"'
            schema = re.sub(r'"@grafana/schema/([^"]+)"', inside, schema)
        (self.folder / name).write_text("\n".join([schema, *constants]))
        command = [self.folder / "node_modules" / ".bin" / "tsc", *OPTIONS, name]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr


@pytest.fixture(params=[OLDEST, NEWEST])
def compiler(request) -> Compiler:
    """Ready to compile."""
    made = Compiler(request.param)
    made.install()
    return made


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


def test_the_dashboards_are_of_grafanas_types(compiler):
    """Every field, option, enum value and override of both is one that Grafana declares, the oldest and the latest that we know."""
    constants = [constant(f"board{index}", "Board", board) for index, board in enumerate(BOARDS.values())]
    for board in BOARDS:
        for panel in panels(board):
            for override in panel["fieldConfig"]["overrides"]:
                kind = f"Settings<{json.dumps(panel['type'])}>"
                constants.append(constant(f"override{len(constants)}", kind, nested(override["properties"])))
    assert compiler.complaints("dashboards.ts", *constants) == ""


def test_the_check_sees_what_is_wrong(compiler):
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
    complaints = compiler.complaints("wrong.ts", *wrong)
    first = len(SCHEMA.split("\n")) + 1
    complained = {int(line) for line in re.findall(r"wrong\.ts\((\d+),\d+\): error", complaints)}
    assert complained == set(range(first, first + len(wrong))), complaints
