"""grpcio's own clients, sync and asyncio, on a whole cluster, over TCP and a Unix socket."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from replicas.version import ZERO_VERSION
from tests.support.client_days import LEDGER, working_cluster
from tests.support.local_cluster import (
    CHANNEL_OPTIONS,
    LocalCluster,
    second_sidecar,
    wait_until,
)
from tests.support.rich_errors import rich

pytestmark = pytest.mark.slow

READ_LEVELS = ["ONE", "LOCAL_ONE", "QUORUM", "LOCAL_QUORUM", "ALL"]
FREE_PORTS = {"grpc": "127.0.0.1:0", "redis": "127.0.0.1:0", "admin": "127.0.0.1:0"}
WRITE_LEVELS = [*READ_LEVELS, "EACH_QUORUM"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with working_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def engines(cluster: LocalCluster) -> list[str]:
    """Our engine over TCP and a Unix socket, and grpcio's over both."""
    path = str(cluster.folder / "grpcio.sock")
    other = second_sidecar(cluster, "a", grpc_engine="grpcio", grpc_socket=path, **FREE_PORTS)
    return [*cluster.grpc_targets, other.address, f"unix:{path}"]


@pytest.fixture(params=range(4), ids=["tcp", "unix", "grpcio", "grpcio-unix"])
def target(engines: list[str], request: pytest.FixtureRequest) -> str:
    return str(engines[request.param])


@pytest.fixture
def data(cluster: LocalCluster, target: str) -> data_pb2_grpc.DataStub:
    return data_pb2_grpc.DataStub(cluster.channel(target))


def level(name: str) -> "data_pb2.Consistency.ValueType":
    return data_pb2.Consistency.Value(f"CONSISTENCY_{name}")


def test_put_get_delete(data: data_pb2_grpc.DataStub) -> None:
    put = data.Put(data_pb2.PutRequest(key=b"k", value=b"v"), timeout=5)
    assert len(put.version) == len(ZERO_VERSION)
    assert not put.superseded
    got = data.Get(data_pb2.GetRequest(key=b"k"), timeout=5)
    assert (got.found, got.value, got.version) == (True, b"v", put.version)
    assert got.consistency == put.consistency == data_pb2.CONSISTENCY_QUORUM
    deleted = data.Delete(data_pb2.DeleteRequest(key=b"k"), timeout=5)
    assert deleted.existed
    assert deleted.version > put.version
    got = data.Get(data_pb2.GetRequest(key=b"k"), timeout=5)
    assert (got.found, got.value, got.version) == (False, b"", deleted.version)
    assert not data.Delete(data_pb2.DeleteRequest(key=b"k"), timeout=5).existed
    never = data.Get(data_pb2.GetRequest(key=b"never"), timeout=5)
    assert (never.found, never.version) == (False, b"")


def test_the_same_write_again_is_the_same_and_an_older_one_is_superseded(
    data: data_pb2_grpc.DataStub,
) -> None:
    first = data.Put(data_pb2.PutRequest(key=b"r", value=b"1"), timeout=5).version
    again = data_pb2.PutRequest(key=b"r", value=b"1", retry_version=first)
    assert data.Put(again, timeout=5).version == first
    second = data.Put(data_pb2.PutRequest(key=b"r", value=b"2"), timeout=5).version
    late = data.Put(again, timeout=5)
    assert (late.version, late.superseded) == (first, True)
    got = data.Get(data_pb2.GetRequest(key=b"r"), timeout=5)
    assert (got.value, got.version) == (b"2", second)


