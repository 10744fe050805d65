"""Several instances: one leads, the others forward to it, and take over from it."""

import asyncio
from pathlib import Path

import grpc
import pytest

from control_plane.controllers.instance import ControlPlaneInstance
from protos.dabbawala.v1 import admin_pb2, admin_pb2_grpc, map_pb2
from tests.support.control_planes import (
    DURABLE,
    ControlPlaneProcess,
    Refusal,
    add_nodes,
    admin,
    control_plane_process,
    create,
    eventually,
    node_request,
    running,
    until,
)
from tests.support.servers import Server, Servers

pytestmark = pytest.mark.slow


async def status_of(process: ControlPlaneProcess) -> admin_pb2.StatusResponse:
    async with admin(await process.address()) as stub:
        return await stub.Status(admin_pb2.StatusRequest())


async def until_leads(process: ControlPlaneProcess, instance_id: str) -> None:
    async def leads() -> bool:
        return (await status_of(process)).leader == instance_id

    await eventually(leads, f"{instance_id} leads")


async def until_published(process: ControlPlaneProcess) -> None:
    async def published() -> bool:
        keyspaces = (await status_of(process)).keyspaces
        return bool(keyspaces) and not keyspaces[0].config.creating

    await eventually(published, "the keyspace is published")


async def leave_half_created(process: ControlPlaneProcess, node: Server) -> None:
    """Plan keyspace `places` and make its fences, except those of `node`, which dies."""
    node.kill()
    async with admin(await process.address()) as stub:
        config = map_pb2.KeyspaceConfig(name="places", redis_db=-1, buckets=8)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateKeyspace(admin_pb2.CreateKeyspaceRequest(config=config), timeout=2)
    assert Refusal(caught.value).reason == "KEYSPACE_CREATING"


async def test_the_other_instance_takes_over_and_finishes_a_half_created_keyspace(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    slow = ("--probe-interval-ms", "1000")  # so that the death is not seen before the planning
    with (
        control_plane_process(tmp_path, "cp-1", *slow) as first,
        control_plane_process(tmp_path, "cp-2", *slow) as second,
    ):
        leader, other = await by_leadership(first, second)
        async with admin(await leader.address()) as stub:
            await add_nodes(stub, nodes)
        await leave_half_created(leader, nodes[1])
        leader.kill()
        nodes[1].restart()
        await until_published(other)
        status = await status_of(other)
    assert status.leader == other.instance_id
    assert status.keyspaces[0].buckets_healthy == 8


async def by_leadership(
    first: ControlPlaneProcess, second: ControlPlaneProcess
) -> tuple[ControlPlaneProcess, ControlPlaneProcess]:
    async def elected() -> bool:
        known = {(await status_of(process)).leader for process in (first, second)}
        return len(known) == 1 and known != {""}

    await eventually(elected, "one of them leads")
    leader = (await status_of(first)).leader
    return (first, second) if leader == first.instance_id else (second, first)


async def test_a_leader_that_slept_through_its_term_changes_nothing_and_forwards(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(4)]
    with (
        control_plane_process(tmp_path, "cp-1") as first,
        control_plane_process(tmp_path, "cp-2") as second,
    ):
        sleeper, other = await by_leadership(first, second)
        async with admin(await sleeper.address()) as stub:
            await add_nodes(stub, nodes[:3])
        sleeper.pause()
        await until_leads(other, other.instance_id)
        async with admin(await other.address()) as stub:
            await create(stub, buckets=8)
        sleeper.resume()
        async with admin(await sleeper.address()) as stub:
            # Whatever it believes when it wakes up, this ends as one registration.
            await eventually(lambda: accepted(stub, nodes[3]), "the node is registered", 60.0)
        await until_leads(sleeper, other.instance_id)
        status = await status_of(other)
    assert [each.node.number for each in status.nodes] == [1, 2, 3, 4]


async def accepted(stub: "admin_pb2_grpc.AdminAsyncStub", server: Server) -> bool:
    try:
        await stub.AddNode(node_request(3, server))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


async def test_writes_are_forwarded_to_the_leader_with_their_refusals(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, "cp-1") as first, running(tmp_path, "cp-2") as second:
        assert first.instance.term is not None
        assert second.instance.term is None
        await until(lambda: len(second.instance.roster.instances) == 2, "they know each other")
        async with admin(second.address) as stub:
            await add_nodes(stub, nodes)
            await create(stub, buckets=8)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await create(stub, "other", buckets=7)
        await until(
            lambda: second.instance.feed.state.revision == first.instance.feed.state.revision,
            "both have the same map",
        )
        assert second.instance.feed.state.map == first.instance.feed.state.map
    refusal = Refusal(caught.value)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields.keys() == {"buckets"}


async def test_both_instances_see_a_node_go_down(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey() for _ in range(3)]
    async with running(tmp_path, "cp-1") as first, running(tmp_path, "cp-2") as second:
        async with admin(first.address) as stub:
            await add_nodes(stub, nodes)
        both = (first.instance, second.instance)
        await until(lambda: all(healths_of(each) == ["up"] * 3 for each in both), "all are up")
        nodes[2].kill()
        down = ["up", "up", "down"]
        await until(lambda: all(healths_of(each) == down for each in both), "n2 is down")


def healths_of(instance: ControlPlaneInstance) -> list[str]:
    return [known.word for _, known in sorted(instance.healths.items())]


async def test_a_stopped_leader_hands_over_at_once(tmp_path: Path) -> None:
    with (
        control_plane_process(tmp_path, "cp-1", "--session-timeout-ms", "30000") as first,
        control_plane_process(tmp_path, "cp-2", "--session-timeout-ms", "30000") as second,
    ):
        leader, other = await by_leadership(first, second)
        assert await asyncio.to_thread(leader.terminate) == 0
        await until_leads(other, other.instance_id)

        async def alone() -> bool:
            instances = (await status_of(other)).instances
            return [instance.id for instance in instances] == [other.instance_id]

        await eventually(alone, "the stopped one is no longer listed")
    assert not leader.ports_file.exists()
