"""One open stream: the reading, checking and queueing of what a rank sends, and the sending of what it is to know."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from stallwatch.detector.engine.messages import Progress, RankKey
from stallwatch.detector.errors import AnalyzerLostError, InvalidInputError
from stallwatch.detector.ingest import limits
from stallwatch.detector.ingest.channel import RunChannel
from stallwatch.detector.ingest.outbox import Outbox
from stallwatch.detector.ingest.quota import Meter, metered
from stallwatch.detector.ingest.statistics import IngestStatistics
from stallwatch.detector.ingest.validate import LARGEST_STEP, batch_parts, check_heartbeat
from stallwatch.detector.ingest.weight import TooHeavyError, check_weight
from stallwatch.detector.version import VERSION
from stallwatch.v1 import analyzer_pb2
from stallwatch.v1 import telemetry_pb2 as pb

CROWDED_SECONDS = 0.25
"""A stream that had to wait this long for room in the queue is told to slow down."""
LONGEST_INTERVAL_SECONDS = 30.0
RELIEF_SECONDS = 20.0
"""After so long without a wait the advice is withdrawn."""
NO_INTERVAL_SECONDS = 1e-3
"""As good as none; 0 would mean "leave it as it is"."""
LAST_WORDS_SECONDS = 5.0
"""After a goodbye: for everything to be safe on disk, and for the agent to hear of it."""

log = logging.getLogger(__name__)

NO_MESSAGE = "what was received is no stallwatch.v1.StreamRequest"
Ending = tuple[grpc.StatusCode, str]
"""How the service ends a stream."""


class RankStream:
    """Reads one rank process after its `Hello` was accepted."""

    def __init__(
        self,
        context: Any,
        hello: pb.Hello,
        channel: RunChannel,
        statistics: IngestStatistics,
        clock: Callable[[], float] = time.time,
        meter: Meter | None = None,
    ) -> None:
        self._context = context
        self._meter = meter or channel.meter
        self._hello = hello
        self._channel = channel
        self._statistics = statistics
        self._clock = clock
        self._key: RankKey = (hello.rank, hello.incarnation)
        self._outbox = Outbox()
        loop = asyncio.get_running_loop()
        self._progress: Progress | None = None
        self._progressed = asyncio.Event()
        self._ending: asyncio.Future[Ending] = loop.create_future()
        self._advised_at: float | None = None
        self._said_goodbye = False

    def acknowledge(self, progress: Progress) -> None:
        """How far the analyzer has come with this rank."""
        first = self._progress is None
        self._progress = progress
        self._progressed.set()
        if not first:
            self._outbox.acknowledge(progress.accepted, progress.durable)

    def notify(self, notices: Sequence[pb.StreamResponse]) -> None:
        """Findings of the run that changed."""
        for notice in notices:
            self._outbox.notify(notice)

    def end(self, reason: str) -> None:
        """End the stream so that the agent reconnects and sends again what is not durable."""
        self._end(grpc.StatusCode.UNAVAILABLE, f"{reason}: reconnect, and send again what is not durable")

    @property
    def run(self) -> str:
        """The run that it is about."""
        return self._channel.run

    def dismiss(self, code: grpc.StatusCode, reason: str) -> None:
        """End the stream because whoever sends it may not any more."""
        self._end(code, reason)

    def supersede(self) -> None:
        """End the stream because another one of the same rank process was opened."""
        self._end(grpc.StatusCode.ABORTED, "another stream of this rank process has taken over")

    async def serve(self) -> None:
        """Carry the stream until the agent or the service ends it."""
        self._channel.attach(self._key, self)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._channel.put(self._input(hello=self._hello))
            writing = asyncio.create_task(metered(self._meter, self._write_all()))
            reading = asyncio.create_task(metered(self._meter, self._read_all()))
            tasks += [writing, reading]
            over: set[asyncio.Future[Any]] = {writing, reading, self._ending}
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
            if self._said_goodbye and not self._ending.done() and not writing.done():
                tasks.append(settling := asyncio.create_task(self._settle(writing)))
                over = {settling, self._ending}
                done, _ = await asyncio.wait(
                    over, timeout=LAST_WORDS_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    # An agent that has the time says it again; one whose stream ends well takes all for safe.
                    self.end(f"not all is on disk {LAST_WORDS_SECONDS:g} s after the goodbye")
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    log.error(
                        "run %s, rank %d: the stream failed",
                        self._channel.run,
                        self._key[0],
                        exc_info=outcome,
                    )
                    self._end(grpc.StatusCode.INTERNAL, f"the detector failed on this stream: {outcome!r}")
            self._leave()
        if self._ending.done():
            await self._context.abort(*self._ending.result())

    async def _settle(self, writing: asyncio.Task[None]) -> None:
        """The agent has said goodbye: let it know that everything it sent is safe before the stream ends."""
        await self._channel.drain()
        while (progress := self._progress) is not None and not (
            progress.durable >= progress.accepted and progress.parted
        ):
            self._progressed.clear()
            await self._progressed.wait()
        self._outbox.close()
        await writing

    async def _read_all(self) -> None:
        while True:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                return
            self._statistics.bytes += len(message)
            try:
                with self._channel.holding(self._clock()):
                    waited = await self._meter.turn(len(message))
                    await self._take(message, waited)
            except DecodeError:
                self._statistics.rejected["unknown"] += 1
                self._end(grpc.StatusCode.INVALID_ARGUMENT, NO_MESSAGE)
                return
            except AnalyzerLostError as error:
                self.end(str(error))
                return

    async def _take(self, message: bytes, waited: float) -> None:
        try:
            check_weight(message)
        except TooHeavyError as error:
            self._statistics.messages["batch"] += 1
            self._reject(error.sequence, error)
            if 0 < error.sequence <= LARGEST_STEP:
                await self._put(self._input(batch=pb.Batch(sequence=error.sequence)), waited)
            return
        request = pb.StreamRequest.FromString(message)
        payload = request.WhichOneof("payload") or "unknown"
        self._statistics.messages[payload] += 1
        match payload:
            case "batch":
                if (batch := await self._checked_batch(request.batch)) is not None:
                    await self._put(batch, waited)
            case "heartbeat":
                if (beat := self._checked_heartbeat(request.heartbeat)) is not None:
                    await self._put(beat, waited)
            case "goodbye":
                self._said_goodbye = True
                self._channel.put_now(self._input(goodbye=request.goodbye))
            case "hello":
                self._end(
                    grpc.StatusCode.INVALID_ARGUMENT, "hello is the first message of a stream, and only that"
                )
            case _:
                # A payload of a newer minor version of the protocol.
                pass

    async def _checked_batch(self, batch: pb.Batch) -> analyzer_pb2.AnalyzerInput | None:
        try:
            for _part in batch_parts(batch, len(self._hello.blocks)):
                await self._meter.breathe()
        except InvalidInputError as error:
            self._reject(batch.sequence, error)
            return self._input(batch=_remains(batch)) if error.field != "sequence" else None
        self._statistics.steps += len(batch.steps.step)
        return self._input(batch=batch)

    def _reject(self, sequence: int, error: InvalidInputError) -> None:
        self._statistics.rejected["batch"] += 1
        self._outbox.reject(sequence, error.field, str(error))

    def _checked_heartbeat(self, beat: pb.Heartbeat) -> analyzer_pb2.AnalyzerInput | None:
        try:
            check_heartbeat(beat)
        except InvalidInputError as error:
            self._statistics.rejected["heartbeat"] += 1
            self._outbox.reject(0, error.field, str(error))
            return None
        return self._input(heartbeat=beat)

    async def _put(self, item: analyzer_pb2.AnalyzerInput, held: float) -> None:
        """Queue; `held` is how long the message had to wait for its turn before."""
        await self._meter.breathe()
        behind = await self._channel.put(item)
        now = time.monotonic()
        if held + behind > CROWDED_SECONDS:
            interval = min(LONGEST_INTERVAL_SECONDS, max(1.0, 2.0 * (held + behind)))
            self._outbox.advise(
                interval,
                f"the analyzer is {behind:.1f} s behind"
                if behind > held
                else f"the run sends more than its share: this had to wait for {held:.1f} s",
            )
            self._advised_at = now
        elif self._advised_at is not None and now - self._advised_at > RELIEF_SECONDS:
            self._outbox.advise(NO_INTERVAL_SECONDS, "the analyzer has caught up")
            self._advised_at = None

    async def _write_all(self) -> None:
        try:
            await self._greet()
            while messages := await self._outbox.take():
                for message in messages:
                    await self._context.write(message)
        except grpc.aio.InternalError:
            # Of gRPC's own, which has no other word for an agent that went in the middle of a message. Never an end in good order:
            # an agent that is there all the same would take all for safe.
            self.end("what the detector said did not get through")

    async def _greet(self) -> None:
        await self._progressed.wait()
        progress = self._progress
        assert progress is not None
        welcome = pb.Welcome(
            protocol_major=limits.PROTOCOL_MAJOR,
            protocol_minor=limits.PROTOCOL_MINOR,
            server_version=VERSION,
            durable_sequence=progress.durable,
            heartbeat_seconds=limits.HEARTBEAT_SECONDS,
            max_batch_steps=limits.MAX_BATCH_STEPS,
            max_message_bytes=limits.MAX_MESSAGE_BYTES,
        )
        await self._context.write(pb.StreamResponse(welcome=welcome))

    def _leave(self) -> None:
        """Say to the analysis that the stream is gone, unless another one of the same process is there."""
        if not self._channel.detach(self._key, self) or self._said_goodbye:
            return
        # When the analyzer is lost too: the agent comes back, and if not, its silence tells.
        with contextlib.suppress(AnalyzerLostError):
            self._channel.put_now(self._input(disconnect=analyzer_pb2.Disconnect(reason="stream ended")))

    def _end(self, code: grpc.StatusCode, reason: str) -> None:
        if not self._ending.done():
            self._ending.set_result((code, reason))

    def _input(self, **payload: Any) -> analyzer_pb2.AnalyzerInput:
        rank, incarnation = self._key
        return analyzer_pb2.AnalyzerInput(
            received_unix_seconds=self._clock(), rank=rank, incarnation=incarnation, **payload
        )


def _remains(batch: pb.Batch) -> pb.Batch:
    """What is left of a rejected batch: its number, so that it is not sent again, and how much was lost with it."""
    step = batch.steps.step
    lost = pb.Dropped(reason=pb.DROP_REASON_REJECTED, count=len(step))
    if step:
        # Of far too many the ends must do: they are in order unless the agent is broken in two ways.
        ends = (step[0], step[-1]) if len(step) > limits.MAX_BATCH_STEPS else step
        lost.first_step = min(LARGEST_STEP, *ends)
        lost.last_step = min(LARGEST_STEP, max(ends))
    return pb.Batch(sequence=batch.sequence, dropped=[lost])