def test_every_kind_of_write_takes_the_version_of_an_earlier_attempt(
    data: data_pb2_grpc.DataStub,
) -> None:
    item = data_pb2.BatchWriteItem(key=b"again", put=b"1")
    [first] = data.BatchWrite(data_pb2.BatchWriteRequest(items=[item]), timeout=5).results
    item.retry_version = first.put.version
    [again] = data.BatchWrite(data_pb2.BatchWriteRequest(items=[item]), timeout=5).results
    assert (again.put.version, again.put.superseded) == (first.put.version, False)
    delete = data_pb2.DeleteRequest(key=b"again")
    delete.retry_version = data.Delete(delete, timeout=5).version
    deleted = data.Delete(delete, timeout=5)
    assert (deleted.version, deleted.superseded) == (delete.retry_version, False)
    group = data_pb2.TransactRequest(
        items=[data_pb2.TransactItem(key=b"{again}/%d" % n, put=b"1") for n in range(3)]
    )
    group.retry_version = data.Transact(group, timeout=5).version
    assert not data.Transact(group, timeout=5).superseded
    newer = data_pb2.PutRequest(key=b"{again}/1", value=b"2")
    data.Put(newer, timeout=5)
    late = data.Transact(group, timeout=5)
    assert (late.version, late.superseded) == (group.retry_version, True)
    [late_one] = data.BatchWrite(data_pb2.BatchWriteRequest(items=[item]), timeout=5).results
    assert late_one.put.superseded
    keys = [b"{again}/0", b"{again}/1", b"again"]
    read = data.BatchGet(data_pb2.BatchGetRequest(keys=keys), timeout=5).results
    assert [one.value.value for one in read] == [b"1", b"2", b""]


@pytest.mark.parametrize("read", READ_LEVELS)
def test_every_level_is_reached_and_named(data: data_pb2_grpc.DataStub, read: str) -> None:
    for write in WRITE_LEVELS:
        put = data_pb2.PutRequest(key=b"l", value=write.encode(), consistency=level(write))
        assert data.Put(put, timeout=5).consistency == level(write)
        if read in ("QUORUM", "ALL") and write in ("QUORUM", "EACH_QUORUM", "ALL"):
            got = data.Get(data_pb2.GetRequest(key=b"l", consistency=level(read)), timeout=5)
            assert (got.value, got.consistency) == (write.encode(), level(read))
    everywhere = data_pb2.PutRequest(key=b"l", value=b"all", consistency=level("ALL"))
    data.Put(everywhere, timeout=5)
    got = data.Get(data_pb2.GetRequest(key=b"l", consistency=level(read)), timeout=5)
    assert (got.value, got.consistency) == (b"all", level(read))


def test_batches_answer_for_each_key(data: data_pb2_grpc.DataStub) -> None:
    items = [data_pb2.BatchWriteItem(key=b"b%d" % n, put=b"v%d" % n) for n in range(200)]
    items.append(data_pb2.BatchWriteItem(key=b"", put=b"v"))
    items.append(data_pb2.BatchWriteItem(key=b"b0", delete=True))
    written = data.BatchWrite(data_pb2.BatchWriteRequest(items=items), timeout=5).results
    kinds = [one.WhichOneof("result") for one in written]
    assert kinds == ["put"] * 200 + ["failure", "delete"]
    failure = written[200].failure
    assert (failure.code, failure.reason) == (3, "KEY_INVALID")
    assert failure.outcome == data_pb2.OUTCOME_NOT_APPLIED
    keys = [b"b%d" % n for n in range(1, 201)] + [b"", b"k" * 1025]
    read = data.BatchGet(data_pb2.BatchGetRequest(keys=keys), timeout=5).results
    assert [one.value.value for one in read[:199]] == [b"v%d" % n for n in range(1, 200)]
    assert (read[199].WhichOneof("result"), read[199].value.found) == ("value", False)
    assert [one.failure.reason for one in read[200:]] == ["KEY_INVALID"] * 2
    assert data.BatchGet(data_pb2.BatchGetRequest(), timeout=5).results == []


def test_locate_names_three_zones_and_a_target(data: data_pb2_grpc.DataStub) -> None:
    found = data.Locate(data_pb2.LocateRequest(key=b"k"), timeout=5)
    assert found.keyspace == "default"
    assert sorted(owner.zone for owner in found.owners) == ["a", "b", "c"]
    assert {owner.health for owner in found.owners} == {"connected"}
    assert found.target in {owner.node for owner in found.owners if owner.zone == "a"}
    assert found.epoch > 0
    assert found.reason
    tagged = {
        (one.bucket, one.key_hash)
        for one in (
            data.Locate(data_pb2.LocateRequest(key=key), timeout=5)
            for key in (b"{order}/1", b"{order}/2", b"order")
        )
    }
    assert len(tagged) == 1


