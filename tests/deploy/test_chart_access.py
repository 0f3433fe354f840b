"""Tokens and certificates in the chart: from Secrets that exist, in a form that follows when they change, at every place."""

from __future__ import annotations

import pytest

from stallwatch.detector.service.settings import load
from support.chart import containers, render, render_texts, the, validate

helm_python = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

AUTH = {"auth": {"existingSecret": "tokens"}}
TLS = {"tls": {"existingSecret": "certificate", "clientCA": "ca.crt"}}


def detector(values):
    """The container and its pod's volumes."""
    pod = the(render(values), "StatefulSet")
    (found,) = [each for each in containers(pod) if each["name"] == "detector"]
    return found, {each["name"]: each for each in pod["spec"]["template"]["spec"]["volumes"]}


def test_both_are_mounted_as_folders_and_named_to_the_service():
    """Kubernetes renews what is in a folder; what is mounted as one file stays as it was."""
    found, volumes = detector({**AUTH, **TLS})
    assert volumes["auth"]["secret"] == {"secretName": "tokens"}
    assert volumes["tls"]["secret"] == {"secretName": "certificate"}
    mounts = {each["name"]: each for each in found["volumeMounts"]}
    for name in ("auth", "tls"):
        assert mounts[name]["readOnly"] is True
        assert "subPath" not in mounts[name]
        assert mounts[name]["mountPath"] == f"/etc/stallwatch/{name}"
    given = [each for each in found["args"] if each.startswith(("--tokens", "--tls", "--open", "--no"))]
    assert given == [
        "--tokens=/etc/stallwatch/auth/tokens.toml",
        "--tls-cert=/etc/stallwatch/tls/tls.crt",
        "--tls-key=/etc/stallwatch/tls/tls.key",
        "--tls-client-ca=/etc/stallwatch/tls/ca.crt",
    ]
    options = {
        name.lstrip("-").replace("-", "_"): value
        for name, _, value in (each.partition("=") for each in given)
    }
    assert load(options, None).tls_paths is not None


def test_the_other_switches():
    """Reading without a token, HTTP without TLS, and keys of other names."""
    values = {
        "auth": {"existingSecret": "t", "key": "t.toml", "openRead": True},
        "tls": {"existingSecret": "c", "certKey": "a", "privateKeyKey": "b", "http": False},
    }
    found, _volumes = detector(values)
    assert found["args"][-5:] == [
        "--tokens=/etc/stallwatch/auth/t.toml",
        "--open-read",
        "--tls-cert=/etc/stallwatch/tls/a",
        "--tls-key=/etc/stallwatch/tls/b",
        "--no-http-tls",
    ]
    assert "scheme" not in found["readinessProbe"]["httpGet"]


@pytest.mark.parametrize("http", [True, False])
def test_whatever_asks_over_http_knows_whether_there_is_tls(http):
    """Probes, the monitor, links, the test pod and the notes."""
    values = {"tls": {"existingSecret": "c", "http": http}, "podMonitor": {"enabled": True}}
    found, _volumes = detector(values)
    schemes = {
        found[f"{name}Probe"]["httpGet"].get("scheme", "HTTP")
        for name in ("startup", "liveness", "readiness")
    }
    assert schemes == {"HTTPS" if http else "HTTP"}
    objects = render(values)
    (endpoint,) = the(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint.get("scheme", "http") == ("https" if http else "http")
    url = the(objects, "ConfigMap")["data"]["STALLWATCH_EXTERNAL_URL"]
    assert url.startswith("https://" if http else "http://")
    assert the(objects, "Pod")["spec"]["containers"][0]["args"][-1] == url
    assert ("https://localhost:9847" in render_texts(values)["templates/NOTES.txt"]) is http


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_a_monitor_has_a_token_and_checks_the_certificate(kind):
    """By the operator's own fields."""
    name = kind[0].lower() + kind[1:]
    access = {
        "authorization": {"type": "Bearer", "credentials": {"name": "scrape", "key": "token"}},
        "tlsConfig": {"ca": {"secret": {"name": "ca", "key": "ca.crt"}}, "serverName": "stallwatch"},
    }
    monitor = the(render({**AUTH, **TLS, name: {"enabled": True, **access}}), kind)
    validate(monitor)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints" if kind == "PodMonitor" else "endpoints"]
    assert {key: endpoint[key] for key in access} == access


def test_the_test_pods_script_is_python():
    """In both forms."""
    for values in ({}, TLS):
        script = the(render(values), "Pod")["spec"]["containers"][0]["args"][0]
        compile(script, "test pod", "exec")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tls": {"clientCA": "ca.crt"}}, "tls.clientCA is a key of the Secret tls.existingSecret"),
        ({"auth": {"openRead": True}}, "set auth.existingSecret, or remove auth.openRead"),
    ],
)
def test_what_cannot_work_is_refused(values, says):
    """With the value to change."""
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(values)
    assert says in str(refused.value)


def test_the_notes_say_what_a_job_needs_and_what_is_open():
    """Token, authority and certificate where they are asked for; a warning where nobody asks."""
    notes = {
        name: render_texts(values)["templates/NOTES.txt"]
        for name, values in (("no", {}), ("auth", AUTH), ("all", {**AUTH, **TLS}))
    }
    assert "Agents and readers are not asked who they are" in notes["no"]
    assert "STALLWATCH_TOKEN_FILE" not in notes["no"]
    assert "Tokens cross the network in clear" in notes["auth"]
    for name in ("STALLWATCH_TOKEN_FILE", "STALLWATCH_TLS_CA", "STALLWATCH_TLS_CERT", "value: https://"):
        assert name in notes["all"]
    assert "in clear" not in notes["all"]
