"""Settings: argument over environment over file over default, and errors that say what to do."""

from __future__ import annotations

import pytest

from stallwatch.detector.checks.hang import HangConfig
from stallwatch.detector.errors import UsageError
from stallwatch.detector.service.analysis_settings import analysis_config
from stallwatch.detector.service.settings import load


def test_the_order_is_argument_environment_file_default(tmp_path, monkeypatch):
    """Each wins over what comes after it."""
    file = tmp_path / "stallwatch.toml"
    file.write_text("grpc_port = 1\nhttp_port = 2\nmax_runs = 3\n")
    monkeypatch.setenv("STALLWATCH_GRPC_PORT", "11")
    monkeypatch.setenv("STALLWATCH_HTTP_PORT", "12")
    settings = load({"grpc_port": 21, "http_port": None}, file)
    assert (settings.grpc_port, settings.http_port, settings.max_runs, settings.snapshot_seconds) == (
        21,
        12,
        3,
        1.0,
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("grpc_prot = 1", "there is no setting grpc_prot: the settings are host, grpc_port"),
        ("grpc_port = 70000", "setting grpc_port is 70000"),
        ("max_runs = 'many'", "setting max_runs is 'many'"),
        ("grpc_port = ", "is no TOML"),
        (
            "[analysis.checks.hang]\nflor = 1",
            "there is no setting analysis.checks.hang.flor: the settings are floor",
        ),
        (
            "[analysis.checks.hang]\nfloor_seconds = 'x'",
            "analysis.checks.hang.floor_seconds is 'x': it must be a number",
        ),
        ("[analysis.checks.hang]\nfloor_seconds = 0", "floor_seconds must be above 0"),
        ("[analysis]\ndisabled = ['straggle']", "disabled names no check: straggle"),
    ],
)
def test_a_bad_file_is_refused_by_the_name_of_the_setting(tmp_path, content, says):
    """And by what it should be."""
    file = tmp_path / "stallwatch.toml"
    file.write_text(content)
    with pytest.raises(UsageError) as error:
        load({}, file)
    assert says in str(error.value)


def test_settings_of_the_analysis_come_from_the_file_or_the_environment(tmp_path, monkeypatch):
    """By the names of the checks' own settings; all others stay as they are."""
    file = tmp_path / "stallwatch.toml"
    file.write_text("[analysis]\ndisabled = ['plateau']\n[analysis.checks.hang]\nfloor_seconds = 5\n")
    config = analysis_config(load({}, file).analysis)
    assert (config.checks.hang.floor_seconds, config.checks.hang.factor) == (5.0, HangConfig().factor)
    assert config.disabled == ("plateau",)
    monkeypatch.setenv("STALLWATCH_ANALYSIS", '{"checks": {"hang": {"floor_seconds": 6}}}')
    assert analysis_config(load({}, None).analysis).checks.hang.floor_seconds == 6.0


def test_a_missing_file_is_refused(tmp_path):
    """It was named, so it should be there."""
    with pytest.raises(UsageError, match="there is no such file"):
        load({}, tmp_path / "none.toml")


def test_an_agents_variables_are_not_ours(monkeypatch):
    """The same machine may run a training job."""
    monkeypatch.setenv("STALLWATCH_ENDPOINT", "host:1")
    monkeypatch.setenv("STALLWATCH_RUN", "r")
    assert load({}, None).grpc_port == 9846


@pytest.mark.parametrize("disabled", [[0], [1.5], [["hang"]], [{}]])
def test_what_is_no_name_of_a_check_is_refused(disabled):
    """In words that name the setting; found by fuzzing."""
    with pytest.raises(UsageError, match="disabled names no check"):
        analysis_config({"disabled": disabled})
