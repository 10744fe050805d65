"""Unmodified clients do a day's work at the doors of a whole cluster, and go on by themselves after
the sidecar was killed and started again. The days of clients for Node are in tests/clients_node."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import coredis
import glide
import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio
from google.rpc import status_pb2

from tests.support.client_days import LEDGER, LEDGER_DATABASE, restart_sidecar, working_cluster
from tests.support.local_cluster import DEADLINE_S, POLL_S, LocalCluster
from tests.support.node_clients import spend_day
from tests.support.servers import ROOT

pytestmark = pytest.mark.slow

T = TypeVar("T")
Facts = dict[str, Any]
WAYS = pytest.mark.parametrize(
    ("protocol", "unix"), [(3, False), (2, True)], ids=["tcp-3", "unix-2"]
)
TWINS = pytest.mark.parametrize("library", [redis, valkey], ids=["redis-py", "valkey-py"])


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with working_cluster() as running:
        yield running


def until_answered(ask: Callable[[], T], expected: type[Exception]) -> T:
    """The answer; on the way only `expected` may be raised."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return ask()
        except expected:
            assert time.monotonic() < deadline, "the client does not come back"
            time.sleep(POLL_S)


async def until_answered_async(
    ask: Callable[[], Awaitable[T]], expected: type[Exception] | tuple[type[Exception], ...]
) -> T:
    """The same of a coroutine."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await ask()
        except expected:
            assert time.monotonic() < deadline, "the client does not come back"
            await asyncio.sleep(POLL_S)


# redis-py and valkey-py --------------------------------------------------------------------------


def keys(prefix: str, *names: str) -> list[bytes]:
    return sorted(f"{prefix}{name}".encode() for name in names)


@TWINS
@WAYS
def test_redis_py_and_valkey_py(
    cluster: LocalCluster, library: Any, protocol: int, unix: bool
) -> None:
    place = {"unix_socket_path": cluster.redis_socket} if unix else {"port": cluster.redis_port}
    p = f"{library.__name__}{protocol}:"
    client = getattr(library, library.__name__.capitalize())
    with (
        client(**place, protocol=protocol) as one,
        client(**place, protocol=protocol, db=LEDGER_DATABASE) as ledger,
    ):
        assert one.ping()
        assert one.get(f"{p}none") is None
        assert one.set(f"{p}a", b"\x00\r\n\xff")
        assert one.get(f"{p}a") == b"\x00\r\n\xff"
        assert one.set(f"{p}t", "v", ex=100)
        assert 90 < one.ttl(f"{p}t") <= 100
        assert one.mset({f"{p}b": "2", f"{p}c": ""})
        assert one.mget(f"{p}b", f"{p}none", f"{p}c") == [b"2", None, b""]
        assert one.exists(f"{p}a", f"{p}b", f"{p}none") == 2
        assert sorted(one.scan_iter(match=f"{p}*", count=2)) == keys(p, "a", "b", "c", "t")
        assert one.delete(f"{p}b", f"{p}c", f"{p}none") == 2
        pipeline = one.pipeline(transaction=False)
        answers = pipeline.set(f"{p}p", 1).incr(f"{p}p").get(f"{p}p").execute(raise_on_error=False)
        assert (answers[0], answers[2]) == (True, b"1")
        assert isinstance(answers[1], library.ResponseError)
        with pytest.raises(library.ResponseError, match="needs a linearizable keyspace"):
            one.setnx(f"{p}a", "v")
        with pytest.raises(library.ResponseError, match="unknown command 'FOO'"):
            one.execute_command("FOO", "bar")
        assert [ledger.incr(f"{p}n"), ledger.incrby(f"{p}n", 41)] == [1, 42]
        assert ledger.set(f"{p}n", "x", nx=True) is None
        assert ledger.expire(f"{p}n", 100)
        assert ledger.persist(f"{p}n")
        assert ledger.getdel(f"{p}n") == b"42"
        if not unix:
            restart_sidecar(cluster)
            lost = library.ConnectionError
            assert until_answered(lambda: one.get(f"{p}a"), lost) == b"\x00\r\n\xff"
            assert until_answered(lambda: ledger.incr(f"{p}after"), lost) >= 1


@TWINS
async def test_redis_py_and_valkey_py_asyncio(cluster: LocalCluster, library: Any) -> None:
    name = library.__name__
    client = getattr(library.asyncio, name.capitalize())
    p = f"{name} asyncio:"
    async with (
        client(port=cluster.redis_port, protocol=3) as one,
        client(port=cluster.redis_port, protocol=3, db=LEDGER_DATABASE) as ledger,
    ):
        wrote = [one.set(f"{p}{at}", at, ex=100) for at in range(50)]
        assert await asyncio.gather(*wrote) == [True] * 50
        assert await one.mget(f"{p}0", f"{p}none", f"{p}49") == [b"0", None, b"49"]
        assert 90 < await one.ttl(f"{p}0") <= 100
        found = [key async for key in one.scan_iter(match=f"{p}*")]
        assert len(found) == len(set(found)) == 50
        async with one.pipeline(transaction=False) as pipeline:
            pipeline.set(f"{p}p", 1).incr(f"{p}p").exists(f"{p}p").delete(f"{p}3")
            answers = await pipeline.execute(raise_on_error=False)
        assert (answers[0], *answers[2:]) == (True, 1, 1)
        assert isinstance(answers[1], library.ResponseError)
        with pytest.raises(library.ResponseError, match="needs a linearizable keyspace"):
            await one.incr(f"{p}0")
        assert await ledger.incr(f"{p}n") == 1
        restart_sidecar(cluster)
        lost = library.ConnectionError
        assert await until_answered_async(lambda: one.get(f"{p}7"), lost) == b"7"


# coredis and valkey-glide ------------------------------------------------------------------------


async def test_coredis(cluster: LocalCluster) -> None:
    port, p = cluster.redis_port, "coredis:"
    async with (
        coredis.Redis(port=port) as one,
        coredis.Redis(port=port, db=LEDGER_DATABASE) as ledger,
    ):
        assert await one.ping() == b"PONG"
        assert await one.get(f"{p}none") is None
        assert await one.set(f"{p}a", b"\x00\r\n\xff", ex=100)
        assert await one.get(f"{p}a") == b"\x00\r\n\xff"
        assert 90 < await one.ttl(f"{p}a") <= 100
        assert await one.mset({f"{p}b": "2", f"{p}c": ""})
        assert await one.mget([f"{p}b", f"{p}none", f"{p}c"]) == (b"2", None, b"")
        assert await one.exists([f"{p}a", f"{p}b", f"{p}none"]) == 2
        found = [key async for key in one.scan_iter(match=f"{p}*", count=2)]
        assert sorted(found) == keys(p, "a", "b", "c")
        assert await one.delete([f"{p}b", f"{p}c", f"{p}none"]) == 2
        async with one.pipeline(transaction=False, raise_on_error=False) as pipeline:
            pipeline.set(f"{p}p", "1")
            refused = pipeline.incr(f"{p}p")
            got = pipeline.get(f"{p}p")
        assert await got == b"1"
        with pytest.raises(coredis.exceptions.ResponseError, match="needs a linearizable"):
            await refused
        with pytest.raises(coredis.exceptions.ResponseError, match="KEY_INVALID"):
            await one.set("", "v")
        assert [await ledger.incr(f"{p}n"), await ledger.decrby(f"{p}n", 8)] == [1, -7]
        assert await ledger.expire(f"{p}n", 100)
        assert await ledger.getdel(f"{p}n") == b"-7"
        restart_sidecar(cluster)
        lost = coredis.exceptions.ConnectionError
        assert await until_answered_async(lambda: one.get(f"{p}a"), lost) == b"\x00\r\n\xff"
        assert await until_answered_async(lambda: ledger.incr(f"{p}after"), lost) >= 1


@pytest.mark.parametrize("protocol", list(glide.ProtocolVersion), ids=["resp-2", "resp-3"])
async def test_valkey_glide(cluster: LocalCluster, protocol: glide.ProtocolVersion) -> None:
    async def connected(database: int) -> glide.GlideClient:
        place = [glide.NodeAddress("127.0.0.1", cluster.redis_port)]
        config = glide.GlideClientConfiguration(
            place, protocol=protocol, database_id=database, request_timeout=5000
        )
        return await glide.GlideClient.create(config)

    one, ledger = await connected(0), await connected(LEDGER_DATABASE)
    p = f"glide{protocol.name}:"
    try:
        assert await one.ping() == b"PONG"
        assert await one.get(f"{p}none") is None
        hundred = glide.ExpirySet(glide.ExpiryType.SEC, 100)
        assert await one.set(f"{p}a", b"\x00\r\n\xff", expiry=hundred) == glide.OK
        assert await one.get(f"{p}a") == b"\x00\r\n\xff"
        assert 90 < await one.ttl(f"{p}a") <= 100
        assert await one.mset({f"{p}b": "2", f"{p}c": ""}) == glide.OK
        assert await one.mget([f"{p}b", f"{p}none", f"{p}c"]) == [b"2", None, b""]
        assert await one.exists([f"{p}a", f"{p}b", f"{p}none"]) == 2
        assert await scanned(one, f"{p}*") == keys(p, "a", "b", "c")
        assert await one.delete([f"{p}b", f"{p}c", f"{p}none"]) == 2
        batch = glide.Batch(is_atomic=False)
        batch.set(f"{p}p", "1").incr(f"{p}p").get(f"{p}p")
        answers = await one.exec(batch, raise_on_error=False)
        assert answers is not None
        assert (answers[0], answers[2]) == (glide.OK, b"1")
        assert isinstance(answers[1], glide.RequestError)
        with pytest.raises(glide.RequestError, match="needs a linearizable keyspace"):
            await one.incr(f"{p}a")
        assert [await ledger.incr(f"{p}n"), await ledger.decrby(f"{p}n", 8)] == [1, -7]
        assert await ledger.expire(f"{p}n", 100)
        assert await ledger.getdel(f"{p}n") == b"-7"
        if protocol is glide.ProtocolVersion.RESP3:
            restart_sidecar(cluster)
            lost = (glide.ConnectionError, glide.RequestError)
            assert await until_answered_async(lambda: one.get(f"{p}a"), lost) == b"\x00\r\n\xff"
            assert await until_answered_async(lambda: ledger.incr(f"{p}after"), lost) >= 1
    finally:
        await one.close()
        await ledger.close()


async def scanned(client: glide.GlideClient, pattern: str) -> list[bytes]:
    cursor: Any = b"0"
    found: list[Any] = []
    while True:
        cursor, page = await client.scan(cursor, match=pattern, count=2)
        found += page
        if cursor == b"0":
            return sorted(found)


# Node --------------------------------------------------------------------------------------------


def spend(
    cluster: LocalCluster, client: str, settings: Facts, *, restarts: bool, **more: object
) -> None:
    facts = {"settings": settings, "database": LEDGER_DATABASE, "restarts": restarts, **more}
    facts["prefix"] = f"{client} {restarts}:"  # each test has its own keys
    spend_day(client, facts, partial(restart_sidecar, cluster))


@WAYS
def test_node_redis(cluster: LocalCluster, protocol: int, unix: bool) -> None:
    place: Facts = {"path": cluster.redis_socket} if unix else {"port": cluster.redis_port}
    spend(cluster, "node_redis", {"socket": place, "RESP": protocol}, restarts=not unix)


@WAYS
def test_ioredis(cluster: LocalCluster, protocol: int, unix: bool) -> None:
    place: Facts = {"path": cluster.redis_socket} if unix else {"port": cluster.redis_port}
    spend(cluster, "ioredis", {**place, "protocol": protocol}, restarts=not unix)


@pytest.mark.parametrize("way", [0, 1], ids=["tcp", "unix"])
def test_grpc_js(cluster: LocalCluster, way: int) -> None:
    google = Path(status_pb2.__file__).parent.parent.parent
    spend(
        cluster,
        "grpc_js",
        {"target": cluster.grpc_targets[way]},
        keyspace=LEDGER,
        includeDirs=[str(ROOT), str(google)],
        restarts=way == 0,
    )
