# ruff: noqa: N802  # methods are named as in the .proto files
"""Servers with fixed answers that speak the real protocol: for tests of who calls them."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from protos.dabbawala.v1 import admin_pb2, data_pb2, map_pb2
from protos.dabbawala.v1.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from protos.dabbawala.v1.data_pb2_grpc import DataServicer, add_DataServicer_to_server

START_DEADLINE_S = 10.0

Register = Callable[[grpc.aio.Server], Awaitable[None]]

VERSION = bytes(range(16))
BINARY = b"\xff\x00\x01"


def node(number: int, zone: str, **facts: Any) -> admin_pb2.NodeStatus:
    """A node as the control plane shows it; up unless told otherwise."""
    entry = map_pb2.NodeEntry(
        number=number,
        id=f"node-{number}",
        host="127.0.0.1",
        port=21_000 + number,
        zone=zone,
        weight=100,
        incarnation=1,
        run_id=b"\xab" * 20,
        state=map_pb2.NODE_STATE_ACTIVE,
    )
    known: dict[str, Any] = {"reachable": True, "health": "up", "server": "valkey 9.1.0"}
    return admin_pb2.NodeStatus(node=entry, **(known | facts))


def keyspace(name: str) -> admin_pb2.KeyspaceStatus:
    """A keyspace all of whose buckets are well."""
    config = map_pb2.KeyspaceConfig(
        name=name,
        buckets=64,
        replication_factor=3,
        mode=map_pb2.KEYSPACE_MODE_TUNABLE,
        read_consistency=data_pb2.CONSISTENCY_QUORUM,
        write_consistency=data_pb2.CONSISTENCY_EACH_QUORUM,
        durability=map_pb2.DURABILITY_MEMORY,
        redis_db=0,
        max_value_bytes=1 << 20,
    )
    return admin_pb2.KeyspaceStatus(config=config, buckets_healthy=64)


async def not_here(context: Any, method: str) -> None:
    """A method that no caller under test calls."""
    await refuse(context, grpc.StatusCode.UNIMPLEMENTED, f"the stand-in does not answer {method}")


class AdminStandIn(AdminServicer):
    """Answers as a control plane of three nodes, one of them down; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.findings = [admin_pb2.Finding(id="store-reachable", severity="ok", subject="store")]

    async def StartRepair(self, request: Any, context: Any) -> Any:
        await not_here(context, "StartRepair")

    async def ListJobs(self, request: Any, context: Any) -> Any:
        await not_here(context, "ListJobs")

    async def StartCompaction(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return admin_pb2.JobStatus(
            id="compact-places", kind="compaction", subject=request.keyspace, state="done",
            buckets_done=64, buckets_total=64, buckets_skipped=1, records=900, tombstones=12,
            purged=9, purged_bytes=2048, problem="bucket 3: n2 is not trusted now",
        )  # fmt: skip

    async def ReportHints(self, request: Any, context: Any) -> Any:
        await not_here(context, "ReportHints")

    async def ForgetHints(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return admin_pb2.ForgetHintsResponse(known=request.sidecar == "sidecar-1")

    async def RecoverNode(self, request: Any, context: Any) -> Any:
        await not_here(context, "RecoverNode")

    async def Status(self, request: Any, context: Any) -> Any:
        return admin_pb2.StatusResponse(
            cluster="test",
            map_revision=(1 << 53) + 1,
            leader="control-plane-1",
            nodes=[
                node(1, "a"),
                node(2, "b", health="down", reachable=False, detail="connection refused"),
            ],
            keyspaces=[keyspace("default")],
            sidecars=[admin_pb2.SidecarStatus(id="sidecar-1", zone="a", state="SYNCED")],
            store="embedded",
            store_reachable=True,
            problems=["node-2 is down: start it again"],
        )

    async def CreateKeyspace(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        if request.config.name == "taken":
            await refuse(
                context, grpc.StatusCode.ALREADY_EXISTS, "keyspace taken is there already."
            )
        made = map_pb2.KeyspaceConfig()
        made.CopyFrom(request.config)
        made.buckets = made.buckets or 64
        return admin_pb2.CreateKeyspaceResponse(config=made, warnings=["one owner in each zone"])

    async def ListKeyspaces(self, request: Any, context: Any) -> Any:
        return admin_pb2.ListKeyspacesResponse(keyspaces=[keyspace("default"), keyspace("places")])

    async def DescribeKeyspace(self, request: Any, context: Any) -> Any:
        shares = [admin_pb2.NodeShare(node="node-1", zone="a", buckets=32)]
        return admin_pb2.DescribeKeyspaceResponse(
            keyspace=keyspace(request.name), shares=shares, notes=["a power loss costs a second"]
        )

    async def AddNode(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        entry = map_pb2.NodeEntry(id=request.id, host=request.host, port=request.port)
        entry.zone = request.zone
        return admin_pb2.AddNodeResponse(node=entry, warnings=["no other node is in this zone"])

    async def ListNodes(self, request: Any, context: Any) -> Any:
        return admin_pb2.ListNodesResponse(nodes=[node(1, "a")])

    async def GetMap(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        part = map_pb2.BucketRange(
            keyspace="default",
            index=1,
            count=2,
            base_epoch=5,
            epoch_offsets=[0, 2],
            owners_each=2,
            owners=[1, 2, 2, 1],
            extras=[map_pb2.BucketExtra(slot=1, stage=map_pb2.STAGE_WRITE_BOTH_READ_OLD)],
        )
        table = map_pb2.NodeTable(cluster="test", nodes=[node(1, "a").node, node(2, "b").node])
        return admin_pb2.GetMapResponse(revision=9, nodes=table, ranges=[part])

    async def ListSidecars(self, request: Any, context: Any) -> Any:
        one = admin_pb2.SidecarStatus(id="sidecar-1", state="REJECTED", detail="range/default/000")
        return admin_pb2.ListSidecarsResponse(sidecars=[one])

    async def Doctor(self, request: Any, context: Any) -> Any:
        return admin_pb2.DoctorResponse(findings=self.findings)


class DataStandIn(DataServicer):
    """Answers as a sidecar whose keyspace holds `k`, `binary`; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.values = {b"k": b"v", b"binary": BINARY}
        self.failures: list[data_pb2.Failure] = []  # of the next items written in batches

    async def CompareAndSet(self, request: Any, context: Any) -> Any:
        await not_here(context, "CompareAndSet")

    async def Increment(self, request: Any, context: Any) -> Any:
        await not_here(context, "Increment")

    async def Get(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        if request.keyspace == "missing":
            await refuse(
                context,
                grpc.StatusCode.NOT_FOUND,
                "there is no keyspace\n'missing'",
                "KEYSPACE_UNKNOWN",
            )
        if request.key == b"slow":
            await asyncio.sleep(60)
        value = self.values.get(request.key)
        return data_pb2.GetResponse(
            found=value is not None,
            value=value or b"",
            version=VERSION,
            consistency=request.consistency or data_pb2.CONSISTENCY_QUORUM,
            session=request.session,
        )

    async def Put(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        if request.key == b"unknown":
            await refuse(
                context,
                grpc.StatusCode.UNAVAILABLE,
                "1 of 2 acknowledgements",
                "NOT_ENOUGH_REPLICAS",
                {"outcome": "UNKNOWN", "version": VERSION.hex()},
            )
        return data_pb2.PutResponse(
            version=VERSION,
            superseded=request.key == b"old",
            consistency=data_pb2.CONSISTENCY_QUORUM,
            session=request.session,
        )

    async def Delete(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return data_pb2.DeleteResponse(
            version=VERSION,
            existed=request.key in self.values,
            consistency=data_pb2.CONSISTENCY_QUORUM,
            session=request.session,
        )

    async def BatchGet(self, request: Any, context: Any) -> Any:
        await refuse(context, grpc.StatusCode.UNIMPLEMENTED, "not asked for by any test")

    async def BatchWrite(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return data_pb2.BatchWriteResponse(results=[self._write(item) for item in request.items])

    async def Pipeline(self, request_iterator: Any, context: Any) -> Any:
        await refuse(context, grpc.StatusCode.UNIMPLEMENTED, "not asked for by any test")
        yield

    async def Scan(self, request: Any, context: Any) -> Any:
        await refuse(context, grpc.StatusCode.UNIMPLEMENTED, "not asked for by any test")

    async def Transact(self, request: Any, context: Any) -> Any:
        await refuse(context, grpc.StatusCode.UNIMPLEMENTED, "not asked for by any test")

    def _write(self, item: data_pb2.BatchWriteItem) -> data_pb2.BatchWriteResult:
        if self.failures:
            return data_pb2.BatchWriteResult(failure=self.failures.pop(0))
        self.values[item.key] = item.put
        return data_pb2.BatchWriteResult(put=data_pb2.PutResponse(version=VERSION))

    async def Locate(self, request: Any, context: Any) -> Any:
        owners = [
            data_pb2.OwnerView(
                node=f"node-{number}",
                address=f"127.0.0.1:{21_000 + number}",
                zone=zone,
                health="connected",
                latency_ms=0.25,
            )
            for number, zone in ((1, "a"), (2, "b"))
        ]
        return data_pb2.LocateResponse(
            keyspace=request.keyspace,
            bucket=17,
            key_hash=(1 << 63) + 1,
            epoch=4,
            stage="OLD",
            owners=owners,
            target="node-2",
            reason="fastest in zone b",
            data_key="dabba:{default:17}:data",
            field=b"k" + request.key,
            consistency=data_pb2.CONSISTENCY_QUORUM,
            map_revision=9,
        )


async def refuse(
    context: Any,
    code: grpc.StatusCode,
    message: str,
    reason: str = "",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Ends the call as our servers do: a status with ErrorInfo in its details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    if reason:
        detail = AnyMessage()
        detail.Pack(
            error_details_pb2.ErrorInfo(reason=reason, domain="dabbawala", metadata=metadata or {})
        )
        status.details.append(detail)
    await context.abort_with_status(rpc_status.to_status(status))


class _Thread(threading.Thread):
    """A grpc.aio server with a loop of its own, so that the test may block."""

    def __init__(self, register: Register) -> None:
        super().__init__(name="stand-in")
        self._register = register
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        self.ready = threading.Event()
        self.address = ""

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = grpc.aio.server()
        await self._register(server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self.ready.set()
        await self._done.wait()
        await server.stop(None)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self.join(START_DEADLINE_S)


@contextmanager
def served(register: Register) -> Iterator[str]:
    """The address of a server on which `register` puts its services."""
    thread = _Thread(register)
    thread.start()
    assert thread.ready.wait(START_DEADLINE_S)
    try:
        yield thread.address
    finally:
        thread.stop()


@contextmanager
def control_plane_stand_in(admin: AdminStandIn) -> Iterator[str]:
    """The address of a control plane with fixed answers."""

    async def register(server: grpc.aio.Server) -> None:
        add_AdminServicer_to_server(admin, server)

    with served(register) as address:
        yield address


@contextmanager
def sidecar_stand_in(data: DataStandIn, *, serving: bool = True) -> Iterator[str]:
    """The address of a sidecar with fixed answers, which says whether it serves."""

    async def register(server: grpc.aio.Server) -> None:
        add_DataServicer_to_server(data, server)
        service = health.aio.HealthServicer()
        state = health_pb2.HealthCheckResponse
        await service.set("", state.SERVING if serving else state.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(service, server)

    with served(register) as address:
        yield address
