"""A log as a run of the service: what an agent would send of one rank, as far as a log tells it."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stallwatch.detector.errors import UsageError
from stallwatch.detector.importers.log import Floats, TrainingLog

_PROTOCOL_MAJOR = 1
_BATCH_STEPS = 1000
_HEARTBEAT_SECONDS = 5.0
_RECONNECT_SECONDS = 2.0
_CLOSE_SECONDS = 20.0
"""So long, at the end, everything may take to be safe at the detector."""
_NAME = re.compile(r"[^A-Za-z0-9._/:-]+")


def run_name(name: str) -> str:
    """The name as the service allows it: letters, digits and . _ - / :, beginning with a letter or digit, 128 at most."""
    return _NAME.sub("-", name).lstrip("._-/:")[:128].rstrip("-") or "log"


class Relay:
    """Sends the points of a log that grows, once each, and keeps what is not safe at the detector to send it again.

    Loss, learning rate and evaluations of one rank are all that a log tells: what compares ranks, times or gradients finds
    nothing. Where the log goes back, another attempt of the run begins.
    """

    def __init__(self, endpoint: str, run: str, total_steps: int | None = None) -> None:
        self.run = run
        self._endpoint = endpoint
        self._total = total_steps or 0
        self._sent = self._sent_evaluations = 0
        self._attempt = 0
        self._last = -1
        self._sequence = 0
        self._grown = time.monotonic()
        self._unsafe: dict[int, Any] = {}
        self._changed = threading.Condition()
        self._incarnation = time.time_ns()
        self._first_step = 0
        self._over = False
        self._finished = False
        self._refused = ""
        self._thread = threading.Thread(target=self._keep_sending, name="stallwatch-relay", daemon=True)
        self._thread.start()

    def send(self, log: TrainingLog) -> None:
        """What is new in the log since the call before; raises `UsageError` when the detector refuses the run."""
        from stallwatch.v1 import telemetry_pb2 as wire

        if self._refused:
            raise UsageError(f"--serve {self._endpoint}: {self._refused}")
        points, steps = log.points, _whole(log)
        # Once more of the log is known, less of it may be taken for a point.
        self._sent = min(self._sent, points.step.size)
        loss = np.nan_to_num(points.loss, nan=np.inf, posinf=np.inf, neginf=-np.inf)
        rate = points.learning_rate
        at = self._sent
        while at < steps.size:
            self._grown = time.monotonic()
            if steps[at] <= self._last:
                self._begin_again(int(steps[at]))
            stop = at + 1
            while stop < steps.size and stop - at < _BATCH_STEPS and steps[stop] > steps[stop - 1]:
                stop += 1
            self._queue(
                wire.Batch(
                    steps=wire.StepBatch(
                        step=steps[at:stop].tolist(),
                        loss_sum=loss[at:stop].tolist(),
                        samples=[1.0] * (stop - at),
                        micro_batches=[1] * (stop - at),
                        learning_rate=rate[at:stop].tolist(),
                        learning_rate_groups=1,
                        optimizer_steps=[1] * (stop - at),
                    )
                )
            )
            self._last = int(steps[stop - 1])
            at = stop
        self._sent = at
        if log.judged == "loss":
            self._send_evaluations(log)

    def _send_evaluations(self, log: TrainingLog) -> None:
        from stallwatch.v1 import telemetry_pb2 as wire

        found = log.evaluations
        new = []
        for index in range(self._sent_evaluations, found.step.size):
            metrics = {
                name[:128]: float(values[index])
                for name, values in found.metrics.items()
                if math.isfinite(values[index])
            }
            step = min(max(int(found.step[index]), 0), max(self._last, 0))
            new.append(
                wire.EvaluationPoint(step=step, loss=float(found.loss[index]), samples=1.0, metrics=metrics)
            )
        self._sent_evaluations = max(self._sent_evaluations, found.step.size)
        if new:
            self._queue(wire.Batch(evaluations=new))

    def close(self, *, finished: bool) -> bool:
        """Say goodbye, and whether everything was safe at the detector in time."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        with self._changed:
            self._finished = finished
            self._changed.wait_for(
                lambda: not self._unsafe or bool(self._refused), deadline - time.monotonic()
            )
            safe = not self._unsafe
            self._over = True
            self._changed.notify_all()
        self._thread.join(5.0)
        return safe

    def _begin_again(self, step: int) -> None:
        """Another attempt: wait until all of this one is safe, since a stream is one process's."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unsafe, _CLOSE_SECONDS)
            self._attempt += 1
            self._incarnation = time.time_ns()
            self._first_step, self._sequence, self._last = step, 0, step - 1
            self._unsafe.clear()

    def _queue(self, batch: Any) -> None:
        with self._changed:
            self._sequence += 1
            batch.sequence = self._sequence
            batch.created_unix_seconds = time.time()
            self._unsafe[self._sequence] = batch
            self._changed.notify_all()

    def _keep_sending(self) -> None:
        import grpc

        while not self._over:
            try:
                self._stream()
            except grpc.RpcError as error:
                code = error.code()
                if code in {
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.INVALID_ARGUMENT,
                }:
                    with self._changed:
                        self._refused = str(error.details())
                        self._changed.notify_all()
                    return
            with self._changed:
                self._changed.wait_for(lambda: self._over, _RECONNECT_SECONDS)

    def _stream(self) -> None:
        """One connection: hello, what is not safe yet, what comes, goodbye."""
        from stallwatch.v1 import telemetry_pb2 as wire
        from stallwatch.v1 import telemetry_pb2_grpc as services

        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        incarnation = self._incarnation
        welcomed = threading.Event()
        with _channel(self._endpoint) as channel:
            call = services.TelemetryServiceStub(channel).Stream(
                iter(requests.get, None), metadata=_metadata()
            )
            requests.put(wire.StreamRequest(hello=self._hello()))
            sender = threading.Thread(
                target=self._send_on,
                args=(requests, welcomed, incarnation),
                name="stallwatch-relay-send",
                daemon=True,
            )
            sender.start()
            try:
                for answer in call:
                    self._heard(answer, welcomed)
            finally:
                requests.put(None)
                welcomed.set()

    def _heard(self, answer: Any, welcomed: threading.Event) -> None:
        kind = answer.WhichOneof("payload")
        with self._changed:
            if kind == "welcome":
                self._forget(answer.welcome.durable_sequence)
                welcomed.set()
            elif kind == "acknowledgement":
                self._forget(answer.acknowledgement.durable_sequence)
            elif kind == "rejection":
                self._unsafe.pop(answer.rejection.sequence, None)
            self._changed.notify_all()

    def _forget(self, sequence: int) -> None:
        for each in [number for number in self._unsafe if number <= sequence]:
            del self._unsafe[each]

    def _send_on(self, requests: queue.SimpleQueue[Any], welcomed: threading.Event, incarnation: int) -> None:
        """Batches as they come and heartbeats between them, until the end or another attempt."""
        from stallwatch.v1 import telemetry_pb2 as wire

        if not welcomed.wait(_CLOSE_SECONDS):
            requests.put(None)
            return
        sent, beat = 0, 0.0
        while True:
            with self._changed:
                if not self._has_news(incarnation, sent):
                    self._changed.wait(_HEARTBEAT_SECONDS)
                if incarnation != self._incarnation:
                    break
                new = [self._unsafe[number] for number in sorted(self._unsafe) if number > sent]
                over, reason = self._over, "finished" if self._finished else "the log is no longer followed"
            for batch in new:
                requests.put(wire.StreamRequest(batch=batch))
                sent = int(batch.sequence)
            if time.monotonic() - beat >= _HEARTBEAT_SECONDS:
                beat = time.monotonic()
                requests.put(wire.StreamRequest(heartbeat=self._heartbeat()))
            if over:
                requests.put(wire.StreamRequest(goodbye=wire.Goodbye(reason=reason, last_step=self._last)))
                break
        requests.put(None)

    def _has_news(self, incarnation: int, sent: int) -> bool:
        return self._over or incarnation != self._incarnation or any(n > sent for n in self._unsafe)

    def _heartbeat(self) -> Any:
        from stallwatch.v1 import telemetry_pb2 as wire

        # How long a log may stand still is not known: only what lasts as long as a start may last is a hang.
        return wire.Heartbeat(
            sent_unix_seconds=time.time(),
            phase=wire.PHASE_STARTING,
            phase_seconds=time.monotonic() - self._grown,
            last_step=self._last,
        )

    def _hello(self) -> Any:
        from stallwatch.detector.version import VERSION
        from stallwatch.v1 import telemetry_pb2 as wire

        return wire.Hello(
            run=self.run,
            rank=0,
            world_size=1,
            local_world_size=1,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            incarnation=self._incarnation,
            restart_count=self._attempt,
            protocol_major=_PROTOCOL_MAJOR,
            agent_version=f"{VERSION}+tail",
            parallelism=wire.PARALLELISM_SINGLE,
            first_step=self._first_step,
            total_steps=self._total,
        )


def _whole(log: TrainingLog) -> Any:
    """Whole numbers from 0 for the points: their own where they are such, else their number in the log."""
    steps: Floats = log.points.step
    if np.all((steps >= 0) & (steps == np.floor(steps)) & (steps < 2**62)):
        return steps.astype(np.int64)
    return np.arange(steps.size)


@contextlib.contextmanager
def _channel(endpoint: str) -> Iterator[Any]:
    import grpc

    authority = os.environ.get("STALLWATCH_TLS_CA")
    if authority:
        credentials = grpc.ssl_channel_credentials(Path(authority).read_bytes())
        channel = grpc.secure_channel(endpoint, credentials)
    else:
        channel = grpc.insecure_channel(endpoint)
    try:
        yield channel
    finally:
        channel.close()


def _metadata() -> tuple[tuple[str, str], ...]:
    token = os.environ.get("STALLWATCH_TOKEN", "").strip()
    file = os.environ.get("STALLWATCH_TOKEN_FILE")
    if not token and file:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UsageError(f"STALLWATCH_TOKEN_FILE {file} cannot be read: {error.strerror}") from None
    return (("authorization", f"Bearer {token}"),) if token else ()
