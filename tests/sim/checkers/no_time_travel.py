"""Reads at QUORUM and above never go back: what one returned, every later one sees, or newer."""

from tests.sim.checkers.purged import Purges
from tests.sim.history import OK, History, Op


def no_time_travel(history: History) -> list[str]:
    """Reads older than one that had ended before they began."""
    found, purges = [], Purges(history)
    for key in sorted({op.key for op in history.ops}):
        reads = [
            op
            for op in history.ops
            if op.key == key and op.outcome == OK and op.strong and not op.write
        ]
        newest: Op | None = None
        waiting = sorted(reads, key=lambda op: op.ended)
        at = 0
        for read in sorted(reads, key=lambda op: op.began):
            while at < len(waiting) and waiting[at].ended < read.began:
                if newest is None or waiting[at].version > newest.version:
                    newest = waiting[at]
                at += 1
            back = newest is not None and read.version < newest.version
            if newest is not None and back and not purges.explain(read, newest.version):
                found.append(f"{read} went back behind {newest}")
    return found
