"""What a map must hold before a sidecar adopts it, compared with the map that it has now.

A map that breaks a rule is not repaired: the resource that broke it is named, and the last good map
serves on. Epochs decide, not revisions: a control plane that
restarts from an old backup may count revisions anew, but it can not take back a bucket.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from buckets.bucket_map import RANGE_BUCKETS, Bucket, BucketMap, Keyspace, Owner
from buckets.codec import NODES_NAME, keyspace_name, range_name
from buckets.topology import Node, NodeState


class Rule(enum.StrEnum):
    """Stable names of what can be wrong with a map."""

    CLUSTER_CHANGED = "CLUSTER_CHANGED"
    EMPTY = "EMPTY"
    KEYSPACE_LOST = "KEYSPACE_LOST"
    BUCKET_COUNT_CHANGED = "BUCKET_COUNT_CHANGED"
    MODE_CHANGED = "MODE_CHANGED"
    BUCKETS_INCOMPLETE = "BUCKETS_INCOMPLETE"
    NO_OWNERS = "NO_OWNERS"
    OWNERS_REPEATED = "OWNERS_REPEATED"
    NODE_UNKNOWN = "NODE_UNKNOWN"
    ZONES_SHARED = "ZONES_SHARED"
    EPOCH_LOWER = "EPOCH_LOWER"
    EPOCH_REUSED = "EPOCH_REUSED"
    TOO_MUCH_CHANGED = "TOO_MUCH_CHANGED"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule. One that does not refuse the map is only worth showing."""

    rule: Rule
    resource: str
    detail: str
    refuses: bool = True

    def __str__(self) -> str:
        return f"{self.resource}: {self.detail} ({self.rule})"


@dataclass(frozen=True, slots=True)
class ChangeLimits:
    """How much may change at once: a share of all buckets known before, 1.0 for any."""

    max_changed_share: float = 1.0


NO_LIMITS = ChangeLimits()


def violations(
    new: BucketMap, current: BucketMap | None = None, limits: ChangeLimits = NO_LIMITS
) -> list[Violation]:
    """Every rule that `new` breaks, at most one per rule and resource. Empty: adopt it."""
    found: dict[tuple[Rule, str], Violation] = {}
    for violation in _all(new, current, limits):
        found.setdefault((violation.rule, violation.resource), violation)
    return list(found.values())


def _all(new: BucketMap, current: BucketMap | None, limits: ChangeLimits) -> Iterator[Violation]:
    if not new.nodes or not new.keyspaces:
        what = "nodes" if not new.nodes else "keyspaces"
        yield Violation(Rule.EMPTY, NODES_NAME, f"the map has no {what}")
    if current is not None:
        yield from _against_current(new, current, limits)
    zones = len({node.zone for node in new.nodes.values() if node.state is NodeState.ACTIVE})
    same_nodes = current is not None and current.nodes == new.nodes
    for name, keyspace in new.keyspaces.items():
        before = current.keyspaces.get(name) if current else None
        yield from _keyspace(keyspace, before, new.nodes, zones=zones, same_nodes=same_nodes)


def _against_current(
    new: BucketMap, current: BucketMap, limits: ChangeLimits
) -> Iterator[Violation]:
    if new.cluster != current.cluster:
        detail = f"cluster is {new.cluster!r}, this sidecar belongs to {current.cluster!r}"
        yield Violation(Rule.CLUSTER_CHANGED, NODES_NAME, detail)
    total = changed = 0
    for name, before in current.keyspaces.items():
        after = new.keyspaces.get(name)
        if after is None:
            yield Violation(
                Rule.KEYSPACE_LOST, keyspace_name(name), "keyspace is gone from the map"
            )
            continue
        total += len(before.buckets)
        pairs = zip(before.buckets, after.buckets, strict=False)
        changed += sum(old is not now and old.epoch != now.epoch for old, now in pairs)
    if changed > limits.max_changed_share * total:
        share = f"{limits.max_changed_share:.0%}"
        detail = f"{changed} of {total} buckets changed at once, the bound is {share}"
        yield Violation(Rule.TOO_MUCH_CHANGED, NODES_NAME, detail)