async def test_the_asyncio_client_calls_every_method(target: str) -> None:
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        data: data_pb2_grpc.DataAsyncStub = data_pb2_grpc.DataStub(channel)
        put = await data.Put(data_pb2.PutRequest(key=b"a", value=b"v"), timeout=5)
        got = await data.Get(data_pb2.GetRequest(key=b"a"), timeout=5)
        assert (got.value, got.version) == (b"v", put.version)
        items = [data_pb2.BatchWriteItem(key=b"a%d" % n, put=b"%d" % n) for n in range(10)]
        wrote = await data.BatchWrite(data_pb2.BatchWriteRequest(items=items), timeout=5)
        assert [one.WhichOneof("result") for one in wrote.results] == ["put"] * 10
        keys = [item.key for item in items]
        read = await data.BatchGet(data_pb2.BatchGetRequest(keys=keys), timeout=5)
        assert [one.value.value for one in read.results] == [b"%d" % n for n in range(10)]
        assert (await data.Locate(data_pb2.LocateRequest(key=b"a"), timeout=5)).target
        together = [data_pb2.TransactItem(key=b"{a}/%d" % n, put=b"v") for n in range(2)]
        done = await data.Transact(data_pb2.TransactRequest(items=together), timeout=5)
        page = await data.Scan(data_pb2.ScanRequest(prefix=b"{a}/"), timeout=5)
        assert {entry.version for entry in page.entries} == {done.version}
        assert (await data.Delete(data_pb2.DeleteRequest(key=b"a"), timeout=5)).existed
        gets = [
            data_pb2.PipelineRequest(id=n, get=data_pb2.GetRequest(key=b"a%d" % n))
            for n in range(10)
        ]
        answers = {one.id: one.get.value async for one in data.Pipeline(iter(gets), timeout=5)}
        assert answers == {n: b"%d" % n for n in range(10)}
        counter = data_pb2.DeleteRequest(keyspace=LEDGER, key=b"n")
        await data.Delete(counter, timeout=5)
        increment = data_pb2.IncrementRequest(keyspace=LEDGER, key=b"n", delta=-7)
        assert (await data.Increment(increment, timeout=5)).value == -7
        swap = data_pb2.CompareAndSetRequest(
            keyspace=LEDGER, key=b"n", expected_value=b"-7", delete=True
        )
        assert (await data.CompareAndSet(swap, timeout=5)).applied
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await data.Get(data_pb2.GetRequest(key=b""), timeout=5)
        assert rich(failed.value).fields == ["key"]


def test_an_unknown_method_is_unimplemented(cluster: LocalCluster, target: str) -> None:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    call = cluster.channel(target).unary_unary("/dabbawala.v1.Data/Unheard")
    with pytest.raises(grpc.RpcError) as failed:
        call(b"", timeout=5)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_is_checked_and_watched(cluster: LocalCluster, target: str) -> None:
    health: Any = health_pb2_grpc.HealthStub(cluster.channel(target))
    for service in ("", "dabbawala.v1.Data"):
        request = health_pb2.HealthCheckRequest(service=service)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert health.Check(request, timeout=5).status == serving
        watch = health.Watch(request, timeout=5)
        assert next(watch).status == serving
        watch.cancel()
    with pytest.raises(grpc.RpcError) as failed:
        health.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=5)
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.fixture
def frozen(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """Every node is stopped: connections stand and nothing answers."""
    for node in cluster.nodes:
        node.pause()
    try:
        yield cluster
    finally:
        for node in cluster.nodes:
            node.resume()
        cluster.wait_trusted()


def test_a_deadline_is_kept_by_the_sidecar_and_its_error_says_all(frozen: LocalCluster) -> None:
    data = frozen.data()
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as failed:
        data.Get(data_pb2.GetRequest(key=b"d", timeout_ms=200), timeout=5)
    assert 0.2 <= time.monotonic() - began < 1.0
    error = rich(failed.value)
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIMEOUT")
    assert error.retry_ms is not None
    assert error.metadata.keys() >= {"keyspace", "bucket", "epoch", "acks_had", "acks_needed"}
    with pytest.raises(grpc.RpcError) as failed:
        data.Put(data_pb2.PutRequest(key=b"d", value=b"v", timeout_ms=200), timeout=5)
    error = rich(failed.value)
    assert (error.code, error.metadata["outcome"]) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "UNKNOWN",
    )
    version = bytes.fromhex(error.metadata["version"])
    for node in frozen.nodes:
        node.resume()
    frozen.wait_trusted()
    again = data_pb2.PutRequest(key=b"d", value=b"v", retry_version=version)
    assert data.Put(again, timeout=5).version == version
    got = data.Get(data_pb2.GetRequest(key=b"d"), timeout=5)
    assert (got.value, got.version) == (b"v", version)


