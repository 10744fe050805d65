"""Registering nodes over the admin API: every server that is refused, in that very state."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import hiredis
import pytest

from protos.dabbawala.v1 import admin_pb2, admin_pb2_grpc, map_pb2
from replicas.client import ReplicaClient
from replicas.layout import IDENTITY_KEY
from tests.support.control_planes import (
    DURABLE,
    Refusal,
    add_nodes,
    admin,
    create,
    node_request,
    running,
    until,
)
from tests.support.servers import Server, Servers, free_port

pytestmark = pytest.mark.slow


async def tell(server: Server, *words: str) -> object:
    async with await ReplicaClient.connect(server.host, server.port) as client:
        return await client.call(*(word.encode() for word in words))


async def refused(
    stub: "admin_pb2_grpc.AdminAsyncStub", request: admin_pb2.AddNodeRequest
) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.AddNode(request)
    return Refusal(caught.value)


async def refused_server(folder: Path, server: Server) -> Refusal:
    """What registering this server is answered; nothing may be left behind of the attempt."""
    async with running(folder) as app, admin(app.address) as stub:
        refusal = await refused(stub, node_request(0, server))
        listed = await stub.ListNodes(admin_pb2.ListNodesRequest())
    assert len(listed.nodes) == 0
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.fields.keys() == {"host"}
    assert server.address in refusal.message
    return refusal


async def test_a_server_that_is_not_there(tmp_path: Path, valkey: Server) -> None:
    valkey.stop()
    refusal = await refused_server(tmp_path, valkey)
    assert refusal.reason == "NODE_UNREACHABLE"
    assert "Check that the server runs" in refusal.message


async def test_a_server_that_accepts_and_never_answers(tmp_path: Path, valkey: Server) -> None:
    valkey.pause()
    refusal = await refused_server(tmp_path, valkey)
    valkey.resume()
    assert refusal.reason == "NODE_UNREACHABLE"
    assert "did not answer within" in refusal.message


async def test_something_that_is_no_replica_server(tmp_path: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ready\r\n")
        writer.close()

    refusal = await refused_stranger(tmp_path, greet)
    assert refusal.reason == "NOT_A_REPLICA_SERVER"
    assert "Check host and port" in refusal.message


async def refused_stranger(
    folder: Path, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> Refusal:
    """What registering something that `serve`s in the test itself is answered."""
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    request = admin_pb2.AddNodeRequest(id="n0", host="127.0.0.1", port=port, zone="a")
    async with listener, running(folder) as app, admin(app.address) as stub:
        return await refused(stub, request)


async def test_a_server_that_may_evict(tmp_path: Path, servers: Servers) -> None:
    server = servers.valkey("--maxmemory-policy", "allkeys-lru")
    refusal = await refused_server(tmp_path, server)
    assert refusal.reason == "EVICTING"
    assert "allkeys-lru" in refusal.message
    assert "CONFIG SET maxmemory-policy noeviction" in refusal.message


async def test_a_replica_of_another_server(tmp_path: Path, servers: Servers) -> None:
    master, server = servers.valkey(), servers.valkey()
    await tell(server, "REPLICAOF", master.host, str(master.port))
    refusal = await refused_server(tmp_path, server)
    assert refusal.reason == "NOT_MASTER"
    assert "REPLICAOF NO ONE" in refusal.message


async def test_a_part_of_a_redis_cluster(tmp_path: Path, servers: Servers) -> None:
    refusal = await refused_server(tmp_path, servers.valkey("--cluster-enabled", "yes"))
    assert refusal.reason == "NOT_MASTER"
    assert "Cluster" in refusal.message


@pytest.mark.parametrize(("version", "reason"), [("6.0.16", "TOO_OLD"), ("6.2.0", "NOT_MASTER")])
async def test_a_server_that_is_too_old(tmp_path: Path, version: str, reason: str) -> None:
    # No server this old can be installed beside a new one; what counts is what INFO says. The
    # other version shows that it gets past this check, to the next.
    info = f"redis_version:{version}\r\nrole:slave\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        while data := await reader.read(65_536):
            commands.feed(data)
            while command := commands.gets():
                replies = {b"INFO": b"$%d\r\n%b\r\n" % (len(info), info)}
                replies[b"TIME"] = b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n"
                writer.write(replies.get(command[0], b"$-1\r\n"))
        writer.close()

    refusal = await refused_stranger(tmp_path, answer)
    assert refusal.reason == reason


async def test_every_bad_field_of_a_node_is_named_at_once(tmp_path: Path) -> None:
    request = admin_pb2.AddNodeRequest(
        id="Node 1", host="", port=70_000, zone="", rack="*", weight=1_000_000
    )
    async with running(tmp_path) as app, admin(app.address) as stub:
        refusal = await refused(stub, request)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields.keys() == {"id", "host", "port", "zone", "rack", "weight"}
    assert "1 to 65535" in refusal.fields["port"]


async def test_the_same_server_under_a_second_id_and_address(
    tmp_path: Path, valkey: Server
) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        await stub.AddNode(node_request(0, valkey))
        same_address = await refused(stub, node_request(1, valkey))
        other_name = node_request(1, valkey)
        other_name.host = "localhost"
        same_server = await refused(stub, other_name)
    assert same_address.reason == "ADDRESS_TAKEN"
    assert "'n0'" in same_address.message
    assert same_server.reason == "SERVER_TAKEN"
    assert "'n0'" in same_server.message
    assert "run_id" in same_server.message


async def test_an_id_that_stands_for_another_server(tmp_path: Path, servers: Servers) -> None:
    first, second = servers.valkey(), servers.valkey()
    async with running(tmp_path) as app, admin(app.address) as stub:
        await stub.AddNode(node_request(0, first))
        refusal = await refused(stub, node_request(0, second))
        elsewhere = node_request(0, first)
        elsewhere.zone = "z"
        other_zone = await refused(stub, elsewhere)
    assert refusal.reason == other_zone.reason == "NODE_ID_TAKEN"
    assert refusal.fields.keys() == {"id"}
    assert other_zone.fields.keys() == {"zone"}


async def test_a_data_folder_of_another_cluster_of_the_same_name(
    tmp_path: Path, servers: Servers
) -> None:
    server = servers.valkey(*DURABLE)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    async with running(tmp_path / "first") as app, admin(app.address) as stub:
        await stub.AddNode(node_request(0, server))
    server.stop()
    server.restart()
    refusal = await refused_server(tmp_path / "second", server)
    assert refusal.reason == "OTHER_CLUSTER"
    assert "another one of the same name" in refusal.message


async def test_a_data_folder_of_another_node(tmp_path: Path, servers: Servers) -> None:
    first, second = servers.valkey(*DURABLE), servers.valkey()
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, [first, second])
        first.stop()
        first.restart()
        moved = node_request(2, first)
        moved.host = "localhost"
        refusal = await refused(stub, moved)
    assert refusal.reason == "SERVER_TAKEN"
    assert "'n0'" in refusal.message


async def test_registering_a_node_again_changes_nothing(tmp_path: Path, valkey: Server) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        first = await stub.AddNode(node_request(0, valkey))
        revision = app.instance.feed.state.revision
        again = await stub.AddNode(node_request(0, valkey))
        assert app.instance.feed.state.revision == revision
    assert first.node == again.node
    assert again.node.number == 1


async def test_a_durable_node_comes_back_at_another_port(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, nodes)
        await create(stub, buckets=16)
    before = {server.port for server in nodes}
    for server in nodes:
        server.stop()
        server.port = free_port()
        server.command[server.command.index("--port") + 1] = str(server.port)
        server.restart()
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, nodes)
        status = await stub.Status(admin_pb2.StatusRequest())
    assert [each.health for each in status.nodes] == ["up"] * 3
    assert {each.node.port for each in status.nodes}.isdisjoint(before)
    assert [each.node.number for each in status.nodes] == [1, 2, 3]
    assert status.keyspaces[0].buckets_healthy == 16


async def test_a_number_is_never_given_twice(tmp_path: Path, servers: Servers) -> None:
    nodes = [servers.valkey() for _ in range(5)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        requests = [stub.AddNode(node_request(n, server)) for n, server in enumerate(nodes)]
        answers = await asyncio.gather(*requests)
    assert sorted(answer.node.number for answer in answers) == [1, 2, 3, 4, 5]


async def test_the_identity_is_on_the_server(tmp_path: Path, valkey: Server) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        await stub.AddNode(node_request(0, valkey))
        uid = app.instance.feed.state.uid
    raw = await tell(valkey, "GET", IDENTITY_KEY.decode())
    assert raw == b'{"cluster":"test/%b","node":"n0","incarnation":1}' % uid.encode()


async def test_two_servers_that_swapped_their_ports_are_not_trusted_and_recover(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with running(tmp_path) as app, admin(app.address) as stub:
        await add_nodes(stub, nodes)
        await create(stub, buckets=4)
        await swap(nodes[0], nodes[1])
        await until(lambda: both(app.instance.healths, "down"), "both are shown as down")
        status = await stub.Status(admin_pb2.StatusRequest())
        states = {each.node.id: each.node.state for each in status.nodes}
        await swap(nodes[0], nodes[1])
        await until(lambda: both(app.instance.healths, "up"), "both are up again")
    assert "holds the data of node 'n1'" in status.nodes[0].detail
    assert set(states.values()) == {map_pb2.NODE_STATE_ACTIVE}


async def swap(first: Server, second: Server) -> None:
    for server in (first, second):
        server.stop()
    first.port, second.port = second.port, first.port
    for server in (first, second):
        server.command[server.command.index("--port") + 1] = str(server.port)
        server.restart()


def both(healths: object, word: str) -> bool:
    assert isinstance(healths, dict)
    return all(healths[name].word == word for name in ("n0", "n1"))
