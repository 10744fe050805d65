"""What the coordination store says about a cluster, and when it may be believed. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Final

import msgspec

from buckets.bucket_map import Bucket, BucketMap, Keyspace, KeyspaceSettings
from buckets.codec import RangeValue, decode_range, join_ranges, range_count, range_name
from buckets.documents import keyspace_from_json
from buckets.errors import CodecError
from buckets.topology import Node
from control_plane.controllers.records import NodeRecord, decode_node_record
from control_plane.coordination.epoch import Snapshot
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import Entry
from control_plane.errors import MapDamaged


class ClusterIdentity(msgspec.Struct, frozen=True):
    """What tells two clusters of one name apart: made by the first leader of an empty store."""

    uid: str


def identity_path(paths: ClusterPaths) -> str:
    """Where the cluster's identity is."""
    return f"{paths.root}/cluster"


def counter_path(paths: ClusterPaths) -> str:
    """Where the highest node number ever given is: numbers are never given twice."""
    return f"{paths.root}/node-number"


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node and the version that guards its next change."""

    record: NodeRecord
    version: int

    @property
    def node(self) -> Node:
        """Its entry in the map."""
        return self.record.node


@dataclass(frozen=True, slots=True)
class StoredRange:
    """64 buckets: the bytes as they are in the store, and what they say."""

    version: int
    raw: bytes
    value: RangeValue


@dataclass(frozen=True)
class StoredKeyspace:
    """A keyspace with all its ranges. `creating`: its fences are not all made yet."""

    settings: KeyspaceSettings
    creating: bool
    version: int
    ranges: tuple[StoredRange, ...]

    @cached_property
    def keyspace(self) -> Keyspace:
        """As the map has it. Raises CodecError when a range is short."""
        by_index = {stored.value.index: stored.value for stored in self.ranges}
        return join_ranges(self.settings, by_index)


_NO_NODES: Final[Mapping[str, StoredNode]] = MappingProxyType({})
_NO_KEYSPACES: Final[Mapping[str, StoredKeyspace]] = MappingProxyType({})


@dataclass(frozen=True)
class ClusterState:
    """The store as of one revision. Nodes and keyspaces are keyed by id and name."""

    cluster: str
    revision: int = 0
    epoch_entry: Entry | None = None
    uid: str = ""
    last_number: int = 0
    counter_entry: Entry | None = None
    nodes: Mapping[str, StoredNode] = field(default_factory=lambda: _NO_NODES)
    keyspaces: Mapping[str, StoredKeyspace] = field(default_factory=lambda: _NO_KEYSPACES)

    @cached_property
    def by_number(self) -> Mapping[int, StoredNode]:
        """Nodes by their number."""
        return {stored.node.number: stored for stored in self.nodes.values()}

    @cached_property
    def map(self) -> BucketMap:
        """What sidecars may see: keyspaces whose fences are complete."""
        return BucketMap(
            cluster=self.cluster,
            revision=self.revision,
            nodes={number: stored.node for number, stored in sorted(self.by_number.items())},
            keyspaces={
                name: stored.keyspace
                for name, stored in sorted(self.keyspaces.items())
                if not stored.creating
            },
        )

    def owned_by(self, number: int) -> Iterable[tuple[StoredKeyspace, Bucket]]:
        """Every bucket of every keyspace, also of those being created, that a node owns."""
        for stored in self.keyspaces.values():
            for bucket in stored.keyspace.buckets:
                if any(owner.node == number for owner in bucket.owners):
                    yield stored, bucket


def read_state(
    paths: ClusterPaths, snapshot: Snapshot, previous: ClusterState | None
) -> ClusterState:
    """Make the state out of what was read; a range of the same bytes is not decoded again.

    Raises MapDamaged when something in the store is not what it should be.
    """
    try:
        return _read(paths, snapshot, previous)
    except CodecError as error:
        raise MapDamaged(f"the store is damaged: {error}") from None


def _read(paths: ClusterPaths, snapshot: Snapshot, previous: ClusterState | None) -> ClusterState:
    entries = snapshot.entries
    counter = entries.get(counter_path(paths))
    state = ClusterState(
        cluster=paths.cluster,
        revision=snapshot.epoch,
        epoch_entry=snapshot.epoch_entry,
        uid=_uid(entries.get(identity_path(paths))),
        last_number=_number(counter),
        counter_entry=counter,
        nodes=_nodes(paths, entries),
        keyspaces=_keyspaces(paths, entries, previous),
    )
    _check_owners(state)
    return state


def check_successor(previous: ClusterState, state: ClusterState) -> None:
    """Raises MapDamaged when `state` cannot follow `previous`, which then stays in use."""
    if state.revision < previous.revision:
        raise MapDamaged(
            f"the map in the store went back from revision {previous.revision} to {state.revision}"
        )
    if previous.uid and state.uid != previous.uid:
        raise MapDamaged("the store now belongs to another cluster of the same name")
    if previous.nodes and not state.nodes:
        raise MapDamaged(
            f"the store lost all its nodes; revision {previous.revision} had {len(previous.nodes)}"
        )
    if previous.keyspaces and not state.keyspaces:
        raise MapDamaged(
            f"the store has no keyspaces any more; revision {previous.revision} had some"
        )
    for name, stored in state.keyspaces.items():
        if name in previous.keyspaces:
            _check_epochs(previous.keyspaces[name], stored)
    if state.revision == previous.revision and _content(state) != _content(previous):
        raise MapDamaged(
            f"the map in the store changed without a new revision (still {state.revision})"
        )


def _content(state: ClusterState) -> tuple[object, ...]:
    return (
        {name: stored.record for name, stored in state.nodes.items()},
        {name: (ks.settings, ks.creating, ks.ranges) for name, ks in state.keyspaces.items()},
    )


def _check_epochs(previous: StoredKeyspace, stored: StoredKeyspace) -> None:
    if previous.ranges == stored.ranges:
        return
    for before, after in zip(previous.keyspace.buckets, stored.keyspace.buckets, strict=False):
        if after.epoch < before.epoch:
            raise MapDamaged(
                f"bucket {after.id} of keyspace {stored.settings.name!r} went back from epoch"
                f" {before.epoch} to {after.epoch}"
            )


def _uid(entry: Entry | None) -> str:
    if entry is None:
        return ""
    try:
        return msgspec.json.decode(entry.value, type=ClusterIdentity).uid
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise MapDamaged(
            f"the identity of the cluster in the store cannot be read: {error}"
        ) from None


def _number(entry: Entry | None) -> int:
    if entry is None:
        return 0
    if not (entry.value.isdigit() and len(entry.value) <= 9):
        raise MapDamaged(
            f"the counter of node numbers in the store is {entry.value[:20]!r}, not a number"
        )
    return int(entry.value)


def _nodes(paths: ClusterPaths, entries: Mapping[str, Entry]) -> dict[str, StoredNode]:
    nodes: dict[str, StoredNode] = {}
    numbers: set[int] = set()
    for path, entry in entries.items():
        if not path.startswith(paths.nodes + "/"):
            continue
        record = decode_node_record(entry.value, path)
        node = record.node
        if path != paths.node(node.id) or node.number in numbers:
            raise CodecError(path, f"names node {node.id!r}, number {node.number}: not its own")
        numbers.add(node.number)
        nodes[node.id] = StoredNode(record, entry.version)
    return nodes


def _keyspaces(
    paths: ClusterPaths, entries: Mapping[str, Entry], previous: ClusterState | None
) -> dict[str, StoredKeyspace]:
    known = previous.keyspaces if previous is not None else _NO_KEYSPACES
    keyspaces: dict[str, StoredKeyspace] = {}
    for path, entry in entries.items():
        if not (path.startswith(paths.keyspaces + "/") and path.endswith("/config")):
            continue
        settings, creating = keyspace_from_json(entry.value, path)
        if path != paths.keyspace_config(settings.name):
            raise CodecError(path, f"names keyspace {settings.name!r}")
        ranges = _ranges(paths, settings, entries, known.get(settings.name))
        keyspaces[settings.name] = StoredKeyspace(settings, creating, entry.version, ranges)
    return keyspaces


def _ranges(
    paths: ClusterPaths,
    settings: KeyspaceSettings,
    entries: Mapping[str, Entry],
    known: StoredKeyspace | None,
) -> tuple[StoredRange, ...]:
    decoded = {} if known is None else {stored.raw: stored.value for stored in known.ranges}
    ranges: list[StoredRange] = []
    for index in range(range_count(settings.buckets)):
        resource = range_name(settings.name, index)
        entry = entries.get(paths.bucket_range(settings.name, index))
        if entry is None:
            raise CodecError(resource, "is missing")
        value = decoded.get(entry.value) or decode_range(entry.value, resource)
        if range_name(value.keyspace, value.index) != resource:
            raise CodecError(resource, f"holds {range_name(value.keyspace, value.index)}")
        ranges.append(StoredRange(entry.version, entry.value, value))
    return tuple(ranges)


def _check_owners(state: ClusterState) -> None:
    for name, stored in state.keyspaces.items():
        for bucket in stored.keyspace.buckets:
            numbers = {owner.node for owner in bucket.owners}
            resource = f"bucket {bucket.id} of keyspace {name!r}"
            if not numbers or len(numbers) != len(bucket.owners):
                raise CodecError(resource, "has no owners, or one of them twice")
            if not numbers <= state.by_number.keys():
                raise CodecError(resource, f"has unknown owners {sorted(numbers)}")
