"""The process `dabba-control-plane`: how it starts, refuses to start, stops, and what it serves."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from buckets.codec import KEYSPACE_TYPE, NODE_TABLE_TYPE, RANGE_TYPE
from control_plane.app import App
from protos.dabbawala.v1 import admin_pb2, discovery_pb2
from tests.support.control_planes import (
    DURABLE,
    Refusal,
    add_nodes,
    admin,
    control_plane_process,
    create,
    running,
    until,
)
from tests.support.servers import Servers, free_port

pytestmark = pytest.mark.slow

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "control_plane", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def one_line(ended: subprocess.CompletedProcess[str], status: int) -> str:
    assert ended.returncode == status, ended.stderr
    words = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert len(words) == 1, ended.stderr
    assert words[0].startswith("dabba-control-plane: ")
    return words[0]


def flags_for(folder: Path, **more: str) -> list[str]:
    values = {"cluster": "test", "id": "cp-9", "store": f"sqlite://{folder}/store.db"} | more
    return [part for key, value in values.items() for part in (f"--{key}", value)]


async def test_it_starts_serves_and_stops_with_status_0(tmp_path: Path) -> None:
    with control_plane_process(tmp_path, "cp-1", "--metrics", "127.0.0.1:0") as process:
        address = await process.address()
        ports = json.loads(process.ports_file.read_text())
        async with admin(address) as stub:
            status = await stub.Status(admin_pb2.StatusRequest())
        with await asyncio.to_thread(urlopen, f"http://{ports['metrics']}/metrics") as page:
            metrics = page.read().decode()
        assert await asyncio.to_thread(process.terminate) == 0
    assert ports["pid"] == process.process.pid
    assert status.cluster == "test"
    assert "dabbawala_map_revision" in metrics
    assert 'dabbawala_nodes{health="up"} 0.0' in metrics
    assert all(json.loads(line) for line in process.log.splitlines())


async def test_a_port_in_use_is_one_line_and_status_2(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        ended = await asyncio.to_thread(run, *flags_for(tmp_path, listen=app.address))
    assert app.address in one_line(ended, 2)
    assert "in use" in ended.stderr


def test_bad_configuration_is_one_line_and_status_2(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"cluster": "test", "id": "a", "store": "b", "listn": "127.0.0.1:0"}')
    assert "did you mean 'listen'?" in one_line(run("--config", str(path)), 2)
    assert "store" in one_line(run(*flags_for(tmp_path, store="mysql://x")), 2)
    assert "advertise" in one_line(run(*flags_for(tmp_path, listen="0.0.0.0:0")), 2)


async def test_the_store_of_another_cluster_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass
    ended = await asyncio.to_thread(run, *flags_for(tmp_path, cluster="other"))
    assert "test" in one_line(ended, 2)


def test_an_unreachable_store_is_one_line_and_status_3(tmp_path: Path) -> None:
    nowhere = f"zookeeper://127.0.0.1:{free_port()}"
    flags = [*flags_for(tmp_path, store=nowhere), "--session-timeout-ms", "1000"]
    assert "coordination store" in one_line(run(*flags), 3)


async def test_health_and_reflection_are_served(tmp_path: Path) -> None:
    async with running(tmp_path) as app, grpc.aio.insecure_channel(app.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "dabbawala.v1.Admin"):
            checked = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert checked.status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        open_stream: Any = channel.stream_stream(REFLECTION)
        call = open_stream(iter([request.SerializeToString()]))
        answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
        names = [each.name for each in answer.list_services_response.service]
    assert "dabbawala.v1.Admin" in names


async def test_a_keyspace_is_described_only_if_it_exists(tmp_path: Path) -> None:
    async with running(tmp_path) as app, admin(app.address) as stub:
        for call in (
            stub.DescribeKeyspace(admin_pb2.DescribeKeyspaceRequest(name="nowhere")),
            stub.GetMap(admin_pb2.GetMapRequest(keyspace="nowhere")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            refusal = Refusal(caught.value)
            assert refusal.code is grpc.StatusCode.NOT_FOUND
            assert refusal.reason == "KEYSPACE_UNKNOWN"
            assert refusal.metadata == {"keyspace": "nowhere"}


class Subscriber:
    """A delta stream that takes everything and remembers the names."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self.resources: set[str] = set()
        self._call: Any = channel.stream_stream(DELTA)()
        self._name = name

    async def run(self) -> None:
        node = discovery_pb2.DiscoveryNode(id=self._name, cluster="test")
        for type_url in (NODE_TABLE_TYPE, KEYSPACE_TYPE, RANGE_TYPE):
            await self._send(node=node, type_url=type_url, resource_names_subscribe=["*"])
        while (raw := await self._call.read()) is not grpc.aio.EOF:
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(raw)
            self.resources |= {resource.name for resource in response.resources}
            await self._send(type_url=response.type_url, response_nonce=response.nonce)

    async def _send(self, **fields: object) -> None:
        message = discovery_pb2.DeltaDiscoveryRequest(**fields)  # type: ignore[arg-type]
        await self._call.write(message.SerializeToString())


async def test_sidecars_get_a_keyspace_only_once_its_fences_stand(
    tmp_path: Path, servers: Servers
) -> None:
    nodes = [servers.valkey(*DURABLE) for _ in range(3)]
    async with (
        running(tmp_path, probe_interval_ms=1_000) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        admin(app.address) as stub,
    ):
        await add_nodes(stub, nodes)
        await create(stub, "first", buckets=4)
        subscriber = Subscriber(channel, "s1")
        following = asyncio.create_task(subscriber.run())
        await until(lambda: "range/first/000" in subscriber.resources, "it has the map")
        nodes[1].kill()
        creating = asyncio.create_task(create(stub, "second", buckets=4))
        await until(lambda: "second" in app.instance.feed.state.keyspaces, "it is planned")
        await until(lambda: app.instance.healths["n1"].word == "down", "its owner is down")
        assert not any("second" in name for name in subscriber.resources)
        nodes[1].restart()
        await creating
        await until(lambda: "range/second/000" in subscriber.resources, "it is published")
        await until(lambda: states_of(app) == ["SYNCED"], "it is shown")
        following.cancel()


def states_of(app: App) -> list[str]:
    return [each.state.value for each in app._xds.sidecars()]


async def test_sidecars_of_all_instances_are_listed(tmp_path: Path, servers: Servers) -> None:
    async with (
        running(tmp_path, "cp-1") as first,
        running(tmp_path, "cp-2") as second,
        grpc.aio.insecure_channel(second.address) as channel,
        admin(first.address) as stub,
    ):
        await until(lambda: len(first.instance.roster.instances) == 2, "they know each other")
        await add_nodes(stub, [servers.valkey()])
        following = asyncio.create_task(Subscriber(channel, "s7").run())
        await until(lambda: states_of(second) == ["SYNCED"], "it follows the second")
        listed = await stub.ListSidecars(admin_pb2.ListSidecarsRequest())
        status = await stub.Status(admin_pb2.StatusRequest())
        following.cancel()
    assert [(each.id, each.state) for each in listed.sidecars] == [("s7", "SYNCED")]
    assert [each.id for each in status.sidecars] == ["s7"]
