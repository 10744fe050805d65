"""A new keyspace: its first map, its fences on every owner, and only then its publication.

The steps are writes of their own, and any of them may be the last one of a leader; the next one
goes on from what the store and the replicas hold:

1. settings marked `creating`, and all ranges, in one transaction;
2. a fence with the bucket's map entry on all owners of all buckets (one that stands already and is
   equal is fine);
3. the mark is taken off, which publishes the keyspace.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from buckets.bucket_map import Bucket, Keyspace, KeyspaceSettings, Owner, Stage
from buckets.codec import encode_entry, encode_range, split_ranges
from buckets.documents import keyspace_to_json
from buckets.planner import plan
from buckets.topology import Node
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace, StoredNode
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import ABSENT, Op, Put
from replicas.client import FenceChange
from replicas.fence import Fence, Role
from replicas.layout import bucket_keys

FIRST_EPOCH: Final = 1


def first_keyspace(settings: KeyspaceSettings, nodes: Sequence[Node]) -> Keyspace:
    """The keyspace with its first owners. Raises NotEnoughNodes."""
    by_number = {node.number: node for node in nodes}
    owners = plan(nodes, range(settings.buckets), settings.replication_factor)
    buckets = tuple(
        Bucket(
            id=bucket,
            epoch=FIRST_EPOCH,
            owners=tuple(Owner(n, by_number[n].incarnation) for n in owners[bucket]),
        )
        for bucket in range(settings.buckets)
    )
    return Keyspace(settings, buckets)


def first_writes(paths: ClusterPaths, keyspace: Keyspace) -> list[Op]:
    """Step 1. 16,384 buckets of 7 copies are 345 KB: always within one transaction."""
    settings = keyspace.settings
    config = keyspace_to_json(settings, creating=True)
    ops: list[Op] = [Put(paths.keyspace_config(settings.name), config, ABSENT)]
    for value in split_ranges(keyspace):
        path = paths.bucket_range(settings.name, value.index)
        ops.append(Put(path, encode_range(value), ABSENT))
    return ops


def first_fences(state: ClusterState, stored: StoredKeyspace, node: Node) -> list[FenceChange]:
    """Step 2: what one node must hold before the keyspace is published."""
    name = stored.settings.name
    nodes = {number: known.node for number, known in state.by_number.items()}
    return [
        FenceChange(
            bucket_keys(name, bucket.id),
            Fence(bucket.epoch, Stage.OLD, Role.OWNER, owner.incarnation),
            encode_entry(name, bucket, nodes),
        )
        for bucket in stored.keyspace.buckets
        for owner in bucket.owners
        if owner.node == node.number
    ]


def publication(paths: ClusterPaths, stored: StoredKeyspace) -> list[Op]:
    """Step 3."""
    config = keyspace_to_json(stored.settings, creating=False)
    return [Put(paths.keyspace_config(stored.settings.name), config, stored.version)]


def owner_nodes(state: ClusterState, stored: StoredKeyspace) -> list[StoredNode]:
    """The nodes that own buckets of a keyspace, by number."""
    numbers = {owner.node for bucket in stored.keyspace.buckets for owner in bucket.owners}
    return [state.by_number[number] for number in sorted(numbers)]


def owners_zones(keyspace: Keyspace, nodes: Iterable[Node]) -> list[list[str]]:
    """For each bucket the zones of its owners."""
    zones = {node.number: node.zone for node in nodes}
    return [[zones[owner.node] for owner in bucket.owners] for bucket in keyspace.buckets]
