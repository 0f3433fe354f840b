"""From a stalled job to somebody's phone, real parts only: gloo, the service, Prometheus, Alertmanager, a webhook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.monitoring import Alertmanager, Prometheus, Receiver
from support.ranks import Ranks
from support.service import Service
from support.waiting import wait_until

RUN = "stalls_when_told"
QUICK = {"STALLWATCH_ANALYSIS": '{"checks": {"hang": {"floor_seconds": 4}}}'}


def rules(folder: Path, url: str) -> Path:
    """The rules as a user would make them, but impatient."""
    command = [sys.executable, "-m", "stallwatch.detector", "rules", "--external-url", url]
    command += ["--for", "1s", "--keep-firing-for", "1s"]
    path = folder / "rules.yaml"
    path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return path


@pytest.mark.timeout(180)
def test_a_stalled_job_is_an_alert_with_its_reason_and_is_resolved(tmp_path):
    """Prometheus scrapes, the rule fires, Alertmanager shows it, a receiver gets it once, and later that it is over."""
    with Service(tmp_path / "service", environment=QUICK) as service, Receiver() as receiver:
        alertmanager = Alertmanager(tmp_path / "alertmanager", receiver.url)
        prometheus = Prometheus(
            tmp_path / "prometheus",
            service.http_port,
            rules=rules(tmp_path, service.url),
            alertmanager_port=alertmanager.port,
        )
        job = tmp_path / "job"
        job.mkdir()
        with alertmanager, prometheus, Ranks(job, service.grpc_address, RUN) as ranks:
            wait_until("the job's steps", lambda: (service.metric("stallwatch_step", run=RUN) or 0) > 100)
            (job / "stall").touch()

            def shown() -> dict | None:
                named = {each["labels"]["alertname"]: each for each in alertmanager.alerts()}
                return named.get("TrainingHang")

            alert = wait_until("the alert in Alertmanager", shown, 60)
            (finding,) = service.get(f"/api/v1/runs/{RUN}/findings?status=firing")["findings"]
            assert (finding["kind"], finding["ranks"]) == ("hang", [1])
            labels = {"alertname": "TrainingHang", "run": RUN, "kind": "hang", "severity": "critical"}
            assert alert["labels"] == {**labels, "job": "stallwatch"}
            annotations = alert["annotations"]
            assert annotations["runbook_url"] == f"{service.url}/runbooks/hang"
            assert annotations["dashboard_url"] == f"{service.url}/runs/{RUN}"
            # The sentence is the finding's, of the moment at which it was called.
            ((info, _one),) = prometheus.query(f'stallwatch_finding_info{{run="{RUN}"}}')
            assert annotations["description"] == f"Run {RUN}: {info['reason']}"
            assert finding["reason"].startswith(info["reason"].split(" for ")[0])

            def heard(status: str) -> list[dict]:
                alerts = [each for body in receiver.bodies for each in body["alerts"]]
                return [
                    each
                    for each in alerts
                    if each["status"] == status and each["labels"]["alertname"] == "TrainingHang"
                ]

            wait_until("the webhook", lambda: heard("firing"))
            (job / "stall").unlink()
            (resolved,) = wait_until("the resolve", lambda: heard("resolved"), 60)
            assert len(heard("firing")) == 1
            assert resolved["annotations"]["runbook_url"] == annotations["runbook_url"]
            assert shown() is None
            (job / "stop").touch()
            ranks.finish()
