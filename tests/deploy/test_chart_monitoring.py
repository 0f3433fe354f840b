"""Monitors, alerts and dashboards of the chart: off by default, whole when on."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from stallwatch.detector.alerts.naming import Links
from support.chart import CHART, ROOT, of_kind, render, the, validate

helm_python = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

RULES = CHART / "files" / "stallwatch.rules.yaml"
DASHBOARDS = CHART / "files" / "dashboards"
needs_rules = pytest.mark.skipif(
    not RULES.exists(), reason="files/stallwatch.rules.yaml is not generated yet"
)
needs_dashboards = pytest.mark.skipif(
    not DASHBOARDS.exists(), reason="files/dashboards/*.json are not generated yet"
)


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_a_monitor_scrapes_metrics_under_the_job_stallwatch(kind):
    """Where Prometheus looks for it: in its namespace, with its labels."""
    name = kind[0].lower() + kind[1:]
    values = {"enabled": True, "namespace": "monitoring", "additionalLabels": {"release": "prometheus"}}
    monitor = the(render({name: {**values, "interval": "15s"}}), kind)
    assert monitor["metadata"]["namespace"] == "monitoring"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    spec = monitor["spec"]
    assert spec["namespaceSelector"] == {"matchNames": ["prod"]}
    assert spec["jobLabel"] == "app.kubernetes.io/name"
    (endpoint,) = spec["podMetricsEndpoints" if kind == "PodMonitor" else "endpoints"]
    assert (endpoint["port"], endpoint["path"], endpoint["interval"]) == ("http", "/metrics", "15s")


def test_our_schemas_find_what_the_operator_would_refuse():
    """A misspelt field, a wrong duration, an unknown kind of rule."""
    import jsonschema

    monitor = the(render({"podMonitor": {"enabled": True}}), "PodMonitor")
    for spoil in (
        {"podMetricsEndpoints": [{"port": "http", "intervall": "15s"}]},
        {"podMetricsEndpoints": [{"port": "http", "interval": "15 seconds"}]},
        {"selector": {"matchLabel": {}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate({**monitor, "spec": {**monitor["spec"], **spoil}})


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"prometheusRule": {"enabled": True}}, "files/stallwatch.rules.yaml"),
        ({"dashboards": {"enabled": True}}, "files/dashboards"),
    ],
)
def test_a_chart_without_its_files_says_so_only_when_they_are_asked_for(values, path, tmp_path):
    """Not an empty PrometheusRule that never fires."""
    bare = shutil.copytree(CHART, tmp_path / "stallwatch", ignore=shutil.ignore_patterns("files"))
    assert render({}, chart=bare)
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(values, chart=bare)
    assert path in str(refused.value)
    assert "scripts/generate-deploy" in str(refused.value)


@needs_rules
def test_the_rules_are_those_of_the_repository_linked_to_this_installation(tmp_path):
    """Same groups, expressions and labels; runbooks and runs at externalUrl; promtool takes them."""
    source = (ROOT / "deploy" / "prometheus" / "stallwatch.rules.yaml").read_text()
    rule = the(
        render(
            {
                "externalUrl": "https://sw.example.org/",
                "prometheusRule": {
                    "enabled": True,
                    "namespace": "monitoring",
                    "additionalLabels": {"release": "prometheus"},
                },
            }
        ),
        "PrometheusRule",
    )
    validate(rule)
    assert rule["metadata"]["namespace"] == "monitoring"
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["spec"] == yaml.safe_load(source.replace("http://localhost:9847", "https://sw.example.org"))
    alerts = [entry for group in rule["spec"]["groups"] for entry in group["rules"] if "alert" in entry]
    assert alerts
    for alert in alerts:
        assert alert["annotations"]["runbook_url"].startswith("https://sw.example.org/runbooks/")
    assert "localhost" not in json.dumps(rule)
    if shutil.which("promtool"):
        file = tmp_path / "rules.yaml"
        file.write_text(yaml.safe_dump(rule["spec"]))
        subprocess.run(["promtool", "check", "rules", file], check=True, capture_output=True)


@needs_rules
def test_alerts_lead_to_grafana_where_there_is_one():
    """As what the service sends itself does; runbooks stay with the detector."""
    values = {"grafanaUrl": "https://grafana.example.org/", "prometheusRule": {"enabled": True}}
    rule = the(render(values), "PrometheusRule")
    alerts = [entry for group in rule["spec"]["groups"] for entry in group["rules"] if "alert" in entry]
    links = {alert["alert"]: alert["annotations"] for alert in alerts}
    run = Links("http://detector", values["grafanaUrl"]).quoted_dashboard("{{ $labels.run | urlquery }}")
    assert links["TrainingHang"]["dashboard_url"] == run
    assert links["TrainingHang"]["runbook_url"].endswith("/runbooks/hang")


@needs_dashboards
def test_dashboards_lead_to_the_detector_where_people_reach_it():
    """The default of their variable is externalUrl."""
    objects = render({"externalUrl": "https://sw.example.org/", "dashboards": {"enabled": True}})
    texts = [text for item in of_kind(objects, "ConfigMap") for text in item["data"].values()]
    boards = [text for text in texts if '"schemaVersion"' in text]
    assert boards
    for text in boards:
        assert "https://sw.example.org" in text
        assert "localhost" not in text
        json.loads(text)


@needs_dashboards
def test_every_dashboard_becomes_a_config_map_that_grafana_finds():
    """Labelled for the sidecar, its JSON byte for byte."""
    files = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
    assert files
    objects = render(
        {
            "dashboards": {
                "enabled": True,
                "namespace": "grafana",
                "annotations": {"grafana_folder": "Training"},
            }
        }
    )
    found = {}
    for item in of_kind(objects, "ConfigMap"):
        if item["metadata"]["namespace"] == "grafana":
            validate(item)
            assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
            assert item["metadata"]["annotations"]["grafana_folder"] == "Training"
            found |= item["data"]
    assert {name: json.loads(text) for name, text in found.items()} == {
        name: json.loads(text) for name, text in files.items()
    }
    assert all(len(text) < 900_000 for text in found.values())


@pytest.mark.parametrize(
    ("ours", "copied"),
    [
        pytest.param("prometheus/stallwatch.rules.yaml", "stallwatch.rules.yaml", marks=needs_rules),
        pytest.param("grafana/dashboards", "dashboards", marks=needs_dashboards),
    ],
)
def test_the_charts_copies_are_those_of_deploy(ours, copied):
    """Helm cannot read files outside of the chart, so they are there twice; never two different ones."""
    source, copy = ROOT / "deploy" / ours, CHART / "files" / copied
    names = sorted(path.name for path in source.glob("*.json")) if source.is_dir() else [""]
    for name in names:
        assert (source / name).read_bytes() == (copy / name).read_bytes()
    if source.is_dir():
        assert sorted(path.name for path in copy.glob("*.json")) == names
