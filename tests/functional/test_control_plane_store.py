"""The coordination store gone, damaged, rolled back: the last good map stays in use."""

from pathlib import Path

import grpc
import pytest

from control_plane.app import App
from control_plane.coordination.epoch import with_epoch_bump
from control_plane.coordination.errors import Unavailable
from control_plane.coordination.opening import open_store
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import Put
from protos.dabbawala.v1 import admin_pb2
from tests.support.control_planes import (
    CLUSTER,
    Refusal,
    add_nodes,
    admin,
    create,
    node_request,
    running,
    until,
)
from tests.support.servers import Servers

pytestmark = pytest.mark.slow

PATHS = ClusterPaths(CLUSTER)


async def set_up(app: App, servers: Servers) -> None:
    async with admin(app.address) as stub:
        await add_nodes(stub, [servers.valkey() for _ in range(3)])
        await create(stub, buckets=8)


async def expect_kept(app: App, words: str) -> None:
    """The last good map stays, the problem is shown, and nothing is written any more."""
    before = app.instance.feed.state
    await until(lambda: words in app.instance.feed.problem, f"{words!r} is shown")
    async with admin(app.address) as stub:
        status = await stub.Status(admin_pb2.StatusRequest())
        findings = (await stub.Doctor(admin_pb2.DoctorRequest())).findings
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(stub, "another", buckets=4)
    assert app.instance.feed.state is before
    assert status.map_revision == before.revision
    assert len(status.nodes) == 3
    assert any(words in problem for problem in status.problems)
    assert "map-refused" in {finding.id for finding in findings}
    assert Refusal(caught.value).code is grpc.StatusCode.UNAVAILABLE


async def test_a_map_that_went_back_is_refused(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app:
        await set_up(app, servers)
        async with await open_store(f"sqlite://{tmp_path}/store.db") as store:
            await store.write(PATHS.epoch, b"2")
        await expect_kept(app, "went back from revision")


async def test_a_range_of_damaged_bytes_is_refused(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app:
        await set_up(app, servers)
        async with await open_store(f"sqlite://{tmp_path}/store.db") as store:
            epoch = await store.read(PATHS.epoch)
            damage = [Put(PATHS.bucket_range("places", 0), b"\xff\xff\xff")]
            await store.transact(with_epoch_bump(damage, PATHS.epoch, epoch))
        await expect_kept(app, "range/places/000")


async def test_a_map_without_nodes_is_refused(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app:
        await set_up(app, servers)
        async with await open_store(f"sqlite://{tmp_path}/store.db") as store:
            await store.delete_tree(PATHS.keyspaces)
            await store.delete_tree(PATHS.nodes)
            epoch = await store.read(PATHS.epoch)
            await store.transact(with_epoch_bump([], PATHS.epoch, epoch))
        await expect_kept(app, "lost all its nodes")


async def test_a_store_that_was_made_anew_is_refused(tmp_path: Path, servers: Servers) -> None:
    async with running(tmp_path) as app:
        await set_up(app, servers)
        async with await open_store(f"sqlite://{tmp_path}/store.db") as store:
            await store.delete_tree(PATHS.root)
            await store.write(PATHS.epoch, b"50")
        await expect_kept(app, "the store now belongs to another cluster")


async def test_all_is_still_answered_when_the_store_is_gone(
    tmp_path: Path, servers: Servers
) -> None:
    zookeeper = servers.zookeeper()
    url = f"zookeeper://{zookeeper.address}"
    async with running(tmp_path, store=url, session_timeout_ms=2_000) as app:
        await set_up(app, servers)
        zookeeper.kill()
        await until(lambda: not app.instance.roster.reachable, "it is noticed")
        with pytest.raises(Unavailable):
            await app.instance.feed.refresh()
        assert app.instance.feed.problem == ""
        async with admin(app.address) as stub:
            # Who looks is not kept waiting for the store.
            status = await stub.Status(admin_pb2.StatusRequest(), timeout=4)
            described = await stub.DescribeKeyspace(
                admin_pb2.DescribeKeyspaceRequest(name="places")
            )
            whole = await stub.GetMap(admin_pb2.GetMapRequest())
            findings = (await stub.Doctor(admin_pb2.DoctorRequest())).findings
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.AddNode(node_request(4, servers.valkey()))
        zookeeper.restart()
        await until(lambda: app.instance.term is not None, "it leads again", timeout_s=40)
        async with admin(app.address) as stub:
            await create(stub, "later", buckets=4)
    assert not status.store_reachable
    assert [each.health for each in status.nodes] == ["up"] * 3
    assert any("store does not answer" in problem for problem in status.problems)
    assert described.keyspace.buckets_healthy == 8
    assert len(whole.ranges) == 1
    assert "store-unreachable" in {finding.id for finding in findings}
    assert Refusal(caught.value).code is grpc.StatusCode.UNAVAILABLE
