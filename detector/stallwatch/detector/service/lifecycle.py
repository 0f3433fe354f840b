"""The service from start to end: store, Ray, gateway, HTTP; and back in reverse."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from stallwatch.detector.alerts.center import AlertCenter
from stallwatch.detector.alerts.naming import Links
from stallwatch.detector.auth.gate import Gate
from stallwatch.detector.auth.tls import TlsFiles
from stallwatch.detector.auth.watch import watch
from stallwatch.detector.core.findings import Finding
from stallwatch.detector.core.views import RunView
from stallwatch.detector.engine import cluster
from stallwatch.detector.engine.client import Analyzers
from stallwatch.detector.engine.cluster import Cluster
from stallwatch.detector.engine.cores import cores
from stallwatch.detector.engine.messages import AnalyzerSettings
from stallwatch.detector.errors import RayLostError, StoreError, UsageError
from stallwatch.detector.http.app import create_app
from stallwatch.detector.http.collector import Exposed
from stallwatch.detector.http.fair import FairShares
from stallwatch.detector.http.render import finding_json, plain
from stallwatch.detector.http.server import HttpServer, bind
from stallwatch.detector.ingest.admission import Admission
from stallwatch.detector.ingest.gateway import Gateway, GatewayServer
from stallwatch.detector.ingest.quota import OWNER_SHARE, Quotas, metered, owner_share
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.service import garbage
from stallwatch.detector.service.analysis_settings import analysis_config
from stallwatch.detector.service.counters import alert_samples, own_samples, run_samples, snapshot_samples
from stallwatch.detector.service.ending import end_by_force
from stallwatch.detector.service.loop import run
from stallwatch.detector.service.readiness import Readiness
from stallwatch.detector.service.runs import Runs
from stallwatch.detector.service.settings import EXPOSED, Settings
from stallwatch.detector.store import Store, sqlite_url
from stallwatch.detector.trouble import Trouble
from stallwatch.detector.version import VERSION

SERVICE_FILE = "service.json"
STREAM_GRACE_SECONDS = 1.0
RAY_SECONDS = 5.0
"""Between two looks whether Ray is still there."""
HEAD_SECONDS = 30.0
"""How long the head of a Ray cluster may be away."""
FORCE_SECONDS = 20.0
"""After the time for an end in order: for Ray to let go, which it may never do when its cluster is gone."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the service listens."""

    host: str
    grpc_port: int
    http_port: int
    grpc_scheme: str
    """`https` where there is TLS, as in an agent's endpoint."""
    http_scheme: str


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    _silence()
    run(_serve(settings))


