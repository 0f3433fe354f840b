"""The Helm chart, rendered by the real Helm library; and Kubernetes objects, checked against real and own schemas."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "helm" / "stallwatch"
SCHEMAS = ROOT / "tests" / "deploy" / "schemas"
KUBERNETES_VERSIONS = ("1.30", "1.33", "1.37")
RELEASE = "demo"
NAMESPACE = "prod"

Object = dict[str, Any]


def render_texts(
    values: Object, *, name: str = RELEASE, namespace: str = NAMESPACE, chart: Path = CHART
) -> dict[str, str]:
    """Every template's text by its path in the chart, NOTES.txt too; empty ones left out."""
    import helm_python

    with helm_python.Chart.load(str(chart)) as loaded:
        texts = loaded.render(values, name=name, namespace=namespace)
    return {path.split("/", 1)[1]: text for path, text in texts.items() if text.strip()}


def render(values: Object, **options: Any) -> list[Object]:
    """Every object."""
    texts = render_texts(values, **options)
    return [item for path, text in texts.items() if not path.endswith(".txt") for item in _parse(text)]


@functools.cache
def _parsed(text: str) -> str:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return json.dumps([item for item in yaml.load_all(text, Loader=loader) if item is not None])


def _parse(text: str) -> list[Object]:
    objects: list[Object] = json.loads(_parsed(text))
    return objects


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """The objects of a kind."""
    return [item for item in objects if item["kind"] == kind]


def the(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The one object of a kind, or of a kind and name."""
    (found,) = [item for item in of_kind(objects, kind) if name in (None, item["metadata"]["name"])]
    return found


def is_custom(item: Object) -> bool:
    """Whether an object's kind comes from a CRD."""
    group = item["apiVersion"].rpartition("/")[0]
    return "." in group and (not group.endswith(".k8s.io") or group.endswith(".x-k8s.io"))


def validate(item: Object, versions: tuple[str, ...] = KUBERNETES_VERSIONS) -> None:
    """Check an object against the schemas of Kubernetes, or one of a CRD against ours of the fields we use."""
    text = json.dumps(item, sort_keys=True)
    if is_custom(item):
        _validate_custom(text)
        for pod in pod_templates(item):
            # A CRD's pod template is Kubernetes' own.
            job = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "pod"},
                "spec": {"template": pod},
            }
            job["spec"]["template"]["spec"].setdefault("restartPolicy", "Never")
            validate(job, versions)
        return
    for version in versions:
        _validate_builtin(text, version)


@functools.cache
def _validate_builtin(text: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(text), version, strict=True)


@functools.cache
def _validate_custom(text: str) -> None:
    item = json.loads(text)
    name = "volcanojob" if "volcano" in item["apiVersion"] else item["kind"].lower()
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft7Validator(schema).validate(item)


def pod_templates(item: Any) -> Iterator[Object]:
    """Copies of the pod templates inside an object."""
    if isinstance(item, dict):
        if isinstance(item.get("spec"), dict) and "containers" in item["spec"]:
            yield json.loads(json.dumps({key: item[key] for key in ("metadata", "spec") if key in item}))
        for value in item.values():
            yield from pod_templates(value)
    elif isinstance(item, list):
        for value in item:
            yield from pod_templates(value)


def containers(item: Any) -> Iterator[Object]:
    """All containers of the pod templates inside an object."""
    for pod in pod_templates(item):
        yield from (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
