"""Commands about the server: INFO ROLE CONFIG TIME, which clients expect; and DABBA.*, ours."""

import dataclasses
import enum
import fnmatch
from collections.abc import Mapping, Sequence

from buckets.bucket_map import Consistency
from sidecar.errors import DataError
from sidecar.redis.connection import REDIS_VERSION
from sidecar.redis.numbers import MAX_INT64, MIN_INT64
from sidecar.redis.session import Session
from sidecar.redis.subcommands import Subcommand, dispatch
from sidecar.wire import resp_reply as resp


def info(session: Session, args: list[bytes]) -> None:
    """INFO [section ...]."""
    asked = {arg.lower().decode("latin-1") for arg in args[1:]}
    everything = not asked or not asked.isdisjoint(("all", "default", "everything"))
    sections = [
        f"# {name.capitalize()}\r\n" + "".join(f"{key}:{value}\r\n" for key, value in facts.items())
        for name, facts in _sections(session).items()
        if everything or name in asked
    ]
    session.reply(resp.text(session.version, "\r\n".join(sections)))


def role(session: Session, _args: list[bytes]) -> None:
    """ROLE: every sidecar takes writes."""
    session.reply(resp.encode(session.version, [b"master", 0, []]))


def time_now(session: Session, _args: list[bytes]) -> None:
    """TIME: seconds and microseconds."""
    now_ms = session.door.wall_ms()
    seconds, micros = b"%d" % (now_ms // 1000), b"%d" % (now_ms % 1000 * 1000)
    session.reply(resp.encode(session.version, [seconds, micros]))


def config(session: Session, args: list[bytes]) -> None:
    """CONFIG GET."""
    dispatch(session, args, "CONFIG", _CONFIG)


def locate(session: Session, args: list[bytes]) -> None:
    """DABBA.LOCATE key: bucket, epoch, owners, and which owner a read would take and why."""
    level = Consistency.ONE if session.level == Consistency.SESSION else session.level
    found = session.door.backend.locate(session.keyspace, args[1], level)
    if isinstance(found, DataError):
        session.reply(session.failure(found))
        return
    session.reply(resp.encode(session.version, _plain(found)))


def _plain(value: object) -> object:
    """A dataclass as what a reply can be made of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name.encode(): _plain(getattr(value, name)) for name in names}
    if isinstance(value, enum.Enum):
        return value.name.encode()
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int) and not MIN_INT64 <= value <= MAX_INT64:
        return b"%d" % value  # a 64-bit hash is more than the protocol's integers hold
    if isinstance(value, float):
        return b"%.3f" % value
    if isinstance(value, Mapping):
        return {_plain(name): _plain(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(part) for part in value]
    return value


def _config_get(session: Session, args: list[bytes]) -> None:
    patterns = [arg.decode("latin-1").lower() for arg in args[2:]]
    known = {
        "appendonly": "no",
        "databases": "16",
        "maxmemory": "0",
        "save": "",
    }
    # fnmatch's patterns are Redis's, for names like these.
    found = {
        name.encode(): value.encode()
        for name, value in known.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    session.reply(resp.encode(session.version, found))


def _config_set(session: Session, _args: list[bytes]) -> None:
    session.fail(
        resp.error(
            "ERR CONFIG SET is refused: the sidecar's settings are in its configuration file, "
            "a keyspace's in the control plane"
        )
    )


_CONFIG = {"GET": Subcommand(_config_get, -3), "SET": Subcommand(_config_set, -4)}


def _sections(session: Session) -> dict[str, dict[str, object]]:
    door = session.door
    counters = door.counters
    calls = {name: n for name, n in counters.numbers().items() if name.startswith("calls_")}
    return {
        "server": {
            "redis_version": REDIS_VERSION,
            "redis_mode": "standalone",
            "server_name": "dabbawala",
            **door.info,
            "uptime_in_seconds": (door.wall_ms() - door.started_at) // 1000,
        },
        "clients": {
            "connected_clients": len(door.sessions),
            "maxclients": door.limits.connections,
            "blocked_clients": 0,
        },
        "memory": {"maxmemory": 0, "query_buffers": door.held_bytes},
        "persistence": {"loading": 0, "aof_enabled": 0},
        "stats": {
            "total_connections_received": counters.connections_accepted,
            "rejected_connections": counters.connections_rejected,
            "total_commands_processed": sum(counters.calls),
            "total_error_replies": counters.errors,
            "total_net_input_bytes": counters.bytes_in,
            "total_net_output_bytes": counters.bytes_out,
            **calls,
        },
        "replication": {"role": "master", "connected_slaves": 0, "master_repl_offset": 0},
        "cluster": {"cluster_enabled": 0},
        "dabbawala": {
            "keyspace": session.keyspace,
            "consistency": session.level.name,
            "write_consistency": session.write_level.name,
            "draining": int(door.draining),
        },
    }
