"""The HTTP application over a fixed read model: fields, errors, metrics, page."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from stallwatch.detector.alerts.statistics import AlertStatistics
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.verdicts import Cause
from stallwatch.detector.core.views import Forecast, PhaseHistogram
from stallwatch.detector.engine.messages import PollResult
from stallwatch.detector.engine.replay import replay_inputs
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.catalogue import METRICS
from stallwatch.detector.http.collector import Exposed
from stallwatch.detector.http.render import dumps, plain
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.service.counters import (
    SnapshotCounts,
    alert_samples,
    own_samples,
    run_samples,
    snapshot_samples,
)
from support.analyzer_inputs import a_run
from support.http_server import serving
from support.read_model import Analyses

RUN = "team/run:1"
NASTY = "<script>alert('1')</script> & \"more\""
FINDING_FIELDS = [
    "id",
    "kind",
    "category",
    "severity",
    "confidence",
    "status",
    "since_step",
    "detected_step",
    "resolved_step",
    "ranks",
    "layers",
    "reason",
    "evidence",
    "advice",
    "causes",
]
RUN_FIELDS = [
    "run",
    "state",
    "state_since_step",
    "step",
    "epoch",
    "world_size",
    "effective_batch_size",
    "updated_at",
    "loss",
    "gradient_noise_scale",
    "batch_over_critical",
    "findings",
    "sample_period",
    "waiting_checks",
]


class Model(Analyses):
    """One run that was replayed, dressed up with everything a run can have."""

    def __init__(self) -> None:
        self.analysis = replay_inputs(a_run(RUN, nan_at_batch=3), "test")
        finding = Finding(
            id=f"{RUN}#plateau#1",
            run=RUN,
            kind="plateau",
            category="learning",
            severity="warning",
            confidence=0.97,
            status="firing",
            since_step=40,
            detected_step=60,
            resolved_step=None,
            ranks=(0, 1),
            layers=("h.0",),
            reason=NASTY,
            evidence={"slope": math.nan, "many": (1, math.inf)},
            advice=("Wait.",),
            causes=(Cause("lr_too_low", 0.8, "It is low."),),
        )
        view = self.analysis.view()
        self.all = (*self.analysis.findings(), finding)
        histogram = PhaseHistogram(tuple(range(16)), 12.5)
        self.seen = replace(
            view,
            findings=(finding, replace(finding, id="2")),
            loss=replace(view.loss, value=math.inf, forecast=Forecast(100, 0.1, -0.05, 0.2)),
            evaluation_loss=1.5,
            gradient_norm_local=2.0,
            gradient_norm_reduced=1.0,
            gradient_noise_scale=100.0,
            batch_over_critical=0.5,
            worst_rank=1,
            phase_histograms={"sync": histogram, "forward": histogram},
            sync_wait_quantiles={0.5: 0.01, 0.99: 0.02},
            stalled_gpu_seconds={"plateau": 3.5},
            dropped_steps={"buffer_full": 4},
        )
        super().__init__({RUN: self.analysis})
        self.shown = {(RUN, "view"): self.seen, (RUN, "findings"): self.all}


@pytest.fixture(scope="module")
def model() -> Model:
    """The read model."""
    return Model()


@pytest.fixture(scope="module")
def client(model):
    """A client of the application."""
    shown = PollResult("g", model.seen, model.all, (), (), 3, 0, 1000, 0.01, 5.0)
    own = (
        *own_samples(IngestStatistics(), 1, 0),
        *run_samples({"over": 0, "room": 0, "memory": 0}, 0),
        *snapshot_samples(SnapshotCounts(3, 0), [shown]),
        *alert_samples(AlertStatistics(), 1, 1, 1, 1),
    )
    exposed = Exposed([shown], own, {f"{RUN}#plateau#1": NASTY}, frozenset({f"{RUN}#plateau#1"}))

    async def problems():
        return []

    with serving(create_app(model, lambda: exposed, problems)) as client:
        yield client


def test_a_run_has_the_fields_of_the_contract(client):
    """Exactly those, and null where there is no number."""
    (run,) = client.get("/api/v1/runs").json()["runs"]
    assert list(run) == RUN_FIELDS
    assert run["loss"]["value"] is None
    assert run["loss"]["forecast"] == {
        "horizon_steps": 100,
        "relative_improvement": 0.1,
        "low": -0.05,
        "high": 0.2,
    }
    assert client.get("/api/v1/runs/team%2Frun%3A1").json() == run


def test_a_finding_has_the_fields_of_the_contract(client):
    """Exactly those; NaN and infinity in the evidence are null."""
    finding = client.get("/api/v1/runs/team%2Frun:1/findings?status=firing").json()["findings"][-1]
    assert list(finding) == FINDING_FIELDS
    assert finding["evidence"] == {"slope": None, "many": [1, None]}
    assert finding["causes"] == [{"kind": "lr_too_low", "confidence": 0.8, "reason": "It is low."}]


def test_findings_are_chosen_by_status(client, model):
    """Firing, resolved, or all, which is what is given when nothing is said."""
    path = "/api/v1/runs/team%2Frun:1/findings"
    counts = {
        status: len(client.get(f"{path}?status={status}").json()["findings"])
        for status in ("firing", "resolved", "all")
    }
    assert counts["all"] == len(model.all) == counts["firing"] + counts["resolved"]
    assert len(client.get(path).json()["findings"]) == counts["all"]


@pytest.mark.parametrize("quoted", ["team%2Frun%3A1", "team/run:1"])
def test_a_slash_in_a_runs_name_may_be_quoted_or_plain(client, quoted):
    """For the run itself and for what is below it."""
    for part in ("", "/findings", "/ranks", "/series", "/series/loss"):
        assert client.get(f"/api/v1/runs/{quoted}{part}").status_code == 200, part


def test_a_series_is_cut_to_what_was_asked_for(client):
    """By steps and by number of points."""
    points = client.get("/api/v1/runs/team%2Frun:1/series/loss?from_step=20&to_step=59&points=10").json()[
        "points"
    ]
    assert 0 < len(points) <= 10
    assert all(20 <= point["step"] <= 59 for point in points)
    # Nothing there yet is no error.
    assert client.get("/api/v1/runs/team%2Frun:1/series/loss?from_step=1000000").json()["points"] == []


@pytest.mark.parametrize(
    ("path", "status", "field", "says"),
    [
        ("/api/v1/runs/none", 404, "run", "there is no run 'none'"),
        ("/api/v1/runs/none/findings", 404, "run", "there is no run 'none'"),
        ("/api/v1/runs/team%2Frun:1/series/no", 404, "name", "has no series 'no': it has"),
        (
            "/api/v1/runs/team%2Frun:1/findings?status=open",
            422,
            "status",
            "must be one of firing, resolved, all",
        ),
        ("/api/v1/runs/team%2Frun:1/findings?state=all", 400, "state", "the parameters are status"),
        ("/api/v1/runs/team%2Frun:1/series/loss?points=0", 422, "points", "whole number from 1 to 10000"),
        ("/api/v1/runs/team%2Frun:1/series/loss?points=1e3", 422, "points", "points is '1e3'"),
        ("/api/v1/runs/team%2Frun:1/series/loss?from_step=-1", 422, "from_step", "from_step is '-1'"),
        ("/api/v1/runs/team%2Frun:1/series/loss?from_step=9&to_step=8", 422, "to_step", "must not be below"),
        ("/api/v2", 404, None, "there is nothing at /api/v2"),
    ],
)
def test_an_error_names_the_field_and_the_fix(client, path, status, field, says):
    """As JSON, whatever was wrong."""
    answer = client.get(path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["status"], error["field"]) == (status, field)
    assert says in error["message"]


def test_another_method_is_refused_as_json(client):
    """With what is allowed."""
    answer = client.post("/api/v1/runs")
    assert (answer.status_code, answer.json()["error"]["status"]) == (405, 405)
    assert "GET" in answer.headers["allow"]


def test_a_failure_of_ours_is_json_without_its_inside(client, model, monkeypatch):
    """The log has the rest."""
    monkeypatch.setattr(model, "views", lambda: 1 / 0)
    answer = client.get("/api/v1/runs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "division" not in answer.text


def test_large_answers_are_compressed(client):
    """When the client takes gzip."""
    assert (
        client.get("/api/v1/runs", headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"
    )


def test_the_page_shows_names_as_text(client):
    """A reason or a run's name is never markup."""
    page = client.get("/").text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert RUN in page


