"""How long grpcio's clients may stay, and how often they may ping, on both engines."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from sidecar.net.grpc_door import GrpcDoor
from sidecar.net.grpcio_door import GrpcioDoor
from sidecar.wire import http2_frames as h2
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes
from sidecar.wire.http2_limits import SECOND_NS
from tests.support.http2_playbook import echo

pytestmark = pytest.mark.slow

OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


class Hung:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, call: Call, message: bytes) -> None:
        self.calls.append(call)


ENGINES = pytest.mark.parametrize("engine", ["own", "grpcio"])


@asynccontextmanager
async def listening(
    engine: str, hung: Hung, **limits: int
) -> AsyncIterator[tuple[GrpcDoor | GrpcioDoor, str]]:
    routes = GrpcRoutes({b"/t.T/Echo": echo, b"/t.T/Hang": hung, b"/t.T/Peer": tell_peer})
    listener = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    listener.close()
    door: GrpcDoor | GrpcioDoor
    if engine == "own":
        door = GrpcDoor(routes, GrpcLimits(**limits), time.monotonic_ns)
        door.peer_of = lambda transport: transport.get_extra_info("peername")
        host, _, port = address.partition(":")
        listener = await asyncio.get_running_loop().create_server(door, host, int(port))
    else:
        door = GrpcioDoor(routes, GrpcLimits(**limits))
        await door.listen(address)
    try:
        yield door, address
    finally:
        for waiting in hung.calls:
            waiting.finish(1)
        listener.close()
        door.close()
        await door.wait_closed()


def tell_peer(call: Call, message: bytes) -> None:
    """Answers with which connection it is."""
    context: Any = getattr(call, "context", None)
    call.respond(str(call.peer if context is None else context.peer()).encode())


def method(channel: grpc.aio.Channel, name: str) -> Any:
    return channel.unary_unary(f"/t.T/{name}")


async def until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


@ENGINES
async def test_a_flood_of_pings_is_told_what_it_is_and_ends(engine: str) -> None:
    async with listening(engine, Hung()) as (_, address):
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(h2.PREFACE + h2.settings_frame({}) + h2.ping_frame(b"are you?") * 200)
        async with asyncio.timeout(20):
            assert b"too_many_pings" in await reader.read()
        writer.close()


async def test_a_client_that_pings_too_often_is_told_to_stop() -> None:
    hung = Hung()
    eager = (
        *OPTIONS,
        ("grpc.keepalive_time_ms", 20),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 20),
    )
    async with (
        listening("own", hung, ping_burst=1, ping_per_s=0) as (door, address),
        grpc.aio.insecure_channel(address, options=eager) as channel,
    ):
        call = method(channel, "Hang")(b"", timeout=20)
        with pytest.raises(grpc.aio.AioRpcError, match="[Tt]oo.many.pings") as failed:
            await call
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert door.counters.faulty_connections == 1


@ENGINES
async def test_a_client_that_pings_as_agreed_keeps_its_connection(engine: str) -> None:
    hung = Hung()
    calm = (*OPTIONS, ("grpc.keepalive_time_ms", 100), ("grpc.http2.max_pings_without_data", 0))
    async with (
        listening(engine, hung, ping_burst=5, ping_per_s=100) as (door, address),
        grpc.aio.insecure_channel(address, options=calm) as channel,
    ):
        call = method(channel, "Hang")(b"", timeout=20)
        await until(lambda: hung.calls)
        before, began = door.counters.bytes_received, time.monotonic()
        if engine == "own":
            await until(lambda: door.counters.bytes_received >= before + 2 * 17)  # two pings
        else:  # which does not tell
            await until(lambda: time.monotonic() > began + 0.5)
        hung.calls[0].respond(b"still here")
        assert await call == b"still here"


@ENGINES
async def test_an_old_connection_is_left_for_a_new_one_and_no_call_fails(engine: str) -> None:
    hung = Hung()
    limits = {"max_connection_age_ns": SECOND_NS, "connection_grace_ns": 20 * SECOND_NS}
    async with (
        listening(engine, hung, **limits) as (_, address),
        grpc.aio.insecure_channel(address, options=OPTIONS) as channel,
    ):
        long = method(channel, "Hang")(b"", timeout=20)
        await until(lambda: hung.calls)
        ask = method(channel, "Peer")
        peers: set[bytes] = set()
        async with asyncio.timeout(20):
            while len(peers) < 2:
                peers.add(await ask(b"", timeout=5))
                await asyncio.sleep(0.01)
        hung.calls[0].respond(b"served to its end")
        assert await long == b"served to its end"
