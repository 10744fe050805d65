"""What the servers of a local cluster are started with: command lines and configuration files."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson

from control_plane.dev.files import write_atomically
from control_plane.dev.folder import DevFolder, NodeRecord
from control_plane.dev.processes import Command

# How long each may take to stop: the sidecar finishes what clients have begun.
_SIDECAR_GRACE_S = 15.0
_CONTROL_PLANE_GRACE_S = 8.0
_NODE_GRACE_S = 8.0

# A leader that was killed is replaced after this long: a killed cluster starts again soon.
_SESSION_TIMEOUT_MS = 2_000


def child_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Ours, without the variables that configure our own programs: the files say it all."""
    kept = {name: value for name, value in environ.items() if not name.startswith("DABBA_")}
    return kept | {"PYTHONUNBUFFERED": "1"}


def node_command(folder: DevFolder, node: NodeRecord, server: Path) -> Command:
    """A Valkey server on loopback. Kept data is on the disk before a write is acknowledged."""
    append = "yes" if folder.kept else "no"
    settings = {
        "port": str(node.port),
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": str(folder.node_folder(node.id)),
        "save": "",
        "appendonly": append,
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "logfile": "",
    }
    arguments = [str(server)]
    for name, value in settings.items():
        arguments += [f"--{name}", value]
    return Command(
        node.id, arguments, folder.logs / f"{node.id}.log", _NODE_GRACE_S, (folder.lock_fd,)
    )


def store_url(folder: DevFolder) -> str:
    """The coordination store of the cluster."""
    if folder.record.zookeeper:
        return f"zookeeper://{folder.record.zookeeper}"
    return f"sqlite://{folder.control_plane_folder / 'store.sqlite3'}"


def control_plane_command(folder: DevFolder, ports_file: Path) -> Command:
    """One control-plane process; it writes its address to `ports_file`."""
    config = {
        "cluster": folder.record.cluster,
        "id": "control-plane-1",
        "store": store_url(folder),
        "listen": "127.0.0.1:0",
        "ports_file": str(ports_file),
        "session_timeout_ms": _SESSION_TIMEOUT_MS,
    }
    return _python_command(
        folder, "control-plane", "control_plane", folder.control_plane_folder, config,
        grace_s=_CONTROL_PLANE_GRACE_S,
    )  # fmt: skip


def sidecar_command(
    folder: DevFolder, *, control_plane: str, sockets: Path, ports_file: Path
) -> Command:
    """One sidecar in the zone of the first node. `sockets`: a folder with a short path."""
    config = {
        "cluster": folder.record.cluster,
        "id": "sidecar-1",
        "zone": folder.record.nodes[0].zone,
        "grpc": "127.0.0.1:0",
        "redis": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "grpc_socket": str(sockets / "grpc.sock"),
        "redis_socket": str(sockets / "redis.sock"),
        "control_planes": [control_plane],
        "state_dir": str(folder.sidecar_folder),
        "session_key_file": str(folder.session_key_file),
        "ports_file": str(ports_file),
    }
    return _python_command(
        folder, "sidecar", "sidecar", folder.sidecar_folder, config, grace_s=_SIDECAR_GRACE_S
    )


def _python_command(
    folder: DevFolder,
    name: str,
    module: str,
    config_folder: Path,
    config: Mapping[str, object],
    *,
    grace_s: float,
) -> Command:
    path = config_folder / "config.json"
    write_atomically(path, orjson.dumps(config, option=orjson.OPT_INDENT_2))
    # -P: a folder named like one of our packages, where the user happens to be, is not ours.
    arguments = [sys.executable, "-P", "-m", module, "--config", str(path)]
    return Command(name, arguments, folder.logs / f"{name}.log", grace_s, (folder.lock_fd,))
