"""The map as bytes: resources, ranges as znodes hold them, and the entry kept beside a fence.

A range of 64 buckets is one message of columns; a column that would hold only its default is left
out, so 16,384 buckets of three copies stay near 130 KB. Encoding is deterministic: equal values
have equal bytes, which is what the versions of resources are made from. Everything decoded is
checked: bytes that are damaged or make no sense raise CodecError with the name of the resource,
never anything else. The JSON forms of nodes and keyspaces are in documents.py.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from buckets.bucket_map import (
    RANGE_BUCKETS,
    Bucket,
    BucketMap,
    Consistency,
    Durability,
    Keyspace,
    KeyspaceSettings,
    Mode,
    Owner,
    Stage,
)
from buckets.errors import CodecError
from buckets.hashing import MAX_BUCKETS, bucket_shift
from buckets.topology import Node, NodeState
from protos.dabbawala.v1 import map_pb2

TYPE_PREFIX: Final = "type.googleapis.com/dabbawala.v1."
NODE_TABLE_TYPE: Final = TYPE_PREFIX + "NodeTable"
KEYSPACE_TYPE: Final = TYPE_PREFIX + "KeyspaceConfig"
RANGE_TYPE: Final = TYPE_PREFIX + "BucketRange"
# The order in which a change is sent: what ranges refer to comes before them.
RESOURCE_TYPES: Final = (NODE_TABLE_TYPE, KEYSPACE_TYPE, RANGE_TYPE)

NODES_NAME: Final = "nodes"
RUN_ID_BYTES: Final = 20
MAX_REPLICATION_FACTOR: Final = 15
MAX_OWNERS: Final = 64  # of one bucket in one role; a bound for damaged bytes, not a promise
_UINT32_END: Final = 1 << 32
_UINT64_END: Final = 1 << 64

_SETTINGS_BOUNDS: Final = (
    ("replication_factor", 1, MAX_REPLICATION_FACTOR),
    ("redis_db", -1, (1 << 31) - 1),  # -1: no number to SELECT
    ("max_value_bytes", 1, _UINT32_END - 1),
    ("retention_ms", 0, _UINT64_END - 1),
    ("log_bytes_per_bucket", 0, _UINT64_END - 1),
    ("max_skew_ms", 0, _UINT32_END - 1),
    ("grace_ms", 0, _UINT64_END - 1),
)

_MessageT = TypeVar("_MessageT", bound=Message)


@dataclass(frozen=True, slots=True)
class Resource:
    """One named piece of the map, encoded."""

    type_url: str
    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class RangeValue:
    """Up to 64 consecutive buckets of a keyspace, beginning with `index * 64`."""

    keyspace: str
    index: int
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class MapEntry:
    """What a replica knows of one bucket: its entry in the map and the nodes that it names."""

    keyspace: str
    bucket: Bucket
    nodes: tuple[Node, ...]


def keyspace_name(keyspace: str) -> str:
    """The resource that holds a keyspace's settings."""
    return f"keyspace/{keyspace}"


def range_name(keyspace: str, index: int) -> str:
    """The resource that holds buckets `index * 64` and up."""
    return f"range/{keyspace}/{index:03d}"


