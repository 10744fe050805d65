"""A read at any level says "not found" only on the word of replicas that hold the bucket: trusted
lives, whose fences name them owners in the incarnation and at most the epoch of the reader's map.

"Not found" is an answer without a version; a tombstone is another matter.
"""

from collections import defaultdict

from buckets.bucket_map import Bucket, Owner, Stage
from replicas.fence import Role, decode_fence
from tests.sim.checkers.acknowledged_by import groups_of
from tests.sim.history import OK, Absent, History


def not_found_by_holders(history: History) -> list[str]:
    """Reads that found nothing although too few replicas that hold the bucket have said so."""
    absents = defaultdict(list)
    for absent in history.absents:
        absents[absent.asker, absent.key].append(absent)
    found = []
    for op in history.ops:
        if op.write or op.outcome != OK or op.version or op.bucket is None:
            continue
        holders = {
            Owner(absent.node, incarnation)
            for absent in absents[op.sidecar, op.key]
            if op.began < absent.step < op.ended
            and history.trusted.get(absent.life, op.ended) < op.ended
            and (incarnation := _incarnation(absent, op.bucket))
        }
        for members, need in groups_of(op, op.bucket, _readers(op.bucket), op.level):
            if len(members & holders) < need:
                said = sorted(owner.node for owner in members & holders)
                found.append(f"{op}: {said} hold the bucket and said so, {need} are needed")
    return found


def _readers(bucket: Bucket) -> set[Owner]:
    old = bucket.stage in (Stage.OLD, Stage.WRITE_BOTH_READ_OLD)
    return set(bucket.owners if old else bucket.pending)


def _incarnation(absent: Absent, bucket: Bucket) -> int:
    """That in which the replica holds the bucket; 0: it does not."""
    fence = decode_fence(absent.fence) if absent.fence is not None else None
    if fence is None or fence.role is not Role.OWNER or fence.epoch > bucket.epoch:
        return 0
    return fence.incarnation
