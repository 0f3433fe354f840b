"""The rules, judged by promtool: every alert does not fire yet, fires, and resolves; every kind has one, and a page."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stallwatch.detector.alerts.naming import Links, alert_name
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.mixin.rules import rule_groups, rules_yaml
from stallwatch.detector.mixin.shape import Alert, Recording
from support.rule_cases import RUN, TARGET, Case, finding_case, growing, lasting, promtool_file, promtool_test

ROOT = Path(__file__).parents[3]
LINKS = Links("https://stallwatch.example.com/", None)
GROUPS = rule_groups(LINKS)
ALERTS = {rule.alert: rule for group in GROUPS for rule in group.rules if isinstance(rule, Alert)}
RUN_LABELS = f'run="{RUN}",{TARGET}'
ABSENT = (
    f"Run {RUN} has not reported for {{}} 0s and has not said goodbye: its processes are gone, or cannot reach the "
    "detector."
)
SERVICE_CASES = {
    case.alert: case
    for case in (
        # Scraped until the third minute, then no more, and again later.
        Case(
            "StallwatchDown",
            ((f'stallwatch_build_info{{version="1",{TARGET}}}', "1x2 stale _x56 1x60"),),
            {"severity": "critical"},
            "Prometheus has no sample of a Stallwatch detector: it is down, or it is not scraped. "
            "Training goes on, and nobody watches it.",
            pending=5,
            keep=0,
        ),
        # Ten steps a minute are lost; what increase sees goes ten minutes after the last one.
        Case(
            "StallwatchIngestDropping",
            ((f'stallwatch_agent_dropped_total{{reason="buffer_full",{RUN_LABELS}}}', growing()),),
            {"run": RUN, "severity": "warning", "job": "stallwatch"},
            f"Agents of run {RUN} could not deliver 60 steps in 10 minutes.",
            pending=5,
            keep=5,
            begins=4,
            ends=70,
            at_last=f"Agents of run {RUN} could not deliver 10 steps in 10 minutes.",
        ),
        Case(
            "StallwatchAgentsAbsent",
            (
                # Reported last at the start, in a time that begins at 0; finished in the end.
                (f"stallwatch_run_last_report_timestamp_seconds{{{RUN_LABELS}}}", "0x120"),
                (f'stallwatch_run_state{{state="hung",{RUN_LABELS}}}', "1x59 stale"),
                (f'stallwatch_run_state{{state="finished",{RUN_LABELS}}}', "_x60 1x60"),
            ),
            {"run": RUN, "severity": "warning", "job": "stallwatch", "instance": "a:9847", "pod": "p-0"},
            ABSENT.format("11m"),
            pending=5,
            keep=5,
            begins=6,
            at_last=ABSENT.format("59m"),
            of_run=True,
        ),
        Case(
            "StallwatchAnalyzerFailing",
            (
                (f"stallwatch_analyzer_failures_total{{{TARGET}}}", growing()),
                (f"stallwatch_analyzer_snapshot_failures_total{{{TARGET}}}", "0x120"),
            ),
            {"severity": "warning", "job": "stallwatch"},
            "Analyzers of stallwatch fail on inputs, cannot save snapshots, or are lost again and again: findings "
            "may be missing. The detector's log says why.",
            pending=5,
            keep=5,
            begins=4,
            ends=70,
        ),
        Case(
            "StallwatchAlertsUndelivered",
            ((f'stallwatch_webhook_dead_letters_total{{receiver="0",{TARGET}}}', growing()),),
            {"severity": "warning", "job": "stallwatch"},
            "60 requests to Alertmanager or events for webhooks failed in 15 minutes.",
            pending=5,
            keep=5,
            begins=4,
            ends=75,
            at_last="10 requests to Alertmanager or events for webhooks failed in 15 minutes.",
        ),
        Case(
            "StallwatchScrapeSlow",
            ((f"stallwatch_scrape_seconds{{{TARGET}}}", lasting(3)),),
            {"severity": "warning", "job": "stallwatch", "instance": "a:9847", "pod": "p-0"},
            "An answer to Prometheus takes 3s to make at a:9847: it watches more than this machine can show.",
            pending=15,
            keep=5,
        ),
    )
}
CASES = {**{alert_name(kind): finding_case(kind) for kind in VOCABULARY}, **SERVICE_CASES}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


def promtool(*arguments: str) -> str:
    """Run it; return what it says when it is not content."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def run_tests(folder: Path, tests: list[dict], links: Links = LINKS) -> str:
    """What promtool has to say of these tests."""
    (folder / "rules.yaml").write_text(rules_yaml(links))
    (folder / "tests.yaml").write_text(yaml.safe_dump(promtool_file(tests, "rules.yaml", GROUPS)))
    return promtool("test", "rules", str(folder / "tests.yaml"))


@needs_promtool
def test_promtool_takes_the_rules(tmp_path):
    """With and without Grafana."""
    for links in (LINKS, Links("http://a", "http://b")):
        (tmp_path / "rules.yaml").write_text(rules_yaml(links))
        assert promtool("check", "rules", str(tmp_path / "rules.yaml")) == ""


