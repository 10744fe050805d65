"""How long grpcio's clients may stay, and how often they may ping, on our own engine."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from sidecar.net.grpc_door import GrpcDoor
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


@asynccontextmanager
async def listening(hung: Hung, **limits: int) -> AsyncIterator[tuple[GrpcDoor, str]]:
    routes = GrpcRoutes({b"/t.T/Echo": echo, b"/t.T/Hang": hung})
    door = GrpcDoor(routes, GrpcLimits(**limits), time.monotonic_ns)
    server = await asyncio.get_running_loop().create_server(door, "127.0.0.1", 0)
    try:
        yield door, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for waiting in hung.calls:
            waiting.finish(1)
        server.close()
        door.close()
        await door.wait_closed()


def method(channel: grpc.aio.Channel, name: str) -> Any:
    return channel.unary_unary(f"/t.T/{name}")


async def until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_client_that_pings_too_often_is_told_to_stop() -> None:
    hung = Hung()
    eager = (
        *OPTIONS,
        ("grpc.keepalive_time_ms", 20),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 20),
    )
    async with (
        listening(hung, ping_burst=1, ping_per_s=0) as (door, address),
        grpc.aio.insecure_channel(address, options=eager) as channel,
    ):
        call = method(channel, "Hang")(b"", timeout=20)
        with pytest.raises(grpc.aio.AioRpcError, match="[Tt]oo.many.pings") as failed:
            await call
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert door.counters.faulty_connections == 1


async def test_a_client_that_pings_as_agreed_keeps_its_connection() -> None:
    hung = Hung()
    calm = (*OPTIONS, ("grpc.keepalive_time_ms", 100), ("grpc.http2.max_pings_without_data", 0))
    async with (
        listening(hung, ping_burst=5, ping_per_s=100) as (door, address),
        grpc.aio.insecure_channel(address, options=calm) as channel,
    ):
        call = method(channel, "Hang")(b"", timeout=20)
        await until(lambda: hung.calls)
        before = door.counters.bytes_received
        await until(lambda: door.counters.bytes_received >= before + 2 * 17)  # two pings
        hung.calls[0].respond(b"still here")
        assert await call == b"still here"
        assert door.counters.connections_opened == 1


async def test_an_old_connection_is_left_for_a_new_one_and_no_call_fails() -> None:
    hung = Hung()
    limits = {"max_connection_age_ns": SECOND_NS, "connection_grace_ns": 20 * SECOND_NS}
    async with (
        listening(hung, **limits) as (door, address),
        grpc.aio.insecure_channel(address, options=OPTIONS) as channel,
    ):
        long = method(channel, "Hang")(b"", timeout=20)
        await until(lambda: hung.calls)
        ask = method(channel, "Echo")
        async with asyncio.timeout(20):
            while door.counters.connections_opened < 3:
                assert await ask(b"x", timeout=5) == b"x"
                await asyncio.sleep(0.01)
        hung.calls[0].respond(b"served to its end")
        assert await long == b"served to its end"
