"""Settings of direct outputs: off by default, refused by name, and secrets stay secret."""

from __future__ import annotations

import pytest

from stallwatch.detector.errors import UsageError
from stallwatch.detector.service.settings import load

SECRET = "https://hooks.example.com/T0/B0/s3cret"


def test_nothing_is_sent_unless_told():
    """And links lead to this machine."""
    settings = load({}, None)
    assert (settings.alerts.alertmanagers, settings.alerts.webhooks) == ((), ())
    assert settings.external_url == "http://localhost:9847"


def test_outputs_come_from_the_file_or_the_environment(tmp_path, monkeypatch):
    """And are not shown when settings are printed."""
    file = tmp_path / "stallwatch.toml"
    file.write_text(f'[alerts]\nalertmanagers = ["http://am:9093"]\n[[alerts.webhooks]]\nurl = "{SECRET}"\n')
    settings = load({}, file)
    assert settings.alerts.webhooks[0].address() == SECRET
    assert "s3cret" not in repr(settings)
    monkeypatch.setenv("STALLWATCH_ALERTS", f'{{"webhooks": [{{"url": "{SECRET}", "format": "slack"}}]}}')
    assert load({}, None).alerts.webhooks[0].format == "slack"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "[alerts]\nwebhook = []",
            "no setting alerts.webhook: the settings are alertmanagers, resend_seconds",
        ),
        (
            f'[[alerts.webhooks]]\nuri = "{SECRET}"',
            "no setting alerts.webhooks.0.uri: the settings are url, url_file",
        ),
        ("[[alerts.webhooks]]\nformat = 'json'", "a webhook needs one of url and url_file"),
        (f"[[alerts.webhooks]]\nurl = '{SECRET}'\nformat = 'xml'", "setting alerts.webhooks.0.format"),
        (
            "[[alerts.webhooks]]\nurl = 's3cret'",
            "setting alerts.webhooks.0.url: value error, it must be an address",
        ),
        ("[alerts]\nalertmanagers = ['s3cret:9093']", "setting alerts.alertmanagers: value error"),
        ("external_url = 'stallwatch'", "setting external_url is 'stallwatch'"),
    ],
)
def test_a_bad_output_is_refused_by_name_without_its_secret(tmp_path, content, says):
    """The message says what would be right."""
    file = tmp_path / "stallwatch.toml"
    file.write_text(content)
    with pytest.raises(UsageError) as error:
        load({}, file)
    assert says in str(error.value)
    assert "s3cret" not in str(error.value)