def open_store(settings: Settings) -> Store:
    """The store that the settings name, ready."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        probe = settings.data_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write to {settings.data_dir} ({error.strerror}): choose another --data-dir"
        ) from error
    try:
        store = Store(settings.store_url or sqlite_url(settings.data_dir))
        store.prepare()
    except StoreError as error:
        raise UsageError(str(error)) from error
    return store


async def _serve(settings: Settings) -> None:
    stopped = asyncio.Event()
    gate = Gate(settings.tokens, open_read=settings.open_read)
    tls = TlsFiles(settings.tls_paths) if settings.tls_paths is not None else None
    store = open_store(settings)
    # Before Ray, which takes seconds, and in our words: gRPC writes its own to standard error.
    bind(settings.host, settings.grpc_port, "--grpc-port").close()
    http_socket = bind(settings.host, settings.http_port)
    statistics = IngestStatistics()
    try:
        ray = cluster.start(cluster.chosen_address(settings.ray_address))
        # After Ray, which would put its own handlers in their place.
        _on_signals(stopped.set)
        quotas = _quotas(statistics, settings, ray)
        runs = Runs(store, _analyzers(ray, store, settings), statistics, settings, quotas)
        admission = Admission(settings.max_streams, settings.max_ranks_per_run)
        streams = Gateway(runs, statistics, admission, quotas, gate)
        gateway = GatewayServer(streams, max_streams=settings.max_streams, tls=tls)

        readiness = Readiness(store.url, stopped.is_set, in_full=gate.is_open)

        def shown() -> Iterator[tuple[RunView, Sequence[Finding]]]:
            return ((result.view, result.findings) for result in runs.shown())

        links = Links(settings.external_url, settings.grafana_url)
        alerts = AlertCenter(
            store, settings.alerts, links, lambda finding: plain(finding_json(finding)), shown
        )

        def expose() -> Exposed:
            watched = runs.shown()
            own = (
                *own_samples(statistics, len(watched), runs.restarts),
                *run_samples(runs.evictions, runs.memory_bytes()),
                *snapshot_samples(runs.snapshots, watched),
                *alert_samples(alerts.statistics, *alerts.counts()),
            )
            return Exposed(watched, own, alerts.sentences(), alerts.silenced())

        http = HttpServer(
            create_app(
                runs,
                expose,
                readiness.problems,
                alerts=alerts,
                links=links,
                gate=gate,
                secure=settings.is_read_by_https,
                notes=lambda: _notes(gate, tls),
                fair=Middleware(FairShares, turns_of=quotas.readers, carry=metered),
            ),
            tls.server_context() if tls is not None and settings.http_tls else None,
        )
        grpc_port = await gateway.start(settings.host, settings.grpc_port)
        await runs.start()
        await alerts.start()
        await http.start(http_socket)
        garbage.prepare()
        _announce(_addresses(settings, grpc_port, http_socket), settings.data_dir, ray, store)
        if settings.is_exposed:
            log.warning(EXPOSED.format(host=settings.host))
        rotated = (gate, tls) if tls is not None else (gate,)
        try:
            ray_problem = await _until_stopped(
                stopped, ray, watch(rotated, streams.review), garbage.collect_regularly()
            )
            end_by_force(settings.shutdown_seconds + FORCE_SECONDS)
            await _shut_down(runs, gateway, http, alerts, settings.shutdown_seconds)
            if ray_problem is not None:
                raise RayLostError(f"{ray_problem}: start the detector again; agents send what was not saved")
        finally:
            readiness.close()
            (settings.data_dir / SERVICE_FILE).unlink(missing_ok=True)
    finally:
        http_socket.close()
        cluster.stop()
        store.close()


def _quotas(statistics: IngestStatistics, settings: Settings, ray: Cluster) -> Quotas:
    return Quotas(
        statistics.throttled,
        statistics.readers_throttled,
        run_bytes_per_second=settings.max_run_mib_per_second * 1024 * 1024,
        owner_share=owner_share(cores()) if ray.embedded else OWNER_SHARE,
    )


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)


async def _until_stopped(
    stopped: asyncio.Event, ray: Cluster, *watching: Coroutine[Any, Any, None]
) -> str | None:
    """Wait for the end, with an eye on Ray and on `watching`; return what is wrong with Ray when that is why it ends."""
    ray_gone = asyncio.create_task(_ray_gone(stopped, ray), name="ray")
    others = [asyncio.create_task(each) for each in watching]
    try:
        await stopped.wait()
        return ray_gone.result() if ray_gone.done() else None
    finally:
        for task in (ray_gone, *others):
            task.cancel()


async def _ray_gone(stopped: asyncio.Event, ray: Cluster) -> str:
    """Stop the service when its Ray is gone, and say why: whoever started it starts it again."""
    heard_at = time.monotonic()
    trouble = Trouble(log)
    while True:
        await asyncio.sleep(RAY_SECONDS)
        if not await asyncio.to_thread(cluster.head_answers, ray.address):
            # It may come back. For much longer Ray does not wait: it would end this process without a word.
            if (away := time.monotonic() - heard_at) > HEAD_SECONDS:
                sentence = f"the head of Ray at {ray.address} has been away for {away:.0f} s"
                log.error("%s: the detector ends; start it again when the cluster is there", sentence)
                stopped.set()
                return sentence
            continue
        heard_at = time.monotonic()
        try:
            reason = await asyncio.to_thread(cluster.lost)
        except Exception as error:
            # The head may be away for a while; that the node is gone is known from it only.
            trouble.failed(f"Ray does not answer: {error}")
            continue
        trouble.over("Ray answers")
        if reason is not None:
            stopped.set()
            return reason


async def _shut_down(
    runs: Runs, gateway: GatewayServer, http: HttpServer, alerts: AlertCenter, seconds: float
) -> None:
    log.info("shutting down")
    await gateway.stop_accepting()
    await alerts.stop()
    await runs.stop(seconds)
    await gateway.stop(STREAM_GRACE_SECONDS)
    await http.stop()


def _analyzers(ray: Cluster, store: Store, settings: Settings) -> Analyzers:
    record = str(settings.record.resolve()) if settings.record is not None else None
    analyzer_settings = AnalyzerSettings(
        store_url=store.url,
        snapshot_seconds=settings.snapshot_seconds,
        record_directory=record,
        version=VERSION,
    )
    return Analyzers(ray, store, analyzer_settings, analysis_config(settings.analysis))


def _notes(gate: Gate, tls: TlsFiles | None) -> list[str]:
    """What does not keep the service from being ready, and has to be put right all the same. Everybody may read it."""
    found = []
    if gate.problem is not None:
        found.append("the tokens file cannot be used as it is now: the tokens read before hold")
    if tls is not None and tls.problem is not None:
        found.append(
            "the certificate's files cannot be used as they are now: the certificate read before is shown"
        )
    return [f"warning: {each}, and the log says why" for each in found]


def _addresses(settings: Settings, grpc_port: int, http_socket: socket.socket) -> Addresses:
    http_port = http_socket.getsockname()[1]
    grpc_scheme = "http" if settings.tls_paths is None else "https"
    return Addresses(settings.host, grpc_port, http_port, grpc_scheme, settings.http_scheme)


def _announce(addresses: Addresses, directory: Path, ray: Cluster, store: Store) -> None:
    host = f"[{addresses.host}]" if ":" in addresses.host else addresses.host
    where = "embedded Ray" if ray.embedded else f"Ray at {ray.address}"
    sys.stderr.write(
        f"stallwatch {VERSION}: agents to {host}:{addresses.grpc_port}, page and metrics at "
        f"{addresses.http_scheme}://{host}:{addresses.http_port}, data in {store.shown_url}, {where}\n"
    )
    sys.stderr.flush()
    content = {
        "pid": os.getpid(),
        "host": addresses.host,
        "grpc_port": addresses.grpc_port,
        "http_port": addresses.http_port,
        "grpc_scheme": addresses.grpc_scheme,
        "http_scheme": addresses.http_scheme,
        "version": VERSION,
    }
    # Written whole or not at all: whoever waits for it reads it the moment it is there.
    temporary = directory / f"{SERVICE_FILE}.new"
    temporary.write_text(json.dumps(content) + "\n")
    temporary.replace(directory / SERVICE_FILE)


def _silence() -> None:
    """Our log goes to standard error; other libraries speak up only when something is wrong.

    What Ray prints, and its children inherit, goes there too: standard output is for data.
    """
    os.dup2(sys.stderr.fileno(), 1)
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("stallwatch").setLevel(logging.INFO)
