"""A local cluster: real servers, started in the right order and made ready."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import orjson

from control_plane.dev.admin_calls import KEYSPACES, LOOPBACK_CHANNEL, AdminCalls
from control_plane.dev.errors import PortTaken, StartFailed
from control_plane.dev.folder import DevFolder, NodeRecord
from control_plane.dev.ports import is_free
from control_plane.dev.processes import Command, Server
from control_plane.dev.servers import (
    child_environment,
    control_plane_command,
    node_command,
    sidecar_command,
)
from control_plane.dev.sidecar_admin import not_ready
from control_plane.dev.valkey_binary import find_server
from protos.dabbawala.v1 import admin_pb2, data_pb2
from protos.dabbawala.v1.data_pb2_grpc import DataStub

if TYPE_CHECKING:  # known to the types only
    from protos.dabbawala.v1.data_pb2_grpc import DataAsyncStub

_START_TIMEOUT_S = 30.0
_POLL_S = 0.02
# A node whose data is not trusted stays out for as long as it takes; the others serve.
_HEALTHY_PATIENCE_S = 4.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the cluster answers, as `host:port`; the sockets are paths."""

    control_plane: str
    grpc: str
    redis: str
    admin: str
    grpc_socket: str
    redis_socket: str


class DevCluster:
    """Starts everything, watches it, stops it. `sockets` is a folder for sockets and port files."""

    def __init__(
        self, folder: DevFolder, sockets: Path, on_death: Callable[[Server], None]
    ) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self._sockets = sockets
        self._on_death = on_death
        self._environment = child_environment()
        self.nodes: dict[str, Server] = {}
        self.control_plane: Server | None = None
        self.sidecar: Server | None = None

    @property
    def servers(self) -> list[Server]:
        """All that were started."""
        others = [server for server in (self.sidecar, self.control_plane) if server is not None]
        return [*others, *self.nodes.values()]

    async def start(self) -> Addresses:
        """Starts every server and waits until the sidecar serves. Raises DevError."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        self._check_ports()
        control_ports, sidecar_ports = (
            self._ports_file("control-plane"),
            self._ports_file("sidecar"),
        )
        await self._start_nodes()
        self.control_plane = await self._start(control_plane_command(self.folder, control_ports))
        control = (await _ports(control_ports, self.control_plane, deadline))["grpc"]
        self.sidecar = await self._start(
            sidecar_command(
                self.folder, control_plane=control, sockets=self._sockets, ports_file=sidecar_ports
            )
        )
        await self._provision(control, deadline)
        doors = await _ports(sidecar_ports, self.sidecar, deadline)
        await self._wait_until_served(doors, deadline)
        for server in self.servers:
            server.on_death(self._on_death)
        return Addresses(
            control_plane=control,
            grpc=doors["grpc"],
            redis=doors["redis"],
            admin=doors["admin"],
            grpc_socket=str(self._sockets / "grpc.sock"),
            redis_socket=str(self._sockets / "redis.sock"),
        )

    def _check_ports(self) -> None:
        for node in self.folder.record.nodes:
            if not is_free(node.port):
                raise PortTaken(
                    f"port {node.port} of {node.id} is used by another program, and the kept map"
                    f" names it; stop that program (see: ss -ltnp 'sport = :{node.port}')"
                )

    def _ports_file(self, name: str) -> Path:
        path = self._sockets / f"{name}.ports.json"
        path.unlink(missing_ok=True)
        return path

    async def _start(self, command: Command) -> Server:
        return await Server.start(command, self._environment)

    async def _start_nodes(self) -> None:
        program = find_server()
        for node in self.folder.record.nodes:
            self.nodes[node.id] = await self._start(node_command(self.folder, node, program))

    async def _provision(self, control_plane: str, deadline: float) -> None:
        """Registers the nodes and creates the keyspaces, and waits for every bucket to be well."""
        records = self.folder.record.nodes
        for node in records:
            await _answers(node, self.nodes[node.id], deadline)
        async with grpc.aio.insecure_channel(control_plane, options=LOOPBACK_CHANNEL) as channel:
            calls = AdminCalls(channel, deadline)
            await calls.register(records)
            await calls.create_keyspaces(len(records), durable=self.folder.kept)
            self.problems = await self._wait_until_healthy(calls)

    async def _wait_until_healthy(self, calls: AdminCalls) -> list[str]:
        """What is still wrong after a while: nothing, unless kept data was lost or changed."""
        patience = time.monotonic() + _HEALTHY_PATIENCE_S
        while True:
            status = await calls.status()
            if _all_healthy(status):
                return []
            if time.monotonic() > patience:
                return list(status.problems) or ["some buckets are not healthy; see: dabba status"]
            await asyncio.sleep(_POLL_S)

    async def _wait_until_served(self, doors: Mapping[str, str], deadline: float) -> None:
        """Reads a key of every keyspace at its own level until each read is answered.

        Then it has the whole map; "ready" says that it has tried to connect to every node of it.
        """
        async with grpc.aio.insecure_channel(doors["grpc"], options=LOOPBACK_CHANNEL) as channel:
            data: DataAsyncStub = DataStub(channel)
            for keyspace in KEYSPACES:
                await self._until_none(partial(_read_problem, data, keyspace), deadline)
        await self._until_none(partial(asyncio.to_thread, not_ready, doors["admin"]), deadline)

    async def _until_none(self, problem: Callable[[], Awaitable[str]], deadline: float) -> None:
        """Asks for the problem until there is none ("")."""
        while found := await problem():
            _check_alive(self.sidecar)
            if time.monotonic() > deadline:
                raise StartFailed(f"the sidecar does not serve: {found}")
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Stops all in the order in which nobody misses anybody: sidecar, control plane, nodes."""
        for group in ([self.sidecar], [self.control_plane], self.nodes.values()):
            await asyncio.gather(*(server.stop() for server in _present(group)))

    def kill(self) -> None:
        """Ends all at once."""
        for server in self.servers:
            server.send(signal.SIGKILL)


