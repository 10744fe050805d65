"""A linearizable read is given what somebody wrote, and never what was reported as NOT_APPLIED or
refused by its own condition.
"""

from tests.sim.history import NOT_APPLIED, History
from tests.sim.register_history import REFUSED, REGISTER, calls_on, keys_of


def never_denied(history: History) -> list[str]:
    """Reads of registers whose value nobody may have written; repeats said not to be applied."""
    found = [
        f"{op} is a repeat: an earlier attempt may have been applied"
        for op in history.ops
        if op.write and not op.fresh and op.outcome == NOT_APPLIED
    ]
    for key in keys_of(history, REGISTER):
        calls = calls_on(history, key)
        writers = {call.first.value: call for call in calls if call.first.value is not None}
        for call in calls:
            seen = call.end.found if call.end is not None and call.end.known else None
            if seen is None:
                continue
            writer = writers.get(seen)
            if writer is None:
                found.append(f"{call}: a value that nobody wrote")
            elif writer.outcome in (NOT_APPLIED, REFUSED):
                found.append(f"{call} read {writer}")
    return found
