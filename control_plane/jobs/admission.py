"""Taking back a replica that lost data: what is to be done next. Pure.

A new life is a new epoch. For each bucket, in this order:

1. publish an epoch without the replica: it is named as *pending*, in its next incarnation, so it
   takes writes and counts in nothing;
2. raise the fences of a majority of the owners, not counting it, to that epoch: from now on no
   acknowledgement of its former life can be completed by a late one of theirs;
3. give it a fence of the next incarnation, joining, with the highest bounds of that majority;
4. repair it from that majority, until digests are equal; in a linearizable keyspace its fence has
   a ballot floor, and that majority passes every key through an identity change;
5. publish another epoch in which it owns again, and raise all fences to it.

Once that is done for all of its buckets, its new life (run_id, incarnation) is published, and only
then it counts. Which step a bucket is at is read from the map alone, so anyone may go on.
"""

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from buckets.bucket_map import RANGE_BUCKETS, Bucket, Owner, Stage
from buckets.codec import RangeValue
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace, StoredRange
from control_plane.controllers.records import (
    FENCES_MISSING,
    FLUSHED,
    RESTARTED_EMPTY,
    RESTARTED_NOT_DURABLE,
    NodeRecord,
)
from control_plane.controllers.sight import Sight, other_owner
from replicas.quorum import majority

# What a leader repairs by itself; the others need somebody to have looked first.
AUTOMATIC: Final = frozenset({RESTARTED_EMPTY, RESTARTED_NOT_DURABLE, FLUSHED, FENCES_MISSING})


class Standing(enum.Enum):
    """Where a bucket is on the way of its lost replica back."""

    LOST = 1  # the map names a former life, as an owner or as pending
    JOINING = 2  # published without it; it is pending in its next incarnation
    BACK = 3  # published with its next incarnation


@dataclass(frozen=True, slots=True)
class Target:
    """The life that a node is to be admitted in."""

    number: int
    node_id: str
    run_id: bytes
    incarnation: int

    @property
    def owner(self) -> Owner:
        """How the map will name it."""
        return Owner(self.number, self.incarnation)


@dataclass(frozen=True, slots=True)
class Unit:
    """The buckets of one range that are worked on together, all at the same standing."""

    keyspace: str
    index: int
    standing: Standing
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outlook:
    """How far a node's admission is: what to do next, and what is in the way, in words."""

    unit: Unit | None
    blocked: tuple[str, ...]
    back: int
    total: int


def may_begin(record: NodeRecord, sight: Sight | None, mark: str) -> bool:
    """Whether a node is one that the leader takes back by itself, as it is seen now."""
    return record.cause in AUTOMATIC and may_be_asked(record, sight, mark)


def may_be_asked(record: NodeRecord, sight: Sight | None, mark: str) -> bool:
    """Whether an untrusted node's server can be given a new life at all."""
    return (
        not record.trusted
        and sight is not None
        and sight.reachable
        and sight.address == record.node.address
        and sight.role == "master"
        and sight.eviction_policy == "noeviction"
        and not other_owner(record, sight, mark)
    )


def trusted_nodes(state: ClusterState, sights: Mapping[str, Sight]) -> frozenset[int]:
    """The nodes that may be repaired from: up, trusted, in the life that is trusted."""
    found = set()
    for node_id, stored in state.nodes.items():
        sight = sights.get(node_id)
        alive = sight is not None and sight.reachable and sight.run_id == stored.node.run_id
        if stored.record.trusted and alive:
            found.add(stored.node.number)
    return frozenset(found)


def next_incarnation(state: ClusterState, number: int) -> int:
    """One above all that the map has ever named for a node."""
    known = [state.by_number[number].node.incarnation]
    known += [
        owner.incarnation
        for _, bucket in _concerned(state, number)
        for owner in (*bucket.owners, *bucket.pending)
        if owner.node == number
    ]
    return max(known) + 1