def _keyspace(
    keyspace: Keyspace,
    before: Keyspace | None,
    nodes: Mapping[int, Node],
    *,
    zones: int,
    same_nodes: bool,
) -> Iterator[Violation]:
    settings = keyspace.settings
    resource = keyspace_name(settings.name)
    if len(keyspace.buckets) != settings.buckets:
        detail = f"{len(keyspace.buckets)} buckets, its settings say {settings.buckets}"
        yield Violation(Rule.BUCKETS_INCOMPLETE, resource, detail)
    if before is not None and before.settings.mode is not settings.mode:
        detail = f"mode is {settings.mode.name}, was {before.settings.mode.name}; they never meet"
        yield Violation(Rule.MODE_CHANGED, resource, detail)
    if before is not None and len(before.buckets) != len(keyspace.buckets):
        detail = f"{len(keyspace.buckets)} buckets, had {len(before.buckets)}"
        yield Violation(Rule.BUCKET_COUNT_CHANGED, resource, detail)
        before = None
    copies_apart = min(settings.replication_factor, zones)
    for position, bucket in enumerate(keyspace.buckets):
        old = before.buckets[position] if before else None
        # Ranges that did not change keep their Bucket objects, so most are judged by this line.
        if old is bucket and same_nodes:
            continue
        name = range_name(settings.name, position // RANGE_BUCKETS)
        yield from _bucket(bucket, name, nodes)
        yield from _zones(bucket, old, name, nodes, copies_apart)
        if old is not None:
            yield from _epoch(bucket, old, name)


def _bucket(bucket: Bucket, resource: str, nodes: Mapping[int, Node]) -> Iterator[Violation]:
    if not bucket.owners:
        yield Violation(Rule.NO_OWNERS, resource, f"bucket {bucket.id} has no owners")
    for role, holders in (
        ("owners", bucket.owners),
        ("pending owners", bucket.pending),
        ("read replicas", bucket.read_replicas),
    ):
        numbers = [holder.node for holder in holders]
        if len(set(numbers)) != len(numbers):
            detail = f"bucket {bucket.id} names a node twice among its {role}: {numbers}"
            yield Violation(Rule.OWNERS_REPEATED, resource, detail)
        for number in numbers:
            if number not in nodes:
                detail = f"bucket {bucket.id} names node {number}, which is not in the node table"
                yield Violation(Rule.NODE_UNKNOWN, resource, detail)


def _zones(
    bucket: Bucket, old: Bucket | None, resource: str, nodes: Mapping[int, Node], copies_apart: int
) -> Iterator[Violation]:
    """Replicas that share a zone although there are zones enough.

    Refused only where it got worse: a bucket placed when there were fewer zones stays as it is
    until it is moved, and that must not keep anyone from adopting the map.
    """
    spread = _zone_count(bucket.owners, nodes)
    if spread >= min(copies_apart, len(bucket.owners)):
        return
    before = 0 if old is None else _zone_count(old.owners, nodes)
    detail = f"bucket {bucket.id} has {len(bucket.owners)} owners in {spread} zones"
    yield Violation(Rule.ZONES_SHARED, resource, detail, refuses=spread < before)


def _zone_count(owners: tuple[Owner, ...], nodes: Mapping[int, Node]) -> int:
    return len({nodes[owner.node].zone for owner in owners if owner.node in nodes})


def _epoch(bucket: Bucket, old: Bucket, resource: str) -> Iterator[Violation]:
    if bucket.epoch < old.epoch:
        detail = f"bucket {bucket.id} has epoch {bucket.epoch}, {old.epoch} is known already"
        yield Violation(Rule.EPOCH_LOWER, resource, detail)
    elif bucket.epoch == old.epoch and _who(bucket) != _who(old):
        detail = f"bucket {bucket.id} has other owners under the same epoch {bucket.epoch}"
        yield Violation(Rule.EPOCH_REUSED, resource, detail)


def _who(bucket: Bucket) -> tuple[object, ...]:
    # Order does not count: which owner a single read prefers is no matter of safety.
    return (bucket.stage, frozenset(bucket.owners), frozenset(bucket.pending))