def range_count(buckets: int) -> int:
    """How many ranges a keyspace of so many buckets has."""
    return -(-buckets // RANGE_BUCKETS)


def map_resources(bucket_map: BucketMap) -> Iterator[Resource]:
    """The whole map in the order in which it is sent. CodecError for values out of bounds."""
    yield Resource(
        NODE_TABLE_TYPE, NODES_NAME, encode_nodes(bucket_map.cluster, bucket_map.nodes.values())
    )
    for name in sorted(bucket_map.keyspaces):
        settings = bucket_map.keyspaces[name].settings
        yield Resource(KEYSPACE_TYPE, keyspace_name(name), encode_keyspace(settings))
    for name in sorted(bucket_map.keyspaces):
        for value in split_ranges(bucket_map.keyspaces[name]):
            yield Resource(RANGE_TYPE, range_name(name, value.index), encode_range(value))


def split_ranges(keyspace: Keyspace) -> Iterator[RangeValue]:
    """A keyspace's buckets in pieces of 64."""
    for index in range(range_count(len(keyspace.buckets))):
        start = index * RANGE_BUCKETS
        yield RangeValue(
            keyspace.settings.name, index, keyspace.buckets[start : start + RANGE_BUCKETS]
        )


def join_ranges(settings: KeyspaceSettings, ranges: Mapping[int, RangeValue]) -> Keyspace:
    """A keyspace from its ranges by index. CodecError names a range that is missing or short."""
    buckets: list[Bucket] = []
    for index in range(range_count(settings.buckets)):
        expected = min(RANGE_BUCKETS, settings.buckets - index * RANGE_BUCKETS)
        value = ranges.get(index)
        if value is None:
            raise CodecError(range_name(settings.name, index), "is missing")
        if len(value.buckets) != expected:
            detail = (
                f"holds {len(value.buckets)} buckets, keyspace {settings.name} has {expected} there"
            )
            raise CodecError(range_name(settings.name, index), detail)
        buckets.extend(value.buckets)
    return Keyspace(settings, tuple(buckets))


# --- node table ---------------------------------------------------------------------------------


def encode_nodes(cluster: str, nodes: Iterable[Node]) -> bytes:
    """NodeTable bytes, nodes ordered by number."""
    entries = [_node_message(node) for node in sorted(nodes, key=lambda node: node.number)]
    return map_pb2.NodeTable(cluster=cluster, nodes=entries).SerializeToString()


def decode_nodes(raw: bytes, resource: str = NODES_NAME) -> tuple[str, dict[int, Node]]:
    """(cluster, nodes by number) of NodeTable bytes. Numbers and ids are each unique."""
    table = _parse(map_pb2.NodeTable, raw, resource)
    nodes: dict[int, Node] = {}
    ids: set[str] = set()
    for entry in table.nodes:
        node = _node_value(entry, resource)
        if node.number in nodes or node.id in ids:
            raise CodecError(resource, f"node {node.id!r} (number {node.number}) is listed twice")
        nodes[node.number] = node
        ids.add(node.id)
    return table.cluster, nodes


def checked_node(node: Node, resource: str) -> Node:
    """The node itself when its fields are within bounds, else CodecError."""
    problem = _node_problem(node)
    if problem:
        raise CodecError(resource, f"node {node.id!r}: {problem}")
    return node


def _node_problem(node: Node) -> str:
    if not 0 < node.number < _UINT32_END:
        return f"number {node.number} must be 1 to {_UINT32_END - 1}"
    if not node.id or not node.host or not node.zone:
        return "id, host and zone must not be empty"
    if not 0 < node.port < 65536:
        return f"port {node.port} must be 1 to 65535"
    if not 0 < node.weight < _UINT32_END:
        return f"weight {node.weight} must be 1 to {_UINT32_END - 1}"
    if not 0 <= node.incarnation < _UINT64_END:
        return f"incarnation {node.incarnation} must be an unsigned 64-bit number"
    if len(node.run_id) not in (0, RUN_ID_BYTES):
        return f"run_id has {len(node.run_id)} bytes, must be {RUN_ID_BYTES} or none"
    return ""


def _node_message(node: Node) -> map_pb2.NodeEntry:
    checked_node(node, NODES_NAME)
    return map_pb2.NodeEntry(
        number=node.number,
        id=node.id,
        host=node.host,
        port=node.port,
        zone=node.zone,
        rack=node.rack,
        weight=node.weight,
        incarnation=node.incarnation,
        run_id=node.run_id,
        state=map_pb2.NodeState.ValueType(node.state),
        reason=node.reason,
    )


def _node_value(entry: map_pb2.NodeEntry, resource: str) -> Node:
    try:
        state = NodeState(entry.state)
    except ValueError:
        raise CodecError(resource, f"node {entry.id!r}: state {entry.state} is unknown") from None
    node = Node(
        number=entry.number,
        id=entry.id,
        host=entry.host,
        port=entry.port,
        zone=entry.zone,
        rack=entry.rack,
        weight=entry.weight,
        incarnation=entry.incarnation,
        run_id=entry.run_id,
        state=state,
        reason=entry.reason,
    )
    return checked_node(node, resource)


# --- keyspace -----------------------------------------------------------------------------------


def encode_keyspace(settings: KeyspaceSettings, *, creating: bool = False) -> bytes:
    """KeyspaceConfig bytes. `creating` marks one whose fences are not all made yet."""
    checked_settings(settings, keyspace_name(settings.name))
    return keyspace_message(settings, creating=creating).SerializeToString()


def decode_keyspace(raw: bytes, resource: str) -> KeyspaceSettings:
    """The settings in KeyspaceConfig bytes, which came under the name `resource`."""
    settings = keyspace_value(_parse(map_pb2.KeyspaceConfig, raw, resource), resource)
    if keyspace_name(settings.name) != resource:
        raise CodecError(resource, f"holds the settings of keyspace {settings.name!r}")
    return settings


def keyspace_message(
    settings: KeyspaceSettings, *, creating: bool = False
) -> map_pb2.KeyspaceConfig:
    """Settings as the message that resources and the admin API use."""
    return map_pb2.KeyspaceConfig(
        name=settings.name,
        buckets=settings.buckets,
        replication_factor=settings.replication_factor,
        mode=map_pb2.KeyspaceMode.ValueType(settings.mode),
        read_consistency=settings.read_consistency,
        write_consistency=settings.write_consistency,
        durability=map_pb2.Durability.ValueType(settings.durability),
        redis_db=settings.redis_db,
        max_value_bytes=settings.max_value_bytes,
        retention_ms=settings.retention_ms,
        log_bytes_per_bucket=settings.log_bytes_per_bucket,
        max_skew_ms=settings.max_skew_ms,
        grace_ms=settings.grace_ms,
        creating=creating,
    )


def keyspace_value(config: map_pb2.KeyspaceConfig, resource: str) -> KeyspaceSettings:
    """A complete message as settings (no field takes a default here). Raises CodecError."""
    try:
        settings = KeyspaceSettings(
            name=config.name,
            buckets=config.buckets,
            replication_factor=config.replication_factor,
            mode=Mode(config.mode),
            read_consistency=Consistency(config.read_consistency),
            write_consistency=Consistency(config.write_consistency),
            durability=Durability(config.durability),
            redis_db=config.redis_db,
            max_value_bytes=config.max_value_bytes,
            retention_ms=config.retention_ms,
            log_bytes_per_bucket=config.log_bytes_per_bucket,
            max_skew_ms=config.max_skew_ms,
            grace_ms=config.grace_ms,
        )
    except ValueError as error:
        raise CodecError(resource, str(error)) from None
    return checked_settings(settings, resource)


def checked_settings(settings: KeyspaceSettings, resource: str) -> KeyspaceSettings:
    """The settings themselves when they are possible, else CodecError."""
    if not settings.name:
        raise CodecError(resource, "name must not be empty")
    try:
        bucket_shift(settings.buckets)
    except ValueError as error:
        raise CodecError(resource, str(error)) from None
    for field, lowest, highest in _SETTINGS_BOUNDS:
        number = getattr(settings, field)
        if not lowest <= number <= highest:
            raise CodecError(resource, f"{field} {number} must be {lowest} to {highest}")
    return settings


# --- range --------------------------------------------------------------------------------------


def encode_range(value: RangeValue) -> bytes:
    """BucketRange bytes. Buckets are consecutive, the first has the id `index * 64`."""
    resource = range_name(value.keyspace, value.index)
    first = value.index * RANGE_BUCKETS
    for slot, bucket in enumerate(value.buckets):
        if bucket.id != first + slot or not 0 <= bucket.epoch < _UINT64_END:
            raise CodecError(
                resource, f"bucket {bucket.id} (epoch {bucket.epoch}) can not be at {first + slot}"
            )
    message = map_pb2.BucketRange(
        keyspace=value.keyspace,
        index=value.index,
        count=len(value.buckets),
        extras=[_extra(b, b.id - first) for b in value.buckets if _needs_extra(b)],
    )
    _put_epochs(message, [bucket.epoch for bucket in value.buckets], resource)
    _put_owners(message, [bucket.owners for bucket in value.buckets])
    return message.SerializeToString()


def decode_range(raw: bytes, resource: str) -> RangeValue:
    """The buckets in BucketRange bytes. `resource` is the name they came under, and must fit."""
    message = _parse(map_pb2.BucketRange, raw, resource)
    if range_name(message.keyspace, message.index) != resource:
        raise CodecError(resource, f"holds range {message.index} of keyspace {message.keyspace!r}")
    if not 0 < message.count <= RANGE_BUCKETS:
        raise CodecError(resource, f"{message.count} buckets, must be 1 to {RANGE_BUCKETS}")
    if message.index > MAX_BUCKETS // RANGE_BUCKETS:
        raise CodecError(resource, f"index is above {MAX_BUCKETS // RANGE_BUCKETS}")
    epochs = _take_epochs(message, resource)
    owners = _take_owners(message, resource)
    extras = _take_extras(message, resource)
    first = message.index * RANGE_BUCKETS
    buckets = tuple(
        Bucket(first + slot, epochs[slot], owners[slot], *extras.get(slot, ()))
        for slot in range(message.count)
    )
    return RangeValue(message.keyspace, message.index, buckets)


def _put_epochs(message: map_pb2.BucketRange, epochs: Sequence[int], resource: str) -> None:
    message.base_epoch = min(epochs, default=0)
    offsets = [epoch - message.base_epoch for epoch in epochs]
    if any(offset >= _UINT32_END for offset in offsets):
        raise CodecError(resource, "epochs of one range are more than 2^32 apart")
    if any(offsets):
        message.epoch_offsets.extend(offsets)


def _take_epochs(message: map_pb2.BucketRange, resource: str) -> list[int]:
    offsets = message.epoch_offsets or [0] * message.count
    if len(offsets) != message.count:
        raise CodecError(resource, f"{len(offsets)} epochs for {message.count} buckets")
    if message.base_epoch + max(offsets) >= _UINT64_END:
        raise CodecError(resource, "an epoch is above 2^64 - 1")
    return [message.base_epoch + offset for offset in offsets]


def _put_owners(message: map_pb2.BucketRange, owners: Sequence[tuple[Owner, ...]]) -> None:
    counts = [len(of_bucket) for of_bucket in owners]
    if counts and min(counts) == max(counts):
        message.owners_each = counts[0]
    else:
        message.owner_counts.extend(counts)
    flat = [owner for of_bucket in owners for owner in of_bucket]
    message.owners.extend([owner.node for owner in flat])
    # The commonest incarnation is the base; ties go to the lowest: equal maps have equal bytes.
    common = Counter(owner.incarnation for owner in flat)
    message.base_incarnation = min(common, key=lambda number: (-common[number], number), default=0)
    for position, owner in enumerate(flat):
        if owner.incarnation != message.base_incarnation:
            message.incarnation_slots.append(position)
            message.incarnations.append(owner.incarnation)


def _take_owners(message: map_pb2.BucketRange, resource: str) -> list[tuple[Owner, ...]]:
    counts = list(message.owner_counts) or [message.owners_each] * message.count
    if len(counts) != message.count or sum(counts) != len(message.owners):
        raise CodecError(
            resource, f"{len(message.owners)} owners do not fit {message.count} buckets"
        )
    if max(counts) > MAX_OWNERS:
        raise CodecError(resource, f"{max(counts)} owners of one bucket, the bound is {MAX_OWNERS}")
    incarnations = [message.base_incarnation] * len(message.owners)
    if len(message.incarnation_slots) != len(message.incarnations):
        raise CodecError(resource, "incarnation_slots and incarnations differ in length")
    for position, incarnation in zip(message.incarnation_slots, message.incarnations, strict=True):
        if position >= len(incarnations):
            raise CodecError(resource, f"incarnation slot {position} is beyond the owners")
        incarnations[position] = incarnation
    flat = [Owner(node, life) for node, life in zip(message.owners, incarnations, strict=True)]
    owners, start = [], 0
    for count in counts:
        owners.append(tuple(flat[start : start + count]))
        start += count
    return owners


def _needs_extra(bucket: Bucket) -> bool:
    return bucket.stage is not Stage.OLD or bool(bucket.pending) or bool(bucket.read_replicas)


def _extra(bucket: Bucket, slot: int) -> map_pb2.BucketExtra:
    return map_pb2.BucketExtra(
        slot=slot,
        stage=map_pb2.Stage.ValueType(bucket.stage),
        pending=_owner_messages(bucket.pending),
        read_replicas=_owner_messages(bucket.read_replicas),
    )


_Extra = tuple[Stage, tuple[Owner, ...], tuple[Owner, ...]]


def _take_extras(message: map_pb2.BucketRange, resource: str) -> dict[int, _Extra]:
    extras: dict[int, _Extra] = {}
    for extra in message.extras:
        if extra.slot >= message.count or extra.slot in extras:
            raise CodecError(
                resource, f"extra for slot {extra.slot} is beyond the range or repeated"
            )
        extras[extra.slot] = (
            _stage(extra.stage, resource),
            _owner_values(extra.pending, resource),
            _owner_values(extra.read_replicas, resource),
        )
    return extras


# --- one bucket's entry -------------------------------------------------------------------------


def encode_entry(keyspace: str, bucket: Bucket, nodes: Mapping[int, Node]) -> bytes:
    """BucketEntry bytes: the bucket and those of `nodes` (by number) that it names."""
    named = {owner.node for owner in (*bucket.owners, *bucket.pending, *bucket.read_replicas)}
    missing = named - nodes.keys()
    if missing:
        detail = f"names nodes {sorted(missing)}, which are not among the nodes given"
        raise CodecError(_entry_name(keyspace, bucket.id), detail)
    return map_pb2.BucketEntry(
        keyspace=keyspace,
        bucket=bucket.id,
        epoch=bucket.epoch,
        stage=map_pb2.Stage.ValueType(bucket.stage),
        owners=_owner_messages(bucket.owners),
        pending=_owner_messages(bucket.pending),
        read_replicas=_owner_messages(bucket.read_replicas),
        nodes=[_node_message(nodes[number]) for number in sorted(named)],
    ).SerializeToString()


def decode_entry(raw: bytes) -> MapEntry:
    """The bucket's entry that a replica sent along with a refusal. Raises CodecError."""
    entry = _parse(map_pb2.BucketEntry, raw, "bucket entry")
    resource = _entry_name(entry.keyspace, entry.bucket)
    bucket = Bucket(
        id=entry.bucket,
        epoch=entry.epoch,
        owners=_owner_values(entry.owners, resource),
        stage=_stage(entry.stage, resource),
        pending=_owner_values(entry.pending, resource),
        read_replicas=_owner_values(entry.read_replicas, resource),
    )
    nodes = tuple(_node_value(node, resource) for node in entry.nodes)
    named = {owner.node for owner in (*bucket.owners, *bucket.pending, *bucket.read_replicas)}
    if not entry.keyspace or not bucket.owners or named - {node.number for node in nodes}:
        raise CodecError(resource, "keyspace, owners or the nodes they name are missing")
    return MapEntry(entry.keyspace, bucket, nodes)


def _entry_name(keyspace: str, bucket: int) -> str:
    return f"entry/{keyspace}/{bucket}"


# --- pieces -------------------------------------------------------------------------------------


def _parse(kind: type[_MessageT], raw: bytes, resource: str) -> _MessageT:
    try:
        message = kind()
        message.MergeFromString(raw)
    except DecodeError:
        raise CodecError(resource, f"{len(raw)} bytes are not a {kind.__name__}") from None
    return message


def _stage(number: int, resource: str) -> Stage:
    try:
        return Stage(number)
    except ValueError:
        raise CodecError(resource, f"stage {number} is unknown") from None


def _owner_messages(owners: tuple[Owner, ...]) -> list[map_pb2.OwnerEntry]:
    return [map_pb2.OwnerEntry(node=owner.node, incarnation=owner.incarnation) for owner in owners]


def _owner_values(entries: Sequence[map_pb2.OwnerEntry], resource: str) -> tuple[Owner, ...]:
    if len(entries) > MAX_OWNERS:
        raise CodecError(
            resource, f"{len(entries)} owners of one bucket, the bound is {MAX_OWNERS}"
        )
    return tuple(Owner(entry.node, entry.incarnation) for entry in entries)
