"""What clients do wrong is answered with what is wrong, its bound and what to do: at both doors."""

import socket
from collections.abc import Iterator

import grpc
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from protos.dabbawala.v1 import data_pb2, map_pb2
from protos.dabbawala.v1.admin_pb2 import CreateKeyspaceRequest
from tests.support.local_cluster import LocalCluster, local_cluster
from tests.support.rich_errors import RichError, rich

pytestmark = pytest.mark.slow

LIMIT = 1 << 20
SOLO_DB = 7


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """With keyspace `solo`, whose buckets have one owner each."""
    with local_cluster() as running:
        solo = map_pb2.KeyspaceConfig(name="solo", replication_factor=1, redis_db=SOLO_DB)
        running.admin().CreateKeyspace(CreateKeyspaceRequest(config=solo), timeout=20)
        running.wait_served("solo")
        yield running


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[redis.Redis]:
    with redis.Redis(port=cluster.redis_port) as connected:
        yield connected


def command(client: redis.Redis, *words: str | bytes | int) -> object:
    """Any command; its reply."""
    reply: object = client.execute_command(*words)  # type: ignore[no-untyped-call]
    return reply


def get_error(cluster: LocalCluster, request: data_pb2.GetRequest) -> RichError:
    with pytest.raises(grpc.RpcError) as failed:
        cluster.data().Get(request, timeout=5)
    return rich(failed.value)


def put_error(cluster: LocalCluster, request: data_pb2.PutRequest) -> RichError:
    """Its outcome is always proved: nothing was sent."""
    with pytest.raises(grpc.RpcError) as failed:
        cluster.data().Put(request, timeout=5)
    error = rich(failed.value)
    assert error.metadata["outcome"] == "NOT_APPLIED"
    return error


def test_an_unknown_keyspace(cluster: LocalCluster, client: redis.Redis) -> None:
    for error in (
        get_error(cluster, data_pb2.GetRequest(keyspace="place", key=b"k")),
        put_error(cluster, data_pb2.PutRequest(keyspace="place", key=b"k")),
    ):
        assert error.code is grpc.StatusCode.NOT_FOUND
        assert (error.reason, error.fields) == ("KEYSPACE_UNKNOWN", ["keyspace"])
        assert "Did you mean places?" in error.message
        assert error.retry_ms is None
    with pytest.raises(redis.ResponseError, match="DB index is out of range"):
        command(client, "SELECT", 9)
    with (
        redis.Redis(
            port=cluster.redis_port, username="place", password="any", retry=Retry(NoBackoff(), 0)
        ) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    nowhere = redis.Redis(port=cluster.redis_port, db=9, retry=Retry(NoBackoff(), 0))
    with nowhere, pytest.raises(redis.RedisError, match="out of range"):
        nowhere.get("k")


@pytest.mark.parametrize("key", [b"", b"k" * 1025], ids=["empty", "1025 bytes"])
def test_a_key_out_of_bounds(cluster: LocalCluster, client: redis.Redis, key: bytes) -> None:
    for error in (
        get_error(cluster, data_pb2.GetRequest(key=key)),
        put_error(cluster, data_pb2.PutRequest(key=key, value=b"v")),
    ):
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.reason, error.fields) == ("KEY_INVALID", ["key"])
        assert "1 to 1024 bytes" in error.message
    with pytest.raises(grpc.RpcError) as failed:
        cluster.data().Locate(data_pb2.LocateRequest(key=key), timeout=5)
    assert rich(failed.value).fields == ["key"]
    with pytest.raises(grpc.RpcError) as failed:
        cluster.data().Delete(data_pb2.DeleteRequest(key=key), timeout=5)
    assert rich(failed.value).fields == ["key"]
    for words in (("GET", key), ("SET", key, "v"), ("DEL", key), ("MGET", "k", key), ("TTL", key)):
        with pytest.raises(redis.ResponseError, match="1 to 1024 bytes"):
            command(client, *words)
    assert client.ping()


def test_a_command_of_many_keys_with_one_that_is_wrong_does_nothing(client: redis.Redis) -> None:
    client.set("standing", "v")
    for words in (
        ("MSET", "good", "v", "", "v"),
        ("MSET", "good", "v", "large", b"x" * (LIMIT + 1)),
        ("DEL", "standing", ""),
        ("MGET", "standing", ""),
    ):
        with pytest.raises(redis.ResponseError, match="none of the 2 keys was"):
            command(client, *words)
    assert client.get("good") is None
    assert client.get("standing") == b"v"


