"""A rank that speaks the real protocol and keeps what is not durable, without a training job behind it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from stallwatch.v1 import telemetry_pb2 as pb
from stallwatch.v1 import telemetry_pb2_grpc
from support.waiting import TURN_SECONDS, Patience

RECONNECT_SECONDS = 0.1


def hello(run: str, rank: int = 0, world_size: int = 1, **fields: Any) -> pb.Hello:
    """A `Hello` as an agent would send it."""
    given: dict[str, Any] = {
        "run": run,
        "rank": rank,
        "world_size": world_size,
        "local_rank": rank,
        "local_world_size": world_size,
        "incarnation": 1_700_000_000_000_000_000 + rank,
        "hostname": "testhost",
        "pid": 1000 + rank,
        "protocol_major": 1,
        "parallelism": pb.PARALLELISM_DATA_PARALLEL,
        "backend": "gloo",
        "device": "cpu",
        "model": "Net",
        "optimizer": "SGD",
        **fields,
    }
    return pb.Hello(**given)


def healthy_loss(step: int) -> float:
    """A loss that falls like that of a model that learns, with noise that is the same every time."""
    noise = (step * 2_654_435_761 % 1_000) / 1_000 - 0.5
    return (1.0 + 3.0 / (1.0 + step / 50.0)) * (1.0 + 0.02 * noise)


def steps(first: int, count: int, loss: float | None = None, samples: float = 8.0) -> pb.StepBatch:
    """Consecutive healthy steps, or ones of a given loss."""
    losses = [healthy_loss(step) if loss is None else loss for step in range(first, first + count)]
    return pb.StepBatch(
        step=range(first, first + count),
        loss_sum=[each * samples for each in losses],
        samples=[samples] * count,
        micro_batches=[1] * count,
        learning_rate=[0.1] * count,
        learning_rate_groups=1,
        step_seconds=[0.1] * count,
        input_seconds=[0.01] * count,
        forward_seconds=[0.03] * count,
        backward_seconds=[0.04] * count,
        sync_seconds=[0.01] * count,
        optimizer_seconds=[0.01] * count,
        optimizer_steps=[1] * count,
    )


class Access:
    """How a rank reaches a detector that wants TLS, a certificate or a token; files are read at each connection."""

    def __init__(
        self,
        token: str | Path | None = None,
        ca: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._token = token
        self._ca = ca
        self._certificate = certificate
        self._metadata = tuple(metadata)

    def channel(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """A channel of its own."""
        if self._ca is None:
            return grpc.insecure_channel(address, options=list(options))
        chain, key = (path.read_bytes() for path in self._certificate) if self._certificate else (None, None)
        credentials = grpc.ssl_channel_credentials(self._ca.read_bytes(), key, chain)
        return grpc.secure_channel(
            address, credentials, options=[("grpc.use_local_subchannel_pool", 1), *options]
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a stream."""
        token = self._token.read_text().strip() if isinstance(self._token, Path) else self._token
        return (*(() if token is None else (("authorization", f"Bearer {token}"),)), *self._metadata)


