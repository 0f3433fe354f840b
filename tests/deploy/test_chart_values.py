"""The chart refuses what it does not know or cannot do, and names the value."""

from __future__ import annotations

import copy
import json
import re

import pytest
import yaml

from stallwatch.detector.service.settings import Settings
from support.chart import CHART, render, the

helm_python = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
OWNED = frozenset(
    {
        *("host", "grpc_port", "http_port", "data_dir", "store_url", "ray_address"),
        *("external_url", "grafana_url", "alerts"),
        *("tokens", "open_read", "tls_cert", "tls_key", "tls_client_ca", "http_tls"),
    }
)
"""Settings that the chart makes out of other values."""


def objects_of(schema, path=""):
    """Every schema of an object inside a schema, with its path."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, value in schema.items():
            yield from objects_of(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from objects_of(value, f"{path}/{index}")


def resolve(schema):
    """A schema that may be a reference."""
    return SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def camel_case(name):
    """max_runs -> maxRuns."""
    return re.sub(r"_(.)", lambda match: match.group(1).upper(), name)


def test_no_object_takes_unknown_keys():
    """AdditionalProperties is false, or says of what sort the values of a map are; `global` is Helm's own."""
    open_ended = [
        path
        for path, schema in objects_of(SCHEMA)
        if schema.get("additionalProperties", True) is True and path != "/properties/global"
    ]
    assert open_ended == []


def test_schema_and_defaults_name_the_same_values():
    """A value with no default, or a default with no schema, would be known to one of them only."""

    def compare(schema, value, path):
        schema = resolve(schema)
        if not isinstance(value, dict) or "properties" not in schema:
            return
        assert value.keys() <= schema["properties"].keys(), path
        for key, inner in value.items():
            compare(schema["properties"][key], inner, f"{path}.{key}")

    compare(SCHEMA, DEFAULTS, "")
    assert SCHEMA["properties"].keys() - {"global"} == DEFAULTS.keys()


def unknown_keys():
    """Paths of all tables of the defaults, each of which is given a key too many."""

    def walk(value, schema, path):
        schema = resolve(schema)
        if schema.get("additionalProperties") is False:
            yield path
        for key, inner in value.items():
            if isinstance(inner, dict) and key in schema.get("properties", {}):
                yield from walk(inner, schema["properties"][key], (*path, key))

    return sorted(walk(DEFAULTS, SCHEMA, ()))


@pytest.mark.parametrize("path", unknown_keys(), ids=lambda path: ".".join(path) or "top")
def test_an_unknown_key_is_refused_by_its_name(path):
    """Wherever it is."""
    values = {"misspelt": 1}
    for key in reversed(path):
        values = {key: values}
    with pytest.raises(helm_python.HelmValuesError) as refused:
        render(values)
    assert "misspelt" in str(refused.value)
    assert f"at '{''.join('/' + key for key in path)}'" in str(refused.value)


