"""A record of one mode where a keyspace of the other looks for it: refused, typed, left alone."""

import grpc
import pytest
import redis

from protos.dabbawala.v1 import data_pb2
from replicas.layout import bucket_keys, user_field
from tests.support.fault_table import Judged
from tests.support.local_cluster import LocalCluster
from tests.support.rich_errors import rich

pytestmark = [pytest.mark.slow, pytest.mark.probe, pytest.mark.fault(10)]

KEY = b"of two modes"


def bucket_of(cluster: LocalCluster, keyspace: str) -> int:
    request = data_pb2.LocateRequest(keyspace=keyspace, key=KEY)
    return int(cluster.data().Locate(request, timeout=5).bucket)


def raw_records(cluster: LocalCluster, keyspace: str) -> dict[str, bytes]:
    """What each owner holds."""
    found = {}
    for node in cluster.owners(KEY, keyspace):
        with redis.Redis(port=int(cluster.parts[node].address.rpartition(":")[2])) as server:
            name = bucket_keys(keyspace, bucket_of(cluster, keyspace)).data
            raw = server.hget(name, user_field(KEY))
            assert raw is not None
            found[node] = raw
    return found


def put_raw(cluster: LocalCluster, keyspace: str, raw: bytes) -> None:
    name = bucket_keys(keyspace, bucket_of(cluster, keyspace)).data
    for node in cluster.owners(KEY, keyspace):
        with redis.Redis(port=int(cluster.parts[node].address.rpartition(":")[2])) as server:
            server.hset(name, user_field(KEY), raw)


def test_neither_mode_reads_or_replaces_a_record_of_the_other(
    cluster: LocalCluster, judged: Judged
) -> None:
    created = cluster.dabba(
        *("keyspace", "create", "ledger", "--mode", "linearizable", "--durability", "memory"),
        *("--buckets", "8"),
    )
    assert created.status == 0, created.err
    cluster.wait_served("ledger")
    data = cluster.data()
    records = {}
    for keyspace in ("default", "ledger"):
        request = data_pb2.PutRequest(keyspace=keyspace, key=KEY, value=b"of " + keyspace.encode())
        data.Put(request, timeout=5)
        records[keyspace] = next(iter(raw_records(cluster, keyspace).values()))
    refused = 0
    for keyspace, other in (("default", "ledger"), ("ledger", "default")):
        put_raw(cluster, keyspace, records[other])
        for call in (
            lambda: data.Get(data_pb2.GetRequest(keyspace=keyspace, key=KEY), timeout=5),  # noqa: B023
            lambda: data.Put(
                data_pb2.PutRequest(keyspace=keyspace, key=KEY, value=b"never"),  # noqa: B023
                timeout=5,
            ),
        ):
            with pytest.raises(grpc.RpcError) as failed:
                call()
            assert rich(failed.value).reason
            refused += 1
        assert set(raw_records(cluster, keyspace).values()) == {records[other]}
    judged.count(operations=refused + 2, acknowledged=2, not_applied=2, unknown=2)
