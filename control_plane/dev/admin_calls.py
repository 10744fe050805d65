"""What `dabba dev` asks of its own control plane: register the nodes, create the keyspaces."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from control_plane.dev.errors import StartFailed
from control_plane.dev.folder import NodeRecord
from protos.dabbawala.v1 import admin_pb2, data_pb2, map_pb2
from protos.dabbawala.v1.admin_pb2_grpc import AdminStub

if TYPE_CHECKING:  # known to the types only
    from protos.dabbawala.v1.admin_pb2_grpc import AdminAsyncStub

Response = TypeVar("Response")

LOOPBACK_CHANNEL = (("grpc.enable_http_proxy", 0), ("grpc.initial_reconnect_backoff_ms", 50))

_CALL_TIMEOUT_S = 10.0
_RETRY_PAUSE_S = 0.05
_COPIES = 3
# The keyspaces that every local cluster has, and the n of SELECT n.
KEYSPACES = {"default": 0, "places": 1}


class AdminCalls:
    """Calls with a common deadline (`time.monotonic()` seconds), by which an instance must lead."""

    def __init__(self, channel: grpc.aio.Channel, deadline: float) -> None:
        self._admin: AdminAsyncStub = AdminStub(channel)
        self._deadline = deadline

    async def status(self) -> admin_pb2.StatusResponse:
        """As `dabba status` shows it."""
        return await self._until_led(
            "status", lambda: self._admin.Status(admin_pb2.StatusRequest(), timeout=_CALL_TIMEOUT_S)
        )

    async def register(self, nodes: Sequence[NodeRecord]) -> None:
        """Adds the nodes that are not there yet, in their order. Raises StartFailed."""
        known = {status.node.id for status in (await self.status()).nodes}
        for node in nodes:
            if node.id not in known:
                await self._add(node)

    async def _add(self, node: NodeRecord) -> None:
        request = admin_pb2.AddNodeRequest(
            id=node.id, host="127.0.0.1", port=node.port, zone=node.zone
        )
        await self._until_led(
            f"adding {node.id}", lambda: self._admin.AddNode(request, timeout=_CALL_TIMEOUT_S)
        )

    async def create_keyspaces(self, nodes: int, *, durable: bool) -> None:
        """Creates the keyspaces that are not there yet. Raises StartFailed."""
        known = {keyspace.config.name for keyspace in (await self.status()).keyspaces}
        for name, redis_db in KEYSPACES.items():
            if name in known:
                continue
            request = admin_pb2.CreateKeyspaceRequest(
                config=_config(name, redis_db, nodes, durable)
            )
            await self._until_led(
                f"creating keyspace {name}",
                lambda request=request: self._admin.CreateKeyspace(  # type: ignore[misc]
                    request, timeout=_CALL_TIMEOUT_S
                ),
            )

    async def _until_led(self, what: str, call: Callable[[], Awaitable[Response]]) -> Response:
        """The answer, asking again while nobody leads yet."""
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                late = time.monotonic() > self._deadline
                if error.code() is not grpc.StatusCode.UNAVAILABLE or late:
                    raise StartFailed(f"{what} failed: {error.details()}") from error
            await asyncio.sleep(_RETRY_PAUSE_S)


def _config(name: str, redis_db: int, nodes: int, durable: bool) -> map_pb2.KeyspaceConfig:
    return map_pb2.KeyspaceConfig(
        name=name,
        replication_factor=min(_COPIES, nodes),
        mode=map_pb2.KEYSPACE_MODE_TUNABLE,
        read_consistency=data_pb2.CONSISTENCY_QUORUM,
        write_consistency=data_pb2.CONSISTENCY_QUORUM,
        durability=map_pb2.DURABILITY_FSYNC if durable else map_pb2.DURABILITY_MEMORY,
        redis_db=redis_db,
    )
