"""How the service's event loop takes what gRPC's poller thread has for it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import pytest

from stallwatch.detector.service.loop import GRPC_QUEUE, ServiceLoop, run
from support.waiting import wait_until

STREAMS = 150


class SeenLoop(ServiceLoop):
    """Keeps the socket that gRPC's poller thread writes to."""

    wakened: socket.socket | None = None

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        """As the service's."""
        if GRPC_QUEUE in repr(callback):
            self.wakened = fd
        super().add_reader(fd, callback, *args)

    def waiting(self) -> int:
        """Bytes in it."""
        assert self.wakened is not None
        try:
            return len(self.wakened.recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return 0


async def many_writes_at_once(loop: SeenLoop) -> tuple[int, int]:
    """Wake-ups that wait after so many events, and those that are left once the loop has looked."""
    server = grpc.aio.server()
    over = asyncio.Event()

    async def listen(_requests: Any, context: Any) -> None:
        await context.write(await context.read())
        await over.wait()

    handler = grpc.stream_stream_rpc_method_handler(listen)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Listen": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [channel.stream_stream("/test.Test/Listen")() for _ in range(STREAMS)]
        for call in calls:
            await call.write(b"first")
        for call in calls:
            assert await call.read() == b"first"
        writes = [asyncio.create_task(call.write(b"second")) for call in calls]
        await asyncio.sleep(0)
        # The loop stands still here; gRPC's own threads do not.
        wait_until("the writes are done", lambda: loop.waiting() >= STREAMS)
        before = loop.waiting()
        await asyncio.gather(*writes)
        after = loop.waiting()
        over.set()
        await asyncio.gather(*(call.read() for call in calls))
    await server.stop(None)
    return before, after


def test_all_wake_ups_are_taken_at_once():
    """A loop that took one a turn would let the poller thread wait, and with it the messages of all streams."""
    loop = SeenLoop()
    try:
        before, after = loop.run_until_complete(asyncio.wait_for(many_writes_at_once(loop), 60))
    finally:
        loop.close()
    assert before >= STREAMS
    assert after < STREAMS / 10


def test_other_readers_are_left_alone():
    """Of ordinary sockets nothing is taken."""
    ours, theirs = socket.socketpair()
    loop = ServiceLoop()
    with ours, theirs:
        done = loop.create_future()
        loop.add_reader(ours, lambda: done.done() or done.set_result(ours.recv(16)))
        theirs.send(b"all of it")
        assert loop.run_until_complete(asyncio.wait_for(done, 10)) == b"all of it"
        loop.remove_reader(ours)
    loop.close()


def test_the_service_runs_on_it():
    """And what it raises is raised."""

    async def work() -> None:
        assert type(asyncio.get_running_loop()) is ServiceLoop
        raise RuntimeError("as it should")

    policy = asyncio.get_event_loop_policy()
    try:
        with pytest.raises(RuntimeError, match="as it should"):
            run(work())
    finally:
        asyncio.set_event_loop_policy(policy)
