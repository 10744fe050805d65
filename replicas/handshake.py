"""What is asked of a server before it is used, and what its answers must say."""

from collections.abc import Mapping
from dataclasses import dataclass

from hiredis import ReplyError

from replicas.commands import pack_command
from replicas.errors import (
    AuthenticationFailed,
    Evicting,
    Loading,
    Misconfigured,
    NotAReplicaServer,
    NotMaster,
    TooOld,
)
from replicas.scripts import SCRIPTS

OLDEST = {"valkey": (7, 2), "redis": (6, 2)}
RUN_ID_BYTES = 20

INFO = pack_command(b"INFO")
CONFIG_APPENDFSYNC = pack_command(b"CONFIG", b"GET", b"appendfsync")
SCRIPT_LOADS = tuple(pack_command(b"SCRIPT", b"LOAD", script.source) for script in SCRIPTS.values())


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """One life of a server, as seen on connecting: it holds until the connection ends.

    `appendfsync` is empty where the server does not say. `clock_offset_ms` is the server's clock
    minus ours. `warnings` say what could not be checked, each with what to do.
    """

    run_id: bytes  # 20 bytes, new with every start of the server
    server: str  # "valkey" or "redis"
    version: tuple[int, ...]
    role: str
    maxmemory_policy: str
    appendonly: bool
    appendfsync: str
    clock_offset_ms: int
    warnings: tuple[str, ...] = ()

    @property
    def durable(self) -> bool:
        """Whether an acknowledged write survives a loss of power."""
        return self.appendonly and self.appendfsync == "always"


def first_questions(password: str | None) -> list[bytes]:
    """Commands to send at once, in order. Their replies go to `identify`."""
    login = [pack_command(b"AUTH", password.encode())] if password is not None else []
    return [*login, INFO, CONFIG_APPENDFSYNC, *SCRIPT_LOADS]


def identify(
    address: str, replies: list[object], *, clock_offset_ms: int, authenticated: bool
) -> ServerIdentity:
    """Who answered the first questions. Raises a ReplicaError that names what to change."""
    if authenticated:
        _check_accepted(address, "AUTH", replies[0])
        replies = replies[1:]
    info_reply, fsync_reply, *loads = replies
    info = _parse_info(address, info_reply)
    server, version = _server_version(address, info)
    _check_stands_alone(address, info)
    policy = info.get("maxmemory_policy", "")
    _check_keeps_everything(address, policy)
    for script, loaded in zip(SCRIPTS.values(), loads, strict=True):
        _check_accepted(address, "SCRIPT LOAD", loaded)
        if loaded != script.sha:
            raise Misconfigured(address, "SCRIPT LOAD names a script differently", "Use a Valkey")
    appendfsync = _config_value(fsync_reply)
    return ServerIdentity(
        run_id=_run_id(address, info),
        server=server,
        version=version,
        role=info.get("role", ""),
        maxmemory_policy=policy,
        appendonly=info.get("aof_enabled") == "1",
        appendfsync=appendfsync,
        clock_offset_ms=clock_offset_ms,
        warnings=_warnings(info, appendfsync),
    )


def parse_time_ms(address: str, reply: object) -> int:
    """Unix milliseconds in the reply of TIME. Raises a ReplicaError for anything else."""
    _check_accepted(address, "TIME", reply)
    if isinstance(reply, list) and len(reply) == 2:
        try:
            return int(reply[0]) * 1000 + int(reply[1]) // 1000
        except (TypeError, ValueError):
            pass
    raise _not_a_server(address, "its reply to TIME is none")


def _not_a_server(address: str, why: str) -> NotAReplicaServer:
    return NotAReplicaServer(
        address, f"no Valkey or Redis answers there: {why}", "Check host and port"
    )


def _check_accepted(address: str, command: str, reply: object) -> None:
    """Raises when the server refused a command that it must answer."""
    if not isinstance(reply, ReplyError):
        return
    message = str(reply)
    word = message.partition(" ")[0]
    if word == "LOADING":
        raise Loading(address, "the server is still loading its data", "It is tried again")
    if word in ("NOAUTH", "WRONGPASS") or command == "AUTH":
        raise AuthenticationFailed(
            address, f"the server refused the login: {message}", "Set the node's password"
        )
    if "unknown command" in message and command == "INFO":
        raise _not_a_server(address, message)
    raise Misconfigured(
        address,
        f"the server refused {command}: {message}",
        "Allow EVALSHA, SCRIPT, INFO, TIME, HMGET, HSET, XADD and MEMORY for this user",
    )


def _parse_info(address: str, reply: object) -> Mapping[str, str]:
    _check_accepted(address, "INFO", reply)
    if not isinstance(reply, bytes):
        raise _not_a_server(address, "its reply to INFO is none")
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _server_version(address: str, info: Mapping[str, str]) -> tuple[str, tuple[int, ...]]:
    # A Valkey also reports the redis_version that it resembles: 7.2.4, whatever its own is.
    server = "valkey" if "valkey_version" in info else "redis"
    text = info.get(f"{server}_version")
    if text is None:
        raise _not_a_server(address, "its INFO names no version")
    numbers = text.split("-")[0].split(".")
    if not all(number.isdecimal() for number in numbers):
        raise _not_a_server(address, f"its version is {text[:40]!r}")
    version = tuple(int(number) for number in numbers)
    if version < OLDEST[server]:
        oldest = ".".join(map(str, OLDEST[server]))
        raise TooOld(address, f"it runs {server} {text}", f"Upgrade it to {oldest} or later")
    return server, version


def _check_stands_alone(address: str, info: Mapping[str, str]) -> None:
    role = info.get("role", "")
    mode = info.get("server_mode", info.get("redis_mode", ""))
    if mode == "sentinel":
        raise NotMaster(address, "it is a Sentinel", "Name the data server itself")
    if mode == "cluster" or info.get("cluster_enabled") == "1":
        raise NotMaster(address, "it is part of a Cluster", "Start it with cluster-enabled no")
    if role != "master":
        raise NotMaster(address, f"its role is {role or 'unknown'}", "Type REPLICAOF NO ONE on it")


def _check_keeps_everything(address: str, policy: str) -> None:
    if policy == "noeviction":
        return
    raise Evicting(
        address,
        f"its maxmemory-policy is {policy or 'unknown'}: it may drop acknowledged writes",
        "Type CONFIG SET maxmemory-policy noeviction on it, and set it in its configuration file",
    )


def _run_id(address: str, info: Mapping[str, str]) -> bytes:
    try:
        run_id = bytes.fromhex(info.get("run_id", ""))
    except ValueError:
        run_id = b""
    if len(run_id) != RUN_ID_BYTES:
        raise _not_a_server(address, "its INFO has no run_id of 40 hexadecimal digits")
    return run_id


def _config_value(reply: object) -> str:
    """The one value of a CONFIG GET; empty when the server keeps it to itself."""
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes):
        return reply[1].decode("utf-8", "replace")
    return ""


def _warnings(info: Mapping[str, str], appendfsync: str) -> tuple[str, ...]:
    found = []
    if not appendfsync:
        found.append(
            "CONFIG GET appendfsync is refused, so the server counts as not durable."
            " Allow CONFIG|GET"
        )
    if info.get("connected_slaves", "0") != "0":
        found.append(
            "other servers replicate from it; a failover among them would lose acknowledged writes."
            " Remove them, or never promote one"
        )
    return tuple(found)
