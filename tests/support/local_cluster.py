"""A local cluster whose single parts a test may kill, pause, empty and start again.

It is `dabba dev` as a user runs it; what a test starts again is the test's own child, with the same
addresses and folders.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import orjson
import redis

from control_plane.dev.die_with_parent import tied
from protos.dabbawala.v1 import admin_pb2, admin_pb2_grpc, data_pb2, data_pb2_grpc
from tests.support.dev import Dev, Ended, Home, home
from tests.support.processes import ends_within

DEADLINE_S = 20.0
POLL_S = 0.02
_LEAST_BACKOFF = "grpc.min_reconnect_backoff_ms"
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 20),
    (_LEAST_BACKOFF, 20),
    ("grpc.max_reconnect_backoff_ms", 100),
)
# The least backoff is also how long an attempt to connect may take; TLS on a busy machine takes it.
PATIENT_CHANNEL_OPTIONS = tuple((dict(CHANNEL_OPTIONS) | {_LEAST_BACKOFF: 10_000}).items())
_GONE_MS = 10_000
_DOORS = ("grpc", "redis", "admin")


def wait_until(true: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Poll until `true()` is; an assertion names `what` did not happen in time."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(POLL_S)


@dataclass
class Part:
    """One process of the cluster. `folder` is what it keeps; None: nothing that may be erased."""

    name: str
    pid: int
    command: list[str]
    log: Path
    folder: Path | None = None
    address: str = ""
    child: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def erase(self) -> None:
        """Deletes its data: it comes back empty. Only while it is down."""
        assert self.folder is not None
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def start(self, *more: str, variables: Mapping[str, str] = MappingProxyType({})) -> None:
        """Starts it again where it was, with further arguments. Call from the main thread."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DABBA_")}
        environment |= variables
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                tied([*self.command, *more]), env=environment, stdout=log, stderr=log
            )
        self.pid = self.child.pid

    def close(self) -> None:
        """Ends it if the test has started it."""
        if self.child is not None and self.child.poll() is None:
            self.child.kill()
            self.child.wait()

    def _end(self, number: signal.Signals) -> None:
        pidfd = os.pidfd_open(self.pid)
        signal.pidfd_send_signal(pidfd, number)
        if self.child is not None:
            os.close(pidfd)
            self.child.wait(_GONE_MS / 1000)
        else:
            assert ends_within(pidfd, _GONE_MS), f"{self.name} outlived {number.name}"


