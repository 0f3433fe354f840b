"""The examples of training jobs: valid for their operators, and with an environment that the agent understands."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest
import yaml

from stallwatch.agent import _environment as environment
from stallwatch.agent._config import resolve
from stallwatch.agent._identity import identify
from support.chart import KUBERNETES_VERSIONS, ROOT, containers, render_texts, validate

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((*(DEPLOY / "kubernetes").glob("*.yaml"), DEPLOY / "kuberay" / "rayjob.yaml"))
SBATCH = sorted((DEPLOY / "slurm").glob("train*.sbatch"))
KNOWN = {value for name, value in vars(environment).items() if name.isupper()}
RENDERED = DEPLOY / "kuberay" / "stallwatch.yaml"


def load(path):
    """The one object of a manifest."""
    return yaml.safe_load(path.read_text())


def trainers(item):
    """Containers that train; a TrainJob has no pod template, but fields of one."""
    if item["kind"] == "TrainJob":
        return [item["spec"]["trainer"]]
    return list(containers(item))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_valid(path):
    """The custom object against the fields we use, its pods against three versions of Kubernetes."""
    validate(load(path))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifests_environment_is_the_agents(path):
    """Every STALLWATCH_ variable exists, and together they are settings that `attach` takes."""
    for container in trainers(load(path)):
        given = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert {name for name in given if name.startswith("STALLWATCH_")} <= KNOWN
        settings = resolve({name: value or "from-a-field" for name, value in given.items()})
        assert settings.endpoint is not None
        assert settings.endpoint.address == "stallwatch.stallwatch.svc:9846"
        assert settings.group == "experiment-1"


def test_the_endpoint_of_the_manifests_is_that_of_the_documented_installation():
    """`helm install stallwatch ... --namespace stallwatch`."""
    pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    notes = render_texts({}, name="stallwatch", namespace="stallwatch")["templates/NOTES.txt"]
    assert "value: stallwatch.stallwatch.svc:9846" in notes


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifests_run_is_called_after_the_job(path):
    """By STALLWATCH_RUN, or by what the agent reads out of the names of the operator's pods."""
    item = load(path)
    for container in trainers(item):
        run = next((entry for entry in container["env"] if entry["name"] == "STALLWATCH_RUN"), None)
        if run is None:
            assert item["kind"] == "PyTorchJob"
            for pod in ("train-master-0", "train-worker-2"):
                variables = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": pod}
                assert identify(None, variables).run == item["metadata"]["name"]
        else:
            field = run.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
            assert run.get("value") == item["metadata"]["name"] or re.fullmatch(
                r"metadata\.labels\['(jobset\.sigs\.k8s\.io/jobset-name|volcano\.sh/job-name)'\]", field
            )


def commands():
    """The command line of each example, as a shell would write it."""
    for path in MANIFESTS:
        for container in trainers(load(path)):
            words = [*container.get("command", ()), *container.get("args", ())]
            if words:
                yield path.stem, " ".join(words)
    for path in SBATCH:
        yield path.stem, path.read_text().replace("\\\n", " ")


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_a_command_starts_the_script_under_the_agent(name, command):
    """With torchrun as torchrun's own parser takes it, or with python."""
    started = re.search(r"(torchrun|python)((?: +\S+)*? +-m +stallwatch\.agent +train\.py)", command)
    assert started is not None
    if started.group(1) == "torchrun":
        parser = pytest.importorskip("torch.distributed.run").get_args_parser()
        # What the shell puts in are numbers and a name.
        words = re.sub(r'"\$\w+"', "1", started.group(2)).split()
        given = parser.parse_args(words)
        assert given.module
        assert (given.training_script, given.training_script_args) == ("stallwatch.agent", ["train.py"])


@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.stem)
def test_a_batch_script_asks_for_the_endpoint(path):
    """Before it starts anything."""
    ran = subprocess.run(
        ["bash", path], capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
    )
    assert ran.returncode != 0
    assert "STALLWATCH_ENDPOINT: set it to HOST:9846 of the detector" in ran.stderr


@pytest.mark.parametrize("path", sorted((DEPLOY / "slurm").glob("*.sbatch")), ids=lambda path: path.stem)
def test_a_batch_scripts_environment_is_known(path):
    """Each STALLWATCH_ variable is one of the agent or of the service."""
    from stallwatch.detector.service.settings import Settings

    service = {f"STALLWATCH_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"STALLWATCH_[A-Z_]+", path.read_text())) <= KNOWN | service


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({"RANK": "9", "WORLD_SIZE": "32", "TORCHELASTIC_RUN_ID": "none", "SLURM_NODEID": "1"}, 9),
        ({"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "32", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}, 9),
    ],
    ids=["torchrun", "srun"],
)
def test_a_slurm_run_keeps_its_name_over_a_requeue(variables, rank):
    """Name and number of the job; the restart is an attempt of the same run."""
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train"}
    first = identify(None, {**slurm, **variables})
    again = identify(None, {**slurm, **variables, "SLURM_RESTART_COUNT": "1"})
    assert (first.run, first.rank, first.world_size) == ("train-4711", rank, 32)
    assert (again.run, again.restart_count) == ("train-4711", 1)


def test_the_manifest_for_kuberay_is_the_charts():
    """deploy/kuberay/stallwatch.yaml is what the chart renders for values.yaml beside it; WRITE_MANIFESTS=1 writes it."""
    pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    values = yaml.safe_load((DEPLOY / "kuberay" / "values.yaml").read_text())
    texts = render_texts(values, name="stallwatch", namespace="stallwatch")
    parts = [
        f"---\n{text.strip()}\n"
        for path, text in sorted(texts.items())
        if path.endswith(".yaml") and "/tests/" not in path
    ]
    head = "# helm/stallwatch with values.yaml, for those who do not use Helm: kubectl apply -n stallwatch -f stallwatch.yaml\n"
    rendered = re.sub(r"[ \t]+\n", "\n", head + "".join(parts))
    if os.environ.get("WRITE_MANIFESTS"):
        RENDERED.write_text(rendered)
    assert RENDERED.read_text() == rendered, "stale: WRITE_MANIFESTS=1 writes it"
    objects = [item for item in yaml.safe_load_all(rendered) if item]
    assert "RayCluster" in {item["kind"] for item in objects}
    for item in objects:
        validate(item)
    assert json.dumps(objects).count("stallwatch-database") == 1
    assert KUBERNETES_VERSIONS[0] == "1.30"