def test_a_value_beyond_the_limit(cluster: LocalCluster, client: redis.Redis) -> None:
    client.set("v", b"x" * LIMIT)
    error = put_error(cluster, data_pb2.PutRequest(key=b"v", value=b"x" * (LIMIT + 1)))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.reason, error.fields) == ("VALUE_TOO_LARGE", ["value"])
    assert str(LIMIT) in error.message
    with pytest.raises(redis.ResponseError, match=f"up to {LIMIT}"):
        client.set("v", b"y" * (LIMIT + 1))
    assert client.strlen("v") == LIMIT
    assert client.get("v") == b"x" * LIMIT


def test_a_keyspaces_own_limit_counts(cluster: LocalCluster) -> None:
    small = map_pb2.KeyspaceConfig(name="small", max_value_bytes=10, redis_db=8)
    cluster.admin().CreateKeyspace(CreateKeyspaceRequest(config=small), timeout=20)
    cluster.wait_served("small")
    with redis.Redis(port=cluster.redis_port, db=8) as client:
        client.set("k", b"x" * 10)
        with pytest.raises(redis.ResponseError, match="up to 10"):
            client.set("k", b"x" * 11)


@pytest.mark.parametrize("level", [99, data_pb2.CONSISTENCY_BOUNDED, data_pb2.CONSISTENCY_SESSION])
def test_a_level_that_is_unknown_or_not_served(cluster: LocalCluster, level: int) -> None:
    errors = [put_error(cluster, data_pb2.PutRequest(key=b"k", consistency=level))]  # type: ignore[arg-type]
    if level != data_pb2.CONSISTENCY_SESSION:
        get = data_pb2.GetRequest(key=b"k", consistency=level)  # type: ignore[arg-type]
        errors.append(get_error(cluster, get))
    for error in errors:
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.reason, error.fields) == ("CONSISTENCY_INVALID", ["consistency"])
        assert "QUORUM" in error.message


def test_an_unknown_level_at_the_redis_door(client: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError, match="QUORUM"):
        command(client, "DABBA.CONSISTENCY", "SOME")
    assert command(client, "DABBA.CONSISTENCY", "ONE")


def test_a_local_level_without_an_owner_in_the_zone(cluster: LocalCluster) -> None:
    elsewhere = next(
        key
        for key in (b"key-%d" % number for number in range(1000))
        if not cluster.owners(key, "solo") & {"node-1", "node-4"}
    )
    for name in ("LOCAL_ONE", "LOCAL_QUORUM"):
        level = data_pb2.Consistency.Value(f"CONSISTENCY_{name}")
        read = data_pb2.GetRequest(keyspace="solo", key=elsewhere, consistency=level)
        write = data_pb2.PutRequest(keyspace="solo", key=elsewhere, consistency=level)
        for error in (get_error(cluster, read), put_error(cluster, write)):
            assert error.code is grpc.StatusCode.UNAVAILABLE
            assert (error.reason, error.fields) == ("NO_OWNER_IN_ZONE", ["consistency"])
            assert "zone a" in error.message
        with redis.Redis(port=cluster.redis_port, db=SOLO_DB, protocol=2) as client:
            command(client, "DABBA.CONSISTENCY", name)
            with pytest.raises(redis.ResponseError, match=r"^UNAVAILABLE .*zone a"):
                client.get(elsewhere)
            with pytest.raises(redis.ResponseError, match=r"^NOTAPPLIED .*zone a"):
                client.set(elsewhere, "v")
            command(client, "DABBA.CONSISTENCY", "QUORUM")
            assert client.get(elsewhere) is None