def _check_alive(server: Server | None) -> None:
    if server is not None and not server.running:
        raise server.start_error()


def _present(servers: Iterable[Server | None]) -> list[Server]:
    return [server for server in servers if server is not None]


def _all_healthy(status: admin_pb2.StatusResponse) -> bool:
    names = {keyspace.config.name for keyspace in status.keyspaces}
    return names >= KEYSPACES.keys() and all(
        not keyspace.config.creating and keyspace.buckets_healthy == keyspace.config.buckets
        for keyspace in status.keyspaces
    )


async def _ports(path: Path, server: Server, deadline: float) -> dict[str, str]:
    """The addresses that a server wrote once it was listening. Raises StartFailed."""
    while True:
        try:
            ports: dict[str, str] = orjson.loads(path.read_bytes())  # noqa: ASYNC240  # a few bytes
        except (FileNotFoundError, orjson.JSONDecodeError):
            _check_alive(server)
        else:
            return ports
        if time.monotonic() > deadline:
            raise StartFailed(
                f"{server.name} did not listen in time; see its log {server.command.log}"
            )
        await asyncio.sleep(_POLL_S)


async def _answers(node: NodeRecord, server: Server, deadline: float) -> None:
    """Waits until a data node answers PING: not before it has read its kept data."""
    while True:
        _check_alive(server)
        try:
            async with asyncio.timeout(1.0), _connection(node.port) as (reader, writer):
                writer.write(b"PING\r\n")
                if await reader.readline() == b"+PONG\r\n":
                    return
        except (OSError, TimeoutError):
            pass
        if time.monotonic() > deadline:
            raise StartFailed(f"{node.id} did not answer in time; see its log {server.command.log}")
        await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def _connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _read_problem(data: "DataAsyncStub", keyspace: str) -> str:
    """Empty when a read of a key that nobody has written is answered, else the error's text."""
    request = data_pb2.GetRequest(keyspace=keyspace, key=b"is anybody there")
    try:
        await data.Get(request, timeout=1.0)
    except grpc.aio.AioRpcError as error:
        return error.details() or error.code().name
    return ""
