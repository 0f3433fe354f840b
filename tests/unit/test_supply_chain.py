"""What an installation consists of, as it is written down."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def bills(folder: Path) -> dict[str, dict]:
    """The documents by what they are of."""
    folder.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, str(SCRIPTS / "sbom"), "--out", str(folder)], check=True, capture_output=True
    )
    return {path.name.removesuffix(".cdx.json"): json.loads(path.read_text()) for path in folder.iterdir()}


def test_the_bills_of_materials_name_what_is_installed(tmp_path):
    """A training image gets gRPC and protobuf, and what they bring; each dependency is a component of the document."""
    found = bills(tmp_path)
    names = {
        name: {each["name"]: each["version"] for each in bill["components"]} for name, bill in found.items()
    }
    assert names["stallwatch-agent"].keys() == {"grpcio", "protobuf", "typing-extensions"}
    assert {"ray", "starlette", "sqlalchemy", "numpy"} <= names["stallwatch-detector"].keys()
    assert "pytest" not in names["stallwatch-analyze"]
    for name, bill in found.items():
        assert bill["metadata"]["component"]["name"] == "stallwatch"
        assert all(version(one) == number for one, number in names[name].items())
        known = {each["ref"] for each in bill["dependencies"]}
        assert all(other in known for each in bill["dependencies"] for other in each.get("dependsOn", ()))


def test_the_same_environment_gives_the_same_bills(tmp_path):
    """But for when they were written."""
    first, second = bills(tmp_path / "one"), bills(tmp_path / "two")
    for bill in (*first.values(), *second.values()):
        bill["metadata"].pop("timestamp", None)
    assert first == second


def test_nothing_here_makes_ray_slow_to_start():
    """Each of Ray's processes imports jsonschema, which builds the grammar of rfc3987-syntax for 2.8 s where it finds it."""
    assert find_spec("rfc3987_syntax") is None
