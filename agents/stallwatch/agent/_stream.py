"""One connection: a gRPC stream with a writer that pulls and a reader that is told."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic, thread_time
from typing import TYPE_CHECKING

import grpc

from stallwatch.agent._channel import metadata, open_channel
from stallwatch.v1 import telemetry_pb2 as wire

if TYPE_CHECKING:
    from stallwatch.agent._buffer import BatchBuffer
    from stallwatch.agent._config import Settings

WELCOME_SECONDS = 10.0
ACKNOWLEDGEMENT_SECONDS = 60.0
UNASKED_SECONDS = 10.0
"""How long what the detector says unasked may wait while no batches are sent."""
_MOST_RESPONSES = 500
"""Read in a second; a detector that says more is slowed down by not being read, for reading takes the interpreter's time."""
_METHOD = f"/{wire.DESCRIPTOR.services_by_name['TelemetryService'].full_name}/Stream"


def _encode(request: wire.StreamRequest | bytes) -> bytes:
    """Batches are kept encoded."""
    return request if isinstance(request, bytes) else request.SerializeToString()


class Stream:
    """A stream from its `Hello` to its end; made anew for each connection.

    gRPC pulls requests on a thread of its own: first the `Hello`, then, once welcomed, batches from the buffer in their
    order with heartbeats in between. Nothing is queued here, so a slow detector holds up nothing but this thread.
    """

    def __init__(
        self,
        settings: Settings,
        hello: wire.Hello,
        buffer: BatchBuffer,
        on_response: Callable[[wire.StreamResponse], None],
        on_change: Callable[[], None],
    ) -> None:
        self._buffer = buffer
        self._on_response = on_response
        self._on_change = on_change
        self._condition = threading.Condition()
        self._control: deque[wire.StreamRequest] = deque([wire.StreamRequest(hello=hello)])
        self._due = threading.Event()
        self._due.set()
        self._sent = 0
        self._waiting_since: float | None = None
        """When the detector last moved on while it owed an answer to a batch; None while it owes none."""
        self._flowing = False
        self._closing = False
        self._listening = False
        self._opened = monotonic()
        self.welcomed = False
        self.ended = threading.Event()
        self.error: grpc.RpcError | Exception | None = None
        self.reader_seconds = 0.0
        self._reader = threading.Thread(target=self._read, name="stallwatch-reader", daemon=True)
        self._channel = open_channel(settings)
        try:
            stream: grpc.StreamStreamMultiCallable[wire.StreamRequest | bytes, wire.StreamResponse]
            stream = self._channel.stream_stream(
                _METHOD, request_serializer=_encode, response_deserializer=wire.StreamResponse.FromString
            )
            self._call = stream(self._requests(), metadata=metadata(settings))
            # Fires also while nobody reads; not at all when the call has failed already.
            if not self._call.add_callback(self._on_end):
                self._on_end()
            self._reader.start()
        except BaseException:
            # No thread can be had, or no token be read: what was opened must not pile up with every try.
            with self._condition:
                self._closing = True
                self._condition.notify()
            self._channel.close()
            raise

    def heartbeat(self, message: wire.Heartbeat) -> None:
        """Sends a heartbeat, unless older ones still wait to go."""
        with self._condition:
            if len(self._control) < 4:
                self._control.append(wire.StreamRequest(heartbeat=message))
            self._condition.notify()

    def notify(self) -> None:
        """Says that the buffer holds something new."""
        with self._condition:
            self._condition.notify()

    def finish(self, goodbye: wire.Goodbye) -> None:
        """Ends the stream on purpose, after what waits to go."""
        with self._condition:
            if self._flowing:
                self._control.append(wire.StreamRequest(goodbye=goodbye))
            self._closing = self._listening = True
            self._due.set()
            self._condition.notify()

    def abort(self) -> None:
        """Ends the stream at once."""
        with self._condition:
            self._control.clear()
            self._flowing = False
            self._closing = self._listening = True
            self._due.set()
            self._condition.notify()
        self._call.cancel()
        self._channel.close()

    def listen(self) -> None:
        """Reads until the stream ends, for all that is still to be acknowledged."""
        with self._condition:
            self._listening = True
            self._due.set()

    def stale(self, now: float) -> str:
        """Why the connection must be given up, if it must."""
        if not self.welcomed and now - self._opened > WELCOME_SECONDS:
            return f"no welcome in {WELCOME_SECONDS:g} s"
        since = self._waiting_since
        if since is not None and now - since > ACKNOWLEDGEMENT_SECONDS:
            return f"no acknowledgement in {ACKNOWLEDGEMENT_SECONDS:g} s"
        return ""

    def _requests(self) -> Iterator[wire.StreamRequest | bytes]:
        while True:
            with self._condition:
                request = self._next()
                while request is None and not self._closing:
                    self._condition.wait()
                    request = self._next()
            if request is None:
                return
            yield request

    def _next(self) -> wire.StreamRequest | bytes | None:
        if self._control:
            if (
                self._control[0].WhichOneof("payload") == "goodbye"
                and self._buffer.after(self._sent) is not None
            ):
                return self._batch()
            return self._control.popleft()
        return self._batch()

    def _batch(self) -> bytes | None:
        batch = self._buffer.after(self._sent) if self._flowing else None
        if batch is None:
            return None
        self._sent = batch.sequence
        if self._waiting_since is None:
            self._waiting_since = monotonic()
        self._due.set()
        return batch.request

    def _on_end(self) -> None:
        # A flag of its own, for an acknowledgement that is being read must not clear this.
        with self._condition:
            self._listening = True
            self._due.set()

    def _read(self) -> None:
        began, count = monotonic(), 0
        try:
            while True:
                # gRPC's blocking read wakes ten times a second to look at the clock, which would be most of what the agent
                # takes in the background. So it is entered when an answer is due, and now and then to hear the rest.
                self._due.wait(UNASKED_SECONDS)
                response = next(self._call, None)
                if response is None:
                    break
                self._receive(response)
                self.reader_seconds = thread_time()
                count += 1
                if count >= _MOST_RESPONSES:
                    self.ended.wait(max(began + 1.0 - monotonic(), 0.0))
                    began, count = monotonic(), 0
        except Exception as error:
            self.error = error
        self.ended.set()
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._on_change()

    def _receive(self, response: wire.StreamResponse) -> None:
        kind = response.WhichOneof("payload")
        if kind == "welcome":
            # A detector cannot have more than was ever made, whatever it says.
            durable = min(response.welcome.durable_sequence, self._buffer.next_sequence - 1)
            self._buffer.acknowledge(durable)
            self._on_response(response)
            with self._condition:
                self._sent = durable
                self.welcomed = self._flowing = True
                self._condition.notify()
            self._on_change()
            return
        if kind == "acknowledgement":
            self._buffer.acknowledge(response.acknowledgement.durable_sequence)
            self._answered(response.acknowledgement.accepted_sequence)
        elif kind == "rejection":
            self._answered(response.rejection.sequence)
        else:
            # Said unasked, and more may come with it: several findings open at once when a job hangs, and then no batch is due.
            self._due.set()
        self._on_response(response)

    def _answered(self, sequence: int) -> None:
        with self._condition:
            owes = sequence < self._sent
            self._waiting_since = monotonic() if owes else None
            if not owes and not self._listening:
                self._due.clear()
