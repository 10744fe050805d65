"""Control planes for tests: in this process, or in one of their own that can be killed."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from control_plane.app import App
from control_plane.config import Config
from control_plane.dev.die_with_parent import tied
from protos.dabbawala.v1 import admin_pb2, admin_pb2_grpc, map_pb2
from tests.support.servers import Server

DEADLINE_S = 20.0
POLL_S = 0.02
CLUSTER = "test"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


async def until(true: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Poll until `true()` is; an assertion names `what` did not happen in time.

    A node or keyspace that `true` looks up and that is not there yet is not true yet either.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not _is(true):
        assert loop.time() < deadline, f"{what}: not within {timeout_s} s"
        await asyncio.sleep(POLL_S)


def _is(true: Callable[[], object]) -> bool:
    try:
        return bool(true())
    except KeyError:
        return False


async def eventually(
    true: Callable[[], Awaitable[bool]], what: str, timeout_s: float = DEADLINE_S
) -> None:
    """As `until`, for what has to be asked."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not await true():
        assert loop.time() < deadline, f"{what}: not within {timeout_s} s"
        await asyncio.sleep(POLL_S)


def config(folder: Path, instance_id: str = "cp-1", **more: object) -> Config:
    """Quick to notice: looks at nodes every 100 ms. Nodes that lost data stay so by default."""
    values: dict[str, object] = {"probe_interval_ms": 100, "admission_settle_ms": -1} | more
    values = {"store": f"sqlite://{folder}/store.db"} | values
    return Config(cluster=CLUSTER, id=instance_id, **values)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running(folder: Path, instance_id: str = "cp-1", **more: object) -> AsyncIterator[App]:
    """A control plane in this process, leading unless another one does."""
    app = await App.start(config(folder, instance_id, **more))
    try:
        await until(lambda: app.instance.roster.leader, "a leader is known")
        yield app
    finally:
        await app.stop()


@contextlib.asynccontextmanager
async def admin(address: str) -> AsyncIterator["admin_pb2_grpc.AdminAsyncStub"]:
    """A client of the admin API."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield admin_pb2_grpc.AdminStub(channel)


def node_request(number: int, server: Server, zones: str = "abc") -> admin_pb2.AddNodeRequest:
    """Node n<number>, in the zones' turn."""
    zone = zones[number % len(zones)]
    return admin_pb2.AddNodeRequest(id=f"n{number}", host=server.host, port=server.port, zone=zone)


async def add_nodes(stub: "admin_pb2_grpc.AdminAsyncStub", servers: list[Server]) -> None:
    for number, server in enumerate(servers):
        await stub.AddNode(node_request(number, server))


async def create(
    stub: "admin_pb2_grpc.AdminAsyncStub", name: str = "places", **fields: int
) -> admin_pb2.CreateKeyspaceResponse:
    settings = {"redis_db": -1} | fields
    keyspace = map_pb2.KeyspaceConfig(name=name, **settings)  # type: ignore[arg-type]
    return await stub.CreateKeyspace(admin_pb2.CreateKeyspaceRequest(config=keyspace))


class Refusal:
    """A failed call: its code, reason, and the fields that it names."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        status = rpc_status.from_call(_as_call(error))
        assert status is not None, f"no google.rpc.Status in {error}"
        assert status.message == error.details()
        info, bad = ErrorInfo(), BadRequest()
        _unpack(status, info)
        _unpack(status, bad)
        assert info.domain == "dabbawala"
        self.code = error.code()
        self.reason = info.reason
        self.message = status.message
        self.fields = {v.field: v.description for v in bad.field_violations}
        self.metadata = dict(info.metadata)


def _as_call(error: grpc.aio.AioRpcError) -> grpc.Call:
    return error  # type: ignore[return-value]


def _unpack(status: Status, into: ErrorInfo | BadRequest) -> None:
    for detail in status.details:
        if detail.Is(into.DESCRIPTOR):
            detail.Unpack(into)


class ControlPlaneProcess:
    """A control plane in a process of its own."""

    def __init__(self, folder: Path, instance_id: str, *flags: str) -> None:
        self.instance_id = instance_id
        self.ports_file = folder / f"{instance_id}.json"
        self.log_path = folder / f"{instance_id}.log"
        command = [sys.executable, "-m", "control_plane"]
        command += ["--cluster", CLUSTER, "--id", instance_id, "--store"]
        command += [f"sqlite://{folder}/store.db", "--ports-file", str(self.ports_file)]
        command += ["--probe-interval-ms", "100", "--session-timeout-ms", "1500", *flags]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(tied(command), stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    async def address(self) -> str:
        """Where it listens, once it does."""
        await until(self.ports_file.exists, f"it listens\n{self.log}")
        ports: dict[str, str] = json.loads(self.ports_file.read_text())
        return ports["grpc"]

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def control_plane_process(
    folder: Path, instance_id: str, *flags: str
) -> Iterator[ControlPlaneProcess]:
    process = ControlPlaneProcess(folder, instance_id, *flags)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()
