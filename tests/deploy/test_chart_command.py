"""What the chart starts is what the command line and the settings take."""

from __future__ import annotations

import click
import pytest
import typer.main

from stallwatch.agent import _environment as agent_environment
from stallwatch.detector import cli
from stallwatch.detector.service.settings import ENVIRONMENT_PREFIX, Settings
from support.chart import containers, render, render_texts, the

pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

SERVICE_ENVIRONMENT = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
AGENT_ENVIRONMENT = {value for name, value in vars(agent_environment).items() if name.isupper()}
AGREED = frozenset({"STALLWATCH_EXTERNAL_URL", "STALLWATCH_GRAFANA_URL", "STALLWATCH_ALERTS"})
"""Read by the part that sends alerts and links them to the page."""
MODES = ({}, {"ray": {"mode": "existing", "address": "head:6379"}}, {"ray": {"mode": "kuberay"}})


def serve_command():
    """`stallwatch serve`, as click has it."""
    group = typer.main.get_command(cli.build(["serve"]))
    command = group.get_command(click.Context(group), "serve")
    assert command is not None
    return command


def detectors(values):
    """The detector's container."""
    return [c for item in render(values) for c in containers(item) if c["name"] == "detector"]


@pytest.mark.parametrize("values", MODES)
def test_every_argument_is_one_of_serve(values):
    """Click parses the rendered command line, and takes all of it."""
    (detector,) = detectors(values)
    assert detector["command"] == ["stallwatch"]
    name, *arguments = detector["args"]
    assert name == "serve"
    context = serve_command().make_context("serve", list(arguments))
    given = context.params
    assert (given["host"], given["grpc_port"], given["http_port"]) == ("0.0.0.0", 9846, 9847)
    address = given["ray_address"]
    assert (
        address
        == {
            "embedded": None,
            "existing": "head:6379",
            "kuberay": "demo-stallwatch-ray-head-svc.prod.svc:6379",
        }[values.get("ray", {}).get("mode", "embedded")]
    )


def test_an_argument_that_serve_lacks_would_be_found():
    """The parser of this test refuses it."""
    (detector,) = detectors({"extraArgs": ["--no-such-flag"]})
    with pytest.raises(Exception, match="No such option"):
        serve_command().make_context("serve", detector["args"][1:])


@pytest.mark.parametrize("values", MODES)
def test_every_stallwatch_variable_is_a_setting(values):
    """In the ConfigMap and in the pods."""
    given = {
        "store": {"existingSecret": "db"},
        "settings": {"maxStreams": 5},
        "grafanaUrl": "https://grafana.example.org",
        "alerts": {"existingSecret": "alerts"},
    }
    objects = render({**values, **given})
    names = set(the(objects, "ConfigMap")["data"])
    names |= {entry["name"] for item in objects for c in containers(item) for entry in c.get("env", ())}
    own = {name for name in names if name.startswith(ENVIRONMENT_PREFIX)}
    assert {"STALLWATCH_STORE_URL", "STALLWATCH_MAX_STREAMS"} | AGREED <= own
    assert own - SERVICE_ENVIRONMENT - AGREED == set()


def test_the_ray_node_is_started_as_ray_takes_it():
    """Every option of `ray start` that is rendered exists."""
    from ray.scripts.scripts import start

    for values in MODES[1:]:
        (node,) = [c for item in render(values) for c in containers(item) if c["name"] == "ray-node"]
        shell, option, program, _name = node["command"]
        assert (shell, option) == ("sh", "-c")
        assert program.endswith('exec ray start "$@"')
        given = start.make_context("start", list(node["args"])).params
        assert (given["num_cpus"], given["block"], given["head"]) == (0, True, False)
        assert given["address"].endswith(":6379")


@pytest.mark.parametrize("values", MODES)
def test_the_notes_give_the_lines_for_a_training_job(values):
    """Endpoint and run, as the agent reads them; the endpoint is the Service's gRPC port."""
    import yaml

    from stallwatch.agent._config import resolve

    values = {**values, "service": {"grpcPort": 19846}}
    notes = render_texts(values)["templates/NOTES.txt"]
    block = notes[notes.index("  env:") : notes.index("3. ")]
    environment = {entry["name"]: entry["value"] for entry in yaml.safe_load(block)["env"]}
    assert environment.keys() <= AGENT_ENVIRONMENT
    settings = resolve(environment)
    assert settings.endpoint is not None
    host, _, port = settings.endpoint.address.rpartition(":")
    service = the(render(values), "Service", host.split(".")[0])
    assert host == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert int(port) in {entry["port"] for entry in service["spec"]["ports"] if entry["name"] == "grpc"}
    assert "pip install stallwatch" in notes
    assert "-m stallwatch.agent train.py" in notes
    assert "helm test demo --namespace prod" in notes


def test_the_notes_say_what_is_missing():
    """No scraping, no volume, analyzers that all run in one pod, an image that a foreign cluster needs."""
    default = render_texts({})["templates/NOTES.txt"]
    assert "Nothing scrapes /metrics yet" in default
    assert "gone with the pod" not in default
    notes = render_texts({"persistence": {"enabled": False}, "podMonitor": {"enabled": True}})
    assert "gone with the pod" in notes["templates/NOTES.txt"]
    assert "Nothing scrapes" not in notes["templates/NOTES.txt"]
    existing = {"ray": {"mode": "existing", "address": "head:6379"}}
    assert "all analyzers run there" in render_texts(existing)["templates/NOTES.txt"]
    shared = render_texts({**existing, "store": {"existingSecret": "db"}})["templates/NOTES.txt"]
    assert "needs the same versions" in shared
    assert "all analyzers run there" not in shared


def test_the_notes_link_to_where_people_reach_the_page():
    """A port-forward when there is no address for them."""
    assert "port-forward service/demo-stallwatch 9847:9847" in render_texts({})["templates/NOTES.txt"]
    shown = render_texts({"externalUrl": "https://sw.example.org"})["templates/NOTES.txt"]
    assert "https://sw.example.org" in shown
    assert "port-forward" not in shown


def test_the_test_pod_looks_where_agents_will():
    """At the Service's endpoint and address."""
    pod = next(item for item in render({}) if item["kind"] == "Pod")
    (container,) = pod["spec"]["containers"]
    _program, endpoint, url = container["args"]
    assert (endpoint, url) == ("demo-stallwatch.prod.svc:9846", "http://demo-stallwatch.prod.svc:9847")
