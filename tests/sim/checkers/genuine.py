"""A read is given what somebody wrote: the value that belongs to the version it names."""

from tests.sim.history import OK, History


def genuine(history: History) -> list[str]:
    """Reads of versions that nobody wrote, or of other values than were written."""
    written = {(op.key, op.version): op.value for op in history.ops if op.write and op.version}
    found = []
    for op in history.ops:
        if op.write or op.outcome != OK:
            continue
        if not op.version:
            if op.found is not None:
                found.append(f"{op}: a value without a version")
        elif (op.key, op.version) not in written:
            found.append(f"{op}: a version that nobody wrote")
        elif op.found is not None and op.found != written[op.key, op.version]:
            found.append(f"{op}: not what was written, {written[op.key, op.version]!r}")
    return found
