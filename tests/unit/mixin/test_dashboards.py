"""The builder of the dashboards, and `stallwatch dashboards`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from stallwatch.detector import cli
from stallwatch.detector.core.verdicts import Severity
from stallwatch.detector.core.views import RUN_STATES
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.errors import UsageError
from stallwatch.detector.mixin.grafana import dashboards_of, file_text
from stallwatch.detector.mixin.grafana.fields import FIRING, SEVERITY_COLORS, STATE_COLORS, STATES
from stallwatch.detector.mixin.grafana.panels import arrange, row
from stallwatch.detector.mixin.grafana.promql import SEVERITIES, Scope, series_labels
from stallwatch.detector.service.settings import Settings

UIDS = ["stallwatch-overview", "stallwatch-run"]
SCOPE = Scope('run="$run"')


def dashboards(*arguments: str):
    """Run the command; a wrong argument raises."""
    return CliRunner().invoke(cli.build(["dashboards"]), ["dashboards", *arguments], catch_exceptions=False)


def test_every_state_and_severity_has_a_colour():
    """A word that is added to either vocabulary needs one."""
    assert tuple(STATE_COLORS) == RUN_STATES
    assert [STATES[0]["options"][str(number)]["color"] for number in range(len(RUN_STATES))] == list(
        STATE_COLORS.values()
    )
    assert set(SEVERITIES) == {severity.value for severity in Severity} == SEVERITY_COLORS.keys()
    assert len(FIRING[0]["options"]) == len(SEVERITIES) + 1
    assert {kind.severity.value for kind in VOCABULARY.values()} <= set(SEVERITIES)


def test_a_selector_takes_only_what_the_catalogue_has():
    """A metric or label that is not exported cannot be asked for."""
    assert SCOPE.select("stallwatch_loss", split="train") == (
        'stallwatch_loss{namespace=~"$namespace", job=~"$job", run="$run", split="train"}'
    )
    assert "run" not in SCOPE.select("stallwatch_ingest_streams")
    for name in ("stallwatch_lost", "stallwatch_step_seconds", "stallwatch_loss_bucket"):
        with pytest.raises(KeyError, match=name):
            SCOPE.select(name)
    with pytest.raises(KeyError, match="phase"):
        SCOPE.select("stallwatch_loss", phase="sync")


def test_the_parts_of_a_histogram_have_their_own_labels():
    """Buckets a bound, summaries a quantile."""
    assert series_labels("stallwatch_step_seconds_bucket") == ("run", "phase", "le")
    assert series_labels("stallwatch_step_seconds_sum") == ("run", "phase")
    assert series_labels("stallwatch_sync_wait_seconds") == ("run", "quantile")


def test_panels_are_put_side_by_side_until_the_line_is_full():
    """The next line begins under the highest of them."""
    sizes = [(16, 4), (8, 6), (12, 2), (12, 2)]
    made = arrange(
        [{"gridPos": {"w": width, "h": height, "x": 0, "y": 0}} for width, height in sizes] + [row("x")]
    )
    assert [(one["id"], one["gridPos"]["x"], one["gridPos"]["y"]) for one in made] == [
        (1, 0, 0),
        (2, 16, 0),
        (3, 0, 6),
        (4, 12, 6),
        (5, 0, 8),
    ]


def test_one_name_prints_a_dashboard_to_import():
    """Several print an object by uid, and none prints all."""
    assert json.loads(dashboards("stallwatch-run").stdout) == dashboards_of()["stallwatch-run"]
    assert list(json.loads(dashboards(*UIDS).stdout)) == UIDS
    assert list(json.loads(dashboards().stdout)) == UIDS


def test_a_folder_is_filled_with_a_file_each(tmp_path):
    """And nothing goes to standard output."""
    done = dashboards("--out", str(tmp_path / "new"))
    assert done.stdout == ""
    for uid, board in dashboards_of().items():
        assert (tmp_path / "new" / f"{uid}.json").read_text() == file_text(board)


def test_an_unknown_name_is_refused_with_those_that_are():
    """As a usage error."""
    with pytest.raises(
        UsageError, match="there is no dashboard nope: there are stallwatch-overview, stallwatch-run"
    ):
        dashboards("nope")


def test_links_to_the_detector_begin_with_its_address(monkeypatch):
    """Given as an argument or in the environment that the service has too; without, where it listens by default."""

    def address(*arguments: str) -> str:
        variables = json.loads(dashboards("stallwatch-run", *arguments).stdout)["templating"]["list"]
        return next(variable["query"] for variable in variables if variable["name"] == "detector")

    assert address() == Settings.model_fields["external_url"].default
    assert address("--external-url", "https://stallwatch.example.com/") == "https://stallwatch.example.com"
    monkeypatch.setenv("STALLWATCH_EXTERNAL_URL", "https://other.example.com")
    assert address() == "https://other.example.com"
