"""Maps for tests, of any size, with every node's address on loopback."""

import dataclasses
from collections.abc import Sequence

from buckets.bucket_map import Bucket, BucketMap, Keyspace, KeyspaceSettings, Owner
from buckets.planner import plan
from buckets.topology import Node


def make_nodes(count: int, zones: int = 3, first_port: int = 7001) -> list[Node]:
    """Nodes n1, n2, ... in zones a, b, c, ... in turn; each trusted in a server life of its own."""
    return [
        Node(
            number=index + 1,
            id=f"n{index + 1}",
            host="127.0.0.1",
            port=first_port + index,
            zone=chr(ord("a") + index % zones),
            run_id=(index + 1).to_bytes(20, "big"),
        )
        for index in range(count)
    ]


def make_keyspace(settings: KeyspaceSettings, nodes: Sequence[Node], epoch: int = 1) -> Keyspace:
    """All buckets placed by the planner, all of the same epoch."""
    incarnations = {node.number: node.incarnation for node in nodes}
    planned = plan(nodes, range(settings.buckets), settings.replication_factor)
    buckets = tuple(
        Bucket(bucket, epoch, tuple(Owner(number, incarnations[number]) for number in owners))
        for bucket, owners in planned.items()
    )
    return Keyspace(settings, buckets)


def make_map(
    *,
    nodes: int = 6,
    zones: int = 3,
    buckets: int = 128,
    keyspaces: Sequence[str] = ("default",),
    revision: int = 1,
    cluster: str = "test",
) -> BucketMap:
    """A whole map; every keyspace has the same number of buckets, in three copies."""
    table = make_nodes(nodes, zones)
    return BucketMap(
        cluster=cluster,
        revision=revision,
        nodes={node.number: node for node in table},
        keyspaces={
            name: make_keyspace(KeyspaceSettings(name, buckets), table) for name in keyspaces
        },
    )


def with_bucket(bucket_map: BucketMap, keyspace: str, bucket: Bucket) -> BucketMap:
    """The next revision of the map, with one bucket replaced."""
    old = bucket_map.keyspaces[keyspace]
    buckets = (*old.buckets[: bucket.id], bucket, *old.buckets[bucket.id + 1 :])
    return dataclasses.replace(
        bucket_map,
        revision=bucket_map.revision + 1,
        keyspaces={**bucket_map.keyspaces, keyspace: Keyspace(old.settings, buckets)},
    )


def move_bucket(bucket_map: BucketMap, keyspace: str, bucket_id: int) -> BucketMap:
    """The next revision, in which one bucket's last owner gave way to another node of its zone."""
    bucket = bucket_map.keyspaces[keyspace].buckets[bucket_id]
    numbers = {owner.node for owner in bucket.owners}
    zone = bucket_map.nodes[bucket.owners[-1].node].zone
    new = next(n for n in bucket_map.nodes.values() if n.zone == zone and n.number not in numbers)
    owners = (*bucket.owners[:-1], Owner(new.number, new.incarnation))
    changed = dataclasses.replace(bucket, owners=owners, epoch=bucket.epoch + 1)
    return with_bucket(bucket_map, keyspace, changed)
