"""Two sidecars of one cluster, one on each engine of the gRPC door: every method answers alike.

Compared are answers, statuses, messages, details, metadata before the answer and after it. What
differs by nature is blanked out: versions, tokens and latencies.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2

from protos.dabbawala.v1 import data_pb2 as pb
from protos.dabbawala.v1 import data_pb2_grpc
from tests.support.client_days import LEDGER, working_cluster
from tests.support.local_cluster import (
    CHANNEL_OPTIONS,
    LocalCluster,
    second_sidecar,
    wait_until,
)
from tests.support.rich_errors import rich

pytestmark = pytest.mark.slow

FREE_PORTS = {"grpc": "127.0.0.1:0", "redis": "127.0.0.1:0", "admin": "127.0.0.1:0"}
DATA, HEALTH = "/dabbawala.v1.Data/", "/grpc.health.v1.Health/"
ID = bytes.fromhex("0193a9c0000070008000000000000001")  # a UUIDv7 of long ago
WAIT_S = 30  # longer than a busy machine stands still
DEADLINE_MS = 40
LATE_MS = 10.0
# Of versions the length counts. Where a read would go depends on what each sidecar has met.
BLANKED = {
    *("GetResponse.session", "LocateResponse.target", "LocateResponse.reason"),
    *("OwnerView.latency_ms", "LocateResponse.map_revision"),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with working_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def engines(cluster: LocalCluster) -> dict[str, str]:
    """Addresses by name of the engine."""
    found = {}
    for number, engine in enumerate(("own", "grpcio"), 2):
        part = second_sidecar(
            *(cluster, "a", number),
            **{"grpc_engine": engine, "default_timeout_ms": WAIT_S * 1000, **FREE_PORTS},
        )
        found[engine] = part.address
        data = data_pb2_grpc.DataStub(cluster.channel(part.address))
        for keyspace in ("default", LEDGER):
            request = pb.LocateRequest(keyspace=keyspace, key=b"k")
            wait_until(lambda: _connected(data, request), f"{engine} serves {keyspace}")  # noqa: B023
    return found


def _connected(data: data_pb2_grpc.DataStub, request: pb.LocateRequest) -> bool:
    try:
        owners = data.Locate(request, timeout=WAIT_S).owners
    except grpc.RpcError:
        return False
    return {owner.health for owner in owners} == {"connected"}


# --- what is asked


class Asked(NamedTuple):
    method: str
    request: Message | bytes
    same_words: bool = True  # whether the engines say the same of it


def changes(keyspace: str, **more: Any) -> list[Asked]:
    """The same keys again and again, so that both engines find what the other found."""
    put = {"keyspace": keyspace, "key": b"k", "value": b"v" * 1000, **more}
    return [
        Asked("Delete", pb.DeleteRequest(keyspace=keyspace, key=b"k")),
        Asked("Get", pb.GetRequest(keyspace=keyspace, key=b"k")),
        Asked("Put", pb.PutRequest(**put, expires_at_ms=4_000_000_000_000)),
        Asked("Get", pb.GetRequest(keyspace=keyspace, key=b"k")),
        Asked("Get", pb.GetRequest(keyspace=keyspace, key=b"k", session=b"new")),
        Asked("Get", pb.GetRequest(keyspace=keyspace, key=b"k", timeout_ms=WAIT_S * 1000)),
        Asked("BatchGet", pb.BatchGetRequest(keyspace=keyspace, keys=[b"k", b"", b"never"])),
        Asked("BatchGet", pb.BatchGetRequest(keyspace=keyspace)),
        Asked("BatchGet", pb.BatchGetRequest(keyspace=keyspace, keys=[b"k"] * 10_001)),
        Asked("Scan", pb.ScanRequest(keyspace=keyspace, prefix=b"k", page_size=10)),
        Asked("Scan", pb.ScanRequest(keyspace=keyspace, bucket=9_999)),
        Asked("Scan", pb.ScanRequest(keyspace=keyspace, cursor=b"of nobody")),
        Asked("Locate", pb.LocateRequest(keyspace=keyspace, key=b"k")),
        Asked("Locate", pb.LocateRequest(keyspace=keyspace)),
        Asked("Delete", pb.DeleteRequest(keyspace=keyspace, key=b"k")),
        Asked("Put", pb.PutRequest(keyspace=keyspace, key=b"k" * 1025)),
        Asked("Put", pb.PutRequest(keyspace=keyspace, key=b"k", value=bytes((1 << 20) + 1))),
        Asked("Put", pb.PutRequest(keyspace=keyspace, key=b"k", expires_at_ms=1 << 63)),
        Asked("Put", pb.PutRequest(keyspace=keyspace, key=b"k", retry_version=b"short")),
        Asked("Put", pb.PutRequest(keyspace=keyspace, key=b"k", operation_id=b"short")),
        Asked("Get", pb.GetRequest(keyspace=keyspace, key=b"k", consistency=77)),  # type: ignore[arg-type]
        Asked("Get", pb.GetRequest(keyspace=keyspace, key=b"k", session=b"no token")),
        Asked("Increment", pb.IncrementRequest(keyspace=keyspace, key=b"k", delta=42)),
        Asked("Increment", pb.IncrementRequest(keyspace=keyspace, key=b"k", operation_id=ID)),
        *_conditional(keyspace),
        *_several(keyspace),
    ]


def _conditional(keyspace: str) -> list[Asked]:
    wanted: list[dict[str, Any]] = [
        *({"expected_absent": True}, {"expected_value": b"42"}, {"expected_value": b"other"}),
        *({"expected_version": b"short"}, {}),
    ]
    return [
        Asked(
            "CompareAndSet", pb.CompareAndSetRequest(keyspace=keyspace, key=b"k", put=b"x", **one)
        )
        for one in wanted
    ]


def _several(keyspace: str) -> list[Asked]:
    items = [pb.BatchWriteItem(key=b"b%d" % n, put=b"%d" % n) for n in range(5)]
    items += [pb.BatchWriteItem(key=b"b0", delete=True), pb.BatchWriteItem(key=b"", put=b"v")]
    group = [pb.TransactItem(key=b"{t}%d" % n, put=b"v") for n in range(3)]
    apart = [*group, pb.TransactItem(key=b"elsewhere", delete=True)]
    nothing = [pb.BatchWriteItem(key=b"b1")]
    return [
        Asked("BatchWrite", pb.BatchWriteRequest(keyspace=keyspace, items=items)),
        Asked("BatchWrite", pb.BatchWriteRequest(keyspace=keyspace, items=nothing)),
        Asked("Transact", pb.TransactRequest(keyspace=keyspace, items=group)),
        Asked("Transact", pb.TransactRequest(keyspace=keyspace, items=apart)),
        Asked("Transact", pb.TransactRequest(keyspace=keyspace)),
    ]


UNARY = [
    *changes(""),
    *changes(LEDGER),
    Asked("Get", pb.GetRequest(keyspace="nosuch", key=b"k")),
    *(Asked(name, b"\xff\xff") for name in ("Get", "Put", "Scan", "Transact", "Increment")),
    Asked("Unheard", b"", same_words=False),
    Asked("Get", bytes((4 << 20) + 1), same_words=False),
]


def pipelined() -> list[pb.PipelineRequest]:
    """A request of each kind: those with an answer that does not depend on the others'."""
    kinds: list[dict[str, Any]] = [
        {"get": pb.GetRequest(key=b"never")},
        {"put": pb.PutRequest(key=b"p", value=b"v")},
        {"delete": pb.DeleteRequest(key=b"p deleted")},
        {"compare_and_set": pb.CompareAndSetRequest(key=b"p", expected_absent=True, put=b"x")},
        {"increment": pb.IncrementRequest(keyspace=LEDGER, key=b"word")},
        {"transact": pb.TransactRequest(items=[pb.TransactItem(key=b"p together", put=b"v")])},
        {"batch_get": pb.BatchGetRequest(keys=[b"never", b""])},
        {"batch_write": pb.BatchWriteRequest(items=[pb.BatchWriteItem(key=b"pb", put=b"v")])},
        {"scan": pb.ScanRequest(prefix=b"nothing", keys_only=True)},
        {"locate": pb.LocateRequest(key=b"p")},
        {},
    ]
    return [pb.PipelineRequest(id=number, **kind) for number, kind in enumerate(kinds)]


