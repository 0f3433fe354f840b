"""Every combination of the chart's main toggles renders objects that Kubernetes takes."""

from __future__ import annotations

import copy
import itertools

import pytest
import yaml

from support.chart import (
    CHART,
    KUBERNETES_VERSIONS,
    ROOT,
    containers,
    is_custom,
    of_kind,
    pod_templates,
    render,
    render_texts,
    the,
    validate,
)

helm_python = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

RAY = {
    "embedded": {"ray": {"mode": "embedded"}},
    "existing, SQLite": {"ray": {"mode": "existing", "address": "head.ray.svc:6379"}},
    "existing, PostgreSQL": {
        "ray": {
            "mode": "existing",
            "address": "head.ray.svc:6379",
            "auth": {"existingSecret": "ray-token"},
            "tls": {"existingSecret": "ray-tls"},
        },
        "store": {"existingSecret": "database"},
    },
    "kuberay, SQLite": {"ray": {"mode": "kuberay"}},
    "kuberay, PostgreSQL": {"ray": {"mode": "kuberay"}, "store": {"existingSecret": "database"}},
    "embedded, PostgreSQL": {"store": {"existingSecret": "database"}},
}
SCALES_OUT = frozenset({"existing, PostgreSQL", "kuberay, PostgreSQL"})
SIZES = {
    "one": {},
    "three": {"replicaCount": 3},
    "autoscaled": {"autoscaling": {"enabled": True}},
}
MONITORS = {
    "none": {},
    "pod": {"podMonitor": {"enabled": True}},
    "service": {"serviceMonitor": {"enabled": True}},
}
TOGGLES = (
    {"persistence": {"enabled": False}},
    {"networkPolicy": {"enabled": True}},
    {"serviceAccount": {"create": False}},
    {"podDisruptionBudget": {"enabled": False}},
)
EVERYTHING = {
    "commonLabels": {"team": "research"},
    "imagePullSecrets": [{"name": "pull"}],
    "image": {"registry": "registry.example.org", "digest": "sha256:" + "0" * 64},
    "settings": {"maxStreams": 1_000_000, "snapshotSeconds": 0.5, "analysis": {"disabled": ["straggler"]}},
    "externalUrl": "https://stallwatch.example.org/",
    "service": {"type": "LoadBalancer", "annotations": {"a.example.org/b": "c"}},
    "serviceAccount": {"annotations": {"a": "b"}},
    "podMonitor": {
        "enabled": True,
        "namespace": "monitoring",
        "additionalLabels": {"release": "prometheus"},
        "interval": "15s",
        "scrapeTimeout": "10s",
        "honorLabels": True,
        "relabelings": [{"targetLabel": "cluster", "replacement": "a"}],
        "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"], "regex": "python_.*"}],
    },
    "networkPolicy": {
        "enabled": True,
        "agents": [{"namespaceSelector": {"matchLabels": {"training": "yes"}}}],
        "readers": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}],
        "ray": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ray"}}}],
        "extraEgress": [{"ports": [{"port": 9093, "protocol": "TCP"}]}],
    },
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"pool": "cpu"},
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "ops", "effect": "NoSchedule"}],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}
            ]
        }
    },
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "high",
    "extraArgs": ["--max-runs=3"],
    "extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    "extraEnvFrom": [{"secretRef": {"name": "s"}}],
    "extraVolumes": [{"name": "more", "secret": {"secretName": "s"}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more", "readOnly": True}],
}


def merged(*parts):
    """Values put over each other."""
    result = {}
    for part in parts:
        for key, value in copy.deepcopy(part).items():
            old = result.get(key)
            result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def combinations():
    """Every combination that is not refused on purpose."""
    for ray, size, monitor in itertools.product(RAY, SIZES, MONITORS):
        if size != "one" and ray not in SCALES_OUT:
            continue
        for chosen in itertools.product((False, True), repeat=len(TOGGLES)):
            on = [toggle for toggle, taken in zip(TOGGLES, chosen, strict=True) if taken]
            yield merged(RAY[ray], SIZES[size], MONITORS[monitor], *on)


def test_the_chart_passes_strict_lint_on_every_version():
    """No error, no warning, no remark."""
    for version in KUBERNETES_VERSIONS:
        for values in (*RAY.values(), merged(RAY["existing, PostgreSQL"], EVERYTHING)):
            found = helm_python.lint(str(CHART), values, strict=True, kube_version=f"v{version}.0")
            assert (found["messages"], found["errors"]) == ([], []), values


def test_every_combination_is_valid_on_every_version():
    """Each object passes the strict schemas of three Kubernetes versions, each custom one that of the fields we use; none is made twice."""
    count = 0
    for values in combinations():
        objects = render(values)
        for item in objects:
            validate(item)
        names = {(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]) for item in objects}
        assert len(names) == len(objects)
        count += len(objects)
    assert count > 3000