@pytest.mark.parametrize("method", ["Get", "Put", "Delete", "BatchGet", "BatchWrite", "Locate"])
def test_a_malformed_body(cluster: LocalCluster, method: str) -> None:
    channel = cluster.channel(cluster.grpc_targets[0])
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    call = channel.unary_unary(f"/dabbawala.v1.Data/{method}")
    with pytest.raises(grpc.RpcError) as failed:
        call(b"\xff\xff\xff", timeout=5)
    error = rich(failed.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert f"dabbawala.v1.{method}Request" in error.message


def test_an_item_that_says_nothing(cluster: LocalCluster) -> None:
    items = [data_pb2.BatchWriteItem(key=b"half", put=b"v"), data_pb2.BatchWriteItem(key=b"k")]
    with pytest.raises(grpc.RpcError) as failed:
        cluster.data().BatchWrite(data_pb2.BatchWriteRequest(items=items), timeout=5)
    assert rich(failed.value).fields == ["items[1].change"]
    assert not cluster.data().Get(data_pb2.GetRequest(key=b"half"), timeout=5).found


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("expires_at_ms", (1 << 64) - 1, "EXPIRY_INVALID"),
        ("retry_version", b"short", "VERSION_INVALID"),
        ("retry_version", b"\0" * 16, "VERSION_INVALID"),
    ],
)
def test_other_fields_out_of_bounds(
    cluster: LocalCluster, field: str, value: object, reason: str
) -> None:
    request = data_pb2.PutRequest(key=b"bounds", value=b"v", **{field: value})  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as failed:
        cluster.data().Put(request, timeout=5)
    error = rich(failed.value)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.reason, error.fields) == (reason, [field])
    assert not cluster.data().Get(data_pb2.GetRequest(key=b"bounds"), timeout=5).found


def test_a_version_from_the_future_is_refused_by_the_owners(cluster: LocalCluster) -> None:
    version = (1 << 47).to_bytes(6, "big") + b"\0\1" + b"\1" * 8
    request = data_pb2.PutRequest(key=b"future", value=b"v", retry_version=version)
    with pytest.raises(grpc.RpcError) as failed:
        cluster.data().Put(request, timeout=5)
    error = rich(failed.value)
    assert error.reason == "CLOCK_SKEW"
    # What is said to be a repeat may have been applied before, for all that anybody knows.
    assert (error.metadata["outcome"], error.metadata["version"]) == ("UNKNOWN", version.hex())
    for level in (data_pb2.CONSISTENCY_ALL, data_pb2.CONSISTENCY_ONE):
        read = data_pb2.GetRequest(key=b"future", consistency=level)
        assert not cluster.data().Get(read, timeout=5).found


@pytest.mark.parametrize(
    "words",
    [
        "SET k v EX 0",
        "SET k v PX -1",
        "SET k v EX 99999999999999999999",
        "SET k v EX 9223372036854775807",
        "SET k v EXAT 0",
        "SETEX k 0 v",
        "PSETEX k -5 v",
        "SET k v EX",
        "SET k v EX one",
        "SET k v EX 1 PX 1",
        "SET k v BOGUS",
        "SET k",
        "NOPE k",
        "SET k v NX",
        "INCR k",
        "EXPIRE k 10",
        "KEYS *",
    ],
)
def test_a_bad_command_is_refused_writes_nothing_and_the_connection_lives(
    client: redis.Redis, words: str
) -> None:
    client.set("k", "before")
    with pytest.raises(redis.ResponseError):
        command(client, *words.split(" "))
    assert client.get("k") == b"before"
    assert client.ttl("k") == -1


@pytest.mark.parametrize(
    "frame",
    [
        b"*1\r\n$x\r\n",
        b"*-5\r\n",
        b"*99999999\r\n",
        b"*2\r\n$3\r\nGET\r\n$-1\r\n",
        b"*1\r\n:5\r\n",
        b"*2\r\n$3\r\nGET\r\n$99999999999\r\n",
    ],
)
def test_a_malformed_frame_is_answered_or_ignored_and_harms_nobody(
    cluster: LocalCluster, client: redis.Redis, frame: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", cluster.redis_port), timeout=5) as stranger:
        stranger.sendall(frame + b"*1\r\n$4\r\nPING\r\n")
        answer = stranger.recv(4096)
        assert answer.startswith((b"-ERR Protocol error", b"+PONG"))
        if answer.startswith(b"-"):
            assert stranger.recv(4096) == b""
    assert client.ping()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 64, b"PRI * "])
def test_garbage_at_the_grpc_door_harms_nobody(cluster: LocalCluster, garbage: bytes) -> None:
    host, _, port = cluster.grpc_targets[0].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as stranger:
        stranger.sendall(garbage)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4096):
            pass
    assert cluster.serves()