# --- what is said to it


class Said(NamedTuple):
    """All that a client learns of one call. Answers as text."""

    answers: list[str]
    code: grpc.StatusCode
    words: str
    before: list[Any]
    after: list[Any]


async def ask(channel: grpc.aio.Channel, asked: Asked) -> Said:
    request = (
        asked.request if isinstance(asked.request, bytes) else asked.request.SerializeToString()
    )
    method: Any = channel.unary_unary(DATA + asked.method)
    call = method(request, timeout=WAIT_S)
    try:
        answer = await call
    except grpc.aio.AioRpcError:
        return await said(call, [])
    return await said(call, [getattr(pb, f"{asked.method}Response").FromString(answer)])


async def said(call: Any, answers: Sequence[Message]) -> Said:
    for answer in answers:
        blank(answer)
    before, after = await call.initial_metadata(), await call.trailing_metadata()
    return Said(
        [str(answer) for answer in answers],
        await call.code(),
        await call.details() or "",
        sorted(before or ()),
        sorted(_readable(*field) for field in after or ()),
    )


def _readable(name: str, value: Any) -> tuple[str, str]:
    if name != "grpc-status-details-bin":
        return name, str(value)
    status = Status.FromString(value)
    blank(status)
    return name, str(status)


def blank(message: Message) -> None:
    """Takes out what differs by nature; the pairs of a map have an order afterwards."""
    if isinstance(message, AnyMessage):
        info = ErrorInfo()
        if message.Unpack(info):
            message.value = info.SerializeToString(deterministic=True)
    for field, value in message.ListFields():
        if field.name == "version":
            setattr(message, field.name, bytes(len(value)))
        elif f"{message.DESCRIPTOR.name}.{field.name}" in BLANKED:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                blank(part)


