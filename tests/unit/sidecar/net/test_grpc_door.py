"""The gRPC door's sockets: who is let in, who is not read, who is let go.

On asyncio's own event loop and on uvloop.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from sidecar.net.grpc_door import LONG_TURN_NS, GrpcDoor
from sidecar.wire import http2_frames as h2
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes
from sidecar.wire.http2_limits import SECOND_NS
from tests.support.http2_playbook import HELLO, call, echo

MIB = 1024 * 1024
WIDE = h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 2**31 - 1})
WIDE += h2.window_update_frame(0, 2**31 - 1 - 65_535)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


def blob(call: Call, message: bytes) -> None:
    call.respond(b"b" * MIB)


class Listening:
    def __init__(self, door: GrpcDoor, port: int) -> None:
        self.door = door
        self.port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def is_served(self) -> bool:
        """Another client gets its answer."""
        reader, writer = await self.connect()
        writer.write(HELLO + call(1))
        async with asyncio.timeout(2):
            await reader.readuntil(b"grpc-status\x010")
        writer.close()
        return True


@asynccontextmanager
async def listening(**limits: int) -> AsyncIterator[Listening]:
    routes = GrpcRoutes({b"/t.T/Echo": echo, b"/t.T/Blob": blob})
    door = GrpcDoor(routes, GrpcLimits(**limits), time.monotonic_ns)
    listener = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(door, sock=listener)
    try:
        yield Listening(door, listener.getsockname()[1])
    finally:
        server.close()
        door.close()
        async with asyncio.timeout(2):
            await door.wait_closed()


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def send_pings(client: socket.socket, count: int) -> None:
    pings = h2.ping_frame(b"12345678") * 1_000
    for _ in range(count // 1_000):
        client.send(pings)
        await asyncio.sleep(0)


def test_connections_over_the_limit_are_shed_and_the_rest_is_served(
    run: Callable[..., Any],
) -> None:
    async def scenario() -> None:
        async with listening(max_connections=3) as door:
            first = await door.connect()
            second = await door.connect()
            assert await door.is_served()
            await until(lambda: door.door.connections == 2)
            third = await door.connect()
            await until(lambda: door.door.connections == 3)
            reader, fourth = await door.connect()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            assert door.door.counters.connections_shed == 1
            for writer in (first[1], second[1], third[1], fourth):
                writer.close()
            await until(lambda: door.door.connections == 0)
            assert await door.is_served()

    run(scenario())


def test_a_client_that_does_not_read_is_not_read_either(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        async with listening(ping_burst=2_000_000) as door:
            client = socket.create_connection(("127.0.0.1", door.port))
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, h2.PREFACE + WIDE)
            asks = b"".join(call(stream, "/t.T/Blob") for stream in range(1, 81, 2))
            await loop.sock_sendall(client, asks)
            await until(lambda: door.door.counters.messages_sent == 40)
            assert await door.is_served()
            # 40 MB are asked for. What stands ready is what the socket's buffers take.
            assert door.door.counters.bytes_sent < 12 * MIB
            before = door.door.counters.bytes_received
            with pytest.raises(BlockingIOError):
                await send_pings(client, 1_000_000)
            assert door.door.counters.bytes_received - before < MIB
            assert await door.is_served()
            client.close()
            await until(lambda: door.door.active_calls == 0)

    run(scenario())


@pytest.mark.slow
def test_clients_that_stall_are_let_go(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        limits = {"preface_timeout_ns": SECOND_NS // 2, "stall_timeout_ns": SECOND_NS // 2}
        async with listening(**limits) as door:
            silent_reader, silent = await door.connect()
            stuck = socket.create_connection(("127.0.0.1", door.port))
            stuck.sendall(h2.PREFACE + WIDE + call(1, "/t.T/Blob"))
            stuck.sendall(b"".join(call(stream, "/t.T/Blob") for stream in range(3, 41, 2)))
            await until(lambda: door.door.connections == 2)
            async with asyncio.timeout(5):
                assert (await silent_reader.read(-1))[-4:] != b""
            await until(lambda: door.door.counters.faulty_connections == 2)
            silent.close()
            stuck.close()

    run(scenario())


def test_a_drain_closes_idle_connections(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        async with listening() as door:
            reader, writer = await door.connect()
            writer.write(HELLO)
            await until(lambda: door.door.connections == 1)
            door.door.drain()
            await reader.readuntil(b"draining")
            writer.write(h2.ping_frame(b"draining", h2.ACK))
            async with asyncio.timeout(2):
                await door.door.wait_closed()
                assert h2.goaway_frame(0, h2.NO_ERROR) in await reader.read(-1)
            writer.close()

    run(scenario())


class Recorded(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """On a busy machine a turn may be long: the door rests."""

    def resume_reading(self) -> None:
        """And goes on."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class SlowClock:
    """Nanoseconds; a hundredth of a turn for each call that was begun, as if it took that long."""

    def __init__(self) -> None:
        self.calls = 0
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += self.calls * LONG_TURN_NS // 10
        self.calls = 0
        return self.now_ns


def test_a_client_whose_bytes_are_dear_is_read_in_smaller_slices(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        clock = SlowClock()
        begun: list[Call] = []

        def handle(call: Call, message: bytes) -> None:
            begun.append(call)
            clock.calls += 1
            call.respond(b"")

        door = GrpcDoor(GrpcRoutes({b"/t.T/Echo": handle}), GrpcLimits(), clock)
        connection = door()
        connection.connection_made(Recorded())
        per_turn = []
        connection.data_received(HELLO + b"".join(call(stream) for stream in range(1, 1_001, 2)))
        while len(begun) < 500:
            before = len(begun)
            await asyncio.sleep(0)
            per_turn.append(len(begun) - before)
        assert max(per_turn[5:]) <= 10 + 1024 // len(call(1))
        connection.connection_lost(None)

    run(scenario())


def test_all_answers_of_one_turn_are_one_write(run: Callable[..., Any]) -> None:
    async def scenario() -> None:
        kept: list[Call] = []
        routes = GrpcRoutes({b"/t.T/Echo": echo, b"/t.T/Keep": lambda call, _: kept.append(call)})
        door = GrpcDoor(routes, GrpcLimits(), time.monotonic_ns)
        connection, transport = door(), Recorded()
        connection.connection_made(transport)
        streams = range(1, 41, 2)
        connection.data_received(HELLO + b"".join(call(stream) for stream in streams))
        assert len(transport.writes) == 1
        assert transport.writes[0].count(b"grpc-status\x010") == 20
        streams = range(41, 81, 2)
        connection.data_received(b"".join(call(stream, "/t.T/Keep") for stream in streams))
        for one in kept:
            one.respond(b"later")
        await asyncio.sleep(0)
        assert len(transport.writes) == 2
        assert transport.writes[1].count(b"grpc-status\x010") == 20
        connection.connection_lost(None)
        assert door.connections == 0

    run(scenario())
