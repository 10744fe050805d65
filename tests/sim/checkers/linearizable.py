"""Every linearizable key has one order of its operations that explains all answers (Wing-Gong).

For keys with a short history: the search grows with what overlaps. Longer ones are judged by their
versions alone, see version_order.
"""

from collections.abc import Callable

from tests.sim.history import NOT_APPLIED, OK, History
from tests.sim.register_history import REFUSED, Call, RegisterOp, calls_on, keys_of
from tests.support.linearizable import Call as Placed
from tests.support.linearizable import order_of

MOST_CALLS = 80
MOST_UNKNOWN = 8

Value = bytes | None
Step = Callable[[Value], tuple[bool, Value]]


def linearizable(history: History) -> list[str]:
    """Keys whose answers no order explains."""
    found = []
    for key in keys_of(history):
        calls = [call for call in calls_on(history, key) if call.outcome != NOT_APPLIED]
        unknown = sum(call.end is None for call in calls)
        if len(calls) > MOST_CALLS or unknown > MOST_UNKNOWN:
            continue
        placed = [_placed(call) for call in calls]
        placed += [_expiry(call.first) for call in calls if call.first.expires_at_ms]
        if order_of(placed, None) is None:
            told = "; ".join(str(call) for call in calls)
            found.append(f"no order explains what happened to {key!r}: {told}")
    return found


def _placed(call: Call) -> Placed[Value]:
    ended = 2 * call.end.ended if call.end is not None else None
    return Placed(str(call), 2 * call.began, ended, _step(call))


def _expiry(op: RegisterOp) -> Placed[Value]:
    """A value that expires may do so at any time after it was written, or never."""

    def expire(state: Value) -> tuple[bool, Value]:
        return state == op.value, None

    return Placed(f"expiry of {op.value!r}", 2 * op.began + 1, None, expire)


def _step(call: Call) -> Step:
    op, end = call.first, call.end

    def step(state: Value) -> tuple[bool, Value]:
        if op.kind == "get":
            return end is not None and state == end.found, state
        applies, after = _applied(op, state)
        if end is None:
            return True, after
        if end.outcome == REFUSED:
            return not applies and (not end.known or end.found == state), state
        return end.outcome == OK and applies and _fits(end, state, after), after

    return step


def _applied(op: RegisterOp, state: Value) -> tuple[bool, Value]:
    """Whether the change applies to the state, and what it makes of it."""
    value = op.value or b""
    if op.kind == "compare":
        return state == op.expected, op.value if state == op.expected else state
    if op.kind == "add":
        return True, b"%d" % (int(state or b"0") + int(value))
    if op.kind == "append":
        return True, (state or b"") + value
    return True, op.value


def _fits(end: RegisterOp, before: Value, after: Value) -> bool:
    """Whether the answer, as far as it says anything, says this."""
    if end.known and end.found != after:
        return False
    if end.result is None:
        return True
    if end.kind == "delete":
        return end.result is (before is not None)
    said = len(after or b"") if end.kind == "append" else int(after or b"0")
    return end.kind not in ("append", "add") or end.result == said
