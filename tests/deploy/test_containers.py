"""The container file and the compose file, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import jsonschema
import pytest
import typer.main
import yaml

from stallwatch.agent import __version__
from stallwatch.detector import cli
from stallwatch.detector.service.settings import Settings
from support.chart import CHART, ROOT, SCHEMAS

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OF_OTHER_PARTS = {
    "prometheus": "prometheus/prometheus.yml",
    "alertmanager": "alertmanager/alertmanager.yml",
    "grafana": "grafana/provisioning",
}


def instructions():
    """(instruction, its argument), with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(*line.split(None, 1),) for line in lines if line.strip()]


def of(name):
    """The arguments of an instruction, wherever it stands."""
    return [argument for instruction, argument in instructions() if instruction == name]


def copied():
    """(sources, destination) of each COPY out of the repository."""
    for argument in of("COPY"):
        words = shlex.split(argument)
        if not words[0].startswith("--from="):
            yield words[:-1], words[-1]


def ignored(source):
    """Whether .dockerignore keeps a path at the top of the repository from the builder."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*", "what is not named is not sent"
    return f"!{source}" not in rules


def test_all_that_is_copied_is_there_and_reaches_the_builder():
    """Every COPY source is tracked, and not ignored; nothing else is sent."""
    sources = [source for sources, _destination in copied() for source in sources]
    assert len(sources) >= 7
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == set(sources)


def test_what_is_copied_is_enough_to_build_the_wheel(tmp_path):
    """Hatchling makes it from exactly those files; both commands' code is in it, and the agent's alone asks for grpcio and protobuf."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    source = tmp_path / "source"
    source.mkdir()
    for names, destination in copied():
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name, source / destination, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(ROOT / name, source / destination)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "agent")],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "agent").glob("stallwatch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        scripts = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    assert {"stallwatch/agent/__main__.py", "stallwatch/v1/telemetry_pb2.py"} <= set(names)
    assert f"Version: {__version__}" in metadata
    assert "stallwatch = stallwatch.detector.cli:main" in scripts
    base = re.findall(r"^Requires-Dist: ([a-z-]+)(?!.*extra)", metadata, flags=re.MULTILINE)
    assert sorted(base) == ["grpcio", "protobuf"]


def test_the_entry_point_is_a_command_that_takes_its_arguments():
    """ENTRYPOINT is installed by the wheel, and `serve` parses CMD."""
    (entry,) = of("ENTRYPOINT")
    (command,) = of("CMD")
    (program,) = json.loads(entry)
    assert program in {script.name for script in entry_points(group="console_scripts")}
    name, *arguments = json.loads(command)
    group = typer.main.get_command(cli.build([name]))
    serve = group.commands[name]
    given = serve.make_context(name, arguments).params
    assert given["host"] == "0.0.0.0"
    assert str(given["data_dir"]) in of("VOLUME")


def test_the_image_is_pinned_runs_as_nobody_and_installs_what_the_chart_needs():
    """A tag on every base, no root, the extras, and the user and ports of the chart."""
    for base in of("FROM"):
        image = base.split()[0]
        assert image == "scratch" or re.fullmatch(r"[a-z/]+:\d[\w.-]+", image), base
    assert of("USER") == ["10001:10001"]
    assert of("EXPOSE") == ["9846 9847"]
    installs = [argument for argument in of("RUN") if "stallwatch[" in argument or "'.[" in argument]
    assert installs
    assert all("[detector,postgresql]" in argument for argument in installs)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["podSecurityContext"]["runAsUser"] == 10001


def test_the_images_ray_is_the_one_kuberay_is_told_of():
    """The constraints that the image is built with, and the chart's rayVersion."""
    constraints = (ROOT / "constraints-dev.txt").read_text()
    pinned = re.search(r"^ray==([\d.]+)", constraints, flags=re.MULTILINE)
    assert pinned is not None
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["ray"]["cluster"]["rayVersion"] == pinned.group(1)
    job = yaml.safe_load((DEPLOY / "kuberay" / "rayjob.yaml").read_text())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned.group(1)


def test_the_compose_file_is_valid():
    """Against the fields of the Compose specification that it uses."""
    schema = json.loads((SCHEMAS / "compose.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(COMPOSE)
    for spoilt in ({"imagee": "x:1"}, {"ports": ["9846"]}, {"environment": {"A": 1}}, {"image": "x"}):
        service = {**COMPOSE["services"]["stallwatch"], **spoilt}
        assert list(validator.iter_errors({**COMPOSE, "services": {"stallwatch": service}})), spoilt


def test_the_compose_files_parts_fit_together():
    """Volumes are declared, services it refers to exist, ports do not clash, images are pinned, the version is this one."""
    services = COMPOSE["services"]
    assert services["stallwatch"]["image"].endswith(f":{__version__}")
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert {name for name in used if not name.startswith(".")} == COMPOSE["volumes"].keys()
    for service in services.values():
        assert set(service.get("depends_on", ())) <= services.keys()
        assert service.get("network_mode", "service:stallwatch").removeprefix("service:") in services
        assert not service["image"].endswith(":latest")
    published = [port.rsplit(":", 1)[0] for port in services["stallwatch"]["ports"]]
    assert len(published) == len(set(published))
    build = services["stallwatch"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    assert any(argument.endswith(f" AS {build['target']}") for argument in of("FROM"))


def test_only_agents_reach_the_compose_setup_from_outside():
    """Everything else is published on the loopback interface: nothing asks who people are."""
    open_ports = [
        port for port in COMPOSE["services"]["stallwatch"]["ports"] if not port.startswith("127.0.0.1:")
    ]
    assert open_ports == ["9846:9846"]


def test_the_compose_files_environment_is_settings():
    """Names of the service's settings."""
    known = {f"STALLWATCH_{name.upper()}" for name in Settings.model_fields}
    environment = COMPOSE["services"]["stallwatch"]["environment"]
    assert {name for name in environment if name.startswith("STALLWATCH_")} <= known


@pytest.mark.parametrize("service", OF_OTHER_PARTS)
def test_what_the_compose_file_mounts_is_there(service):
    """The folders, and in them the file that the service is started with."""
    if not (DEPLOY / OF_OTHER_PARTS[service]).exists():
        pytest.skip(f"deploy/{OF_OTHER_PARTS[service]} is not there yet")
    for volume in COMPOSE["services"][service]["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith("."):
            assert (DEPLOY / source).is_dir()
            assert any((DEPLOY / source).iterdir())
        for argument in COMPOSE["services"][service].get("command", ()):
            name, _, path = argument.partition("=")
            if name == "--config.file" and path.startswith(target) and source.startswith("."):
                assert (DEPLOY / source / Path(path).relative_to(target)).is_file()