class Stream:
    """One stream, message by message."""

    def __init__(
        self, address: str, *, options: Sequence[tuple[str, Any]] = (), access: Access | None = None
    ) -> None:
        access = access if access is not None else Access()
        self._channel = access.channel(address, options)
        self._requests: queue.SimpleQueue[pb.StreamRequest | None] = queue.SimpleQueue()
        self.call = telemetry_pb2_grpc.TelemetryServiceStub(self._channel).Stream(
            iter(self._requests.get, None), metadata=access.metadata()
        )

    def __enter__(self) -> Stream:
        """Nothing to do: the stream is open."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Drop the connection, as a process that dies would."""
        self._requests.put(None)
        self.call.cancel()
        self._channel.close()

    def send(self, **payload: Any) -> None:
        """Send one message: `hello=`, `batch=`, `heartbeat=` or `goodbye=`."""
        self._requests.put(pb.StreamRequest(**payload))

    def close_sending(self) -> None:
        """Say that nothing more comes."""
        self._requests.put(None)

    def receive(self, *kinds: str) -> Any:
        """The next message of one of these kinds, others left out; raises `grpc.RpcError` when the stream ended."""
        for response in self.call:
            kind = response.WhichOneof("payload")
            if not kinds or kind in kinds:
                return getattr(response, kind)
        raise AssertionError(f"the stream ended well, and without {kinds}")

    def outcome(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended, once it has."""
        try:
            for _response in self.call:
                pass
        except grpc.RpcError:
            pass
        return self.call.code(), self.call.details()


class Rank:
    """Sends batches in the background, keeps them until they are durable, and sends them again after a reconnect."""

    def __init__(self, address: str, greeting: pb.Hello, access: Access | None = None) -> None:
        self.address = address
        self._access = access if access is not None else Access()
        self.hello = greeting
        self.accepted = self.durable = self.connections = 0
        self.notices: list[pb.FindingNotice] = []
        self.rejections: list[pb.Rejection] = []
        self._unsafe: dict[int, pb.Batch] = {}
        self._sequence = 0
        self._goodbye: pb.Goodbye | None = None
        self._patient = False
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, step_batch: pb.StepBatch | None = None, **fields: Any) -> int:
        """Queue a batch; return its sequence."""
        with self._changed:
            self._sequence += 1
            self._unsafe[self._sequence] = pb.Batch(sequence=self._sequence, steps=step_batch, **fields)
            self._changed.notify_all()
            return self._sequence

    def wait_durable(self, sequence: int | None = None, seconds: float = 60.0) -> None:
        """Wait until a batch (all, when not said) is safe on the detector's disk."""
        target = self._sequence if sequence is None else sequence
        patience = Patience(seconds)
        with self._changed:
            while self.durable < target:
                assert patience.lasts(), f"rank {self.hello.rank}: durable {self.durable} of {target}"
                self._changed.wait(TURN_SECONDS / 2)

    def wait_accepted(self, sequence: int | None = None, seconds: float = 60.0) -> None:
        """Wait until a batch (all, when not said) was analyzed."""
        target = self._sequence if sequence is None else sequence
        patience = Patience(seconds)
        with self._changed:
            while self.accepted < target:
                assert patience.lasts(), f"rank {self.hello.rank}: accepted {self.accepted} of {target}"
                self._changed.wait(TURN_SECONDS / 2)

    def finish(self, reason: str = "finished") -> None:
        """Say goodbye once everything is durable, and end."""
        self.wait_durable()
        with self._changed:
            self._goodbye = pb.Goodbye(reason=reason, last_step=0)
            self._changed.notify_all()
        self._thread.join(30)

    def leave(self, seconds: float) -> None:
        """End as an agent does: goodbye after the last batch, and again until the detector has both on its disk."""
        with self._changed:
            self._goodbye, self._patient = pb.Goodbye(reason="finished", last_step=0), True
            self._changed.notify_all()
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise AssertionError(
                f"rank {self.hello.rank}: durable {self.durable} of {self._sequence}, no end"
            )

    def vanish(self) -> None:
        """End without a word."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._ended:
            with self._access.channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                try:
                    self._stream(telemetry_pb2_grpc.TelemetryServiceStub(channel))
                except grpc.RpcError:
                    time.sleep(RECONNECT_SECONDS)

    def _stream(self, stub: Any) -> None:
        welcomed = threading.Event()
        over = threading.Event()
        call = stub.Stream(self._requests(welcomed, over), metadata=self._access.metadata())
        try:
            for response in call:
                self._take(response, welcomed)
                if self._ended:
                    return
            # It ends a stream well only when what came before a goodbye is safe.
            self._ended = self._ended or self._patient
        finally:
            over.set()
            welcomed.set()
            with self._changed:
                self._changed.notify_all()
            call.cancel()

    def _take(self, response: pb.StreamResponse, welcomed: threading.Event) -> None:
        with self._changed:
            match response.WhichOneof("payload"):
                case "welcome":
                    self.connections += 1
                    self._forget(response.welcome.durable_sequence)
                    welcomed.set()
                case "acknowledgement":
                    self.accepted = max(self.accepted, response.acknowledgement.accepted_sequence)
                    self._forget(response.acknowledgement.durable_sequence)
                case "rejection":
                    self.rejections.append(response.rejection)
                case "finding":
                    self.notices.append(response.finding)
            self._changed.notify_all()

    def _forget(self, durable: int) -> None:
        self.durable = max(self.durable, durable)
        for sequence in [sequence for sequence in self._unsafe if sequence <= self.durable]:
            del self._unsafe[sequence]

    def _requests(self, welcomed: threading.Event, over: threading.Event) -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(hello=self.hello)
        welcomed.wait()
        sent = self.durable

        def due() -> bool:
            return over.is_set() or self._ended or self._sequence > sent or self._goodbye is not None

        while not over.is_set() and not self._ended:
            with self._changed:
                self._changed.wait_for(due, 1.0)
                batches = [batch for sequence, batch in sorted(self._unsafe.items()) if sequence > sent]
            for batch in batches:
                sent = batch.sequence
                yield pb.StreamRequest(batch=batch)
            if self._goodbye is not None and not batches:
                self._ended = not self._patient
                yield pb.StreamRequest(goodbye=self._goodbye)
                return
            beat = pb.Heartbeat(sent_unix_seconds=time.time(), phase=pb.PHASE_FORWARD, last_step=-1)
            beat.ddp_iteration = beat.collectives = -1
            yield pb.StreamRequest(heartbeat=beat)
