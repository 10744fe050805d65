"""A client that brings its session's token reads its own writes, and never goes back: every answer
is at least as new as what the session has written and read of that key.
"""

from tests.sim.checkers.purged import Purges
from tests.sim.history import OK, History, Op


def sessions_monotonic(history: History) -> list[str]:
    """Reads of sessions older than what their sessions had met."""
    found, purges = [], Purges(history)
    met: dict[tuple[str, bytes], Op] = {}
    ended = (op for op in history.ops if op.token and op.outcome == OK)
    for op in sorted(ended, key=lambda op: op.ended):  # a client asks one thing after another
        before = met.get((op.client, op.key))
        if before is None or op.version > before.version:
            met[op.client, op.key] = op
        elif (
            not op.write and op.version < before.version and not purges.explain(op, before.version)
        ):
            found.append(f"{op} went back behind {before} of its session")
    return found
