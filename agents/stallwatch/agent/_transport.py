"""The background thread: makes batches, sends heartbeats, and keeps a stream to the detector."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from time import monotonic, thread_time
from typing import TYPE_CHECKING

import grpc

from stallwatch.agent._channel import credentials_stamp
from stallwatch.agent._stream import Stream
from stallwatch.v1 import telemetry_pb2 as wire

if TYPE_CHECKING:
    from stallwatch.agent._buffer import BatchBuffer
    from stallwatch.agent._collector import Collector
    from stallwatch.agent._config import Settings

logger = logging.getLogger("stallwatch.agent")

HEARTBEAT_SECONDS = 2.0
BATCH_SECONDS = 1.0
LONGEST_BATCH_SECONDS = 5.0
"""How far batches are spaced when sending them costs more than its share of the overhead budget."""
OFFLINE_BATCH_SECONDS = 5.0
"""Without a connection, batches are larger: they only wait."""
FIRST_RETRY_SECONDS = 0.2
LONGEST_RETRY_SECONDS = 10.0
PERMANENT_RETRY_SECONDS = 60.0
_SETTLED_SECONDS = 10.0
_LAST_TRIES_SECONDS = 0.5
_CLOSE_MARGIN_SECONDS = 0.3
_REVIEW_SECONDS = 5.0
_GRPC_FACTOR = 3.0
"""gRPC's own threads take about twice what ours take, as measured; they cannot be asked."""
_LONGEST_ADVISED_INTERVAL = 30.0
_PERMANENT = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)

_OF_TOKENS = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
"""A stream that was welcome ends so when its token is rotated: the file may hold the next one already."""


def retry_seconds(failures: int, chance: float) -> float:
    """Delay before the next attempt: exponential with full jitter, so that a thousand ranks do not come back at once."""
    ceiling = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures, 16), LONGEST_RETRY_SECONDS)
    return FIRST_RETRY_SECONDS / 2 + chance * ceiling