@pytest.mark.slow
@needs_promtool
def test_every_alert_does_not_fire_yet_fires_and_resolves(tmp_path):
    """At the minute it should, with all labels and annotations, and the finding's own sentence."""
    tests = [promtool_test(CASES[name], rule, LINKS) for name, rule in ALERTS.items()]
    assert run_tests(tmp_path, tests) == ""


@needs_promtool
def test_a_finding_that_weighs_less_than_its_kind_is_an_alert_that_does(tmp_path):
    """The severity is the finding's."""
    case = finding_case("communication_bound", "info")
    assert run_tests(tmp_path, [promtool_test(case, ALERTS[case.alert], LINKS)]) == ""


@needs_promtool
def test_a_silenced_finding_is_no_alert(tmp_path):
    """The series that says so takes it out."""
    case = finding_case("hang")
    (series, values), *_others = case.series
    silenced = series.replace("stallwatch_finding_active", "stallwatch_finding_silenced")
    test = promtool_test(case, ALERTS[case.alert], LINKS)
    test["input_series"].append({"series": silenced, "values": values})
    for each in test["alert_rule_test"]:
        each["exp_alerts"] = []
    assert run_tests(tmp_path, [test]) == ""


@needs_promtool
def test_with_grafana_the_dashboard_is_the_one_in_grafana(tmp_path):
    """With the run as its variable."""
    links = Links("http://a", "https://grafana.example.com/")
    case = finding_case("plateau")
    test = promtool_test(case, ALERTS[case.alert], links)
    page = test["alert_rule_test"][1]["exp_alerts"][0]["exp_annotations"]["dashboard_url"]
    assert page == "https://grafana.example.com/d/stallwatch-run?var-run=team%2Fa.b%3A1"
    assert run_tests(tmp_path, [test], links) == ""


def test_every_alert_is_tested():
    """Those of findings and those of the service."""
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("kind", VOCABULARY)
def test_a_kind_has_a_rule(kind):
    """A new word of the vocabulary gets its alert by itself, complete."""
    rule = ALERTS[alert_name(kind)]
    assert rule.summary.endswith(".")
    assert "stallwatch_finding_info" in rule.description
    assert rule.runbook_url.endswith(f"/runbooks/{kind}")


@pytest.mark.parametrize("kind", VOCABULARY)
def test_a_kind_has_a_runbook(kind):
    """Where the alert's link leads, docs/causes or docs/findings."""
    pages = [ROOT / "docs" / folder / f"{kind}.md" for folder in ("causes", "findings")]
    assert any(page.exists() for page in pages), f"write docs/findings/{kind}.md"


@pytest.mark.parametrize("kind", VOCABULARY)
def test_a_kind_is_in_the_references(kind):
    """A row in docs/metrics.md, one in docs/alerts.md, and one where findings, causes or questions are explained."""
    docs = ROOT / "docs"
    assert f"| [`{kind}`](" in (docs / "metrics.md").read_text()
    assert f"| `{alert_name(kind)}` | `{kind}` |" in (docs / "alerts.md").read_text()
    words = [docs / name for name in ("findings.md", "diagnosis.md", "questions.md")]
    assert any(f"`{kind}`" in page.read_text() for page in words if page.exists()), (
        f"say how {kind} is decided"
    )


@pytest.mark.parametrize("name", SERVICE_CASES)
def test_an_alert_about_the_service_has_a_runbook(name):
    """In docs/runbooks."""
    assert (ROOT / "docs/runbooks" / f"{name}.md").exists()


def test_rules_are_named_as_is_the_custom():
    """Recording rules level:metric:operations, alerts in camel case, summaries without templates."""
    for rule in (rule for group in GROUPS for rule in group.rules):
        if isinstance(rule, Recording):
            assert rule.record.count(":") == 2, rule.record
        else:
            assert rule.alert.isalnum()
            assert rule.alert.startswith(("Training", "Stallwatch"))
            assert "{{" not in rule.summary
            assert "$value" not in rule.severity


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`stallwatch rules`."""
    line = [sys.executable, "-m", "stallwatch.detector", "rules", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_prints_rules_with_ones_own_addresses_and_patience():
    """As YAML, on standard output alone."""
    done = command("--external-url", "https://sw.example.com", "--for", "2m", "--keep-firing-for", "1m30s")
    assert (done.returncode, done.stderr) == (0, "")
    rules = [
        rule for group in yaml.safe_load(done.stdout)["groups"] for rule in group["rules"] if "alert" in rule
    ]
    assert len(rules) == len(ALERTS)
    assert {(rule["for"], rule["keep_firing_for"]) for rule in rules} == {("2m", "1m30s")}
    assert all(
        rule["annotations"]["runbook_url"].startswith("https://sw.example.com/runbooks/") for rule in rules
    )


@pytest.mark.parametrize("arguments", [("--for", "soon"), ("--keep-firing-for", "5"), ("--for", "-1m")])
def test_what_is_no_duration_is_refused(arguments):
    """By the name of the option, as bad usage."""
    done = command(*arguments)
    assert done.returncode == 2
    assert f"{arguments[0]} {arguments[1]!r} is no duration" in done.stderr
