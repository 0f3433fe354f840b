"""docs/deployment.md and the notes in the manifests say what is there."""

from __future__ import annotations

import itertools
import re
import shlex

import pytest
import yaml

from stallwatch.agent import __version__
from support.chart import CHART, ROOT, render

PAGE = ROOT / "docs" / "deployment.md"
TEXT = PAGE.read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```\w*\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def test_every_file_that_is_named_exists():
    """Links, and paths in commands and tables."""
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    for link in links:
        assert (PAGE.parent / link).exists(), link
    paths = set(re.findall(r"\b(?:deploy|helm|tests)/[\w./-]*\w", TEXT))
    assert len(paths) > 10
    not_yet = {"deploy/prometheus", "deploy/alertmanager", "deploy/grafana"}
    for path in paths:
        if not (ROOT / path).exists():
            assert path in not_yet, path


def test_every_example_is_named():
    """No manifest or script that nobody is led to."""
    own = [
        path
        for folder in ("kubernetes", "kuberay", "slurm", "systemd")
        for path in (ROOT / "deploy" / folder).iterdir()
    ]
    assert len(own) >= 11
    for path in (*own, ROOT / "deploy" / "Dockerfile", ROOT / "deploy" / "compose.yaml"):
        assert path.name in TEXT, path


def helm_commands():
    """The values of each `helm install` and `helm upgrade` of the page."""
    for command in COMMANDS:
        if command.startswith(("helm install", "helm upgrade")):
            words = shlex.split(command)
            values = {}
            for flag, argument in itertools.pairwise(words):
                if flag == "--values":
                    values |= yaml.safe_load((ROOT / argument).read_text())
                if flag == "--set":
                    name, _, text = argument.partition("=")
                    *tables, last = name.split(".")
                    table = values
                    for key in tables:
                        table = table.setdefault(key, {})
                    table[last] = yaml.safe_load(text)
            yield values


@pytest.mark.parametrize("values", list(helm_commands()), ids=str)
def test_a_helm_command_renders(values):
    """With exactly the values of its command line."""
    pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    for name, path in (("prometheusRule", "stallwatch.rules.yaml"), ("dashboards", "dashboards")):
        if values.get(name, {}).get("enabled") and not (CHART / "files" / path).exists():
            pytest.skip(f"files/{path} is not generated yet")
    kinds = {item["kind"] for item in render(values)}
    assert kinds & {"StatefulSet", "Deployment"}


def test_the_images_are_tagged_as_the_chart_asks_for_them():
    """With this version."""
    tags = re.findall(r"stallwatch/(?:stallwatch|agent):([\w.]+)", TEXT)
    assert len(tags) == 3
    assert set(tags) == {__version__}
