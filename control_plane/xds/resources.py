"""The map as xDS resources, each encoded once however many subscribers there are.

A resource's version is a hash of its content. Every instance gives equal content an equal version,
so a sidecar that moves to another instance, or waits for one to restart, resumes without being sent
anything; and content that differs never has an equal version, not even when a store was set up
anew and counts its revisions from the beginning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from xxhash import xxh3_64_hexdigest

from buckets.bucket_map import BucketMap
from buckets.codec import RESOURCE_TYPES, Resource, map_resources
from protos.dabbawala.v1 import discovery_pb2

# Field 2 (resources) of DeltaDiscoveryResponse, length-delimited.
_RESOURCE_TAG: Final = b"\x12"


@dataclass(frozen=True, slots=True)
class EncodedResource:
    """One resource, with the bytes that it takes in a response."""

    name: str
    version: str
    value: bytes
    framed: bytes  # tag, length and DiscoveryResource: responses are made by joining these


_NOTHING: Mapping[str, EncodedResource] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All resources of one revision, by type URL and name."""

    revision: int
    types: Mapping[str, Mapping[str, EncodedResource]] = field(default_factory=dict)

    def of(self, type_url: str) -> Mapping[str, EncodedResource]:
        """The resources of one type; none for a type that is not served."""
        return self.types.get(type_url, _NOTHING)


@dataclass(frozen=True, slots=True)
class TypeDiff:
    """What changed between two snapshots in one type, by name."""

    changed: tuple[str, ...]
    removed: tuple[str, ...]


def make_snapshot(bucket_map: BucketMap, previous: Snapshot | None = None) -> Snapshot:
    """Encodes a map; what did not change since `previous` is taken from there."""
    types: dict[str, dict[str, EncodedResource]] = {type_url: {} for type_url in RESOURCE_TYPES}
    for resource in map_resources(bucket_map):
        old = previous.of(resource.type_url).get(resource.name) if previous else None
        unchanged = old is not None and old.value == resource.value
        types[resource.type_url][resource.name] = old if old and unchanged else _encoded(resource)
    return Snapshot(bucket_map.revision, types)


def difference(old: Snapshot, new: Snapshot) -> dict[str, TypeDiff]:
    """What a subscriber that has `old` must be told to have `new`; only types that changed."""
    diffs: dict[str, TypeDiff] = {}
    for type_url in new.types.keys() | old.types.keys():
        before, after = old.of(type_url), new.of(type_url)
        changed = tuple(
            name
            for name, resource in after.items()
            if name not in before or before[name].version != resource.version
        )
        removed = tuple(name for name in before if name not in after)
        if changed or removed:
            diffs[type_url] = TypeDiff(changed, removed)
    return diffs


def _encoded(resource: Resource) -> EncodedResource:
    version = xxh3_64_hexdigest(resource.value)
    message = discovery_pb2.DiscoveryResource(name=resource.name, version=version)
    message.resource.type_url = resource.type_url
    message.resource.value = resource.value
    body = message.SerializeToString()
    framed = _RESOURCE_TAG + _varint(len(body)) + body
    return EncodedResource(resource.name, version, resource.value, framed)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
