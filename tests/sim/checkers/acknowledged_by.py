"""OK only when the level's groups hold the version: in trusted lives, of the owners in the
incarnations of the map, under the epoch that the sidecar knew when it said so.
"""

from collections import defaultdict

from buckets.bucket_map import Bucket, Consistency, Owner, Stage
from tests.sim.history import OK, History, Op


def acknowledged_by(history: History) -> list[str]:
    """Writes that were answered with OK although too few had acknowledged them."""
    by_write = defaultdict(list)
    for ack in history.acks:
        by_write[ack.key, ack.version].append(ack)
    found = []
    for op in history.ops:
        if not op.write or op.outcome != OK or op.bucket is None:
            continue
        if op.level == Consistency.ANY and (op.key, op.version) in history.kept:
            continue
        holders = {
            Owner(ack.node, ack.incarnation)
            for ack in by_write[op.key, op.version]
            if ack.step < op.ended
            and ack.epoch == op.bucket.epoch
            and history.trusted.get(ack.life, op.ended) < op.ended
        }
        for members, need in groups(op, op.bucket, op.level):
            if len(members & holders) < need:
                had = sorted(owner.node for owner in members & holders)
                of = sorted(owner.node for owner in members)
                found.append(
                    f"{op} under epoch {op.bucket.epoch} {op.bucket.stage.name}: acknowledged by"
                    f" {had} of {of}, needs {need}"
                )
    return found


def groups(op: Op, bucket: Bucket, level: int) -> list[tuple[set[Owner], int]]:
    """Who must have acknowledged at a level: sets of owners, and how many of each."""
    old, new = set(bucket.owners), set(bucket.pending or bucket.owners)
    sets = {
        Stage.OLD: [old],
        Stage.WRITE_BOTH_READ_OLD: [old, new],
        Stage.WRITE_BOTH_READ_NEW: [old, new],
        Stage.NEW: [new],
    }[bucket.stage]
    return [group for owners in sets for group in groups_of(op, bucket, owners, level)]


def groups_of(
    op: Op, bucket: Bucket, owners: set[Owner], level: int
) -> list[tuple[set[Owner], int]]:
    """The same of one set of owners."""
    members = list(dict.fromkeys(bucket.owners + bucket.pending))
    zone = dict(zip(members, op.zones, strict=True))
    local = {owner for owner in owners if zone[owner] == op.zone}
    match Consistency(level):
        case Consistency.LOCAL_ONE:
            return [(local, 1)]
        case Consistency.QUORUM:
            return [(owners, len(owners) // 2 + 1)]
        case Consistency.LOCAL_QUORUM:
            return [(local, len(local) // 2 + 1)]
        case Consistency.ALL:
            return [(owners, len(owners))]
        case Consistency.EACH_QUORUM:
            zones = sorted({zone[owner] for owner in owners})
            parts = [{owner for owner in owners if zone[owner] == each} for each in zones]
            return [(part, len(part) // 2 + 1) for part in parts]
    return [(owners, 1)]
