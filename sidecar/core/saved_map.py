"""The map as a sidecar keeps it on disk and hands it to its worker processes.

SavedMap bytes behind a mark and a checksum. Bytes that are damaged, or of another cluster, raise
SavedMapError with a reason: whoever asked starts without them.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from xxhash import xxh3_64_digest

from buckets.bucket_map import BucketMap, Keyspace, KeyspaceSettings
from buckets.codec import (
    KEYSPACE_TYPE,
    NODE_TABLE_TYPE,
    NODES_NAME,
    RANGE_TYPE,
    RangeValue,
    decode_keyspace,
    decode_nodes,
    decode_range,
    join_ranges,
    map_resources,
)
from buckets.errors import CodecError
from buckets.topology import Node
from buckets.validate import violations
from protos.dabbawala.v1 import map_pb2

_MARK: Final = b"dabbamap1\n"
_CHECKSUM_BYTES: Final = 8
_NO_VERSIONS: Final[Mapping[str, str]] = {}


class SavedMapReason(enum.StrEnum):
    """Why saved bytes are not used."""

    DAMAGED = "DAMAGED"
    OTHER_CLUSTER = "OTHER_CLUSTER"
    INVALID = "INVALID"
    OLDER = "OLDER"


class SavedMapError(Exception):
    """Saved bytes that are not used; the text says why and what happens instead."""

    def __init__(self, reason: SavedMapReason, detail: str) -> None:
        super().__init__(f"saved map refused ({reason}): {detail}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class NodeTableValue:
    """A decoded node table."""

    cluster: str
    nodes: dict[int, Node]


@dataclass(frozen=True, slots=True)
class Piece:
    """One resource as it came, and what it says."""

    type_url: str
    name: str
    version: str
    value: bytes
    content: NodeTableValue | KeyspaceSettings | RangeValue


def decode_piece(type_url: str, name: str, version: str, value: bytes) -> Piece:
    """Checks and decodes one resource. Raises CodecError with its name."""
    content: NodeTableValue | KeyspaceSettings | RangeValue
    if type_url == NODE_TABLE_TYPE and name == NODES_NAME:
        content = NodeTableValue(*decode_nodes(value, name))
    elif type_url == KEYSPACE_TYPE:
        content = decode_keyspace(value, name)
    elif type_url == RANGE_TYPE:
        content = decode_range(value, name)
    else:
        raise CodecError(name, f"type {type_url!r} was not asked for")
    return Piece(type_url, name, version, value, content)


def encode_saved_map(bucket_map: BucketMap, versions: Mapping[str, str] = _NO_VERSIONS) -> bytes:
    """The map as bytes for disk or another process. `versions` of resources, by name, if known."""
    payload = map_pb2.SavedMap(
        revision=bucket_map.revision,
        cluster=bucket_map.cluster,
        resources=[
            map_pb2.SavedResource(
                name=resource.name,
                type_url=resource.type_url,
                version=versions.get(resource.name, ""),
                value=resource.value,
            )
            for resource in map_resources(bucket_map)
        ],
    ).SerializeToString()
    return _MARK + xxh3_64_digest(payload) + payload


def decode_saved_map(raw: bytes, cluster: str = "") -> BucketMap:
    """The map in saved bytes; `cluster`, when given, must be its own. Raises SavedMapError."""
    bucket_map, _ = decode_saved_pieces(raw, cluster)
    return bucket_map


def decode_saved_pieces(raw: bytes, cluster: str = "") -> tuple[BucketMap, list[Piece]]:
    """The map and the resources it came in. Raises SavedMapError."""
    saved = _checked(raw)
    if cluster and saved.cluster != cluster:
        detail = f"it is of cluster {saved.cluster!r}, this is {cluster!r}; use another state_dir"
        raise SavedMapError(SavedMapReason.OTHER_CLUSTER, detail)
    try:
        pieces = [decode_piece(r.type_url, r.name, r.version, r.value) for r in saved.resources]
        bucket_map = build_map(pieces, saved.cluster, saved.revision)
    except CodecError as error:
        raise SavedMapError(SavedMapReason.INVALID, f"{error}; waiting for a new map") from None
    refusing = [violation for violation in violations(bucket_map) if violation.refuses]
    if refusing:
        detail = f"{refusing[0]}; waiting for a new map"
        raise SavedMapError(SavedMapReason.INVALID, detail)
    return bucket_map, pieces


def build_map(pieces: list[Piece], cluster: str, revision: int) -> BucketMap:
    """A map from all its pieces. Raises CodecError naming a range that is missing."""
    nodes: dict[int, Node] = {}
    settings: list[KeyspaceSettings] = []
    ranges: dict[str, dict[int, RangeValue]] = {}
    for piece in pieces:
        if isinstance(piece.content, NodeTableValue):
            nodes = piece.content.nodes
        elif isinstance(piece.content, RangeValue):
            ranges.setdefault(piece.content.keyspace, {})[piece.content.index] = piece.content
        else:
            settings.append(piece.content)
    keyspaces: dict[str, Keyspace] = {
        each.name: join_ranges(each, ranges.get(each.name, {})) for each in settings
    }
    return BucketMap(cluster, revision, nodes, keyspaces)


def _checked(raw: bytes) -> map_pb2.SavedMap:
    start = len(_MARK) + _CHECKSUM_BYTES
    payload = raw[start:]
    if raw[: len(_MARK)] != _MARK or raw[len(_MARK) : start] != xxh3_64_digest(payload):
        detail = f"{len(raw)} bytes without the right mark and checksum; waiting for a new map"
        raise SavedMapError(SavedMapReason.DAMAGED, detail)
    saved = map_pb2.SavedMap()
    try:
        saved.MergeFromString(payload)
    except DecodeError:
        detail = "its bytes are not a SavedMap; waiting for a new map"
        raise SavedMapError(SavedMapReason.DAMAGED, detail) from None
    return saved
