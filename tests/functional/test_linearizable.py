"""Linearizable keyspaces on a whole cluster, through both doors."""

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import redis

from protos.dabbawala.v1 import data_pb2
from tests.support.local_cluster import LocalCluster, local_cluster
from tests.support.register_cluster import operation_id
from tests.support.rich_errors import rich

pytestmark = pytest.mark.slow

KEYSPACE = "ledger"
DATABASE = 7
CLIENTS = 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        created = running.dabba(
            *("keyspace", "create", KEYSPACE, "--mode", "linearizable"),
            *("--durability", "memory", "--redis-db", str(DATABASE), "--buckets", "8"),
        )
        assert created.status == 0, created
        running.wait_served(KEYSPACE)
        yield running


def increment(cluster: LocalCluster, key: bytes, delta: int = 1, **more: bytes) -> int:
    request = data_pb2.IncrementRequest(keyspace=KEYSPACE, key=key, delta=delta, **more)  # type: ignore[arg-type]
    return cluster.data().Increment(request).value


def refusal(call: grpc.RpcError) -> tuple[grpc.StatusCode, str, str]:
    error = rich(call)
    return error.code, error.reason, error.metadata.get("outcome", "")


def test_put_get_delete(cluster: LocalCluster) -> None:
    data = cluster.data()
    put = data.Put(data_pb2.PutRequest(keyspace=KEYSPACE, key=b"k", value=b"v"))
    got = data.Get(data_pb2.GetRequest(keyspace=KEYSPACE, key=b"k"))
    assert (got.found, got.value, got.version) == (True, b"v", put.version)
    gone = data.Delete(data_pb2.DeleteRequest(keyspace=KEYSPACE, key=b"k"))
    assert gone.existed
    after = data.Get(data_pb2.GetRequest(keyspace=KEYSPACE, key=b"k"))
    assert (after.found, after.version) == (False, gone.version)


def test_compare_and_set_by_version_value_and_absence(cluster: LocalCluster) -> None:
    data, key = cluster.data(), b"cas"

    def cas(**more: object) -> data_pb2.CompareAndSetResponse:
        request = data_pb2.CompareAndSetRequest(keyspace=KEYSPACE, key=key, **more)  # type: ignore[arg-type]
        return data.CompareAndSet(request)

    first = cas(expected_absent=True, put=b"1")
    assert first.applied
    refused = cas(expected_absent=True, put=b"2")
    assert not refused.applied
    assert (refused.found, refused.value, refused.version) == (True, b"1", first.version)
    second = cas(expected_version=first.version, put=b"2")
    assert second.applied
    assert not cas(expected_version=first.version, put=b"3").applied
    assert cas(expected_value=b"2", delete=True).applied
    assert not cas(expected_version=b"", put=b"4").applied  # it was written once


def test_twenty_clients_swap_one_value_and_none_is_lost(cluster: LocalCluster) -> None:
    data, key = cluster.data(), b"shared"
    data.Put(data_pb2.PutRequest(keyspace=KEYSPACE, key=key, value=b"0"))

    def work(_number: int) -> None:
        for _ in range(5):
            while True:
                got = data.Get(data_pb2.GetRequest(keyspace=KEYSPACE, key=key, timeout_ms=5000))
                swapped = data.CompareAndSet(
                    data_pb2.CompareAndSetRequest(
                        keyspace=KEYSPACE,
                        key=key,
                        expected_version=got.version,
                        put=b"%d" % (int(got.value) + 1),
                        timeout_ms=5000,
                    )
                )
                if swapped.applied:
                    break

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))
    got = data.Get(data_pb2.GetRequest(keyspace=KEYSPACE, key=key))
    assert got.value == b"%d" % (CLIENTS * 5)


def test_a_change_repeated_with_its_id_happens_once(cluster: LocalCluster) -> None:
    data, id_ = cluster.data(), operation_id()
    request = data_pb2.IncrementRequest(keyspace=KEYSPACE, key=b"once", delta=5, operation_id=id_)
    first, again = data.Increment(request), data.Increment(request)
    assert (first.value, first.repeated_earlier) == (5, False)
    assert (again.version, again.repeated_earlier) == (first.version, True)
    assert increment(cluster, b"once", 0) == 5


def test_what_can_not_be_incremented_is_typed(cluster: LocalCluster) -> None:
    data = cluster.data()
    data.Put(data_pb2.PutRequest(keyspace=KEYSPACE, key=b"word", value=b"word"))
    with pytest.raises(grpc.RpcError) as caught:
        increment(cluster, b"word")
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "NOT_AN_INTEGER", "NOT_APPLIED")
    assert refusal(caught.value) == expected
    increment(cluster, b"full", (1 << 63) - 1)
    with pytest.raises(grpc.RpcError) as caught:
        increment(cluster, b"full")
    assert refusal(caught.value)[1:] == ("INTEGER_OVERFLOW", "NOT_APPLIED")
    assert increment(cluster, b"full", -1) == (1 << 63) - 2


