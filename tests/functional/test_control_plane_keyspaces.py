"""Creating keyspaces over the admin API, on real servers and the embedded store."""

import asyncio
from pathlib import Path

import grpc
import pytest

from buckets.bucket_map import RANGE_BUCKETS, Bucket, Stage
from buckets.codec import decode_entry, decode_range, range_name
from protos.dabbawala.v1 import admin_pb2, map_pb2
from replicas.client import ReplicaClient
from replicas.fence import Fence, Role
from replicas.layout import bucket_keys
from tests.support.control_planes import (
    DURABLE,
    Refusal,
    add_nodes,
    admin,
    create,
    running,
    until,
)
from tests.support.servers import Server, Servers

pytestmark = pytest.mark.slow


async def buckets_of(address: str, keyspace: str) -> tuple[dict[int, Bucket], map_pb2.NodeTable]:
    async with admin(address) as stub:
        answer = await stub.GetMap(admin_pb2.GetMapRequest(keyspace=keyspace))
    buckets: dict[int, Bucket] = {}
    for message in answer.ranges:
        name = range_name(message.keyspace, message.index)
        value = decode_range(message.SerializeToString(), name)
        buckets |= {bucket.id: bucket for bucket in value.buckets}
    return buckets, answer.nodes


async def fences_on(server: Server, keyspace: str, count: int) -> dict[int, Fence]:
    keys = [bucket_keys(keyspace, bucket) for bucket in range(count)]
    async with await ReplicaClient.connect(server.host, server.port) as client:
        stored = await client.read_fences(keys)
    for bucket, beside in enumerate(stored):
        if beside.fence is not None:
            assert beside.entry is not None
            entry = decode_entry(beside.entry)
            assert (entry.keyspace, entry.bucket.id) == (keyspace, bucket)
            assert entry.bucket.epoch == beside.fence.epoch
    return {n: beside.fence for n, beside in enumerate(stored) if beside.fence is not None}


async def test_a_created_keyspace_has_its_fences_on_exactly_its_owners(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(4)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, nodes)
        answer = await create(stub, "places", buckets=128)
        buckets, table = await buckets_of(app.address, "places")
        numbers = {entry.port: entry.number for entry in table.nodes}
        for server in nodes:
            number = numbers[server.port]
            owned = {b.id for b in buckets.values() if number in {o.node for o in b.owners}}
            fences = await fences_on(server, "places", 128)
            assert fences.keys() == owned
            assert set(fences.values()) <= {Fence(1, Stage.OLD, Role.OWNER, 1)}
    assert answer.config.buckets == 128
    assert not answer.config.creating
    assert all(len({o.node for o in b.owners}) == 3 for b in buckets.values())
    assert len(buckets) == 2 * RANGE_BUCKETS


async def test_owners_stand_in_different_zones(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey() for _ in range(6)])
        answer = await create(stub)
        buckets, table = await buckets_of(app.address, "places")
        described = await stub.DescribeKeyspace(admin_pb2.DescribeKeyspaceRequest(name="places"))
    zones = {entry.number: entry.zone for entry in table.nodes}
    for bucket in buckets.values():
        assert {zones[owner.node] for owner in bucket.owners} == {"a", "b", "c"}
    assert list(answer.warnings) == []
    assert [share.buckets for share in described.shares] == [32] * 6
    assert described.keyspace.buckets_healthy == 64
    assert any("durability memory" in note for note in described.notes)


async def test_the_same_keyspace_twice_is_refused(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey() for _ in range(3)])
        await create(stub)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(stub)
    refusal = Refusal(caught.value)
    assert refusal.code is grpc.StatusCode.ALREADY_EXISTS
    assert refusal.reason == "KEYSPACE_EXISTS"
    assert "name" in refusal.fields


async def test_every_bad_field_of_a_keyspace_is_named_at_once(
    tmp_path: Path, servers: Servers
) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey()])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(
                stub,
                "Wrong_Name",
                buckets=100,
                mode=3,
                read_consistency=6,
                redis_db=5_000,
                max_value_bytes=1 << 30,
            )
        listed = await stub.ListKeyspaces(admin_pb2.ListKeyspacesRequest())
    refusal = Refusal(caught.value)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "KEYSPACE_INVALID"
    assert refusal.fields.keys() == {
        "name",
        "buckets",
        "replication_factor",
        "mode",
        "read_consistency",
        "redis_db",
        "max_value_bytes",
    }
    assert len(listed.keyspaces) == 0


