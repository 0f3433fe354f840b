"""The gRPC server that agents talk to."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from stallwatch.detector.auth.access import Principal, Scope
from stallwatch.detector.auth.gate import Gate, Session
from stallwatch.detector.auth.throttle import Throttle
from stallwatch.detector.auth.tls import TlsFiles
from stallwatch.detector.errors import (
    AnalyzerLostError,
    InvalidInputError,
    StoreError,
    TooManyRunsError,
    TooManyStreamsError,
    UnauthenticatedError,
    UsageError,
)
from stallwatch.detector.ingest import limits
from stallwatch.detector.ingest.admission import Admission
from stallwatch.detector.ingest.channel import RunChannel
from stallwatch.detector.ingest.quota import Meter, Quotas, metered
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.ingest.stream import NO_MESSAGE, RankStream
from stallwatch.detector.ingest.validate import check_hello
from stallwatch.v1 import telemetry_pb2 as pb
from stallwatch.v1 import telemetry_pb2_grpc

SERVICE = "stallwatch.v1.TelemetryService"
HELLO_SECONDS = 30.0
"""A stream that says nothing for so long is ended."""
KEEPALIVE_SECONDS = 30
"""A rank whose machine lost power is noticed after this and the next."""
KEEPALIVE_TIMEOUT_SECONDS = 10
LEAST_PING_INTERVAL_SECONDS = 5
SPARE_STREAMS = 1000
"""Beyond the limit: for health checks, and for those that are told of the limit."""
STREAM_SECONDS = 0.001
"""Of the event loop, about what gRPC takes to open and end a stream, which cannot be measured from here."""
MOST_PATTERNS_SHOWN = 8

log = logging.getLogger(__name__)


class Channels(Protocol):
    """Where the gateway gets the channel of a run from."""

    async def open_channel(self, run: str, account: Principal) -> RunChannel:
        """The channel of a run, its analyzer running; whose it is when it was not watched yet."""
        ...


class Gateway(telemetry_pb2_grpc.TelemetryServiceServicer):
    """Takes streams, checks who speaks, and lets a `RankStream` carry each."""

    def __init__(
        self,
        channels: Channels,
        statistics: IngestStatistics,
        admission: Admission,
        quotas: Quotas,
        gate: Gate | None = None,
    ) -> None:
        self._channels = channels
        self._statistics = statistics
        self._admission = admission
        self._quotas = quotas
        self._gate = gate if gate is not None else Gate()
        self._throttle = Throttle()
        self._sessions: dict[RankStream, Session] = {}
        self._closing = False

    def close(self) -> None:
        """Take no new streams."""
        self._closing = True

    def review(self) -> None:
        """End the streams of those whose token was revoked, has expired, or is no longer for their run."""
        now: dict[bytes, Principal | UnauthenticatedError] = {}
        for stream, session in tuple(self._sessions.items()):
            if session.digest not in now:
                now[session.digest] = self._renewed(session)
            found = now[session.digest]
            if isinstance(found, UnauthenticatedError):
                stream.dismiss(grpc.StatusCode.UNAUTHENTICATED, str(found))
            elif not found.may(Scope.WRITE, stream.run):
                stream.dismiss(grpc.StatusCode.PERMISSION_DENIED, _not_allowed(found, stream.run))

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: ARG002, N802
        """Carry one rank's stream."""
        self._statistics.streams += 1
        self._statistics.streams_total += 1
        try:
            if self._closing:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the detector is shutting down")
            newcomer = self._quotas.newcomers(_host(context))
            newcomer.charge(STREAM_SECONDS)
            session = await self._authenticate(context)
            hello = await metered(newcomer, self._read_hello(context, newcomer))
            await self._permit(session, hello.run, context)
            account = session.principal
            try:
                with self._admission.admit(account.name, hello.run, max_of_account=account.max_streams):
                    channel = await self._open(hello, account, context)
                    # Opening takes seconds, in which a token may be revoked.
                    await self._permit(session, hello.run, context)
                    meter = self._quotas.of(
                        account.name, hello.run, account_bytes_per_second=account.max_bytes_per_second
                    )
                    stream = RankStream(context, hello, channel, self._statistics, meter=meter)
                    await self._carry(stream, session)
            except TooManyStreamsError as error:
                await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, error.reason, str(error))
            except AnalyzerLostError as error:
                await self._refuse(context, grpc.StatusCode.UNAVAILABLE, "analyzer_unavailable", str(error))
        finally:
            self._statistics.streams -= 1

    async def _carry(self, stream: RankStream, session: Session) -> None:
        """Let a stream run, in sight of `review`."""
        self._sessions[stream] = session
        try:
            await stream.serve()
        finally:
            del self._sessions[stream]

    async def _authenticate(self, context: Any) -> Session:
        sent = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        try:
            # Two of them: whoever sits in between may have read the other one.
            return self._gate.authenticate(sent[0] if len(sent) == 1 else None)
        except UnauthenticatedError as error:
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", str(error))
            raise AssertionError("abort raises") from error

    async def _permit(self, session: Session, run: str, context: Any) -> None:
        found = self._renewed(session)
        if isinstance(found, UnauthenticatedError):
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", str(found))
        elif not found.may(Scope.WRITE, run):
            refuse = grpc.StatusCode.PERMISSION_DENIED
            await self._refuse(context, refuse, "permission", _not_allowed(found, run))

    def _renewed(self, session: Session) -> Principal | UnauthenticatedError:
        try:
            return self._gate.renew(session)
        except UnauthenticatedError as error:
            return error

    async def _read_first(self, context: Any) -> Any:
        """The first message of a stream; None when there was none in time."""
        reading = asyncio.create_task(context.read())
        with self._admission.unknown() as leave:
            leaving = asyncio.create_task(leave.wait())
            try:
                await asyncio.wait(
                    {reading, leaving}, timeout=HELLO_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                leaving.cancel()
                if not reading.done():
                    reading.cancel()
        return reading.result() if reading.done() else None

    async def _read_hello(self, context: Any, newcomer: Meter) -> pb.Hello:
        refuse = grpc.StatusCode.INVALID_ARGUMENT
        await newcomer.turn()
        message = await self._read_first(context)
        if message is None:
            await self._refuse(
                context,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "no_hello",
                f"no hello within {HELLO_SECONDS:.0f} s, or too many streams that have said none",
            )
        try:
            request = pb.StreamRequest.FromString(message if message is not grpc.aio.EOF else b"")
        except DecodeError:
            await self._refuse(context, refuse, "no_hello", NO_MESSAGE)
        if request.WhichOneof("payload") != "hello":
            await self._refuse(context, refuse, "no_hello", "the first message of a stream must be hello")
        self._statistics.messages["hello"] += 1
        hello: pb.Hello = request.hello
        if hello.protocol_major != limits.PROTOCOL_MAJOR:
            await self._refuse(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                "protocol",
                f"hello.protocol_major is {hello.protocol_major}: this detector speaks {limits.PROTOCOL_MAJOR}; "
                "install an agent and a detector of the same major version",
            )
        try:
            check_hello(hello)
        except InvalidInputError as error:
            await self._refuse(context, refuse, "invalid_hello", str(error))
        return hello

    async def _open(self, hello: pb.Hello, account: Principal, context: Any) -> RunChannel:
        try:
            return await self._channels.open_channel(hello.run, account)
        except TooManyRunsError as error:
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many_runs", str(error))
        except (AnalyzerLostError, StoreError) as error:
            await self._refuse(context, grpc.StatusCode.UNAVAILABLE, "analyzer_unavailable", str(error))
        raise AssertionError("abort raises")

    async def _refuse(self, context: Any, code: grpc.StatusCode, reason: str, message: str) -> None:
        self._statistics.streams_refused[reason] += 1
        # Whoever knocks without a token must not fill the log.
        if reason != "unauthenticated" or self._throttle.fail(_host(context)):
            log.info("stream of %s refused: %s", context.peer(), message)
        await context.abort(code, message)


def _not_allowed(principal: Principal, run: str) -> str:
    if not principal.has(Scope.WRITE):
        return f"token {principal.name} has no scope {Scope.WRITE.value}: it cannot send telemetry"
    known = ", ".join(principal.runs[:MOST_PATTERNS_SHOWN])
    more = ", ..." if len(principal.runs) > MOST_PATTERNS_SHOWN else ""
    return f"token {principal.name} is not for run {run!r}: its runs are {known}{more}"


def _host(context: Any) -> str:
    """Of a stream's other end, without the port, which every connection has its own of."""
    peer: str = context.peer()
    return peer.rpartition(":")[0]


class GatewayServer:
    """The server with its health service; listening from `start` to `stop`."""

    def __init__(self, gateway: Gateway, *, max_streams: int, tls: TlsFiles | None = None) -> None:
        self._gateway = gateway
        self._tls = tls
        self._server = grpc.aio.server(
            # Above the limit of streams, which are refused with a sentence; beyond this, without.
            maximum_concurrent_rpcs=max_streams + SPARE_STREAMS,
            options=(
                ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", max_streams + SPARE_STREAMS),
                ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", LEAST_PING_INTERVAL_SECONDS * 1000),
                # Two services on one port would each get half of the ranks.
                ("grpc.so_reuseport", 0),
            ),
        )
        # Messages come as bytes: how much one unfolds to, and whose turn it is, is looked at before it is parsed.
        stream: Any = grpc.stream_stream_rpc_method_handler(
            gateway.Stream, response_serializer=pb.StreamResponse.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Stream": stream}),)
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which is a free one when 0 was asked for."""
        shown = f"[{host}]" if ":" in host else host
        try:
            bound = self._listen(f"{shown}:{port}")
        except RuntimeError as error:
            raise UsageError(
                f"cannot listen on {shown}:{port} for gRPC: the port is in use or not allowed; choose another --grpc-port"
            ) from error
        await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return bound

    def _listen(self, address: str) -> int:
        if self._tls is None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, _credentials(self._tls)))

    async def stop_accepting(self) -> None:
        """Say to health checks and new streams that this is ending."""
        self._gateway.close()
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """End what is left after the grace."""
        await self._server.stop(grace_seconds)


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Each connection gets the certificate of the moment at which it begins."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        material = tls.material
        return grpc.ssl_server_certificate_configuration(
            [(material.key, material.certificate)], root_certificates=material.client_ca
        )

    return grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, require_client_authentication=tls.needs_client
    )
