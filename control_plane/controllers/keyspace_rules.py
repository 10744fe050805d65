"""Which keyspaces may be created, and what their settings promise and do not promise. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from buckets.bucket_map import Consistency, Durability, KeyspaceSettings, Mode
from control_plane.errors import Violation
from protos.dabbawala.v1 import map_pb2

MAX_BUCKETS: Final = 16_384
MAX_COPIES: Final = 7
MAX_REDIS_DB: Final = 1_023
MAX_VALUE_BYTES: Final = 16 << 20
MIN_LOG_BYTES: Final = 4 << 10
MAX_LOG_BYTES: Final = 1 << 30
MIN_SKEW_MS: Final = 10
MAX_SKEW_MS: Final = 60_000
MIN_GRACE_MS: Final = 4 * 3_600_000  # sidecars replay hints for 3 hours, unless told otherwise
MAX_GRACE_MS: Final = 10 * 365 * 24 * 3_600_000

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DEFAULTS: Final = KeyspaceSettings(name="default")
_READ_LEVELS: Final = (
    Consistency.ONE,
    Consistency.LOCAL_ONE,
    Consistency.QUORUM,
    Consistency.LOCAL_QUORUM,
    Consistency.ALL,
)
_WRITE_LEVELS: Final = (Consistency.ANY, *_READ_LEVELS, Consistency.EACH_QUORUM)
_LOCAL_LEVELS: Final = (Consistency.LOCAL_ONE, Consistency.LOCAL_QUORUM)


def with_defaults(config: map_pb2.KeyspaceConfig) -> map_pb2.KeyspaceConfig:
    """A copy in which fields left 0 hold their defaults; but `redis_db` 0 is a database."""
    filled = map_pb2.KeyspaceConfig()
    filled.CopyFrom(config)
    filled.creating = False
    filled.buckets = config.buckets or _DEFAULTS.buckets
    filled.replication_factor = config.replication_factor or _DEFAULTS.replication_factor
    filled.mode = config.mode or map_pb2.KEYSPACE_MODE_TUNABLE
    filled.read_consistency = config.read_consistency or _DEFAULTS.read_consistency
    filled.write_consistency = config.write_consistency or _DEFAULTS.write_consistency
    # An acceptor that forgets breaks what the mode promises: only who asks for it gets it.
    linearizable = filled.mode == map_pb2.KEYSPACE_MODE_LINEARIZABLE
    filled.durability = config.durability or (
        map_pb2.DURABILITY_FSYNC if linearizable else map_pb2.DURABILITY_MEMORY
    )
    filled.max_value_bytes = config.max_value_bytes or _DEFAULTS.max_value_bytes
    filled.log_bytes_per_bucket = config.log_bytes_per_bucket or _DEFAULTS.log_bytes_per_bucket
    filled.max_skew_ms = config.max_skew_ms or _DEFAULTS.max_skew_ms
    filled.grace_ms = config.grace_ms or _DEFAULTS.grace_ms
    return filled


def violations(
    config: map_pb2.KeyspaceConfig, usable_nodes: int, names_by_db: Mapping[int, str]
) -> list[Violation]:
    """Every bad field of a request whose defaults are filled in.

    `usable_nodes` are up, trusted, and durable if the keyspace has to be; `names_by_db` are the
    numbers already taken.
    """
    found = [
        *_name_violations(config),
        *_placement_violations(config, usable_nodes),
        *_promise_violations(config),
        *_bound_violations(config),
    ]
    if not -1 <= config.redis_db <= MAX_REDIS_DB:
        found.append(_bad("redis_db", config.redis_db, f"-1 (none) or 0 to {MAX_REDIS_DB}"))
    elif names_by_db.get(config.redis_db, config.name) != config.name:
        taken = names_by_db[config.redis_db]
        text = f"{config.redis_db} is keyspace {taken!r} already; choose another, or -1 for none"
        found.append(Violation("redis_db", text))
    return found


def _name_violations(config: map_pb2.KeyspaceConfig) -> list[Violation]:
    if _NAME.fullmatch(config.name):
        return []
    return [_bad("name", config.name, "1 to 63 of a-z, 0-9 and '-', not beginning with '-'")]


def _placement_violations(config: map_pb2.KeyspaceConfig, usable_nodes: int) -> list[Violation]:
    found: list[Violation] = []
    if not 1 <= config.buckets <= MAX_BUCKETS or config.buckets & (config.buckets - 1):
        found.append(_bad("buckets", config.buckets, f"a power of two from 1 to {MAX_BUCKETS}"))
    copies = config.replication_factor
    if not 1 <= copies <= MAX_COPIES:
        found.append(_bad("replication_factor", copies, f"1 to {MAX_COPIES}"))
    elif copies > usable_nodes:
        durable = config.durability == map_pb2.DURABILITY_FSYNC
        kind = "durable (appendonly yes, appendfsync always), " if durable else ""
        text = (
            f"{copies} copies need as many nodes that are {kind}up and trusted,"
            f" there are {usable_nodes}; add nodes, or ask for fewer copies"
        )
        if durable:
            text += (
                ". Or choose durability memory explicitly: an acknowledged write may then be lost"
                " with the power"
            )
        found.append(Violation("replication_factor", text))
    return found


def _promise_violations(config: map_pb2.KeyspaceConfig) -> list[Violation]:
    found: list[Violation] = []
    linearizable = config.mode == map_pb2.KEYSPACE_MODE_LINEARIZABLE
    if not linearizable and config.mode != map_pb2.KEYSPACE_MODE_TUNABLE:
        found.append(_bad("mode", config.mode, "tunable or linearizable"))
    if config.durability not in (map_pb2.DURABILITY_MEMORY, map_pb2.DURABILITY_FSYNC):
        found.append(_bad("durability", config.durability, "memory or fsync"))
    for name, value, allowed in (
        ("read_consistency", config.read_consistency, _READ_LEVELS),
        ("write_consistency", config.write_consistency, _WRITE_LEVELS),
    ):
        if linearizable and value != Consistency.QUORUM:
            text = "a linearizable keyspace always goes by a majority; leave it out"
            found.append(Violation(name, f"{_level_words(value)!r} is not allowed: {text}"))
        elif value not in allowed:
            found.append(
                _bad(name, _level_words(value), ", ".join(level.name for level in allowed))
            )
    return found


def _bound_violations(config: map_pb2.KeyspaceConfig) -> list[Violation]:
    found = [
        _bad(name, value, f"{low} to {high}")
        for name, value, low, high in (
            ("max_value_bytes", config.max_value_bytes, 1, MAX_VALUE_BYTES),
            ("log_bytes_per_bucket", config.log_bytes_per_bucket, MIN_LOG_BYTES, MAX_LOG_BYTES),
            ("max_skew_ms", config.max_skew_ms, MIN_SKEW_MS, MAX_SKEW_MS),
            ("grace_ms", config.grace_ms, MIN_GRACE_MS, MAX_GRACE_MS),
        )
        if not low <= value <= high
    ]
    if config.retention_ms:
        text = f"{config.retention_ms} is not available yet: old versions are not kept; leave it 0"
        found.append(Violation("retention_ms", text))
    return found


def warnings(
    settings: KeyspaceSettings, owners_zones: Sequence[Sequence[str]], zones: Sequence[str]
) -> list[str]:
    """What its creator should know.

    `owners_zones`: for each bucket the zones of its owners. `zones`: all zones of the cluster,
    where sidecars may be.
    """
    found: list[str] = []
    copies = settings.replication_factor
    if settings.write_consistency is Consistency.EACH_QUORUM and _one_per_zone(owners_zones):
        found.append("one owner per zone: EACH_QUORUM waits for every one of them, the same as ALL")
    if settings.write_consistency is Consistency.ANY:
        found.append(
            "ANY: a write that no owner can take is acknowledged from the disk of one sidecar;"
            " reads miss it until an owner is back, and it is lost with that disk"
        )
    used = len({zone for owners in owners_zones for zone in owners})
    if used < copies:
        found.append(
            f"{copies} copies are spread over {_plural(used, 'zone')} only: losing one can take a"
            " majority of a bucket; add nodes in other zones before creating keyspaces"
        )
    without = [
        zone for zone in sorted(set(zones)) if any(zone not in owners for owners in owners_zones)
    ]
    local = {settings.read_consistency, settings.write_consistency} & set(_LOCAL_LEVELS)
    if local and without:
        levels = " and ".join(sorted(level.name for level in local))
        found.append(
            f"{levels} will be refused in {_words(without)} for buckets that have no owner there"
        )
    return found + _copies_warning(copies)


def _copies_warning(copies: int) -> list[str]:
    if copies == 1:
        return [
            "one copy: a lost node takes its data with it, and its buckets stop while it is down"
        ]
    if copies == 2:
        return ["two copies: QUORUM needs both, so one node down stops QUORUM; three copies go on"]
    return []


def notes(
    settings: KeyspaceSettings, owners_zones: Sequence[Sequence[str]], zones: Sequence[str]
) -> list[str]:
    """What its settings promise, and what they do not, for `describe`."""
    majority = settings.replication_factor // 2 + 1
    spare = settings.replication_factor - majority
    if settings.mode is Mode.LINEARIZABLE:
        promise = (
            "linearizable: every read sees every change that ended before it; changes can depend on"
            " what stands (compare-and-set, increment)"
        )
    else:
        promise = "tunable: the last writer wins"
    found = [
        promise,
        f"QUORUM is {majority} of {settings.replication_factor} owners, {spare} may be down",
        _durability_note(settings),
    ]
    return found + warnings(settings, owners_zones, zones)


def _durability_note(settings: KeyspaceSettings) -> str:
    if settings.durability is Durability.FSYNC:
        return "durability fsync: every owner has a write on its disk before it acknowledges it"
    if settings.mode is Mode.LINEARIZABLE:
        return (
            "durability memory: owners may forget what they promised and accepted. If a majority of"
            " a bucket's owners lose power together, acknowledged changes are lost, and old values"
            " come back; one of them alone is repaired from the others before it counts again"
        )
    return (
        "durability memory: an acknowledged write may be only in the memory of the owners that"
        " acknowledged it; if all of those lose power, it is lost"
    )


def _one_per_zone(owners_zones: Sequence[Sequence[str]]) -> bool:
    return bool(owners_zones) and all(len(set(owners)) == len(owners) for owners in owners_zones)


def _bad(field: str, value: object, allowed: str) -> Violation:
    return Violation(field, f"{value!r} is not allowed; it must be {allowed}")


def _level_words(value: int) -> str | int:
    try:
        return Consistency(value).name
    except ValueError:
        return value


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count or 'no'} {noun}s"


def _words(names: Sequence[str]) -> str:
    return ("zone " if len(names) == 1 else "zones ") + ", ".join(names)
