"""Sessions that hop two sidecars, through both doors, over replicas that are made to lag."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
import redis

from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from tests.support.local_cluster import (
    CHANNEL_OPTIONS,
    LocalCluster,
    local_cluster,
    second_sidecar,
    wait_until,
)
from tests.support.rich_errors import rich

pytestmark = pytest.mark.slow

LEDGER = "ledger"
SESSION, ONE, QUORUM = (
    data_pb2.CONSISTENCY_SESSION,
    data_pb2.CONSISTENCY_ONE,
    data_pb2.CONSISTENCY_QUORUM,
)


class Hop:
    """A cluster of three nodes in three zones, and a second sidecar, which reads the node in b."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.part = second_sidecar(cluster, "b")
        ports = orjson.loads((cluster.folder / "sidecar-2" / "ports.json").read_bytes())
        self.redis_port = int(ports["redis"].rpartition(":")[2])
        self.channel = grpc.insecure_channel(self.part.address, options=CHANNEL_OPTIONS)
        self.other = data_pb2_grpc.DataStub(self.channel)
        self.first = cluster.data()
        wait_until(self._serves, "the second sidecar serves")

    def _serves(self) -> bool:
        try:
            self.other.Get(data_pb2.GetRequest(key=b"anybody"), timeout=1)
        except grpc.RpcError:
            return False
        return True

    def lag(self, key: bytes, old: bytes | None) -> bytes | None:
        """Puts the raw record `old` back onto the node in b (None: it missed every write); returns
        what it held."""
        found = self.other.Locate(data_pb2.LocateRequest(key=key), timeout=5)
        address = next(owner.address for owner in found.owners if owner.zone == "b")
        with redis.Redis(port=int(address.rpartition(":")[2])) as node:
            held: bytes | None = node.execute_command("HGET", found.data_key, found.field)
            if old is None:
                node.execute_command("HDEL", found.data_key, found.field)
            else:
                node.execute_command("HSET", found.data_key, found.field, old)
        return held

    def plain(self, key: bytes) -> bytes:
        """What the second sidecar reads at ONE without a session."""
        return self.other.Get(data_pb2.GetRequest(key=key, consistency=ONE), timeout=5).value


@pytest.fixture(scope="module")
def hop() -> Iterator[Hop]:
    with local_cluster("--nodes", "3") as cluster:
        created = cluster.dabba(
            *("keyspace", "create", LEDGER, "--mode", "linearizable", "--durability", "memory"),
            *("--buckets", "4"),
        )
        assert created.status == 0, created
        cluster.wait_served(LEDGER)
        made = Hop(cluster)
        yield made
        made.channel.close()


def test_a_token_carried_to_another_sidecar_reads_what_was_written(hop: Hop) -> None:
    put = data_pb2.PutRequest(key=b"g", value=b"old", consistency=data_pb2.CONSISTENCY_ALL)
    hop.first.Put(put, timeout=5)
    old = hop.lag(b"g", None)
    assert old is not None
    put.value, put.session = b"new", b"new"
    written = hop.first.Put(put, timeout=5)
    hop.lag(b"g", old)
    assert hop.plain(b"g") == b"old"  # it does lag
    get = data_pb2.GetRequest(key=b"g", consistency=SESSION, session=written.session)
    got = hop.other.Get(get, timeout=5)
    assert (got.value, got.version, got.consistency) == (b"new", written.version, QUORUM)
    again = hop.other.Get(get, timeout=5)  # the node in b was repaired meanwhile
    assert (again.value, again.consistency) == (b"new", SESSION)


def test_what_was_read_is_not_unread_at_another_door(hop: Hop) -> None:
    key = b"read"
    with (
        redis.Redis(port=hop.cluster.redis_port) as here,
        redis.Redis(port=hop.redis_port, single_connection_client=True) as there,
    ):
        here.execute_command("DABBA.CONSISTENCY", "ALL")
        here.set(key, "old")
        old = hop.lag(key, None)
        here.set(key, "new")
        got = hop.first.Get(data_pb2.GetRequest(key=key, session=b"new"), timeout=5)
        assert got.value == b"new"
        hop.lag(key, old)
        there.execute_command("DABBA.SESSION", "SET", got.session)
        there.execute_command("DABBA.CONSISTENCY", "SESSION")
        assert there.get(key) == b"new"
        hop.lag(key, None)  # "absent" is older too
        assert there.mget([key, "never"]) == [b"new", None]
        token = there.execute_command("DABBA.SESSION", "GET")
    back = data_pb2.GetRequest(key=key, consistency=SESSION, session=token)
    assert hop.first.Get(back, timeout=5).value == b"new"


def test_a_pipeline_in_a_session_reads_its_writes_at_one(hop: Hop) -> None:
    with redis.Redis(port=hop.redis_port, single_connection_client=True) as client:
        client.execute_command("DABBA.CONSISTENCY", "ONE")
        client.execute_command("DABBA.CONSISTENCY", "SESSION")
        with client.pipeline(transaction=False) as pipeline:
            for number in range(200):
                pipeline.set(f"pipe-{number % 80}", number)  # more keys than a token names
                pipeline.get(f"pipe-{number % 80}")
            assert pipeline.execute()[1::2] == [b"%d" % number for number in range(200)]
        assert len(client.execute_command("DABBA.SESSION", "GET")) < 2200


