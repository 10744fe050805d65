"""What a consistency level needs of a bucket's owners, as groups of a quorum.

Slots number the owners first, then the pending owners of a bucket in a move; a node that is in both
has one slot. Which set a stage needs for writes and for reads is the table of a move's four stages;
it may only be changed together with its proof.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from buckets.bucket_map import Bucket, Consistency, Owner, Stage
from replicas.quorum import Group, Needs, majority

READ_LEVELS: tuple[Consistency, ...] = (
    Consistency.ONE,
    Consistency.LOCAL_ONE,
    Consistency.QUORUM,
    Consistency.LOCAL_QUORUM,
    Consistency.EACH_QUORUM,
    Consistency.ALL,
)
WRITE_LEVELS = (Consistency.ANY, *READ_LEVELS)
# Above these an answer is given only once a majority holds it.
SETTLING_LEVELS = frozenset({Consistency.QUORUM, Consistency.EACH_QUORUM, Consistency.ALL})

# stage -> (write needs old, write needs new, read needs old, read needs new)
_SETS_OF_STAGE = {
    Stage.OLD: (True, False, True, False),
    Stage.WRITE_BOTH_READ_OLD: (True, True, True, False),
    Stage.WRITE_BOTH_READ_NEW: (True, True, False, True),
    Stage.NEW: (False, True, False, True),
}


@dataclass(frozen=True, slots=True)
class Members:
    """The slots of one bucket: who they are, their zones, and the old and the new set as masks."""

    slots: tuple[Owner, ...]
    zones: tuple[str, ...]
    old: int
    new: int
    stage: Stage

    @classmethod
    def of(cls, bucket: Bucket, zone_of: Sequence[str] | dict[int, str]) -> "Members":
        """Number the owners of `bucket`; `zone_of` gives a node number's zone."""
        slots = tuple(dict.fromkeys(bucket.owners + bucket.pending))
        old = _mask(slots, bucket.owners)
        new = _mask(slots, bucket.pending) if bucket.pending else old
        return cls(slots, tuple(zone_of[owner.node] for owner in slots), old, new, bucket.stage)

    def write_sets(self) -> list[int]:
        """Masks of the sets that a write must satisfy, each by itself."""
        old, new, _, _ = _SETS_OF_STAGE[self.stage]
        return _chosen(self, old, new)

    def read_sets(self) -> list[int]:
        """Masks of the sets that a read must satisfy."""
        _, _, old, new = _SETS_OF_STAGE[self.stage]
        return _chosen(self, old, new)

    def in_zone(self, members: int, zone: str) -> int:
        """The part of the mask `members` that stands in `zone`."""
        mask = 0
        for slot, other in enumerate(self.zones):
            if other == zone:
                mask |= 1 << slot
        return mask & members


def _mask(slots: tuple[Owner, ...], owners: tuple[Owner, ...]) -> int:
    return sum(1 << slots.index(owner) for owner in set(owners))


def _chosen(members: Members, old: bool, new: bool) -> list[int]:
    sets = ([members.old] if old else []) + ([members.new] if new else [])
    return list(dict.fromkeys(sets))


def needs(members: Members, sets: list[int], level: Consistency, zone: str) -> Needs | None:
    """The groups that `level` asks of each of `sets`; None when a LOCAL level has nobody in `zone`.

    A LOCAL level without owners in the zone is an error, never vacuously reached.
    """
    groups: list[Group] = []
    for owners in sets:
        if level in (Consistency.LOCAL_ONE, Consistency.LOCAL_QUORUM):
            owners = members.in_zone(owners, zone)
            if not owners:
                return None
        groups += _groups(members, owners, level)
    return tuple(dict.fromkeys(groups))


def _groups(members: Members, owners: int, level: Consistency) -> list[Group]:
    count = owners.bit_count()
    # ANY without any owner is met by a durable hint instead: not by this count, but in write.py.
    if level in (Consistency.ANY, Consistency.ONE, Consistency.LOCAL_ONE):
        return [Group(owners, 1)]
    if level in (Consistency.QUORUM, Consistency.LOCAL_QUORUM):
        return [Group(owners, majority(count))]
    if level is Consistency.ALL:
        return [Group(owners, count)]
    if level is Consistency.EACH_QUORUM:
        parts = [members.in_zone(owners, zone) for zone in sorted(set(members.zones))]
        return [Group(part, majority(part.bit_count())) for part in parts if part]
    raise ValueError(f"{level!r} is not a level that counts owners")
