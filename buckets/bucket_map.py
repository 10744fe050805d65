"""The map: which nodes own which bucket, as one immutable, versioned value.

A request takes the snapshot once and works with it to its end; a change of the map is a new value.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from buckets.hashing import bucket_shift, key_hash
from buckets.topology import Node

RANGE_BUCKETS = 64  # buckets in one znode and one xDS resource


class Mode(enum.IntEnum):
    """How a keyspace orders writes. Values are those of map.proto."""

    TUNABLE = 1
    LINEARIZABLE = 2


class Durability(enum.IntEnum):
    """What the nodes of a keyspace must have done before they acknowledge. As in map.proto."""

    MEMORY = 1
    FSYNC = 2


class Consistency(enum.IntEnum):
    """How many owners must agree. Values are those of data.proto."""

    UNSPECIFIED = 0
    ANY = 1
    ONE = 2
    LOCAL_ONE = 3
    QUORUM = 4
    LOCAL_QUORUM = 5
    EACH_QUORUM = 6
    ALL = 7
    BOUNDED = 8
    SESSION = 9


class Stage(enum.IntEnum):
    """Where a bucket stands in a change of its owners. Values are those of map.proto."""

    OLD = 0
    WRITE_BOTH_READ_OLD = 1
    WRITE_BOTH_READ_NEW = 2
    NEW = 3


@dataclass(frozen=True, slots=True)
class Owner:
    """A node, by number, and the incarnation in which it was admitted to the bucket."""

    node: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Who holds one bucket. `epoch` grows with every change of who does."""

    id: int
    epoch: int
    owners: tuple[Owner, ...]
    stage: Stage = Stage.OLD
    pending: tuple[Owner, ...] = ()
    read_replicas: tuple[Owner, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyspaceSettings:
    """What a keyspace was created with. Sizes in bytes, times in milliseconds."""

    name: str
    buckets: int = 64
    replication_factor: int = 3
    mode: Mode = Mode.TUNABLE
    read_consistency: Consistency = Consistency.QUORUM
    write_consistency: Consistency = Consistency.QUORUM
    durability: Durability = Durability.MEMORY
    redis_db: int = -1
    max_value_bytes: int = 1 << 20
    retention_ms: int = 0
    log_bytes_per_bucket: int = 1 << 20
    max_skew_ms: int = 500
    grace_ms: int = 10 * 24 * 3_600_000  # how long tombstones stay


@dataclass(frozen=True)
class Keyspace:
    """A keyspace's settings and all its buckets, by id."""

    settings: KeyspaceSettings
    buckets: tuple[Bucket, ...]

    @cached_property
    def shift(self) -> int:
        """Right shift that turns a key hash into a bucket id."""
        return bucket_shift(len(self.buckets))

    def bucket_of(self, key: bytes) -> Bucket:
        """The bucket that `key` belongs to."""
        return self.buckets[key_hash(key) >> self.shift]


_NO_NODES: Mapping[int, Node] = MappingProxyType({})
_NO_KEYSPACES: Mapping[str, Keyspace] = MappingProxyType({})


@dataclass(frozen=True)
class BucketMap:
    """Everything a sidecar needs to route. `revision` is the coordination store's epoch."""

    cluster: str = ""
    revision: int = 0
    nodes: Mapping[int, Node] = field(default_factory=lambda: _NO_NODES)
    keyspaces: Mapping[str, Keyspace] = field(default_factory=lambda: _NO_KEYSPACES)

    @cached_property
    def node_by_id(self) -> Mapping[str, Node]:
        """Nodes by their id."""
        return {node.id: node for node in self.nodes.values()}

    @cached_property
    def keyspace_by_db(self) -> Mapping[int, Keyspace]:
        """Keyspaces by the number that `SELECT` names."""
        return {
            ks.settings.redis_db: ks for ks in self.keyspaces.values() if ks.settings.redis_db >= 0
        }