async def test_a_redis_database_belongs_to_one_keyspace(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey() for _ in range(3)])
        await create(stub, "first", redis_db=0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(stub, "second", redis_db=0)
    refusal = Refusal(caught.value)
    assert refusal.fields.keys() == {"redis_db"}
    assert "'first'" in refusal.fields["redis_db"]


async def test_durability_fsync_takes_durable_nodes_only(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey(*DURABLE), servers.valkey(*DURABLE)])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(stub, durability=map_pb2.DURABILITY_FSYNC)
        created = await create(
            stub, durability=map_pb2.DURABILITY_FSYNC, replication_factor=2, buckets=4
        )
    assert "durable" in Refusal(caught.value).fields["replication_factor"]
    assert any("two copies" in warning for warning in created.warnings)


async def test_a_linearizable_keyspace_needs_durable_nodes_unless_memory_is_chosen(
    tmp_path: Path, servers: Servers
) -> None:
    mode = map_pb2.KEYSPACE_MODE_LINEARIZABLE
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey() for _ in range(3)])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(stub, "ledger", mode=mode, buckets=4)
        made = await create(
            stub, "counters", mode=mode, buckets=4, durability=map_pb2.DURABILITY_MEMORY
        )
        described = await stub.DescribeKeyspace(admin_pb2.DescribeKeyspaceRequest(name="counters"))
    assert "appendfsync always" in Refusal(caught.value).fields["replication_factor"]
    assert made.config.mode == mode
    assert any("acknowledged changes are lost" in note for note in described.notes)


async def test_a_keyspace_waits_unpublished_for_an_owner_that_died_and_says_so(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    # So slow a look that the death is not seen before the keyspace is planned.
    async with running(tmp_path, probe_interval_ms=1_000) as app, admin(app.address) as stub:
        await add_nodes(stub, nodes)
        nodes[1].kill()
        config = map_pb2.KeyspaceConfig(name="places", redis_db=-1, buckets=8)
        request = admin_pb2.CreateKeyspaceRequest(config=config)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateKeyspace(request, timeout=1.5)
        refusal = Refusal(caught.value)
        status = await stub.Status(admin_pb2.StatusRequest())
        assert "places" not in app.instance.feed.state.map.keyspaces
        nodes[1].restart()
        await until(lambda: "places" in app.instance.feed.state.map.keyspaces, "it is published")
        for server in nodes:
            assert len(await fences_on(server, "places", 8)) == 8
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "KEYSPACE_CREATING"
    assert "n1" in refusal.message
    assert any("places is not published yet" in problem for problem in status.problems)


async def test_fences_of_an_earlier_keyspace_are_in_the_way(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, nodes)
        keys = bucket_keys("places", 5)
        async with await ReplicaClient.connect(nodes[0].host, nodes[0].port) as client:
            await client.create_fence(keys, Fence(9, Stage.OLD, Role.OWNER, 1), b"other")
        config = map_pb2.KeyspaceConfig(name="places", redis_db=-1, buckets=8)
        request = admin_pb2.CreateKeyspaceRequest(config=config)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateKeyspace(request, timeout=1.5)
        assert "places" not in app.instance.feed.state.map.keyspaces
    message = Refusal(caught.value).message
    assert "dabba:{places:5}:data" in message
    assert "has another fence" in message


async def test_the_largest_keyspace_is_created(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey() for _ in range(3)])
        await create(stub, buckets=16_384)
        status = await stub.Status(admin_pb2.StatusRequest())
        assert len(app.instance.feed.state.map.keyspaces["places"].buckets) == 16_384
    assert status.keyspaces[0].buckets_healthy == 16_384
    assert list(status.problems) == []


async def test_two_created_at_once_are_both_there(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey() for _ in range(3)])
        await asyncio.gather(*(create(stub, f"ks-{n}", buckets=4) for n in range(4)))
        listed = await stub.ListKeyspaces(admin_pb2.ListKeyspacesRequest())
    assert [each.config.name for each in listed.keyspaces] == [f"ks-{n}" for n in range(4)]
    assert not any(each.config.creating for each in listed.keyspaces)