@pytest.mark.parametrize("ray", RAY)
def test_what_can_be_set_can_be_set_together(ray):
    """All values at once still render valid objects."""
    objects = render(merged(RAY[ray], EVERYTHING))
    for item in objects:
        validate(item)
    (workload,) = (*of_kind(objects, "StatefulSet"), *of_kind(objects, "Deployment"))
    (pod,) = pod_templates(workload)
    assert pod["metadata"]["labels"]["c"] == "d"
    assert pod["spec"]["priorityClassName"] == "high"
    assert pod["spec"]["topologySpreadConstraints"][0]["maxSkew"] == 1
    detector = pod["spec"]["containers"][0]
    assert detector["image"] == "registry.example.org/stallwatch/stallwatch@sha256:" + "0" * 64
    assert {"name": "more", "mountPath": "/more", "readOnly": True} in detector["volumeMounts"]
    config = the(objects, "ConfigMap")["data"]
    assert config["STALLWATCH_MAX_STREAMS"] == "1000000"
    assert config["STALLWATCH_EXTERNAL_URL"] == "https://stallwatch.example.org"


def test_the_default_needs_no_crd_and_is_one_stateful_set_with_a_volume():
    """Only built-in kinds."""
    objects = render({})
    assert not [item["kind"] for item in objects if is_custom(item)]
    assert sorted({item["kind"] for item in objects}) == [
        "ConfigMap",
        "Pod",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    ]
    workload = the(objects, "StatefulSet")
    assert workload["spec"]["replicas"] == 1
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    (mounted,) = [m for c in containers(workload) for m in c["volumeMounts"] if m["name"] == "data"]
    assert (claim["metadata"]["name"], mounted["mountPath"]) == ("data", "/var/lib/stallwatch")


@pytest.mark.parametrize("ray", RAY)
def test_every_volume_that_is_mounted_exists(ray):
    """A mount without its volume would be found by the cluster only."""
    for values in (RAY[ray], merged(RAY[ray], {"persistence": {"enabled": False}})):
        for item in render(values):
            claims = {
                claim["metadata"]["name"] for claim in item.get("spec", {}).get("volumeClaimTemplates", ())
            }
            for pod in pod_templates(item):
                volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())} | claims
                used = {mount["name"] for c in containers(pod) for mount in c.get("volumeMounts", ())}
                assert used <= volumes, item["kind"]


@pytest.mark.parametrize("ray", RAY)
def test_services_find_the_pods(ray):
    """Selectors of services, budget and monitors are labels of the detector's pods, and of no other pod."""
    objects = render(merged(RAY[ray], MONITORS["pod"]))
    (workload,) = (*of_kind(objects, "StatefulSet"), *of_kind(objects, "Deployment"))
    (pod,) = pod_templates(workload)
    others = [
        other["metadata"]["labels"]
        for item in objects
        if item is not workload
        for other in pod_templates(item)
    ]
    selectors = [service["spec"]["selector"] for service in of_kind(objects, "Service")]
    selectors.append(workload["spec"]["selector"]["matchLabels"])
    selectors.append(the(objects, "PodMonitor")["spec"]["selector"]["matchLabels"])
    for selector in selectors:
        assert selector.items() <= pod["metadata"]["labels"].items()
        assert not [labels for labels in others if selector.items() <= labels.items()]


