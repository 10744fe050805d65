"""On a linearizable key versions follow real time: what ended before another began is below it.

The version-order check of linearizability: cheap on histories of any length, and it needs nobody to
understand what the operations do.
"""

from tests.sim.checkers.purged import Purges
from tests.sim.history import OK, History
from tests.sim.register_history import REFUSED, Call, RegisterOp, calls_on, keys_of


def version_order(history: History) -> list[str]:
    """Calls whose version is not above (of reads and refusals: below) that of an earlier one."""
    found, purges = [], Purges(history)
    for key in keys_of(history):
        calls = [call for call in calls_on(history, key) if call.end is not None]
        ending = sorted(calls, key=_ended)
        at, newest = 0, b""
        newest_call: Call | None = None
        for call in calls:
            while at < len(ending) and _ended(ending[at]) < call.began:
                if _version(ending[at]) > newest:
                    newest_call, newest = ending[at], _version(ending[at])
                at += 1
            version = _version(call)
            behind = newest_call is not None and version and _is_behind(call, version, newest)
            if behind and not (call.end and purges.explain(call.end, newest)):
                found.append(f"{call} is not after {newest_call}")
    return found


def _is_behind(call: Call, version: bytes, newest: bytes) -> bool:
    return version <= newest if _changes(call.end) else version < newest


def _changes(op: RegisterOp | None) -> bool:
    return op is not None and op.write and op.outcome == OK


def _ended(call: Call) -> int:
    return call.end.ended if call.end is not None else 0


def _version(call: Call) -> bytes:
    """What it saw or made; a version of zeros, of a key never written, is below all others.

    Nothing is said of an answer from memory, which does not tell what stands.
    """
    end = call.end
    if end is None or (end.outcome == REFUSED and not end.known):
        return b""
    return end.version or (bytes(16) if end.kind == "get" else b"")
