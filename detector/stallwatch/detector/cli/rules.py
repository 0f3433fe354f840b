"""`stallwatch rules`."""

from __future__ import annotations

from typing import Annotated

import typer

from stallwatch.detector.alerts.naming import DEFAULT_EXTERNAL_URL
from stallwatch.detector.cli.api import ExternalUrlOption


def rules(
    external_url: ExternalUrlOption = DEFAULT_EXTERNAL_URL,
    grafana_url: Annotated[
        str | None,
        typer.Option(
            envvar="STALLWATCH_GRAFANA_URL",
            metavar="URL",
            help="Where people reach Grafana, for links to dashboards.",
        ),
    ] = None,
    pending: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="DURATION", help="How long a finding fires before any alert does, like 2m."
        ),
    ] = None,
    keep_firing_for: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="How long any alert goes on when its finding does not, like 5m."
        ),
    ] = None,
) -> None:
    """Print the alerting and recording rules for Prometheus, as YAML.

    Without --for and --keep-firing-for each alert has durations of its own.

    Example: `stallwatch rules --external-url https://stallwatch.example.com > stallwatch.rules.yaml`.
    """
    from stallwatch.detector.alerts.naming import Links
    from stallwatch.detector.mixin.rules import rules_yaml
    from stallwatch.detector.mixin.shape import check_duration

    waits = None if pending is None else check_duration(pending, "--for")
    keeps = None if keep_firing_for is None else check_duration(keep_firing_for, "--keep-firing-for")
    typer.echo(rules_yaml(Links(external_url, grafana_url), waits, keeps), nl=False)
