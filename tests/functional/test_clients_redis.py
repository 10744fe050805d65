"""Unmodified Redis clients on a whole cluster, over TCP and a Unix socket."""

import csv
import io
import subprocess
import time
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from protos.dabbawala.v1 import data_pb2
from tests.support.local_cluster import LocalCluster, local_cluster, wait_until

pytestmark = pytest.mark.slow

LIMIT = 1 << 20
WAYS = [(protocol, unix) for protocol in (2, 3) for unix in (False, True)]
KEYS = {
    "one byte": b"k",
    "longest": b"k" * 1024,
    "NUL": b"a\0b",
    "only NUL": b"\0",
    "CRLF": b"a\r\nb\r\n",
    "not UTF-8": bytes(range(128, 256)),
    "braces": b"{tag}rest",
    "empty braces": b"{}rest",
    "open brace": b"{rest",
    "spaces": b"  a b  ",
}
VALUES = {
    "empty": b"",
    "one byte": b"v",
    "largest": b"\x01" * LIMIT,
    "NUL": b"a\0b",
    "CRLF": b"\r\n$-1\r\n",
    "not UTF-8": bytes(range(256)),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        yield running


def client_of(cluster: LocalCluster, protocol: int = 3, unix: bool = False) -> redis.Redis:
    if unix:
        return redis.Redis(unix_socket_path=cluster.redis_socket, protocol=protocol)
    return redis.Redis(port=cluster.redis_port, protocol=protocol)


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[redis.Redis]:
    with client_of(cluster) as connected:
        yield connected


@pytest.mark.parametrize(("protocol", "unix"), WAYS)
def test_redis_py(cluster: LocalCluster, protocol: int, unix: bool) -> None:
    key = f"py{protocol}{unix}"
    with client_of(cluster, protocol, unix) as client:
        assert client.ping()
        assert client.get(key) is None
        assert client.set(key, "one")
        assert client.get(key) == b"one"
        assert (client.exists(key), client.strlen(key), client.type(key)) == (1, 3, b"string")
        assert client.getrange(key, 1, -1) == b"ne"
        assert client.mset({f"{key}a": 1, f"{key}b": 2})
        assert client.mget(f"{key}a", "none", f"{key}b") == [b"1", None, b"2"]
        assert client.delete(key, f"{key}a", "none") == 2
        assert client.get(key) is None
        assert client.unlink(f"{key}b") == 1


@pytest.mark.parametrize(("protocol", "unix"), WAYS)
async def test_redis_py_asyncio(cluster: LocalCluster, protocol: int, unix: bool) -> None:
    kind = redis.asyncio.UnixDomainSocketConnection if unix else redis.asyncio.Connection
    place = {"path": cluster.redis_socket} if unix else {"port": cluster.redis_port}
    pool = redis.asyncio.ConnectionPool(kind, protocol=protocol, **place)
    key = f"aio{protocol}{unix}"
    async with redis.asyncio.Redis.from_pool(pool) as client:
        assert await client.set(key, "one", ex=100)
        assert await client.get(key) == b"one"
        assert 0 < await client.ttl(key) <= 100
        async with client.pipeline(transaction=False) as pipeline:
            for number in range(100):
                pipeline.set(f"{key}{number}", number)
                pipeline.get(f"{key}{number}")
            answers = await pipeline.execute()
        assert answers == [each for n in range(100) for each in (True, b"%d" % n)]
        assert await client.delete(key) == 1


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_keys_are_any_bytes_for_both_doors(
    cluster: LocalCluster, client: redis.Redis, key: bytes
) -> None:
    data = cluster.data()
    client.set(key, b"by redis")
    assert client.get(key) == b"by redis"
    assert data.Get(data_pb2.GetRequest(key=key), timeout=5).value == b"by redis"
    data.Put(data_pb2.PutRequest(key=key, value=b"by grpc"), timeout=5)
    assert client.get(key) == b"by grpc"
    assert client.mget(key, b"none") == [b"by grpc", None]
    assert data.Delete(data_pb2.DeleteRequest(key=key), timeout=5).existed
    assert client.get(key) is None
    client.set(key, b"again")
    assert client.delete(key) == 1
    assert not data.Get(data_pb2.GetRequest(key=key), timeout=5).found


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_values_are_any_bytes_for_both_doors(
    cluster: LocalCluster, client: redis.Redis, value: bytes
) -> None:
    data = cluster.data()
    client.set("value", value)
    answer = data.Get(data_pb2.GetRequest(key=b"value"), timeout=5)
    assert (answer.found, answer.value) == (True, value)
    data.Put(data_pb2.PutRequest(key=b"other", value=value), timeout=5)
    assert client.get("other") == value
    assert client.strlen("other") == len(value)


@pytest.mark.parametrize("options", [{"ex": 2}, {"px": 1_200}], ids=["EX", "PX"])
def test_an_expired_value_is_absent_at_both_doors(
    cluster: LocalCluster, client: redis.Redis, options: dict[str, int]
) -> None:
    data, request = cluster.data(), data_pb2.GetRequest(key=b"mortal")
    before_ms = time.time_ns() // 1_000_000
    client.set("mortal", "v", **options)  # type: ignore[arg-type]  # one of its many keywords
    given_ms = options.get("px", options.get("ex", 0) * 1000)
    assert 0 < client.pttl("mortal") <= given_ms
    expires_at_ms = data.Get(request, timeout=5).expires_at_ms
    assert before_ms + given_ms <= expires_at_ms <= time.time_ns() // 1_000_000 + given_ms
    wait_until(lambda: client.get("mortal") is None, "it expires", 5.0)
    assert time.time_ns() // 1_000_000 >= expires_at_ms
    assert not data.Get(request, timeout=5).found
    assert (client.exists("mortal"), client.ttl("mortal"), client.pttl("mortal")) == (0, -2, -2)
    assert client.delete("mortal") == 0


def test_an_expiry_given_over_grpc_is_the_same(cluster: LocalCluster, client: redis.Redis) -> None:
    data = cluster.data()
    now_ms = time.time_ns() // 1_000_000
    request = data_pb2.PutRequest(key=b"mortal", value=b"v", expires_at_ms=now_ms + 90_000)
    data.Put(request, timeout=5)
    assert 80_000 < client.pttl("mortal") <= 90_000
    request.expires_at_ms = now_ms - 1
    data.Put(request, timeout=5)
    assert client.get("mortal") is None
    assert client.ttl("mortal") == -2


def test_a_new_value_without_an_expiry_stays(client: redis.Redis) -> None:
    client.set("k", "v", ex=100)
    client.set("k", "w")
    assert client.ttl("k") == -1


def test_a_slow_owner_shows_no_read_what_its_pipeline_writes_later(cluster: LocalCluster) -> None:
    # Reads ask an owner of the own zone first; another one, which has the DEL by then, steps in.
    keys = [b"order%d" % number for number in range(40)]
    slow = next(node for node in cluster.nodes if node.name in cluster.owners(keys[0]))
    with client_of(cluster) as client:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.set(key, "v").get(key).delete(key).exists(key)
        slow.pause()
        try:
            answers = pipeline.execute()
        finally:
            slow.resume()
    assert answers == [True, b"v", 1, 0] * len(keys)
    wait_until(lambda: set(cluster.sidecar_health().values()) == {"connected"}, "all are back")


def test_numbers_and_names_pick_keyspaces(cluster: LocalCluster, client: redis.Redis) -> None:
    client.set("k", "default")
    with redis.Redis(port=cluster.redis_port, db=1) as places:
        assert places.get("k") is None
        places.set("k", "places")
        assert client.get("k") == b"default"
    with redis.Redis(port=cluster.redis_port, username="places", password="any") as by_name:
        assert by_name.get("k") == b"places"
    answer = cluster.data().Get(data_pb2.GetRequest(keyspace="places", key=b"k"), timeout=5)
    assert answer.value == b"places"


@pytest.mark.peers
@pytest.mark.parametrize("version", ["-2", "-3"])
def test_redis_cli(cluster: LocalCluster, version: str) -> None:
    def redis_cli(*words: str) -> str:
        done = subprocess.run(
            ["redis-cli", version, *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout

    tcp, unix = ["-p", str(cluster.redis_port)], ["-s", cluster.redis_socket]
    assert redis_cli(*tcp, "SET", "k", "v") == "OK\n"
    assert redis_cli(*unix, "GET", "k") == "v\n"
    assert redis_cli(*tcp, "SET", "k", "v", "NX").startswith("ERR ")
    assert redis_cli(*unix, "DEL", "k") == "1\n"


@pytest.mark.peers
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("depth", ["1", "16"])
def test_redis_benchmark_sees_no_error(cluster: LocalCluster, unix: bool, depth: str) -> None:
    errors = cluster.sidecar_page("stats")["errors"]
    where = ["-s", cluster.redis_socket] if unix else ["-p", str(cluster.redis_port)]
    command = ["redis-benchmark", *where, "-t", "get,set", "-n", "10000", "-r", "100000"]
    command += ["-c", "20", "-P", depth, "-d", "64", "--csv"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Error" not in done.stdout + done.stderr
    assert cluster.sidecar_page("stats")["errors"] == errors
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["test"] for row in rows} == {"GET", "SET"}
    assert all(float(row["rps"]) > 100 for row in rows)


def test_scan_iter_gives_every_key_of_a_pattern_and_dbsize_counts(client: redis.Redis) -> None:
    keys = sorted(f"scanned:{n}".encode() for n in range(120))
    client.mset({key.decode(): "v" for key in keys})
    client.delete(keys[0])
    assert sorted(client.scan_iter(match="scanned:*", count=50)) == keys[1:]
    assert client.dbsize() >= len(keys)
