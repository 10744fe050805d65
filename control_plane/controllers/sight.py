"""What an instance sees when it looks at a node: one immutable value per look. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from buckets.topology import NodeState
from control_plane.controllers.records import NodeRecord
from replicas.identity import Identity

UP: Final = "up"
DOWN: Final = "down"
SUSPECT: Final = "suspect"

UNREACHABLE: Final = "unreachable"
_QUARANTINED: Final = ("NotMaster", "Evicting")


# Of a server whose identity key holds something else than an identity.
NOBODY: Final = Identity("", "", 0)


def cluster_mark(cluster: str, uid: str) -> str:
    """How an identity names a cluster: by uid too, since two clusters may have one name."""
    return f"{cluster}/{uid}"


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at the server at an address.

    `fault` names what makes it unusable ("" for none): UNREACHABLE, or the name of the replica
    link's refusal; `detail` says it in words. The rest holds for reachable servers only. Sizes in
    bytes; `clock_offset_ms` is the server's clock minus this instance's. `configured_durable`:
    appendonly yes, appendfsync always, also while rewriting. `settled`: no rewrite is under way, so
    that all its data has reached the disk.
    """

    address: str
    at_ms: int
    fault: str = ""
    detail: str = ""
    run_id: bytes = b""
    server: str = ""
    role: str = "master"
    connected_replicas: int = 0
    eviction_policy: str = "noeviction"
    evicted_keys: int = 0
    configured_durable: bool = False
    settled: bool = False
    used_memory_bytes: int = 0
    keys: int = 0
    clock_offset_ms: float = 0.0
    identity: Identity | None = None

    @property
    def reachable(self) -> bool:
        """Whether the server answered as one that can be used."""
        return not self.fault

    def says_the_same(self, other: "Sight") -> bool:
        """Whether nothing changed but what always does: times, counts, sizes."""
        quiet = replace(
            other,
            at_ms=self.at_ms,
            used_memory_bytes=self.used_memory_bytes,
            keys=self.keys,
            clock_offset_ms=self.clock_offset_ms,
        )
        return self == quiet

    @property
    def durable(self) -> bool:
        """Whether all it has acknowledged, ever, is on its disk."""
        return self.configured_durable and self.settled


def parse_info(text: bytes) -> dict[str, str]:
    """The fields of an INFO reply, sections merged."""
    fields: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        name, separator, value = line.partition(":")
        if separator and not line.startswith("#"):
            fields[name] = value
    return fields


def sight_of(
    address: str,
    info: Mapping[str, str],
    append: Mapping[str, str],
    *,
    at_ms: int,
    clock_offset_ms: float,
    identity: Identity | None,
) -> Sight:
    """Make a look out of INFO, CONFIG GET *append*, TIME and the identity. `append` maps names."""
    return Sight(
        address=address,
        at_ms=at_ms,
        run_id=_run_id(info),
        server=_server(info),
        role=_role(info),
        connected_replicas=_int(info, "connected_slaves"),
        eviction_policy=info.get("maxmemory_policy", ""),
        evicted_keys=_int(info, "evicted_keys"),
        configured_durable=_durable(append),
        settled=_settled(info),
        used_memory_bytes=_int(info, "used_memory"),
        keys=_keys(info),
        clock_offset_ms=clock_offset_ms,
        identity=identity,
    )


def health(record: NodeRecord, sight: Sight | None, mark: str) -> tuple[str, str]:
    """UP, DOWN or SUSPECT, and the reason in words. `mark` is the cluster's in identities."""
    if sight is None:
        return DOWN, "not looked at yet"
    if sight.fault and sight.fault not in _QUARANTINED:
        also = f"; {record.node.reason}" if record.node.state is NodeState.SUSPECT else ""
        return DOWN, sight.detail + also
    if record.node.state is NodeState.SUSPECT:
        return SUSPECT, record.node.reason
    if sight.fault:
        return SUSPECT, sight.detail
    stranger = other_owner(record, sight, mark)
    if stranger:
        return DOWN, stranger
    if sight.run_id != record.node.run_id:
        return SUSPECT, "its server restarted; whether its data can be trusted is being examined"
    return UP, ""


def other_owner(record: NodeRecord, sight: Sight, mark: str) -> str:
    """Whose server answers at the node's address, in words, when it is not the node's; else ""."""
    identity = sight.identity
    if identity is None or (identity.cluster == mark and identity.node == record.node.id):
        return ""
    whose = f"node {identity.node!r} of cluster {identity.cluster.partition('/')[0]!r}"
    return f"the server at {sight.address} holds the data of {whose}; correct the address"


def _run_id(info: Mapping[str, str]) -> bytes:
    try:
        return bytes.fromhex(info.get("run_id", ""))
    except ValueError:
        return b""


def _server(info: Mapping[str, str]) -> str:
    # Valkey also says redis_version:7.2.4, for old clients.
    if "valkey_version" in info:
        return f"valkey {info['valkey_version']}"
    return f"redis {info.get('redis_version', '?')}"


def _role(info: Mapping[str, str]) -> str:
    if info.get("cluster_enabled") == "1":
        return "cluster"
    if info.get("redis_mode", info.get("server_mode")) == "sentinel":
        return "sentinel"
    return info.get("role", "")


def _durable(append: Mapping[str, str]) -> bool:
    return (
        append.get("appendonly") == "yes"
        and append.get("appendfsync") == "always"
        and append.get("no-appendfsync-on-rewrite") == "no"
    )


def _settled(info: Mapping[str, str]) -> bool:
    return (
        info.get("aof_enabled") == "1"
        and info.get("aof_rewrite_in_progress") == "0"
        and info.get("aof_rewrite_scheduled") == "0"
        and info.get("aof_last_bgrewrite_status") == "ok"
        and info.get("aof_last_write_status") == "ok"
    )


def _keys(info: Mapping[str, str]) -> int:
    """db0:keys=3,expires=0,avg_ttl=0 - summed over the databases."""
    total = 0
    for name, value in info.items():
        if name.startswith("db") and name[2:].isdigit():
            first = value.partition(",")[0].removeprefix("keys=")
            total += int(first) if first.isdigit() else 0
    return total


def _int(info: Mapping[str, str], name: str) -> int:
    value = info.get(name, "")
    return int(value) if value.isdigit() else 0