def test_every_catalogued_metric_is_exposed_and_no_other(client):
    """The catalogue is the one list."""
    text = client.get("/metrics").text
    exposed = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert exposed == set(METRICS)


def test_every_metric_of_the_public_contract_is_catalogued():
    """Dashboards and rules of other people use these names."""
    assert set(METRICS) >= {
        "stallwatch_agent_dropped_total",
        "stallwatch_batch_over_critical",
        "stallwatch_effective_batch_size",
        "stallwatch_finding_active",
        "stallwatch_findings_total",
        "stallwatch_gradient_noise_scale",
        "stallwatch_gradient_norm",
        "stallwatch_learning_rate",
        "stallwatch_loss",
        "stallwatch_loss_forecast_relative_improvement",
        "stallwatch_loss_slope_per_step",
        "stallwatch_rank_lag_steps",
        "stallwatch_run_info",
        "stallwatch_run_state",
        "stallwatch_stalled_gpu_seconds_total",
        "stallwatch_step",
        "stallwatch_step_seconds",
        "stallwatch_sync_wait_seconds",
    }


def test_metrics_say_what_the_run_is(client):
    """One state is 1, two findings of a kind are one series, and there is no step label."""
    text = client.get("/metrics").text
    states = re.findall(r'stallwatch_run_state\{run="team/run:1",state="(\w+)"\} 1\.0', text)
    assert states == ["finished"]
    assert len(re.findall(r"^stallwatch_finding_active\{", text, re.MULTILINE)) == 1
    assert 'stallwatch_step_seconds_bucket{le="+Inf",phase="sync",run="team/run:1"} 120.0' in text
    assert 'stallwatch_sync_wait_seconds{quantile="0.99",run="team/run:1"} 0.02' in text
    assert 'step="' not in text
    assert "_created" not in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say_about_the_metrics(client):
    """Names, help texts, types and units follow the conventions."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=client.get("/metrics").text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_probes_answer(client):
    """Live and ready."""
    assert client.get("/livez").text == client.get("/readyz").text == "ok\n"


def test_json_is_strict(client):
    """No NaN or Infinity, which JavaScript does not take."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    for path in ("/api/v1/runs", "/api/v1/runs/team%2Frun:1/ranks", "/api/v1/runs/team%2Frun:1/findings"):
        json.loads(client.get(path).text, parse_constant=refuse)


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "ü"], "b": {"c": ()}},
        {"a": [1.0, math.nan], "b": -math.inf},
        {
            "a": np.float64(0.1),
            "b": np.float32(0.5),
            "c": np.int64(7),
            "d": np.bool_(True),
            "e": np.arange(3),
        },
        MappingProxyType({"a": np.float64(np.nan)}),
    ],
    ids=["plain", "not finite", "numpy", "another mapping"],
)
def test_json_is_that_of_plain_values(value):
    """Whether it had to be made plain or not."""
    assert dumps(value) == json.dumps(
        plain(value), allow_nan=False, ensure_ascii=False, separators=(",", ":")
    )
