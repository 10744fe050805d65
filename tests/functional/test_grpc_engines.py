"""Both engines of the gRPC door, asked the same: answers, statuses, messages and trailers agree."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.net.data_service import DataService
from sidecar.net.grpc_door import GrpcDoor
from sidecar.net.grpc_standard import SERVING, HealthService, standard_routes
from sidecar.net.grpcio_door import GrpcioDoor
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes, UnaryHandler
from tests.support.memory_coordinator import MemoryCoordinator

pytestmark = pytest.mark.slow

DATA = "/dabbawala.v1.Data/"
NOW_MS = 1_763_700_000_000
LIMITS = GrpcLimits(max_message_bytes=1 << 20)
NO_PROXY = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


def echo_metadata(call: Call, message: bytes) -> None:
    shown = [pair for pair in call.metadata if pair[0].startswith(b"x-")]
    call.respond(repr(sorted(shown)).encode())


def broken(call: Call, message: bytes) -> None:
    raise RuntimeError("a bug of the service")


class Hung:
    """Answers nobody; keeps the deadlines it was told, and who left."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.left = asyncio.Event()

    def __call__(self, call: Call, message: bytes) -> None:
        self.calls.append(call)
        call.on_cancel = self._on_cancel

    def _on_cancel(self, call: Call) -> None:
        call.finish(1)
        self.left.set()


class Engine:
    """One engine with services of its own. `in_batches`: plain Gets are read together."""

    def __init__(self, in_batches: bool) -> None:
        core: Any = MemoryCoordinator({0: "default"}, lambda: NOW_MS)
        core.in_batches = in_batches
        self.core: MemoryCoordinator = core
        self.hung = Hung()
        service = DataService(core, time.monotonic, asyncio.get_running_loop().call_soon)
        extra: dict[bytes, UnaryHandler] = {
            b"/t.T/Meta": echo_metadata,
            b"/t.T/Broken": broken,
            b"/t.T/Hang": self.hung,
        }
        self.routes = (
            GrpcRoutes(service.handlers() | extra, service.streams())
            | standard_routes(HealthService(SERVING), ["dabbawala.v1.Data"])
        )  # fmt: skip
        self.channel: Any = None  # there is one while it runs

    def connect(self, port: int, compression: grpc.Compression | None = None) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=NO_PROXY, compression=compression
        )


@asynccontextmanager
async def own(*, in_batches: bool = False) -> AsyncIterator[Engine]:
    engine = Engine(in_batches)
    door = GrpcDoor(engine.routes, LIMITS, time.monotonic_ns)
    server = await asyncio.get_running_loop().create_server(door, "127.0.0.1", 0)
    try:
        async with engine.connect(server.sockets[0].getsockname()[1]) as engine.channel:
            yield engine
    finally:
        server.close()
        door.close()
        await door.wait_closed()


@asynccontextmanager
async def grpcio(*, in_batches: bool = False) -> AsyncIterator[Engine]:
    engine = Engine(in_batches)
    door = GrpcioDoor(engine.routes, LIMITS)
    probe = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await door.listen(f"127.0.0.1:{port}")
    try:
        async with engine.connect(port) as engine.channel:
            yield engine
    finally:
        door.close()
        await door.wait_closed()


class Said(NamedTuple):
    """All that a client learns of one call."""

    answers: list[bytes]
    code: grpc.StatusCode
    message: str
    trailers: list[tuple[str, object]]


async def ask(engine: Engine, path: str, body: bytes, **how: Any) -> Said:
    call = engine.channel.unary_unary(path)(body, timeout=10, **how)
    try:
        answers = [await call]
    except grpc.aio.AioRpcError:
        answers = []
    return await said(call, answers)


async def talk(engine: Engine, path: str, bodies: Iterable[bytes], **how: Any) -> Said:
    call = engine.channel.stream_stream(path)(iter(list(bodies)), timeout=10, **how)
    answers: list[bytes] = []
    try:
        async for answer in call:
            answers.append(answer)  # noqa: PERF401  # what came before an error counts
    except grpc.aio.AioRpcError:
        pass
    return await said(call, sorted(answers))


async def said(call: Any, answers: list[bytes]) -> Said:
    trailers = [pair for pair in await call.trailing_metadata() or () if pair[0] != "content-type"]
    return Said(answers, await call.code(), await call.details() or "", sorted(trailers))