def test_a_clients_own_deadline_is_kept_too(frozen: LocalCluster) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as failed:
        frozen.data().Get(data_pb2.GetRequest(key=b"d"), timeout=0.2)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 1.0


def test_a_call_that_waits_for_ready_is_answered_by_a_sidecar_that_starts_later(
    cluster: LocalCluster,
) -> None:
    data = cluster.data()
    data.Put(data_pb2.PutRequest(key=b"w", value=b"v"), timeout=5)
    states: list[grpc.ChannelConnectivity] = []
    cluster.channel(cluster.grpc_targets[0]).subscribe(states.append)
    cluster.sidecar.kill()
    # A call that goes out on the dying connection fails, whether it waits for a ready one or not.
    wait_until(
        lambda: bool(states) and states[-1] is not grpc.ChannelConnectivity.READY,
        "the channel knows that its connection is gone",
    )
    waiting = data.Get.future(data_pb2.GetRequest(key=b"w"), timeout=20, wait_for_ready=True)
    cluster.sidecar.start()
    assert waiting.result().value == b"v"


def test_keys_of_one_tag_are_written_together(data: data_pb2_grpc.DataStub) -> None:
    items = [data_pb2.TransactItem(key=b"{order-42}/%d" % n, put=b"%d" % n) for n in range(3)]
    done = data.Transact(data_pb2.TransactRequest(items=items), timeout=5)
    keys = [item.key for item in items]
    read = data.BatchGet(data_pb2.BatchGetRequest(keys=keys), timeout=5).results
    assert [(one.value.value, one.value.version) for one in read] == [
        (b"%d" % n, done.version) for n in range(3)
    ]
    items.append(data_pb2.TransactItem(key=b"elsewhere", delete=True))
    with pytest.raises(grpc.RpcError) as failed:
        data.Transact(data_pb2.TransactRequest(items=items), timeout=5)
    error = rich(failed.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "KEYS_APART")
    assert error.fields == ["items[3].key"]
    assert error.metadata["outcome"] == "NOT_APPLIED"


def scanned(data: data_pb2_grpc.DataStub, **how: Any) -> list[bytes]:
    request = data_pb2.ScanRequest(**how)
    keys: list[bytes] = []
    while True:
        page = data.Scan(request, timeout=5)
        keys += [entry.key for entry in page.entries]
        if not page.next_cursor:
            return sorted(keys)
        request.cursor = page.next_cursor


def test_a_scan_gives_every_key_of_a_prefix_once(data: data_pb2_grpc.DataStub) -> None:
    keys = sorted(b"scan/%d" % n for n in range(300))
    items = [data_pb2.BatchWriteItem(key=key, put=key[5:]) for key in keys]
    data.BatchWrite(data_pb2.BatchWriteRequest(items=items), timeout=5)
    data.Delete(data_pb2.DeleteRequest(key=keys[0]), timeout=5)
    assert scanned(data, prefix=b"scan/", page_size=70) == keys[1:]
    assert scanned(data, prefix=b"scan/", consistency=level("ONE"), keys_only=True) == keys[1:]
    assert set(keys[1:]) <= set(scanned(data, page_size=1000))
    bucket = data.Locate(data_pb2.LocateRequest(key=keys[1]), timeout=5).bucket
    in_bucket = scanned(data, prefix=b"scan/", bucket=bucket)
    assert keys[1] in in_bucket
    assert len(in_bucket) < len(keys)


