"""A recording detector: a real gRPC server that stores what agents send and acknowledges it, at once or on command."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

import grpc

from stallwatch.v1 import telemetry_pb2 as wire
from stallwatch.v1 import telemetry_pb2_grpc as services
from support.waiting import TURN_SECONDS, Patience

RankKey = tuple[str, int, int]
"""Run, rank and incarnation."""


@dataclass
class RankRecord:
    """Everything one rank process has sent, in the order of arrival."""

    hellos: list[wire.Hello] = field(default_factory=list)
    batches: list[wire.Batch] = field(default_factory=list)
    """Accepted batches, duplicates left out."""
    duplicates: int = 0
    heartbeats: list[wire.Heartbeat] = field(default_factory=list)
    goodbyes: list[wire.Goodbye] = field(default_factory=list)
    durable: int = 0

    @property
    def steps(self) -> list[int]:
        """Steps received, in order."""
        return [step for batch in self.batches for step in batch.steps.step]

    def column(self, name: str) -> list[Any]:
        """One column of all step batches."""
        return [value for batch in self.batches for value in getattr(batch.steps, name)]

    @property
    def samples(self) -> list[wire.SampledRecord]:
        """Sampled records received, in order."""
        return [sample for batch in self.batches for sample in batch.samples]

    @property
    def dropped(self) -> dict[int, int]:
        """Losses reported, by reason."""
        counts: dict[int, int] = defaultdict(int)
        for batch in self.batches:
            for each in batch.dropped:
                counts[each.reason] += each.count
        return dict(counts)


class TelemetryServer(services.TelemetryServiceServicer):
    """Listens on a local port; may be stopped and started again on the same one, and keeps what it has received."""

    def __init__(
        self,
        *,
        acknowledge: bool = True,
        heartbeat_seconds: float = 0.2,
        token: str | None = None,
        reject: Callable[[wire.Batch], str] | None = None,
        credentials: grpc.ServerCredentials | None = None,
        before: Callable[[wire.StreamRequest], object] | None = None,
    ) -> None:
        self.ranks: dict[RankKey, RankRecord] = defaultdict(RankRecord)
        self.acknowledge = acknowledge
        self.refuse: grpc.StatusCode | None = None
        self.deaf_goodbyes = 0
        """So many goodbyes are not taken: the stream breaks, as when the detector is killed before it has saved one."""
        self.metadata: list[dict[str, Any]] = []
        self._heartbeat_seconds = heartbeat_seconds
        self._token = token
        self._reject = reject
        self.credentials = credentials
        self._before = before
        self._changed = threading.Condition()
        self._broken: set[int] = set()
        self._downstreams: list[SimpleQueue[wire.StreamResponse | None]] = []
        self._server: grpc.Server | None = None
        self.port = 0
        self.start()

    @property
    def endpoint(self) -> str:
        """What to give to `attach`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listens, on the port it had before if there was one."""
        server = grpc.server(
            ThreadPoolExecutor(32),
            options=[("grpc.so_reuseport", 0), ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000)],
        )
        services.add_TelemetryServiceServicer_to_server(self, server)
        address = f"127.0.0.1:{self.port}"
        if self.credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, self.credentials)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Breaks all connections and stops listening."""
        server, self._server = self._server, None
        for queue in self._downstreams:
            queue.put(None)
        self._downstreams.clear()
        if server is not None:
            server.stop(None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def rank(self, rank: int, run: str | None = None) -> RankRecord:
        """The newest process of a rank."""
        found = [key for key in self.ranks if key[1] == rank and run in {None, key[0]}]
        return self.ranks[max(found, key=lambda key: key[2])]

    def wait_for(self, condition: Callable[[TelemetryServer], object], timeout: float = 30.0) -> None:
        """Waits until a condition on what was received holds."""
        patience = Patience(timeout)
        with self._changed:
            while not condition(self):
                if not patience.lasts():
                    message = f"not met in {timeout:g} s; have {[(key, len(each.steps)) for key, each in self.ranks.items()]}"
                    raise TimeoutError(message)
                self._changed.wait(TURN_SECONDS / 2)

    def send(self, response: wire.StreamResponse) -> None:
        """Sends something down every open stream."""
        for queue in self._downstreams:
            queue.put(response)

    def make_durable(self) -> None:
        """Acknowledges everything received so far as safe on disk, and whatever comes from now on."""
        self.acknowledge = True
        for record in self.ranks.values():
            record.durable = max((each.sequence for each in record.batches), default=0)
            accepted = wire.Acknowledgement(accepted_sequence=record.durable, durable_sequence=record.durable)
            self.send(wire.StreamResponse(acknowledgement=accepted))

    def Stream(  # noqa: N802 -- named by the protocol
        self, request_iterator: Iterator[wire.StreamRequest], context: grpc.ServicerContext
    ) -> Iterator[wire.StreamResponse]:
        """One rank's stream."""
        metadata = dict(context.invocation_metadata())
        self.metadata.append(metadata)
        if self.refuse is not None:
            context.abort(self.refuse, "told to refuse")
        if self._token is not None and metadata.get("authorization") != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        responses: SimpleQueue[wire.StreamResponse | None] = SimpleQueue()
        self._downstreams.append(responses)
        threading.Thread(target=self._receive, args=(request_iterator, responses), daemon=True).start()
        yield from iter(responses.get, None)
        if id(responses) in self._broken:
            context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")

    def _receive(
        self, requests: Iterator[wire.StreamRequest], responses: SimpleQueue[wire.StreamResponse | None]
    ) -> None:
        record = RankRecord()
        try:
            for request in requests:
                if self._before is not None:
                    self._before(request)
                with self._changed:
                    record = self._take(request, record, responses)
                    self._changed.notify_all()
        except Exception:
            pass
        finally:
            responses.put(None)

    def _take(
        self,
        request: wire.StreamRequest,
        record: RankRecord,
        responses: SimpleQueue[wire.StreamResponse | None],
    ) -> RankRecord:
        kind = request.WhichOneof("payload")
        if kind == "hello":
            hello = request.hello
            record = self.ranks[hello.run, hello.rank, hello.incarnation]
            record.hellos.append(hello)
            welcome = wire.Welcome(
                protocol_major=1,
                server_version="test",
                durable_sequence=record.durable,
                heartbeat_seconds=self._heartbeat_seconds,
            )
            responses.put(wire.StreamResponse(welcome=welcome))
        elif kind == "batch":
            self._take_batch(request.batch, record, responses)
        elif kind == "heartbeat":
            record.heartbeats.append(request.heartbeat)
        elif kind == "goodbye" and self.deaf_goodbyes:
            self.deaf_goodbyes -= 1
            responses.put(None)
            self._broken.add(id(responses))
        elif kind == "goodbye":
            record.goodbyes.append(request.goodbye)
        return record

    def _take_batch(
        self, batch: wire.Batch, record: RankRecord, responses: SimpleQueue[wire.StreamResponse | None]
    ) -> None:
        fault = self._reject(batch) if self._reject is not None else ""
        if fault:
            rejection = wire.Rejection(sequence=batch.sequence, field=fault, message="rejected by the test")
            responses.put(wire.StreamResponse(rejection=rejection))
            return
        if record.batches and batch.sequence <= record.batches[-1].sequence:
            record.duplicates += 1
        else:
            record.batches.append(batch)
        if self.acknowledge:
            record.durable = max(record.durable, batch.sequence)
        accepted = wire.Acknowledgement(accepted_sequence=batch.sequence, durable_sequence=record.durable)
        responses.put(wire.StreamResponse(acknowledgement=accepted))
