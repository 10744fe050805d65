"""The gRPC door, on both engines, against grpcio's own clients, sync and aio, over TCP and over a
Unix socket.
"""

import asyncio
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, cast

import grpc
import pytest
import uvloop
from google.protobuf import descriptor_pb2
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

from sidecar.net.grpc_door import GrpcDoor
from sidecar.net.grpc_standard import NOT_SERVING, SERVING, HealthService, standard_routes
from sidecar.net.grpcio_door import GrpcioDoor
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes, StreamHandler, StreamSink, UnaryHandler

MIB = 1024 * 1024
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Hung:
    """A method that never answers, and remembers whose clients left."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.cancelled = threading.Event()
        self.timeouts_ns: list[int | None] = []

    def __call__(self, call: Call, message: bytes) -> None:
        self.timeouts_ns.append(call.timeout_ns)
        call.on_cancel = self._on_cancel
        self.began.set()

    def _on_cancel(self, call: Call) -> None:
        call.fail(1, "cancelled")
        self.cancelled.set()


class EchoStream:
    """Echoes each message of a stream; keeps to what the client's windows allow."""

    def start(self, call: Call) -> StreamSink:
        return _EchoSink(call)


class _EchoSink:
    def __init__(self, call: Call) -> None:
        self._call = call
        call.on_writable = self._on_writable

    def _on_writable(self, call: Call) -> None:
        call.resume()

    def message(self, message: bytes) -> None:
        if not self._call.send(message):
            self._call.pause()

    def half_closed(self) -> None:
        self._call.finish()

    def cancelled(self) -> None:
        self._call.finish()


class CountStream:
    """One request (count, size), `count` messages of `size` bytes, sent as room allows."""

    def __init__(self) -> None:
        self.sent = 0

    def start(self, call: Call) -> StreamSink:
        return _CountSink(self, call)


class _CountSink:
    def __init__(self, owner: CountStream, call: Call) -> None:
        self._owner = owner
        self._call = call
        self._left = 0
        self._message = b""
        call.on_writable = self._go_on

    def message(self, message: bytes) -> None:
        count, size = message.split()
        self._left, self._message = int(count), b"m" * int(size)
        self._go_on(self._call)

    def _go_on(self, call: Call) -> None:
        while self._left:
            self._left -= 1
            self._owner.sent += 1
            if not call.send(self._message):
                return
        call.finish()

    def half_closed(self) -> None:
        pass

    def cancelled(self) -> None:
        self._call.finish()


def echo(call: Call, message: bytes) -> None:
    call.respond(message)


def later(call: Call, message: bytes) -> None:
    asyncio.get_running_loop().call_later(0.002, call.respond, message)


def blob(call: Call, message: bytes) -> None:
    call.respond(b"b" * int(message))


def metadata(call: Call, message: bytes) -> None:
    call.respond(repr(dict(call.metadata)).encode())


def refuse(call: Call, message: bytes) -> None:
    details = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="ключ 100% пуст")
    details.details.add(type_url="type.googleapis.com/x.Y", value=b"\x00\xff")
    call.fail(details.code, details.message, details.SerializeToString())


def broken(call: Call, message: bytes) -> None:
    raise RuntimeError("a bug of the service")


class RunningDoor:
    """A door on uvloop in a thread of its own, since the sync clients block theirs."""

    def __init__(self, socket_path: Path, engine: str) -> None:
        self.hung = Hung()
        self.count = CountStream()
        self.health = HealthService(SERVING)
        unary: dict[bytes, UnaryHandler] = {
            b"/t.T/Echo": echo,
            b"/t.T/Later": later,
            b"/t.T/Blob": blob,
            b"/t.T/Metadata": metadata,
            b"/t.T/Refuse": refuse,
            b"/t.T/Broken": broken,
            b"/t.T/Hang": self.hung,
        }
        stream: dict[bytes, StreamHandler] = {
            b"/t.T/EchoStream": EchoStream(),
            b"/t.T/Count": self.count,
        }
        routes = GrpcRoutes(unary, stream) | standard_routes(
            self.health, ["google.protobuf.FileDescriptorSet"]
        )
        self.door: GrpcDoor | GrpcioDoor
        if engine == "own":
            self.door = GrpcDoor(routes, GrpcLimits(), time.monotonic_ns)
        else:
            self.door = GrpcioDoor(routes, GrpcLimits())
        self.socket_path = socket_path
        self.port = 0
        self.loop = uvloop.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        listening: list[asyncio.AbstractServer] = []
        if isinstance(self.door, GrpcioDoor):
            listener.close()
            await self.door.listen(f"127.0.0.1:{self.port}", str(self.socket_path))
        else:
            listening.append(await self.loop.create_server(self.door, sock=listener))
            path = str(self.socket_path)
            listening.append(await self.loop.create_unix_server(self.door, path))
        self._ready.set()
        await self._stop.wait()
        for server in listening:
            server.close()
        self.door.drain()
        async with asyncio.timeout(5):
            await self.door.wait_closed()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the door did not drain"
        self.loop.close()

    def addresses(self) -> dict[str, str]:
        return {"tcp": f"127.0.0.1:{self.port}", "unix": f"unix:{self.socket_path}"}


