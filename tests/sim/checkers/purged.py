"""What a purge explains: a key whose tombstone is gone is found as one that was never written."""

from collections import defaultdict

from tests.sim.history import NOT_APPLIED, History, Op


class Purges:
    """The purges of one run."""

    def __init__(self, history: History) -> None:
        self._begun = history.purged
        self._ends: dict[bytes, list[bytes]] = defaultdict(list)  # by key: versions that end
        for op in history.ops:
            if op.write and op.outcome != NOT_APPLIED and (op.value is None or op.expires_at_ms):
                self._ends[op.key].append(op.version)
            if history.linearizable and op.write and op.expires_at_ms:
                self._ends[op.key].append(b"")  # its tombstone has a ballot that nobody was told

    def explain(self, read: Op, version: bytes) -> bool:
        """Whether `read` may have found nothing, although `version` was there before: a tombstone
        of that version or of a higher one may have gone before it ended.
        """
        if read.version.strip(b"\0") or read.found is not None or not self._begun:
            return False
        through = max((bound for step, bound in self._begun if step < read.ended), default=b"")
        return any(version <= (end or version) <= through for end in self._ends[read.key])