@pytest.fixture
async def channels(engines: dict[str, str]) -> AsyncIterator[list[grpc.aio.Channel]]:
    opened = [grpc.aio.insecure_channel(to, options=CHANNEL_OPTIONS) for to in engines.values()]
    yield opened
    for channel in opened:
        await channel.close()


async def test_every_unary_call_is_answered_alike(channels: list[grpc.aio.Channel]) -> None:
    # Twice on the first engine: what is asked there finds what it left, as on the second.
    _, ours, theirs = [
        [await ask(channel, asked) for asked in UNARY] for channel in (channels[0], *channels)
    ]
    for asked, one, other in zip(UNARY, ours, theirs, strict=True):
        if not asked.same_words:
            one, other = one._replace(words=""), other._replace(words="")
        assert one == other, asked
    codes = {one.code.name for one in ours}
    assert codes >= {
        *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"),
        *("UNIMPLEMENTED", "RESOURCE_EXHAUSTED"),
    }
    served = {asked.method for asked, one in zip(UNARY, ours, strict=True) if one.answers}
    assert {*served, "Pipeline"} == {m.name for m in pb.DESCRIPTOR.services_by_name["Data"].methods}


async def test_every_request_of_a_pipeline_is_answered_alike(
    channels: list[grpc.aio.Channel],
) -> None:
    both = []
    for channel in channels:
        stub: data_pb2_grpc.DataAsyncStub = data_pb2_grpc.DataStub(channel)
        await stub.Put(pb.PutRequest(keyspace=LEDGER, key=b"word", value=b"word"), timeout=WAIT_S)
        await stub.Delete(pb.DeleteRequest(key=b"p deleted"), timeout=WAIT_S)
        call = stub.Pipeline(iter(pipelined()), timeout=WAIT_S)
        answers = {answer.id: answer async for answer in call}
        both.append(await said(call, [answers[number] for number in sorted(answers)]))
    assert both[0] == both[1]
    assert len(both[0].answers) == len(pipelined())


async def test_health_is_told_alike(channels: list[grpc.aio.Channel]) -> None:
    both = []
    for channel in channels:
        heard = []
        for name in ("", "dabbawala.v1.Data", "nosuch"):
            body = health_pb2.HealthCheckRequest(service=name).SerializeToString()
            asking: Any = channel.unary_unary(f"{HEALTH}Check")
            watching: Any = channel.unary_stream(f"{HEALTH}Watch")
            call = asking(body, timeout=WAIT_S)
            try:
                heard.append(await call)
            except grpc.aio.AioRpcError:
                heard.append(await said(call, []))
            call = watching(body, timeout=WAIT_S)
            heard.append(await call.read())
            call.cancel()
        both.append(heard)
    assert both[0] == both[1]


# --- deadlines, while no replica answers


class Frozen:
    """Every node is stopped: connections stand, and nothing answers."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    def __enter__(self) -> None:
        for node in self._cluster.nodes:
            node.pause()

    def __exit__(self, *_: object) -> None:
        for node in self._cluster.nodes:
            node.resume()
        self._cluster.wait_trusted()


def lateness_ms(data: data_pb2_grpc.DataStub) -> list[float]:
    """How long after its deadline each of some calls is answered."""
    found = []
    for number in range(20):
        request = pb.GetRequest(key=b"late %d" % number, timeout_ms=DEADLINE_MS)
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as failed:
            data.Get(request, timeout=WAIT_S)
        found.append((time.monotonic() - began) * 1000 - DEADLINE_MS)
        error = rich(failed.value)
        assert (error.code.name, error.reason) == ("DEADLINE_EXCEEDED", "TIMEOUT")
        assert error.retry_ms is not None
    return found


@pytest.mark.parametrize("engine", ["own", "grpcio"])
def test_a_deadline_is_honoured_within_ten_milliseconds(
    cluster: LocalCluster, engines: dict[str, str], engine: str
) -> None:
    """The best of some rounds: a machine that is busy with something else is late by itself."""
    data = data_pb2_grpc.DataStub(cluster.channel(engines[engine]))
    rounds: list[list[float]] = []
    while len(rounds) < 8 and not any(max(late) <= LATE_MS for late in rounds):
        with Frozen(cluster):
            rounds.append(lateness_ms(data))
    assert min(max(late) for late in rounds) <= LATE_MS, rounds
    assert all(late >= 0 for late in rounds[-1])


async def test_a_write_that_ran_out_of_time_is_unknown_alike(
    cluster: LocalCluster, channels: list[grpc.aio.Channel]
) -> None:
    errors = []
    with Frozen(cluster):
        for channel in channels:
            stub: data_pb2_grpc.DataAsyncStub = data_pb2_grpc.DataStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.Put(pb.PutRequest(key=b"k", value=b"v", timeout_ms=100), timeout=WAIT_S)
            error = rich(failed.value)
            versions = bytes.fromhex(error.metadata.pop("version"))
            errors.append((error, len(versions)))
    assert errors[0] == errors[1]
    assert errors[0][0].metadata["outcome"] == "UNKNOWN"
    await asyncio.gather(*(channel.close() for channel in channels))