@pytest.fixture(params=["own", "grpcio"])
def door(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningDoor]:
    with RunningDoor(tmp_path / "door.sock", request.param) as running:
        yield running


OWN = pytest.mark.parametrize("door", ["own"], indirect=True)


@pytest.fixture(params=["tcp", "unix"])
def channel(door: RunningDoor, request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    address = door.addresses()[request.param]
    with grpc.insecure_channel(address, options=UNLIMITED) as channel:
        yield channel


def unary(channel: grpc.Channel, method: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    return channel.unary_unary(f"/t.T/{method}")


def streams(channel: grpc.Channel, path: str) -> "grpc.StreamStreamMultiCallable[bytes, bytes]":
    return channel.stream_stream(path)


def aio_unary(
    channel: grpc.aio.Channel, method: str
) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
    return channel.unary_unary(f"/t.T/{method}")


def test_unary_calls_are_answered_at_once_and_later(channel: grpc.Channel) -> None:
    assert unary(channel, "Echo")(b"dabba", timeout=5) == b"dabba"
    assert unary(channel, "Later")(b"dabba", timeout=5) == b"dabba"
    assert unary(channel, "Echo")(b"", timeout=5) == b""


def test_errors_carry_code_message_and_details(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "Refuse")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "ключ 100% пуст"
    status = rpc_status.from_call(cast(grpc.Call, caught.value))
    assert status is not None
    assert status.details[0].value == b"\x00\xff"


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(
        grpc.RpcError, match=r"unknown method /t\.T/None|Method not found"
    ) as caught:
        unary(channel, "None")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_bug_in_a_service_ends_its_call_only(door: RunningDoor, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "Broken")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert unary(channel, "Echo")(b"x", timeout=5) == b"x"
    assert door.door.counters.handler_errors == 1


def test_a_deadline_reaches_the_service_and_its_passing_cancels(
    door: RunningDoor, channel: grpc.Channel
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "Hang")(b"", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert door.hung.cancelled.wait(2)
    (timeout_ns,) = door.hung.timeouts_ns
    assert timeout_ns is not None
    assert 100_000_000 < timeout_ns <= 210_000_000


def test_a_cancelled_call_tells_the_service(door: RunningDoor, channel: grpc.Channel) -> None:
    future = unary(channel, "Hang").future(b"", timeout=5)
    assert door.hung.began.wait(2)
    future.cancel()
    assert door.hung.cancelled.wait(2)
    assert door.door.active_calls == 0


def test_a_client_that_vanishes_cancels_its_calls(door: RunningDoor) -> None:
    channel = grpc.insecure_channel(door.addresses()["tcp"])
    future = unary(channel, "Hang").future(b"", timeout=5)
    assert door.hung.began.wait(2)
    channel.close()
    assert door.hung.cancelled.wait(2)
    assert future.code() is grpc.StatusCode.CANCELLED


def test_large_messages_pass_both_ways(channel: grpc.Channel) -> None:
    message = bytes(range(256)) * (MIB // 256)
    assert unary(channel, "Echo")(message, timeout=5) == message
    assert unary(channel, "Blob")(b"9000000", timeout=5) == b"b" * 9_000_000


@pytest.mark.slow
def test_a_message_over_the_limit_is_refused_and_the_connection_lives(
    channel: grpc.Channel,
) -> None:
    with pytest.raises(grpc.RpcError, match="4194304") as caught:
        unary(channel, "Echo")(b"x" * (4 * MIB + 1), timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert unary(channel, "Echo")(b"x", timeout=5) == b"x"


def test_metadata_arrives_text_and_binary(channel: grpc.Channel) -> None:
    sent = (("tenant", "a b"), ("trace-bin", b"\x00\x01\xff"))
    answer = unary(channel, "Metadata")(b"", timeout=5, metadata=sent).decode()
    assert r"b'trace-bin': b'\x00\x01\xff'" in answer
    assert "b'tenant': b'a b'" in answer
    assert "b'user-agent': b'grpc-python/" in answer
    assert "grpc-timeout" not in answer


def test_changing_metadata_is_never_taken_from_an_older_request(channel: grpc.Channel) -> None:
    call = unary(channel, "Metadata")
    for turn in range(200):
        value = f"v{turn % 7}-{turn % 11}"
        answer = call(b"", timeout=5, metadata=(("tenant", value), ("n", str(turn % 3))))
        assert f"b'tenant': b'{value}'".encode() in answer
        assert f"b'n': b'{turn % 3}'".encode() in answer


def test_messages_compressed_with_gzip_are_taken(door: RunningDoor) -> None:
    target = door.addresses()["tcp"]
    with grpc.insecure_channel(target, compression=grpc.Compression.Gzip) as channel:
        assert unary(channel, "Echo")(b"x" * 10_000, timeout=5) == b"x" * 10_000
        echo = streams(channel, "/t.T/EchoStream")
        assert list(echo(iter([b"a" * 2_000, b"b"]), timeout=5)) == [b"a" * 2_000, b"b"]


@OWN
def test_a_message_compressed_out_of_all_proportion_is_refused(door: RunningDoor) -> None:
    target = door.addresses()["tcp"]
    with grpc.insecure_channel(target, compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.RpcError, match="100 times what was sent") as caught:
            unary(channel, "Echo")(bytes(3 * MIB), timeout=5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert unary(channel, "Echo")(b"still here", timeout=5) == b"still here"


@OWN
def test_messages_compressed_otherwise_are_refused_politely(door: RunningDoor) -> None:
    with (
        grpc.insecure_channel(
            door.addresses()["tcp"], compression=grpc.Compression.Deflate
        ) as channel,
        pytest.raises(grpc.RpcError, match="use gzip, or none") as caught,
    ):
        unary(channel, "Echo")(b"x" * 10_000, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.slow
def test_a_hundred_calls_at_once(channel: grpc.Channel) -> None:
    messages = [b"%d" % turn * (turn * 37) for turn in range(100)]
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda m: unary(channel, "Later")(m, timeout=10), messages))
    assert answers == messages


def test_a_stream_echoes_in_order(channel: grpc.Channel) -> None:
    messages = [b"%d" % turn * 3_000 for turn in range(300)]
    answers = streams(channel, "/t.T/EchoStream")(iter(messages), timeout=10)
    assert list(answers) == messages


@pytest.mark.slow
def test_a_stream_is_sent_no_faster_than_it_is_read(
    door: RunningDoor, channel: grpc.Channel
) -> None:
    answers = streams(channel, "/t.T/Count")(iter([b"5000 10000"]), timeout=20)
    next(answers)
    # A round trip later, only what the windows allow has been made, not 50 MB.
    assert unary(channel, "Echo")(b"x", timeout=5) == b"x"
    assert door.count.sent < 2_500
    assert sum(1 for _ in answers) == 4_999


@pytest.mark.slow
async def test_the_aio_client(door: RunningDoor) -> None:
    for address in door.addresses().values():
        async with grpc.aio.insecure_channel(address, options=UNLIMITED) as channel:
            call = aio_unary(channel, "Later")
            messages = [b"%d" % turn * 1_000 for turn in range(100)]
            answers = await asyncio.gather(*(call(message, timeout=10) for message in messages))
            assert answers == messages
            large = b"L" * MIB
            assert await aio_unary(channel, "Echo")(large, timeout=5) == large
            echo_stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
            echo_stream = channel.stream_stream("/t.T/EchoStream")
            stream = echo_stream(_numbers(), timeout=5)
            assert [answer async for answer in stream] == [b"0", b"1", b"2"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await aio_unary(channel, "Hang")(b"", timeout=0.1)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def _numbers() -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"%d" % number


def test_health_check_and_watch(door: RunningDoor, channel: grpc.Channel) -> None:
    stub = cast(Any, health_pb2_grpc.HealthStub(channel))
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="x"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=5)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    for status in (SERVING, NOT_SERVING):
        door.loop.call_soon_threadsafe(door.health.set, "x", status)
        assert next(watch).status == status
    watch.cancel()


def test_reflection_lists_and_describes(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "grpc.health.v1.Health" in database.get_services()
    described = database.FindFileContainingSymbol("grpc.health.v1.Health")
    assert described.package == "grpc.health.v1"


def test_reflection_v1_speaks_the_same_messages(channel: grpc.Channel) -> None:
    from_v1 = streams(channel, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    request = b'"\x15grpc.health.v1.Health'  # file_containing_symbol
    (answer,) = from_v1(iter([request]), timeout=5)
    assert (
        descriptor_pb2.FileDescriptorProto(package="grpc.health.v1").SerializeToString() in answer
    )


def test_a_drain_serves_what_was_begun(door: RunningDoor) -> None:
    with grpc.insecure_channel(door.addresses()["tcp"]) as channel:
        future = unary(channel, "Hang").future(b"", timeout=5)
        assert door.hung.began.wait(2)
        asyncio.run_coroutine_threadsafe(_drain(door), door.loop).result(5)
        future.cancel()
        assert door.hung.cancelled.wait(2)


async def _drain(door: RunningDoor) -> None:
    door.door.drain()
    assert door.door.active_calls == 1


@OWN
@pytest.mark.slow
@pytest.mark.peers
def test_h2load_sees_no_failure(door: RunningDoor, tmp_path: Path) -> None:
    h2load = shutil.which("h2load")
    assert h2load, "h2load is missing: install the package nghttp2-client"
    body = tmp_path / "body"
    body.write_bytes(b"\0\0\0\0\x05dabba")
    arguments = ["-n", "5000", "-c", "4", "-m", "64", "-d", str(body), "-H", "te: trailers"]
    arguments += ["-H", "content-type: application/grpc"]
    url = f"http://127.0.0.1:{door.port}/t.T/Echo"
    finished = subprocess.run(
        [h2load, *arguments, url], capture_output=True, text=True, timeout=30, check=True
    )
    assert re.search(r"5000 succeeded, 0 failed, 0 errored", finished.stdout), finished.stdout
    assert door.door.counters.messages_sent == 5_000