def outlook(
    state: ClusterState,
    target: Target,
    trusted: Collection[int],
    *,
    accept_loss: bool = False,
    joining_only: bool = False,
) -> Outlook:
    """What to do next for a node: the first range with work, lost buckets before joining ones."""
    back = total = 0
    blocked: list[str] = []
    todo: dict[tuple[str, int, Standing], list[int]] = {}
    for stored, bucket in _concerned(state, target.number):
        total += 1
        at = standing(bucket, target)
        if at is Standing.BACK or (joining_only and at is Standing.LOST):
            back += 1
            continue
        why = obstacle(stored, bucket, target, trusted, accept_loss=accept_loss)
        if why:
            blocked.append(why)
            continue
        place = (stored.settings.name, bucket.id // RANGE_BUCKETS, at)
        todo.setdefault(place, []).append(bucket.id)
    first = min(todo, key=lambda place: (place[0], place[1], place[2].value), default=None)
    unit = Unit(*first, tuple(todo[first])) if first is not None else None
    return Outlook(unit, tuple(blocked), back, total)


def joins(state: ClusterState, number: int) -> bool:
    """Whether a node is named as pending anywhere."""
    return any(
        owner.node == number for _, bucket in _concerned(state, number) for owner in bucket.pending
    )


def standing(bucket: Bucket, target: Target) -> Standing:
    """Where one bucket is."""
    if target.owner in bucket.owners:
        return Standing.BACK
    owns = any(owner.node == target.number for owner in bucket.owners)
    joins = target.owner in bucket.pending and not owns
    return Standing.JOINING if joins else Standing.LOST


def obstacle(
    stored: StoredKeyspace,
    bucket: Bucket,
    target: Target,
    trusted: Collection[int],
    *,
    accept_loss: bool,
) -> str:
    """Why a bucket can not be worked on now, in words; "": it can."""
    name = f"bucket {bucket.id} of {stored.settings.name}"
    if bucket.stage is not Stage.OLD or any(o.node != target.number for o in bucket.pending):
        return f"{name} is in another change of owners"
    left = sum(owner.node in trusted for owner in others(bucket, target))
    if left < needed(bucket, target) and not accept_loss:
        return (
            f"{name} has no majority left beside it ({left} of {needed(bucket, target)}); start"
            f" the others, or give up what is lost: dabba node recover {target.node_id}"
            " --accept-loss"
        )
    return ""


def others(bucket: Bucket, target: Target) -> tuple[Owner, ...]:
    """The owners that are not the lost one."""
    return tuple(owner for owner in bucket.owners if owner.node != target.number)


def needed(bucket: Bucket, target: Target) -> int:
    """How many of the others are a majority of all owners, the lost one among them."""
    return majority(len(others(bucket, target)) + 1)


def without(bucket: Bucket, target: Target) -> Bucket:
    """The epoch in which it does not own. A sole owner stays one, in its next incarnation."""
    left = others(bucket, target)
    if not left:
        return replace(bucket, epoch=bucket.epoch + 1, owners=(target.owner,), pending=())
    return replace(bucket, epoch=bucket.epoch + 1, owners=left, pending=(target.owner,))


def with_again(bucket: Bucket, target: Target) -> Bucket:
    """The epoch in which it owns again."""
    pending = tuple(owner for owner in bucket.pending if owner.node != target.number)
    owners = (*others(bucket, target), target.owner)
    return replace(bucket, epoch=bucket.epoch + 1, owners=owners, pending=pending)


def changed_range(stored: StoredRange, changed: Iterable[Bucket]) -> RangeValue:
    """A range with some of its buckets replaced."""
    by_id = {bucket.id: bucket for bucket in changed}
    value = stored.value
    return replace(value, buckets=tuple(by_id.get(b.id, b) for b in value.buckets))


def _concerned(state: ClusterState, number: int) -> Iterator[tuple[StoredKeyspace, Bucket]]:
    """Published buckets that name a node as an owner or as pending."""
    for _, stored in sorted(state.keyspaces.items()):
        if stored.creating:
            continue
        for bucket in stored.keyspace.buckets:
            if any(owner.node == number for owner in (*bucket.owners, *bucket.pending)):
                yield stored, bucket


def concerned(state: ClusterState, number: int) -> list[tuple[StoredKeyspace, Bucket]]:
    """Every published bucket that a node owns or joins."""
    return list(_concerned(state, number))
