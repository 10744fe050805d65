"""Nodes and keyspaces as the coordination store holds them: JSON that a person can read.

Field names are those of map.proto, enumerations are their names ("ACTIVE", "QUORUM"), `run_id` is
hexadecimal. A field that is missing takes its default, an unknown one is ignored, so that instances
of two releases can share a store.
"""

from enum import IntEnum
from typing import TypeVar

import msgspec

from buckets.bucket_map import Consistency, Durability, KeyspaceSettings, Mode
from buckets.codec import checked_node, checked_settings
from buckets.errors import CodecError
from buckets.topology import Node, NodeState

_EnumT = TypeVar("_EnumT", bound=IntEnum)
_DocumentT = TypeVar("_DocumentT", bound=msgspec.Struct)
_DEFAULTS = KeyspaceSettings(name="defaults")


class _NodeDocument(msgspec.Struct, frozen=True):
    number: int
    id: str
    host: str
    port: int
    zone: str
    rack: str = ""
    weight: int = 100
    incarnation: int = 1
    run_id: str = ""
    state: str = "ACTIVE"
    reason: str = ""


class _KeyspaceDocument(msgspec.Struct, frozen=True):
    name: str
    buckets: int
    replication_factor: int
    mode: str = "TUNABLE"
    read_consistency: str = "QUORUM"
    write_consistency: str = "QUORUM"
    durability: str = "MEMORY"
    redis_db: int = -1
    max_value_bytes: int = _DEFAULTS.max_value_bytes
    retention_ms: int = 0
    log_bytes_per_bucket: int = _DEFAULTS.log_bytes_per_bucket
    max_skew_ms: int = _DEFAULTS.max_skew_ms
    grace_ms: int = _DEFAULTS.grace_ms
    creating: bool = False


def node_to_json(node: Node) -> bytes:
    """The document of one node."""
    document = _NodeDocument(
        number=node.number,
        id=node.id,
        host=node.host,
        port=node.port,
        zone=node.zone,
        rack=node.rack,
        weight=node.weight,
        incarnation=node.incarnation,
        run_id=node.run_id.hex(),
        state=node.state.name,
        reason=node.reason,
    )
    return msgspec.json.encode(document)


def node_from_json(raw: bytes, resource: str) -> Node:
    """The node in a document; `resource` (the path it was read from) is named in a CodecError."""
    document = _decoded(raw, _NodeDocument, resource)
    try:
        run_id = bytes.fromhex(document.run_id)
    except ValueError:
        raise CodecError(resource, f"run_id {document.run_id!r} is not hexadecimal") from None
    node = Node(
        number=document.number,
        id=document.id,
        host=document.host,
        port=document.port,
        zone=document.zone,
        rack=document.rack,
        weight=document.weight,
        incarnation=document.incarnation,
        run_id=run_id,
        state=_named(NodeState, document.state, "state", resource),
        reason=document.reason,
    )
    return checked_node(node, resource)


def keyspace_to_json(settings: KeyspaceSettings, *, creating: bool = False) -> bytes:
    """The document of one keyspace; `creating` while its fences are not all made."""
    document = _KeyspaceDocument(
        name=settings.name,
        buckets=settings.buckets,
        replication_factor=settings.replication_factor,
        mode=settings.mode.name,
        read_consistency=settings.read_consistency.name,
        write_consistency=settings.write_consistency.name,
        durability=settings.durability.name,
        redis_db=settings.redis_db,
        max_value_bytes=settings.max_value_bytes,
        retention_ms=settings.retention_ms,
        log_bytes_per_bucket=settings.log_bytes_per_bucket,
        max_skew_ms=settings.max_skew_ms,
        grace_ms=settings.grace_ms,
        creating=creating,
    )
    return msgspec.json.encode(document)


def keyspace_from_json(raw: bytes, resource: str) -> tuple[KeyspaceSettings, bool]:
    """(settings, creating) of a document; `resource` (its path) is named in a CodecError."""
    document = _decoded(raw, _KeyspaceDocument, resource)
    settings = KeyspaceSettings(
        name=document.name,
        buckets=document.buckets,
        replication_factor=document.replication_factor,
        mode=_named(Mode, document.mode, "mode", resource),
        read_consistency=_named(
            Consistency, document.read_consistency, "read_consistency", resource
        ),
        write_consistency=_named(
            Consistency, document.write_consistency, "write_consistency", resource
        ),
        durability=_named(Durability, document.durability, "durability", resource),
        redis_db=document.redis_db,
        max_value_bytes=document.max_value_bytes,
        retention_ms=document.retention_ms,
        log_bytes_per_bucket=document.log_bytes_per_bucket,
        max_skew_ms=document.max_skew_ms,
        grace_ms=document.grace_ms,
    )
    return checked_settings(settings, resource), document.creating


def _decoded(raw: bytes, kind: type[_DocumentT], resource: str) -> _DocumentT:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(resource, f"is not the JSON it should be: {error}") from None


def _named(kind: type[_EnumT], name: str, field: str, resource: str) -> _EnumT:
    try:
        return kind[name]
    except KeyError:
        known = ", ".join(member.name for member in kind)
        raise CodecError(resource, f"{field} {name!r} must be one of {known}") from None
