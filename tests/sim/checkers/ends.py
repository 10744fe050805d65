"""Every operation ends exactly once, by its deadline and a tick.

A sidecar that was frozen over a deadline has until it wakes up; one that was killed never answers,
and its clients know by the connection.
"""

from tests.sim.history import PENDING, History


def ends(history: History) -> list[str]:
    """Operations that did not end, ended twice, or too late."""
    found = []
    for op in history.ops:
        if op.orphaned or (not op.ends and op.due_s >= history.over_s):
            continue
        if op.ends != 1 or op.outcome == PENDING:
            found.append(f"{op} ended {op.ends} times")
        elif op.ended_s > op.due_s:
            found.append(f"{op} was due at {op.due_s:.3f} s and ended at {op.ended_s:.3f} s")
    return found