def test_levels_and_the_other_modes_ways_are_refused(cluster: LocalCluster) -> None:
    data = cluster.data()
    with pytest.raises(grpc.RpcError) as caught:
        data.Get(data_pb2.GetRequest(keyspace=KEYSPACE, key=b"k", consistency=4))  # type: ignore[arg-type]
    assert refusal(caught.value)[:2] == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "CONSISTENCY_INVALID",
    )
    with pytest.raises(grpc.RpcError) as caught:
        data.Increment(data_pb2.IncrementRequest(key=b"k", delta=1))
    assert refusal(caught.value) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "NEEDS_LINEARIZABLE",
        "NOT_APPLIED",
    )
    with pytest.raises(grpc.RpcError) as caught:
        increment(cluster, b"k", operation_id=b"x")
    assert refusal(caught.value)[1] == "OPERATION_ID_INVALID"


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"put": b"v"}, "expected"),
        ({"expected_absent": False, "put": b"v"}, "expected"),
        ({"expected_absent": True}, "change"),
        ({"expected_absent": True, "delete": False}, "change"),
        ({"expected_version": b"v", "put": b"v"}, "expected_version"),
        ({"expected_absent": True, "put": b"v", "expires_at_ms": 1 << 60}, "expires_at_ms"),
    ],
)
def test_an_incomplete_compare_and_set_names_the_field(
    cluster: LocalCluster, fields: dict[str, object], bad: str
) -> None:
    request = data_pb2.CompareAndSetRequest(keyspace=KEYSPACE, key=b"k", **fields)  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as caught:
        cluster.data().CompareAndSet(request)
    assert rich(caught.value).fields == [bad]


def test_batches_work_key_by_key(cluster: LocalCluster) -> None:
    data = cluster.data()
    items = [
        data_pb2.BatchWriteItem(key=b"batch-%d" % number, put=b"%d" % number)
        for number in range(50)
    ]
    items.append(data_pb2.BatchWriteItem(key=b"batch-0", delete=True))
    written = data.BatchWrite(data_pb2.BatchWriteRequest(keyspace=KEYSPACE, items=items))
    assert [result.WhichOneof("result") for result in written.results] == ["put"] * 50 + ["delete"]
    keys = [item.key for item in items]
    read = data.BatchGet(data_pb2.BatchGetRequest(keyspace=KEYSPACE, keys=keys))
    values = [result.value.value for result in read.results]
    assert values == [b"", *(b"%d" % number for number in range(1, 50)), b""]


def test_a_value_that_expires_is_gone_for_everybody(cluster: LocalCluster) -> None:
    with redis.Redis(port=cluster.redis_port, db=DATABASE) as client:
        client.set("soon", "v", px=100)
        assert client.get("soon") == b"v"
        limit = threading.Event()
        for _ in range(100):
            if client.get("soon") is None:
                break
            limit.wait(0.02)
        assert client.get("soon") is None
        assert client.ttl("soon") == -2


def test_redis_cli_increments_from_fifty_clients(cluster: LocalCluster) -> None:
    command = ["redis-cli", "-p", str(cluster.redis_port), "-n", str(DATABASE)]

    def cli(_number: int) -> None:
        done = subprocess.run(
            [*command, "-r", "10", "INCR", "cli"], capture_output=True, timeout=60, check=True
        )
        assert b"ERR" not in done.stdout, done.stdout

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(cli, range(50)))
    got = subprocess.run([*command, "GET", "cli"], capture_output=True, timeout=60, check=True)
    assert got.stdout.strip() == b"500"


def test_a_counter_keeps_every_acknowledged_increment_while_nodes_die(  # the last: one stays dead
    cluster: LocalCluster,
) -> None:
    ok, unknown = 0, 0
    lock, stop = threading.Lock(), threading.Event()
    keys = [b"counter-%d" % number for number in range(8)]

    def work(number: int) -> None:
        nonlocal ok, unknown
        turn = number
        while not stop.is_set():
            turn += 1
            try:
                increment(cluster, keys[turn % len(keys)])
            except grpc.RpcError as error:
                with lock:
                    unknown += rich(error).metadata["outcome"] == "UNKNOWN"
            else:
                with lock:
                    ok += 1

    killed, paused = cluster.nodes[0], cluster.nodes[4]
    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    limit = threading.Event()
    limit.wait(0.7)
    killed.kill()
    paused.pause()
    limit.wait(1.5)
    paused.resume()
    limit.wait(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    counted = sum(increment(cluster, key, 0) for key in keys)
    assert ok > 0
    assert ok <= counted <= ok + unknown