WRONG = {
    "replicaCount": (0, "1", 1.5),
    "ray.mode": ("local", None),
    "ray.address": ("ray://head:10001", "head", 6379),
    "ray.node.objectStoreMemoryBytes": (1,),
    "ray.node.sharedMemorySize": ("much",),
    "ray.auth.key": ("",),
    "image.pullPolicy": ("Sometimes",),
    "image.digest": ("sha256:abc",),
    "image.repository": ("",),
    "store.existingSecret": ("Not A Name", {"name": "x"}),
    "persistence.enabled": ("true",),
    "persistence.accessModes": ([], ["Sometimes"]),
    "persistence.size": ("big",),
    "settings.maxRuns": (0, "16", 1.5),
    "settings.snapshotSeconds": (0,),
    "settings.analysis": ("none",),
    "externalUrl": ("stallwatch.example.org",),
    "grafanaUrl": ("grafana",),
    "alerts.existingSecret": (["x"],),
    "service.type": ("Headless",),
    "service.grpcPort": (0, 65536, "9846"),
    "autoscaling.targetCPUUtilizationPercentage": (0, 101),
    "podDisruptionBudget.maxUnavailable": (0, "many"),
    "podMonitor.interval": ("15", 15),
    "serviceMonitor.additionalLabels": ({"release": 1}, ["release"]),
    "prometheusRule.enabled": (1,),
    "dashboards.labels": ({"grafana_dashboard": 1},),
    "networkPolicy.agents": ([{"namespace": "x"}], {}),
    "networkPolicy.storePort": ("postgres",),
    "resources.limits": ({"memory": "lots"},),
    "podSecurityContext.runAsUser": (-1, "root"),
    "securityContext.capabilities": (["ALL"],),
    "livenessProbe.periodSeconds": (0,),
    "tolerations": ([{"effect": "Never"}],),
    "topologySpreadConstraints": ([{"maxSkew": 1}],),
    "extraEnv": ([{"value": "x"}], [{"name": "X", "value": 1}], {"X": "1"}),
    "extraVolumes": ([{"name": "x", "hostPath": {"path": "/"}}],),
    "podAnnotations": ({"a": True},),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=str
)
def test_a_wrong_value_is_refused_by_its_name(name, value):
    """The message of the schema names the value's path."""
    path = name.split(".")
    values = value
    for key in reversed(path):
        values = {key: values}
    if value is None:
        # Helm takes null as "remove the default", and the mode is required.
        path, named = path[:-1], path[-1]
    else:
        named = path[-1]
    with pytest.raises(helm_python.HelmValuesError) as refused:
        render(values)
    assert "/" + "/".join(path) in str(refused.value)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ray": {"mode": "existing"}}, "ray.address is required when ray.mode is existing"),
        ({"ray": {"address": "head:6379"}}, "ray.address is set but ray.mode is embedded"),
        ({"replicaCount": 2}, "replicaCount 2 needs ray.mode existing or kuberay, and store.existingSecret"),
        ({"ray": {"mode": "kuberay"}, "replicaCount": 2}, "replicaCount 2 needs"),
        ({"store": {"existingSecret": "db"}, "replicaCount": 2}, "replicaCount 2 needs"),
        ({"autoscaling": {"enabled": True}}, "autoscaling.enabled needs"),
        (
            {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}},
            "podMonitor.enabled and serviceMonitor.enabled would scrape every pod twice",
        ),
        ({"autoscaling": {"minReplicas": 9}}, "autoscaling.minReplicas 9 is above autoscaling.maxReplicas 6"),
        (
            {"ray": {"cluster": {"workers": {"minReplicas": 9}}}},
            "ray.cluster.workers.minReplicas 9 is above ray.cluster.workers.maxReplicas 4",
        ),
    ],
)
def test_what_cannot_work_together_is_refused_by_its_name(values, says):
    """While rendering, before anything is installed."""
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(values)
    assert says in str(refused.value)


def test_every_setting_of_the_service_can_be_set():
    """settings.* are the service's own names in camelCase; a setting added to the service is added here too."""
    expected = {camel_case(name) for name in Settings.model_fields.keys() - OWNED}
    assert SCHEMA["properties"]["settings"]["properties"].keys() == expected


def test_settings_reach_the_service(monkeypatch, tmp_path):
    """Put into its environment as rendered, they are what the service then has."""
    from stallwatch.detector.service.settings import load

    values = {
        "maxRuns": 7,
        "maxStreams": 2_000_000,
        "snapshotSeconds": 2.5,
        "finishedRunSeconds": 60,
        "silentRunSeconds": 120,
        "shutdownSeconds": 5,
        "maxRanksPerRun": 64,
        "maxRunMibPerSecond": 1.5,
        "maxMemoryMib": 4096,
        "maxQueuedMib": 64,
        "record": "/var/lib/stallwatch/records",
        "analysis": {"disabled": ["straggler"], "checks": {"hang": {"floor_seconds": 12}}},
    }
    data = the(render({"settings": copy.deepcopy(values)}), "ConfigMap")["data"]
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    settings = load({"data_dir": tmp_path}, None)
    assert (settings.max_runs, settings.max_streams, settings.snapshot_seconds) == (7, 2_000_000, 2.5)
    assert (settings.finished_run_seconds, settings.silent_run_seconds, settings.shutdown_seconds) == (
        60,
        120,
        5,
    )
    assert (settings.max_ranks_per_run, settings.max_run_mib_per_second) == (64, 1.5)
    assert (settings.max_memory_mib, settings.max_queued_mib) == (4096, 64)
    assert str(settings.record) == values["record"]
    assert settings.analysis == values["analysis"]


def test_the_readme_documents_every_value():
    """Every leaf of values.yaml has its row, with its default."""

    def leaves(value, path):
        if (
            isinstance(value, dict)
            and value
            and path != "settings"
            and not path.endswith(("labels", "requests", "limits"))
        ):
            for key, inner in value.items():
                yield from leaves(inner, f"{path}.{key}" if path else key)
        else:
            yield path, value

    rows = dict(
        re.findall(r"^\| `([^`]+)` \| `([^`]*)` \|", (CHART / "README.md").read_text(), flags=re.MULTILINE)
    )
    documented = {
        name: default for name, default in rows.items() if "." not in name or name.split(".")[0] in DEFAULTS
    }
    missing = []
    grouped = [name.removesuffix(".*") for name in documented if name.endswith(".*")]
    for path, value in leaves(DEFAULTS, ""):
        if any(path.startswith(f"{group}.") for group in grouped):
            continue
        if documented.get(path) != json.dumps(value):
            missing.append(f"| `{path}` | `{json.dumps(value)}` | {documented.get(path)}")
    assert missing == [], "\n".join(missing)
