"""`stallwatch serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def serve(
    grpc_port: Annotated[
        int | None, typer.Option(help="Port that agents stream to; 0 takes a free one.  [default: 9846]")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of page, API and /metrics; 0 takes a free one.  [default: 9847]")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.  [default: 127.0.0.1]"),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for what must outlive the service.")
    ] = None,
    store_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Store, as an SQLAlchemy URL.  [default: SQLite in --data-dir]"),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Head of an existing Ray cluster to run the analyzers on.  [default: RAY_ADDRESS, else an embedded Ray]",
        ),
    ] = None,
    external_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where people reach the detector, for links in alerts.  [default: http://localhost:9847]",
        ),
    ] = None,
    grafana_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where people reach Grafana, for links to dashboards.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings as TOML; arguments and environment win over it."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Record what each run's analyzer is fed, for replaying."),
    ] = None,
    max_runs: Annotated[
        int | None, typer.Option(help="Runs watched at the same time.  [default: 64]")
    ] = None,
    snapshot_seconds: Annotated[
        float | None, typer.Option(help="Least time between two snapshots of a run.  [default: 1]")
    ] = None,
    finished_run_seconds: Annotated[
        float | None,
        typer.Option(help="How long a finished run stays in memory and in /metrics.  [default: 900]"),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Who may write, read and administer which runs; see `stallwatch token`.  [default: nobody is asked]",
        ),
    ] = None,
    open_read: Annotated[
        bool | None,
        typer.Option("--open-read", help="Let page, API and /metrics be read without a token."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="PEM certificate, with its chain, for gRPC and HTTP.  [default: no TLS]"
        ),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM key of the certificate.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Authorities, as PEM, one of which must have signed agents' certificates."
        ),
    ] = None,
    http_tls: Annotated[
        bool | None,
        typer.Option(
            "--http-tls/--no-http-tls", help="Whether HTTP has TLS as well, with --tls-cert.  [default: yes]"
        ),
    ] = None,
) -> None:
    """Run the detector until it is told to stop by SIGTERM or Ctrl-C.

    Every setting is also an environment variable: STALLWATCH_ and its name in capitals, like STALLWATCH_GRPC_PORT.

    Examples: `stallwatch serve`, `stallwatch serve --host 0.0.0.0 --data-dir /var/lib/stallwatch`.
    """
    # Read when gRPC is imported: it would write two lines for every stranger whose handshake fails.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from stallwatch.detector.service.lifecycle import serve as run_service
    from stallwatch.detector.service.settings import load

    arguments = {
        "grpc_port": grpc_port,
        "http_port": http_port,
        "host": host,
        "data_dir": data_dir,
        "store_url": store_url,
        "ray_address": ray_address,
        "record": record,
        "max_runs": max_runs,
        "snapshot_seconds": snapshot_seconds,
        "external_url": external_url,
        "grafana_url": grafana_url,
        "finished_run_seconds": finished_run_seconds,
        "tokens": tokens,
        "open_read": open_read,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "http_tls": http_tls,
    }
    run_service(load(arguments, config))