def test_every_call_that_brings_a_token_gives_the_next(hop: Hop) -> None:
    data, token = hop.first, b"new"
    item = data_pb2.BatchWriteItem(key=b"{c}1", put=b"v")
    group = data_pb2.TransactItem(key=b"{c}2", put=b"v")
    calls: list[tuple[Any, Any]] = [
        (data.Put, data_pb2.PutRequest(key=b"c", value=b"v")),
        (data.Get, data_pb2.GetRequest(key=b"c")),
        (data.Delete, data_pb2.DeleteRequest(key=b"c")),
        (data.BatchWrite, data_pb2.BatchWriteRequest(items=[item])),
        (data.BatchGet, data_pb2.BatchGetRequest(keys=[b"{c}1", b"{c}2"])),
        (data.BatchGet, data_pb2.BatchGetRequest()),
        (data.Transact, data_pb2.TransactRequest(items=[group])),
        (data.Put, data_pb2.PutRequest(keyspace=LEDGER, key=b"n", value=b"1")),
        (data.Get, data_pb2.GetRequest(keyspace=LEDGER, key=b"n", consistency=SESSION)),
        (data.Increment, data_pb2.IncrementRequest(keyspace=LEDGER, key=b"n", delta=1)),
        (
            data.CompareAndSet,
            data_pb2.CompareAndSetRequest(keyspace=LEDGER, key=b"n", expected_value=b"2", put=b"3"),
        ),
    ]
    for call, request in calls:
        if getattr(request, "consistency", 0) != SESSION:
            assert call(request, timeout=5).session == b"", request
        if isinstance(request, data_pb2.CompareAndSetRequest):
            request.expected_value = b"3"
        request.session = token
        token = call(request, timeout=5).session
        assert token, request


@pytest.mark.parametrize("token", [b"nonsense", b"A" * 5000, b"\xff\x00"])
def test_a_token_that_is_none_is_refused_by_both_doors_and_nothing_is_written(
    hop: Hop, token: bytes
) -> None:
    put = data_pb2.PutRequest(key=b"bad", value=b"v", session=token)
    with pytest.raises(grpc.RpcError) as refused:
        hop.first.Put(put, timeout=5)
    error = rich(refused.value)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.reason, error.fields) == ("SESSION_INVALID", ["session"])
    assert error.metadata["outcome"] == "NOT_APPLIED"
    batch = data_pb2.BatchGetRequest(keys=[b"bad"], session=token)
    with pytest.raises(grpc.RpcError) as refused:
        hop.first.BatchGet(batch, timeout=5)
    assert rich(refused.value).reason == "SESSION_INVALID"
    with redis.Redis(port=hop.redis_port) as client:
        with pytest.raises(redis.ResponseError, match="reason=SESSION_INVALID"):
            client.execute_command("DABBA.SESSION", "SET", token)
        assert client.get("bad") is None


def test_any_is_chosen_for_writes_over_redis_and_reads_stay_as_they_were(hop: Hop) -> None:
    with redis.Redis(port=hop.redis_port, single_connection_client=True) as client:
        client.execute_command("DABBA.CONSISTENCY", "ANY")
        assert client.set("any", "v")
        assert client.mset({"any-1": "v", "any-2": "v"})
        assert client.get("any") == b"v"
        assert client.execute_command("DABBA.CONSISTENCY") == b"DEFAULT ANY"


def test_any_as_a_default_is_for_writes_of_tunable_keyspaces(hop: Hop) -> None:
    create = ("keyspace", "create", "loose", "--buckets", "4", "--redis-db", "9")
    refused = hop.cluster.dabba(*create, "--read-consistency", "any")
    assert refused.status != 0
    assert "read_consistency" in refused.err
    refused = hop.cluster.dabba(*create, "--mode", "linearizable", "--write-consistency", "any")
    assert "write_consistency" in refused.err
    made = hop.cluster.dabba(*create, "--write-consistency", "any")
    assert made.status == 0, made
    hop.cluster.wait_served("loose")
    put = data_pb2.PutRequest(keyspace="loose", key=b"k", value=b"v")
    assert hop.first.Put(put, timeout=5).consistency == data_pb2.CONSISTENCY_ANY
    with redis.Redis(port=hop.cluster.redis_port, db=9) as client:
        assert client.set("k", "v2")
        assert client.get("k") == b"v2"


def test_the_command_line_keeps_its_session_in_a_file(hop: Hop, tmp_path: Path) -> None:
    file = str(tmp_path / "session")
    there = ("--sidecar", hop.part.address)
    put = data_pb2.PutRequest(key=b"cli", value=b"old", consistency=data_pb2.CONSISTENCY_ALL)
    hop.first.Put(put, timeout=5)
    old = hop.lag(b"cli", None)
    assert hop.cluster.dabba("put", "cli", "new", "-c", "all", "--session", file).status == 0
    hop.lag(b"cli", old)
    got = hop.cluster.dabba("get", "cli", "-c", "session", "--session", file, *there)
    assert (got.status, got.out) == (0, "new\n")


def test_a_session_outlives_its_sidecars_restart(hop: Hop) -> None:
    put = data_pb2.PutRequest(key=b"again", value=b"v", session=b"new")
    token = hop.first.Put(put, timeout=5).session
    hop.cluster.sidecar.kill()
    hop.cluster.sidecar.start()
    hop.cluster.wait_served()
    get = data_pb2.GetRequest(key=b"again", consistency=SESSION, session=token)
    assert hop.first.Get(get, timeout=5).value == b"v"
