"""What was reported as NOT_APPLIED is never read by anyone, and stands nowhere at the end."""

from tests.sim.history import NOT_APPLIED, OK, History, short


def not_applied(history: History) -> list[str]:
    """Writes that were proved not to be applied, and were."""
    denied = {
        (op.key, op.version): op
        for op in history.ops
        if op.write and op.outcome == NOT_APPLIED and op.version and op.fresh
    }
    found = [
        f"{op} read {denied[op.key, op.version]}"
        for op in history.ops
        if not op.write and op.outcome == OK and (op.key, op.version) in denied
    ]
    found += [
        f"{op} is a repeat: an earlier attempt may have been applied"
        for op in history.ops
        if op.write and not op.fresh and op.outcome == NOT_APPLIED
    ]
    for node, records in sorted(history.stored.items()):
        for key, raw in sorted(records.items()):
            if (key, raw[8:24]) in denied:
                what = denied[key, raw[8:24]]
                found.append(f"n{node} holds {short(raw[8:24])} of {key!r}, {what}")
    return found
