"""Nothing deleted comes back: once the tombstones up to a version were dropped, no trusted owner
holds anything older than an acknowledged delete below it, whatever hints, write-backs and jobs
bring late.
"""

from collections import defaultdict

from replicas.record import decode_record
from tests.sim.history import OK, History, Op, short


def stay_deleted(history: History) -> list[str]:
    """What stands on owners although it was deleted, and the tombstone dropped everywhere."""
    through = max((bound for _, bound in history.purged), default=b"")
    deletes: dict[bytes, list[Op]] = defaultdict(list)
    for op in history.ops:
        ends = op.write and op.value is None and op.outcome == OK and op.strong
        if ends and op.version <= through:
            deletes[op.key].append(op)
    found = []
    for node in history.final_owners:
        for key, raw in sorted(history.stored.get(node, {}).items()):
            record, last = decode_record(raw), max(deletes[key], key=_version, default=None)
            if record is not None and last is not None and record.version < last.version:
                found.append(f"n{node} holds {short(record.version)} of {key!r}, gone by {last}")
    return found


def _version(op: Op) -> bytes:
    return op.version