def requests() -> list[tuple[str, bytes]]:
    def data(name: str, message: Message) -> tuple[str, bytes]:
        return DATA + name, message.SerializeToString()

    items = [pb.BatchWriteItem(key=b"b%d" % n, put=b"%d" % n) for n in range(5)]
    return [
        data("Put", pb.PutRequest(key=b"k", value=b"v" * 1000)),
        data("Get", pb.GetRequest(key=b"k")),
        data("Get", pb.GetRequest(key=b"k", consistency=pb.CONSISTENCY_ONE, timeout_ms=900)),
        data("Get", pb.GetRequest(key=b"k", session=b"new")),
        data("Get", pb.GetRequest(key=b"k", session=b"wrong")),
        data("Get", pb.GetRequest(key=b"never")),
        data("Put", pb.PutRequest(key=b"e", value=b"", expires_at_ms=NOW_MS + 60_000)),
        data("Get", pb.GetRequest(keyspace="default", key=b"e")),
        data("Get", pb.GetRequest(key=b"")),
        data("Get", pb.GetRequest(keyspace="\u043d\u0435\u0442", key=b"k")),
        data("Delete", pb.DeleteRequest(key=b"k")),
        data("Get", pb.GetRequest(key=b"k")),
        data("BatchWrite", pb.BatchWriteRequest(items=[*items, pb.BatchWriteItem(put=b"x")])),
        data("BatchWrite", pb.BatchWriteRequest(items=[pb.BatchWriteItem(key=b"x")])),
        data("BatchGet", pb.BatchGetRequest(keys=[item.key for item in items])),
        data("Scan", pb.ScanRequest(page_size=3)),
        data("Scan", pb.ScanRequest(cursor=b"wrong")),
        data("CompareAndSet", pb.CompareAndSetRequest(key=b"k")),
        (DATA + "Get", b"\xff\xff no message"),
        (DATA + "Get", bytes((1 << 20) + 1)),
        ("/t.T/Broken", b""),
        ("/grpc.health.v1.Health/Check", b""),
        (
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest(service="nope").SerializeToString(),
        ),
    ]


async def test_unary_calls_agree() -> None:
    async with own() as ours, grpcio() as theirs, own(in_batches=True) as joined:
        for path, body in requests():
            one, *others = [await ask(engine, path, body) for engine in (ours, theirs, joined)]
            if one.code is grpc.StatusCode.RESOURCE_EXHAUSTED and len(body) > 1 << 20:
                one = one._replace(message="")
                others = [other._replace(message="") for other in others]
            assert others == [one, one], path
        assert joined.core.batches
        assert not ours.core.batches


async def test_gets_of_one_turn_are_read_together_on_both_engines() -> None:
    put = pb.PutRequest(key=b"k", value=b"v").SerializeToString()
    get, no = pb.GetRequest(key=b"k").SerializeToString(), pb.GetRequest(key=b"never")
    async with own(in_batches=True) as ours, grpcio(in_batches=True) as theirs:
        for engine in (ours, theirs):
            await ask(engine, DATA + "Put", put)
            asked = [get, no.SerializeToString()] * 20
            said = await asyncio.gather(*[ask(engine, DATA + "Get", body) for body in asked])
            answers = [pb.GetResponse.FromString(one.answers[0]) for one in said]
            assert [answer.value for answer in answers] == [b"v", b""] * 20
            assert sum(len(batch.keys) for batch in engine.core.batches) == 40


async def test_metadata_and_compression_agree() -> None:
    metadata = (("x-text", "tenant"), ("x-raw-bin", b"\x00\xff"), ("x-text", "twice"))
    async with own() as ours, grpcio() as theirs:
        one, other = [
            await ask(engine, "/t.T/Meta", b"x" * 5000, metadata=metadata, compression=how)
            for engine, how in ((ours, grpc.Compression.Gzip), (theirs, grpc.Compression.Gzip))
        ]
        assert one == other
        assert b"tenant" in one.answers[0]


async def test_an_unknown_method_has_the_same_status() -> None:
    async with own() as ours, grpcio() as theirs:
        codes = [(await ask(engine, "/t.T/None", b"")).code for engine in (ours, theirs)]
        assert codes == [grpc.StatusCode.UNIMPLEMENTED] * 2


async def test_streams_agree() -> None:
    pipeline = [
        pb.PipelineRequest(id=1, put=pb.PutRequest(key=b"k", value=b"v")),
        pb.PipelineRequest(id=2, get=pb.GetRequest(key=b"k")),
        pb.PipelineRequest(id=3, get=pb.GetRequest(key=b"")),
        pb.PipelineRequest(id=4),
    ]
    bodies = [request.SerializeToString() for request in pipeline]
    listing = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    async with own() as ours, grpcio() as theirs:
        for path, sent in ((DATA + "Pipeline", bodies), (reflection, [listing, b"\xff"])):
            one, other = await talk(ours, path, sent), await talk(theirs, path, sent)
            assert one == other
            assert one.answers


async def test_a_pipeline_of_large_answers_passes_both() -> None:
    value = bytes(1 << 19)
    gets = [
        pb.PipelineRequest(id=n, get=pb.GetRequest(key=b"k")).SerializeToString() for n in range(40)
    ]
    put = pb.PutRequest(key=b"k", value=value).SerializeToString()
    async with own() as ours, grpcio() as theirs:
        for engine in (ours, theirs):
            await ask(engine, DATA + "Put", put)
            whole = await talk(engine, DATA + "Pipeline", gets)
            assert whole.code is grpc.StatusCode.OK
            assert len(whole.answers) == 40


async def test_deadlines_reach_the_service_and_a_client_that_leaves_is_told_of() -> None:
    async with own() as ours, grpcio() as theirs:
        for engine in (ours, theirs):
            call = engine.channel.unary_unary("/t.T/Hang")(b"", timeout=0.3)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
            assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            async with asyncio.timeout(10):
                await engine.hung.left.wait()
            [hung] = engine.hung.calls
            assert hung.timeout_ns is not None
            assert 0 < hung.timeout_ns <= 310_000_000  # grpcio says it in whole units, upwards
