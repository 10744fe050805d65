"""An acknowledged write at QUORUM or above is seen by every later read at QUORUM or above.

Seen means: it, or a version above it, a tombstone too. "Not found" without any version, from
replicas that forgot, is the worst case of this one.
"""

from tests.sim.checkers.purged import Purges
from tests.sim.history import OK, History, Op


def no_lost_writes(history: History) -> list[str]:
    """Reads that missed a write which was acknowledged before they began."""
    found, purges = [], Purges(history)
    for key in sorted({op.key for op in history.ops}):
        ops = [op for op in history.ops if op.key == key and op.outcome == OK and op.strong]
        writes = sorted((op for op in ops if op.write), key=lambda op: op.ended)
        for read in (op for op in ops if not op.write):
            newest = _newest_before(writes, read)
            lost = newest is not None and read.version < newest.version
            if newest is not None and lost and not purges.explain(read, newest.version):
                found.append(f"{read} missed {newest}")
    return found


def _newest_before(writes: list[Op], read: Op) -> Op | None:
    before = (write for write in writes if write.ended < read.began)
    return max(before, key=lambda write: write.version, default=None)