@dataclass
class LocalCluster:
    """A running `dabba dev` and its parts."""

    home: Home
    dev: Dev
    parts: dict[str, Part] = field(default_factory=dict)
    channels: dict[str, grpc.Channel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.facts["nodes"]:
            self.parts[node["id"]] = _node_part(node, self.folder)
        addresses = self.facts["sidecar"]
        self._add_python_part(
            "sidecar",
            [
                flag
                for door in ("grpc", "redis", "admin")
                for flag in (f"--{door}", addresses[door])
            ],
            addresses["grpc"],
        )
        self._add_python_part(
            "control-plane", ["--listen", self.control_plane_address], self.control_plane_address
        )

    def _add_python_part(self, name: str, fixed: list[str], address: str) -> None:
        pid = self.dev.pids[name]
        command = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
        log = self.folder / "logs" / f"{name}.log"
        self.parts[name] = Part(name, pid, [*command, *fixed], log, address=address)

    @property
    def facts(self) -> dict[str, Any]:
        """What `dabba dev -o json` printed."""
        return self.dev.facts

    @property
    def folder(self) -> Path:
        return Path(self.facts["folder"])

    @property
    def sidecar(self) -> Part:
        return self.parts["sidecar"]

    @property
    def control_plane(self) -> Part:
        return self.parts["control-plane"]

    @property
    def nodes(self) -> list[Part]:
        """In the order of their ids, whose zones are a, b, c, a, b, c."""
        return [self.parts[node["id"]] for node in self.facts["nodes"]]

    @property
    def control_plane_address(self) -> str:
        return str(self.facts["control_plane"])

    @property
    def redis_port(self) -> int:
        return self.dev.redis_port

    @property
    def redis_socket(self) -> str:
        return str(self.facts["sidecar"]["redis_socket"])

    @property
    def grpc_targets(self) -> list[str]:
        """The gRPC door, over TCP and over its Unix socket."""
        doors = self.facts["sidecar"]
        return [doors["grpc"], f"unix:{doors['grpc_socket']}"]

    def channel(self, target: str) -> grpc.Channel:
        """A channel that lives as long as the cluster."""
        if target not in self.channels:
            self.channels[target] = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        return self.channels[target]

    def data(self) -> data_pb2_grpc.DataStub:
        """A client of the gRPC door."""
        return data_pb2_grpc.DataStub(self.channel(self.grpc_targets[0]))

    def admin(self, address: str = "") -> admin_pb2_grpc.AdminStub:
        """A client of the control plane."""
        return admin_pb2_grpc.AdminStub(self.channel(address or self.control_plane_address))

    def status(self, address: str = "") -> admin_pb2.StatusResponse:
        return self.admin(address).Status(admin_pb2.StatusRequest(), timeout=5)

    def node_health(self) -> dict[str, str]:
        """What the control plane says of each node: up, down, suspect."""
        return {node.node.id: node.health for node in self.status().nodes}

    def sidecar_health(self) -> dict[str, str]:
        """What the sidecar says of each node: connected, suspect, unreachable."""
        return {node["id"]: node["health"] for node in self.sidecar_page("nodes")}

    def sidecar_page(self, name: str) -> Any:
        """A page of the sidecar's admin door."""
        page = f"http://{self.facts['sidecar']['admin']}/{name}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(page, timeout=5) as answer:
            return orjson.loads(answer.read())

    def wait_trusted(self, timeout_s: float = DEADLINE_S) -> None:
        """Until the control plane and the sidecar trust every node."""
        wait_until(
            lambda: set(self.node_health().values()) == {"up"}, "all nodes are up", timeout_s
        )
        wait_until(
            lambda: set(self.sidecar_health().values()) == {"connected"},
            "the sidecar counts every node",
            timeout_s,
        )

    def wait_served(self, keyspace: str = "default", timeout_s: float = DEADLINE_S) -> None:
        """Until the sidecar answers a read."""
        wait_until(lambda: self.serves(keyspace), f"{keyspace} is served", timeout_s)

    def serves(self, keyspace: str = "default") -> bool:
        request = data_pb2.GetRequest(keyspace=keyspace, key=b"anybody there")
        try:
            self.data().Get(request, timeout=1)
        except grpc.RpcError:
            return False
        return True

    def owners(self, key: bytes, keyspace: str = "default") -> set[str]:
        """Ids of the nodes that own the key."""
        request = data_pb2.LocateRequest(keyspace=keyspace, key=key)
        return {owner.node for owner in self.data().Locate(request, timeout=5).owners}

    def dabba(self, *arguments: str) -> Ended:
        """A command as a user types it."""
        return self.home.dabba(*arguments)

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        for part in self.parts.values():
            part.close()


@contextmanager
def local_cluster(*arguments: str, at: Home | None = None) -> Iterator[LocalCluster]:
    """A `dabba dev` with these options, ready; ended with all its parts afterwards."""
    if at is None:
        with home() as folders, local_cluster(*arguments, at=folders) as cluster:
            yield cluster
        return
    dev = at.start_dev(*arguments)
    try:
        cluster = LocalCluster(at, dev.wait_ready())
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        dev.close()


def second_control_plane(cluster: LocalCluster) -> Part:
    """Another instance on the same store, listening."""
    return _second(cluster, "control-plane", "control_plane", {})


def second_sidecar(
    cluster: LocalCluster, zone: str, number: int = 2, /, **settings: object
) -> Part:
    """Another sidecar, listening, with a disk of its own; `address` is its gRPC door."""
    folder = cluster.folder / f"sidecar-{number}"
    changes: dict[str, object] = {"zone": zone, "state_dir": str(folder)}
    changes |= {"grpc_socket": "", "redis_socket": "", **settings}
    return _second(cluster, "sidecar", "sidecar", changes, number)


def _second(
    cluster: LocalCluster, name: str, module: str, changes: dict[str, object], number: int = 2
) -> Part:
    folder = cluster.folder / f"{name}-{number}"
    folder.mkdir()
    config = orjson.loads((cluster.folder / name / "config.json").read_bytes())
    ports_file = folder / "ports.json"
    config |= {"id": f"{name}-{number}", "ports_file": str(ports_file)} | changes
    (folder / "config.json").write_bytes(orjson.dumps(config))
    command = [sys.executable, "-P", "-m", module, "--config", str(folder / "config.json")]
    part = Part(f"{name}-{number}", 0, command, folder / "log")
    cluster.parts[part.name] = part
    part.start()
    wait_until(ports_file.exists, f"{part.name} listens")
    part.address = orjson.loads(ports_file.read_bytes())["grpc"]
    return part


def _node_part(node: dict[str, Any], folder: Path) -> Part:
    # A server overwrites its command line, so it is made again from what the server says of itself.
    host, _, port = node["address"].rpartition(":")
    with redis.Redis(host, int(port)) as client:
        said: dict[str, str] = client.config_get("*", decode_responses=True)
    names: Sequence[str] = (
        "port", "bind", "dir", "save", "appendonly", "appendfsync", "maxmemory-policy"
    )  # fmt: skip
    command = [str(Path(f"/proc/{node['pid']}/exe").readlink())]
    for name in names:
        command += [f"--{name}", _text(said, name)]
    return Part(
        node["id"],
        node["pid"],
        command,
        folder / "logs" / f"{node['id']}.log",
        folder=Path(_text(said, "dir")),
        address=node["address"],
    )


def _text(said: dict[Any, Any], name: str) -> str:
    value = said.get(name, said.get(name.encode(), ""))
    return value.decode() if isinstance(value, bytes) else str(value)