class Transport:
    """Owns the connection. Everything runs on its own thread, but for `start`, `wake`, `begin_close` and `end_close`."""

    def __init__(
        self,
        settings: Settings,
        hello: Callable[[], wire.Hello],
        heartbeat: Callable[[], wire.Heartbeat],
        collector: Collector,
        buffer: BatchBuffer,
        on_advice: Callable[[wire.Advice], None],
        on_finding: Callable[[wire.FindingNotice], None],
    ) -> None:
        self._settings = settings
        self._hello = hello
        self._heartbeat = heartbeat
        self._collector = collector
        self._buffer = buffer
        self._on_advice = on_advice
        self._on_finding = on_finding
        self._stream: Stream | None = None
        self._wake = threading.Event()
        self._closing: wire.Goodbye | None = None
        self._close_by = 0.0
        self._next_batch = self._next_beat = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._opened_at = 0.0
        self._welcomes = 0
        self._refused = False
        self._presented: object = None
        """What the files of token and certificates were like when the last stream was opened."""
        self._unheard = False
        self._last_problem = ""
        self._errors = 0
        self._heartbeat_seconds = HEARTBEAT_SECONDS
        self._batch_seconds = BATCH_SECONDS
        self._spaced_seconds = BATCH_SECONDS
        self._reviewed = (0.0, 0.0)
        self._own_seconds = 0.0
        self._reader_seconds = 0.0
        # Its own: the global one belongs to the training, whose augmentations must draw the same numbers as without us.
        self._chance = random.Random()  # noqa: S311 - jitter, not a secret
        self._thread = threading.Thread(target=self._run, name="stallwatch-agent", daemon=True)

    @property
    def seconds(self) -> float:
        """CPU seconds of the agent's own threads."""
        stream = self._stream
        return (
            self._own_seconds + self._reader_seconds + (stream.reader_seconds if stream is not None else 0.0)
        )

    @property
    def reconnects(self) -> int:
        """Connections made after the first."""
        return max(self._welcomes - 1, 0)

    @property
    def connected(self) -> bool:
        """Whether the detector has welcomed the current stream."""
        stream = self._stream
        return stream is not None and stream.welcomed and not stream.ended.is_set()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Makes the thread look around now."""
        self._wake.set()

    def begin_close(self, goodbye: wire.Goodbye, deadline: float) -> None:
        """Asks for what is left to be sent and a goodbye to be said, by a time of `monotonic`."""
        # The thread ends a little earlier than who waits for it.
        self._close_by = deadline - _CLOSE_MARGIN_SECONDS
        self._closing = goodbye
        self._wake.set()

    def end_close(self, deadline: float) -> bool:
        """Waits for it; returns whether everything was safe at the detector in time."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(max(deadline - monotonic(), 0.0))
        # In this order: what leaves the collector between the two questions is in the buffer by the second.
        return self._collector.idle() and not len(self._buffer)

    def _run(self) -> None:
        while True:
            now = monotonic()
            closing = self._closing is not None
            try:
                self._look_around(now, closing=closing)
            except Exception as error:
                self._failed(error)
            try:
                if closing and self._finish(now):
                    return
            except Exception as error:
                self._failed(error)
                if now >= self._close_by:
                    return
            was_connected = self.connected
            self._own_seconds = thread_time()
            self._wake.wait(self._pause(monotonic()))
            self._wake.clear()
            if self.connected and not was_connected:
                self._next_batch = self._next_beat = 0.0

    def _look_around(self, now: float, *, closing: bool) -> None:
        """Does what is due. What is due next is set first, so that what fails is not tried again at once, and for ever."""
        self._connect(now)
        if closing or now >= self._next_batch or self._collector.crowded:
            usual = max(self._batch_seconds, self._spaced_seconds)
            if not self.connected:
                usual = max(OFFLINE_BATCH_SECONDS, usual)
            # Jitter keeps the ranks of a large job from sending in step.
            self._next_batch = now + usual * self._chance.uniform(0.7, 1.3)
            # One waking for both, when a heartbeat is nearly due: wakings are what costs.
            if self._next_beat - now < self._heartbeat_seconds / 2:
                self._next_beat = 0.0
            if self._collector.collect(last=closing) and self._stream is not None:
                self._stream.notify()
            self._buffer.expire()
            self._review(now)
        if self.connected and now >= self._next_beat:
            self._next_beat = now + self._heartbeat_seconds
            self._beat()

    def _failed(self, error: Exception) -> None:
        self._errors += 1
        if self._errors == 1:
            # What handles the script's log may fail, too.
            with contextlib.suppress(Exception):
                logger.warning(
                    "stallwatch: internal error, training is not affected: %r", error, exc_info=error
                )

    def _review(self, now: float) -> None:
        """Spaces batches out while the background takes more than a fifth of the budget, as a share of a core."""
        then, own_before = self._reviewed
        if now - then < _REVIEW_SECONDS:
            return
        own = self.seconds * _GRPC_FACTOR
        self._reviewed = (now, own)
        if not then:
            return
        share = (own - own_before) / (now - then)
        if share > self._settings.overhead_budget / 5:
            self._spaced_seconds = min(self._spaced_seconds * 1.5, LONGEST_BATCH_SECONDS)
        elif share < self._settings.overhead_budget / 10:
            self._spaced_seconds = max(self._spaced_seconds / 1.5, BATCH_SECONDS)

    def _pause(self, now: float) -> float:
        if self._closing is not None:
            return 0.02
        until = self._next_batch
        if self.connected:
            until = min(until, self._next_beat)
        elif self._stream is None:
            until = min(until, self._retry_at)
        else:
            until = min(until, now + 1.0)
        return min(max(until - now, 0.01), 60.0)

    def _beat(self) -> None:
        if self._stream is not None:
            self._stream.heartbeat(self._heartbeat())

    # --- connection -------------------------------------------------------------------------------------------

    def _connect(self, now: float) -> None:
        stream = self._stream
        if stream is None:
            hurried = (
                self._closing is not None
                and not self._refused
                and now >= self._opened_at + _LAST_TRIES_SECONDS
            )
            if now >= self._retry_at or hurried or self._has_new_credentials():
                self._opened_at = now
                self._presented = credentials_stamp(self._settings)
                try:
                    self._stream = Stream(
                        self._settings, self._hello(), self._buffer, self._on_response, self.wake
                    )
                except Exception as error:
                    self._lost(now, repr(error))
            return
        problem = stream.stale(now)
        if stream.ended.is_set():
            self._lost(now, *_why(stream.error, stream.welcomed))
        elif problem:
            self._lost(now, problem)

    def _has_new_credentials(self) -> bool:
        """Whether what the detector refused has been changed since, so that a try is worth it now."""
        return self._refused and credentials_stamp(self._settings) != self._presented

    def _lost(self, now: float, problem: str, permanent: bool = False) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._reader_seconds += stream.reader_seconds
            stream.abort()
            if stream.welcomed and now - self._opened_at > _SETTLED_SECONDS:
                self._failures = 0
        pause = PERMANENT_RETRY_SECONDS if permanent else retry_seconds(self._failures, self._chance.random())
        self._failures += 1
        self._refused = permanent
        self._retry_at = now + pause
        kind = problem.partition(":")[0]
        if kind != self._last_problem and self._closing is None:
            self._last_problem = kind
            endpoint = self._settings.endpoint.address if self._settings.endpoint else ""
            logger.warning(
                "stallwatch: no connection to the detector at %s (%s); training goes on, up to %d MiB are kept, %s",
                endpoint,
                problem,
                self._settings.buffer_bytes >> 20,
                "this needs a change of settings" if permanent else "retrying",
            )

    def _on_response(self, response: wire.StreamResponse) -> None:
        try:
            self._obey(response)
        except Exception as error:
            # Such an answer would come again on the next connection: going on is better than ending this one.
            self._failed(error)

    def _obey(self, response: wire.StreamResponse) -> None:
        kind = response.WhichOneof("payload")
        if kind == "welcome":
            self._on_welcome(response.welcome)
        elif kind == "rejection":
            rejection = response.rejection
            if self._buffer.reject(rejection.sequence):
                logger.warning(
                    "stallwatch: the detector rejected batch %d: %s: %s",
                    rejection.sequence,
                    rejection.field,
                    rejection.message,
                )
        elif kind == "advice":
            if response.advice.min_batch_interval_seconds > 0:
                wished = min(response.advice.min_batch_interval_seconds, _LONGEST_ADVISED_INTERVAL)
                self._batch_seconds = max(BATCH_SECONDS, wished)
            self._on_advice(response.advice)
        elif kind == "finding":
            self._on_finding(response.finding)

    def _on_welcome(self, welcome: wire.Welcome) -> None:
        self._welcomes += 1
        if welcome.heartbeat_seconds > 0:
            self._heartbeat_seconds = min(max(welcome.heartbeat_seconds, 0.1), 60.0)
        self._collector.obey(welcome.max_batch_steps, welcome.max_message_bytes)
        if self._last_problem:
            logger.info("stallwatch: connected to the detector %s", welcome.server_version)
            self._last_problem = ""

    # --- the end ----------------------------------------------------------------------------------------------

    def _finish(self, now: float) -> bool:
        """Whether the thread may end; called again and again while closing."""
        goodbye = self._closing
        late = now >= self._close_by
        done = self._collector.idle() and not len(self._buffer)
        stream = self._stream
        if stream is None or not stream.welcomed:
            if late and stream is not None:
                stream.abort()
            heard = self._welcomes > 0 and not self._unheard
            return late or self._refused or (done and stream is None and heard)
        if not (done or late) or goodbye is None:
            stream.listen()
            return False
        self._beat()
        stream.finish(goodbye)
        ended = stream.ended.wait(max(min(self._close_by - now, 2.0), 0.2))
        if ended and stream.error is not None and not late:
            # The detector went before it had saved the goodbye, without which this rank would seem lost: it is said again.
            self._unheard = True
            self._lost(monotonic(), *_why(stream.error, stream.welcomed))
            return False
        stream.abort()
        return True


def _why(error: Exception | None, welcomed: bool) -> tuple[str, bool]:
    """What ended a stream, in words, and whether trying again soon is useless."""
    if error is None:
        return "the detector ended the stream", False
    if isinstance(error, grpc.Call):
        code = error.code()
        permanent = code in _PERMANENT and not (welcomed and code in _OF_TOKENS)
        return f"{code.name}: {error.details()}", permanent
    return repr(error), False