def test_a_budget_is_made_only_where_there_is_more_than_one():
    """With one detector it would block the draining of its node."""
    scaled = RAY["existing, PostgreSQL"]
    assert of_kind(render(RAY["embedded"]), "PodDisruptionBudget") == []
    assert of_kind(render(scaled), "PodDisruptionBudget") == []
    assert the(render(merged(scaled, {"replicaCount": 2})), "PodDisruptionBudget")
    assert the(render(merged(scaled, {"autoscaling": {"enabled": True}})), "PodDisruptionBudget")


def test_an_autoscaled_deployment_leaves_the_number_to_the_autoscaler():
    """Else each upgrade would set it back."""
    objects = render(merged(RAY["kuberay, PostgreSQL"], {"autoscaling": {"enabled": True}}))
    assert "replicas" not in the(objects, "Deployment")["spec"]
    target = the(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", the(objects, "Deployment")["metadata"]["name"])


def test_a_changed_setting_restarts_the_pods():
    """The checksum of the configuration is in the pod template."""

    def checksum(values):
        (pod,) = pod_templates(the(render(values), "StatefulSet"))
        return pod["metadata"]["annotations"]["checksum/config"]

    assert checksum({}) == checksum({"priorityClassName": "x"})
    assert checksum({}) != checksum({"settings": {"maxRuns": 3}})


def test_the_ray_node_beside_the_detector_shares_its_session():
    """A driver finds its node by /tmp/ray and /dev/shm; with SQLite the analyzers there need the file as well."""
    for values, shared in (
        (RAY["existing, SQLite"], {"/tmp", "/dev/shm", "/var/lib/stallwatch"}),
        (RAY["existing, PostgreSQL"], {"/tmp", "/dev/shm", "/etc/ray/tls"}),
    ):
        (workload,) = [item for item in render(values) if item["kind"] in {"StatefulSet", "Deployment"}]
        (pod,) = pod_templates(workload)
        (node,) = pod["spec"]["initContainers"]
        (detector,) = pod["spec"]["containers"]
        assert node["restartPolicy"] == "Always"
        assert "--address=head.ray.svc:6379" in node["args"]
        assert "--ray-address=head.ray.svc:6379" in detector["args"]
        assert {mount["mountPath"] for mount in node["volumeMounts"]} == shared


def test_names_fit_however_long_the_release_is():
    """Kubernetes allows 63 characters for most, and appends to those of pods."""
    longest = "r" * 53
    for values in (*RAY.values(), merged(RAY["kuberay, PostgreSQL"], EVERYTHING)):
        for item in render(values, name=longest):
            validate(item)
            assert len(item["metadata"]["name"]) <= 63
    assert (
        len({item["metadata"]["name"] for item in render({}, name=longest) if item["kind"] == "Service"}) == 2
    )


def test_a_release_that_is_called_stallwatch_is_not_called_so_twice():
    """The endpoint is then stallwatch.NAMESPACE.svc:9846."""
    assert "stallwatch.prod.svc:9846" in render_texts({}, name="stallwatch")["templates/NOTES.txt"]


def test_the_chart_is_of_the_version_of_the_package():
    """The image that is named by default is the one of this source."""
    from stallwatch.agent import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert f"stallwatch/stallwatch:{__version__}" in chart["annotations"]["artifacthub.io/images"]
    for name in ("artifacthub.io/changes", "artifacthub.io/images"):
        assert yaml.safe_load(chart["annotations"][name])
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
    assert chart["annotations"]["artifacthub.io/license"] == "Apache-2.0"


def test_a_cold_install_can_be_planned_without_a_cluster(tmp_path):
    """Helm's own install, dry, takes chart and values; the package holds what the folder holds."""
    package = helm_python.package(str(CHART), destination=str(tmp_path))
    path = package["path"] if isinstance(package, dict) else package
    planned = helm_python.Config(namespace="prod", storage_driver="memory").install(
        str(path), "demo", {}, dry_run="client"
    )
    assert "kind: StatefulSet" in planned["manifest"]
    assert "STALLWATCH_ENDPOINT" in planned["notes"]