def test_a_prefix_with_a_tag_and_values_with_their_expiry(data: data_pb2_grpc.DataStub) -> None:
    at_ms = int(time.time() * 1000) + 600_000
    put = data_pb2.PutRequest(key=b"{scan-tag}/1", value=b"v", expires_at_ms=at_ms)
    version = data.Put(put, timeout=5).version
    page = data.Scan(data_pb2.ScanRequest(prefix=b"{scan-tag}/"), timeout=5)
    [entry] = page.entries
    assert (entry.key, entry.value) == (put.key, b"v")
    assert (entry.version, entry.expires_at_ms) == (version, at_ms)
    assert page.next_cursor == b""


def test_a_cursor_is_refused_where_it_does_not_belong(data: data_pb2_grpc.DataStub) -> None:
    items = [data_pb2.BatchWriteItem(key=b"cursor/%d" % n, put=b"v") for n in range(20)]
    data.BatchWrite(data_pb2.BatchWriteRequest(items=items), timeout=5)
    request = data_pb2.ScanRequest(prefix=b"cursor/", page_size=3)
    request.cursor = data.Scan(request, timeout=5).next_cursor
    assert data.Scan(request, timeout=5).entries
    changed = bytes([request.cursor[0] ^ 1]) + request.cursor[1:]
    for wrong in ({"cursor": changed}, {"cursor": b"x"}, {"prefix": b"c"}, {"bucket": 1}):
        other = data_pb2.ScanRequest()
        other.CopyFrom(request)
        for name, value in wrong.items():
            setattr(other, name, value)
        with pytest.raises(grpc.RpcError) as failed:
            data.Scan(other, timeout=5)
        error = rich(failed.value)
        assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["cursor"])


def test_a_pipeline_answers_each_request_and_ends(data: data_pb2_grpc.DataStub) -> None:
    puts = [
        data_pb2.PipelineRequest(id=n, put=data_pb2.PutRequest(key=b"p%d" % n, value=b"%d" % n))
        for n in range(1, 500)
    ]
    answers = {answer.id: answer for answer in data.Pipeline(iter(puts), timeout=20)}
    assert {answer.WhichOneof("response") for answer in answers.values()} == {"put"}
    gets = [
        data_pb2.PipelineRequest(id=n, get=data_pb2.GetRequest(key=b"p%d" % n)) for n in answers
    ]
    found = {answer.id: answer.get.value for answer in data.Pipeline(iter(gets), timeout=20)}
    assert found == {n: b"%d" % n for n in range(1, 500)}


def test_a_pipeline_of_large_values_stays_within_the_windows(data: data_pb2_grpc.DataStub) -> None:
    value = bytes(1 << 19)
    data.Put(data_pb2.PutRequest(key=b"large", value=value), timeout=5)
    gets = [
        data_pb2.PipelineRequest(id=n, get=data_pb2.GetRequest(key=b"large")) for n in range(60)
    ]
    seen = []
    for answer in data.Pipeline(iter(gets), timeout=20):
        assert answer.get.value == value
        seen.append(answer.id)
    assert sorted(seen) == list(range(60))


def test_a_sidecar_on_grpcio_drains_and_ends(cluster: LocalCluster, engines: list[str]) -> None:
    """The last: the sidecar is gone afterwards."""
    data = data_pb2_grpc.DataStub(cluster.channel(engines[2]))
    data.Put(data_pb2.PutRequest(key=b"drain", value=b"v"), timeout=5)
    part = cluster.parts["sidecar-2"]
    part.stop()
    assert part.child is not None
    assert part.child.returncode == 0
