"""What becomes of nodes whose servers restart, freeze, lose data or change behind our back."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.app import App
from control_plane.controllers.cluster_state import StoredNode
from control_plane.controllers.reconcile import make_fences
from control_plane.controllers.records import (
    EVICTING,
    FENCES_MISSING,
    FLUSHED,
    RESTARTED_EMPTY,
    RESTARTED_NOT_DURABLE,
    ROLE_CHANGED,
)
from protos.dabbawala.v1 import admin_pb2
from replicas.client import ReplicaClient
from replicas.layout import bucket_keys
from tests.support.control_planes import DURABLE, add_nodes, admin, create, running, until
from tests.support.servers import Server, Servers

pytestmark = pytest.mark.slow


def stored(app: App, node_id: str = "n0") -> StoredNode:
    return app.instance.feed.state.nodes[node_id]


def health(app: App, node_id: str = "n0") -> str:
    return app.instance.healths[node_id].word


async def tell(server: Server, *words: str) -> None:
    async with await ReplicaClient.connect(server.host, server.port) as client:
        await client.call(*(word.encode() for word in words))


async def cause_of(app: App, node_id: str = "n0") -> str:
    await until(lambda: not stored(app, node_id).record.trusted, "it is SUSPECT")
    assert stored(app, node_id).node.reason
    return stored(app, node_id).record.cause


async def set_up(app: App, nodes: list[Server]) -> None:
    async with admin(app.address) as stub:
        await add_nodes(stub, nodes)
        await create(stub, buckets=16)


async def test_a_killed_node_is_shown_down_within_three_seconds(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path, probe_interval_ms=1_000) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        nodes[0].kill()
        await until(lambda: health(app) == "down", "it is down", timeout_s=3.0)
        status = await stub.Status(admin_pb2.StatusRequest())
        findings = (await stub.Doctor(admin_pb2.DoctorRequest())).findings
    assert not status.nodes[0].reachable
    assert "no connection" in status.nodes[0].detail
    assert any("n0" in problem for problem in status.problems)
    assert status.keyspaces[0].buckets_degraded == 16
    assert {"node-unreachable", "buckets-degraded"} <= {finding.id for finding in findings}


async def test_a_frozen_node_is_shown_down_within_three_seconds(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, probe_interval_ms=1_000) as app:
        await set_up(app, nodes)
        nodes[0].pause()
        await until(lambda: health(app) == "down", "it is down", timeout_s=3.0)
        nodes[0].resume()
        await until(lambda: health(app) == "up", "it is up again")
        assert stored(app).record.trusted


async def test_a_node_that_restarts_empty_is_suspect_and_stays_so(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        trusted = stored(app).node.run_id
        nodes[0].kill()
        nodes[0].erase()
        nodes[0].restart()
        assert await cause_of(app) == RESTARTED_EMPTY
        assert stored(app).node.run_id == trusted
        assert "restarted empty" in stored(app).node.reason
        nodes[0].stop()
        nodes[0].restart()
        revision = app.instance.feed.state.revision
        await until(lambda: health(app) == "suspect", "the new life is seen")
        status = await stub.Status(admin_pb2.StatusRequest())
        findings = (await stub.Doctor(admin_pb2.DoctorRequest())).findings
        assert app.instance.feed.state.revision == revision
    assert status.nodes[0].health == "suspect"
    assert "node-suspect" in {finding.id for finding in findings}


async def test_a_node_that_restarts_with_durable_data_is_trusted_again_in_its_incarnation(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        before = stored(app).node
        nodes[0].kill()
        nodes[0].restart()
        await until(lambda: stored(app).node.run_id != before.run_id, "it is trusted again")
        after = stored(app)
        await until(lambda: health(app) == "up", "it is up again")
    assert after.record.trusted
    assert after.record.durable
    assert after.node.incarnation == before.incarnation


async def test_a_node_that_was_not_durable_is_not_trusted_after_a_restart(
    tmp_path: Path, servers: Servers
) -> None:
    # It saves on a clean stop, so all its data is there; but nobody can know that.
    nodes = [servers.valkey("--save", "3600 1") for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        nodes[0].stop()
        nodes[0].restart()
        assert await cause_of(app) == RESTARTED_NOT_DURABLE


async def test_a_node_whose_durability_was_switched_off_is_not_trusted_after_a_restart(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        await tell(nodes[0], "CONFIG", "SET", "appendfsync", "everysec")
        await until(lambda: not stored(app).record.durable, "it is noticed")
        nodes[0].kill()
        nodes[0].restart()
        assert await cause_of(app) == RESTARTED_NOT_DURABLE


async def test_a_node_that_became_durable_counts_as_such_once_its_data_is_on_disk(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        assert not stored(app).record.durable
        await tell(nodes[0], "CONFIG", "SET", "appendfsync", "always")
        await tell(nodes[0], "CONFIG", "SET", "appendonly", "yes")
        await until(lambda: stored(app).record.durable, "it is noticed")


async def test_a_durable_node_without_one_of_its_fences_is_not_trusted_after_a_restart(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        await tell(nodes[0], "DEL", bucket_keys("places", 3).data.decode())
        nodes[0].stop()
        nodes[0].restart()
        assert await cause_of(app) == FENCES_MISSING
        assert "1 fences missing" in stored(app).node.reason


async def test_no_fence_is_made_in_another_life_than_the_one_that_is_trusted(
    tmp_path: Path, servers: Servers
) -> None:
    """The server may restart between the last look and the making of fences."""
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        state = app.instance.feed.state
        keyspace = state.keyspaces["places"]
        known = stored(app).record
        assert await make_fences(state, keyspace, known) == ""  # they stand: nothing to do
        await tell(nodes[0], "DEL", bucket_keys("places", 3).data.decode())
        former = replace(known, node=replace(known.node, run_id=b"\x00" * 20))
        assert "restarted" in await make_fences(state, keyspace, former)
        keys = bucket_keys("places", 3)
        async with await ReplicaClient.connect(nodes[0].host, nodes[0].port) as client:
            assert (await client.read_fences([keys]))[0].raw is None


async def test_a_flushed_node_is_suspect(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        await tell(nodes[0], "FLUSHALL")
        assert await cause_of(app) == FLUSHED


async def test_a_node_that_may_evict_now_is_suspect(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
        await tell(nodes[0], "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        assert await cause_of(app) == EVICTING
        await tell_evicting(nodes[0])
        await until(lambda: health(app) == "suspect", "it stays out")
        assert not stored(app).record.trusted


async def tell_evicting(server: Server) -> None:
    # An evicting server is refused by our own client, so it is told in the plainest way.
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"CONFIG SET maxmemory-policy noeviction\r\n")
    assert await reader.readline() == b"+OK\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_node_that_became_a_replica_is_suspect(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey() for _ in range(4)]
    async with running(tmp_path) as app:
        await set_up(app, nodes[:3])
        await tell(nodes[0], "REPLICAOF", nodes[3].host, str(nodes[3].port))
        assert await cause_of(app) == ROLE_CHANGED


async def test_registering_brings_back_a_node_whose_empty_stand_in_was_judged(
    tmp_path: Path, servers: Servers
) -> None:
    """Another, empty server got the node's port for a while; the node itself lost nothing."""
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        nodes[0].stop()
        stand_in = servers.valkey(port=nodes[0].port)
        assert await cause_of(app) == RESTARTED_EMPTY
        stand_in.stop()
        nodes[0].restart()
        await until(lambda: health(app) == "suspect", "it is seen, and stays out")
        assert not stored(app).record.trusted
        await add_nodes(stub, nodes[:1])
        await until(lambda: health(app) == "up", "it is back")
        assert stored(app).record.trusted


async def test_registering_does_not_bring_back_a_node_that_lost_its_data(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey("--save", "3600 1") for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await set_up(app, nodes)
        nodes[0].stop()
        nodes[0].restart()
        await cause_of(app)
        await add_nodes(stub, nodes[:1])
        assert stored(app).record.cause == RESTARTED_NOT_DURABLE
        assert health(app) == "suspect"


async def test_restarts_while_the_control_plane_was_gone_are_judged_when_it_is_back(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app:
        await set_up(app, nodes)
    nodes[0].kill()
    nodes[0].erase()
    nodes[0].restart()
    nodes[1].kill()
    nodes[1].restart()
    async with running(tmp_path) as app:
        assert await cause_of(app, "n0") == RESTARTED_EMPTY
        await until(lambda: health(app, "n1") == "up", "the durable one is trusted again")
