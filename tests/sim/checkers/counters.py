"""A counter that was only ever incremented ends between what was acknowledged and that plus what
is unknown; every answer in between is of that kind too.
"""

from tests.sim.history import OK, UNKNOWN, History
from tests.sim.register_history import COUNTER, Call, calls_on, keys_of


def counters(history: History) -> list[str]:
    """Counters that lost an increment or counted one twice."""
    found = []
    for key in keys_of(history, COUNTER):
        calls = calls_on(history, key)
        adds = [call for call in calls if call.first.kind == "add"]
        for read in (call for call in calls if call.first.kind == "get"):
            least, most = _bounds(adds, read)
            said = int(read.first.found or b"0")
            if not least <= said <= most:
                found.append(f"{read}: {said} is not within {least} and {most}")
    return found


def _bounds(adds: list[Call], read: Call) -> tuple[int, int]:
    """What was acknowledged before the read began; what may have happened before it ended."""
    before = [call for call in adds if call.outcome == OK and _ended(call) < read.began]
    may = [call for call in adds if call.outcome in (OK, UNKNOWN) and call.began < read.first.ended]
    return len(before), len(may)


def _ended(call: Call) -> int:
    return call.end.ended if call.end is not None else 0
