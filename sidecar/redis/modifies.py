"""Commands that read before they write: served in linearizable keyspaces, refused in others."""

from collections.abc import Callable

from replicas.changes import Change
from replicas.record import MAX_TIME_MS
from sidecar.core.register_op import Modify
from sidecar.redis import changes, reads, replies
from sidecar.redis.expiry import EXPIRIES, Expiry, deadline_ms
from sidecar.redis.numbers import MAX_INT64, MIN_INT64, parse_integer
from sidecar.redis.refusals import refuse_reading_write
from sidecar.redis.session import Session

_CONDITIONS: dict[bytes, Callable[[int, int], bool]] = {
    b"NX": lambda old, _: not old,
    b"XX": lambda old, _: bool(old),
    b"GT": lambda old, new: 0 < old < new,
    b"LT": lambda old, new: not old or new < old,
}
_UNITS = {b"EXPIRE": (1000, True), b"PEXPIRE": (1, True), b"EXPIREAT": (1000, False)}


def start(session: Session, args: list[bytes], change: Change) -> None:
    """Ask for `change` of the key args[1]; its result is the reply."""
    if not session.door.backend.is_linearizable(session.keyspace):
        refuse_reading_write(session, args)
        return
    op = Modify(
        session.keyspace,
        args[1],
        change,
        level=session.write_level,
        deadline=session.deadline,
        done=session.on_modified,
    )
    if session.muted:
        session.mute(op)
    session.pending.append(op)
    session.door.backend.modify(op)


def setnx(session: Session, args: list[bytes]) -> None:
    """SETNX key value."""
    start(session, args, changes.set_if_absent(args[2]))


def getset(session: Session, args: list[bytes]) -> None:
    """GETSET key value."""
    options = changes.SetOptions(get=True)
    start(session, args, changes.set_value(args[2], options, session.nil))


def getdel(session: Session, args: list[bytes]) -> None:
    """GETDEL key."""
    start(session, args, changes.get_and_delete(session.nil))


def append(session: Session, args: list[bytes]) -> None:
    """APPEND key value."""
    start(session, args, changes.append(args[2]))


def setrange(session: Session, args: list[bytes]) -> None:
    """SETRANGE key offset value."""
    offset = parse_integer(args[2])
    if offset is None:
        session.fail(replies.NOT_AN_INTEGER)
    elif offset < 0:
        session.fail(replies.OFFSET_OUT_OF_RANGE)
    else:
        start(session, args, changes.set_range(offset, args[3]))


def incr(session: Session, args: list[bytes]) -> None:
    """INCR key."""
    start(session, args, changes.increase(1))


def decr(session: Session, args: list[bytes]) -> None:
    """DECR key."""
    start(session, args, changes.increase(-1))


def incrby(session: Session, args: list[bytes]) -> None:
    """INCRBY key increment."""
    by = parse_integer(args[2])
    if by is None:
        session.fail(replies.NOT_AN_INTEGER)
    else:
        start(session, args, changes.increase(by))


def decrby(session: Session, args: list[bytes]) -> None:
    """DECRBY key decrement."""
    by = parse_integer(args[2])
    if by is None:
        session.fail(replies.NOT_AN_INTEGER)
    elif by == MIN_INT64:
        session.fail(replies.DECREMENT_OVERFLOW)
    else:
        start(session, args, changes.increase(-by))


def incrbyfloat(session: Session, args: list[bytes]) -> None:
    """INCRBYFLOAT key increment."""
    if changes.is_float(args[2]):
        start(session, args, changes.increase_float(args[2]))
    else:
        session.fail(replies.NOT_A_FLOAT)


def persist(session: Session, args: list[bytes]) -> None:
    """PERSIST key."""
    start(session, args, changes.persist())


def getex(session: Session, args: list[bytes]) -> None:
    """GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]."""
    if len(args) == 2:
        reads.get(session, args)
        return
    options = _getex_options(args)
    if options is None:
        session.fail(replies.SYNTAX)
        return
    now_ms = session.door.wall_ms()
    expiry, text = options
    if expiry is None:
        start(session, args, changes.get_and_expire(0, now_ms, session.nil))
        return
    amount = parse_integer(text)
    if amount is None:
        session.fail(replies.NOT_AN_INTEGER)
        return
    at_ms = deadline_ms(expiry, amount, now_ms)
    if at_ms is None:
        session.fail(replies.invalid_expire("getex"))
    else:
        start(session, args, changes.get_and_expire(at_ms, now_ms, session.nil))


def _getex_options(args: list[bytes]) -> tuple[Expiry | None, bytes] | None:
    """The expiry and its amount, no expiry: PERSIST; None: bad syntax."""
    words = [word.upper() for word in args[2:]]
    if all(word == b"PERSIST" for word in words):
        return None, b""
    expiry = EXPIRIES.get(words[0])
    # The same option again is fine, as in Redis: the last amount counts.
    if expiry is None or len(words) % 2 or any(word != words[0] for word in words[::2]):
        return None
    return expiry, args[-1]


def expire(session: Session, args: list[bytes]) -> None:
    """EXPIRE, PEXPIRE, EXPIREAT or PEXPIREAT key time [NX | XX | GT | LT]."""
    conditions = {option.upper() for option in args[3:]}
    unknown = next((option for option in args[3:] if option.upper() not in _CONDITIONS), None)
    if unknown is not None:
        session.fail(replies.unsupported_option(unknown))
    elif b"NX" in conditions and len(conditions) > 1:
        session.fail(replies.NX_ALONE)
    elif {b"GT", b"LT"} <= conditions:
        session.fail(replies.GT_OR_LT)
    else:
        _expire(session, args, [_CONDITIONS[condition] for condition in conditions])


def _expire(
    session: Session, args: list[bytes], conditions: list[Callable[[int, int], bool]]
) -> None:
    amount = parse_integer(args[2])
    if amount is None:
        session.fail(replies.NOT_AN_INTEGER)
        return
    now_ms = session.door.wall_ms()
    unit_ms, relative = _UNITS.get(args[0].upper(), (1, False))
    at_ms = amount * unit_ms
    fits = MIN_INT64 <= at_ms <= MAX_INT64
    at_ms += now_ms if relative else 0
    if not fits or at_ms > MAX_TIME_MS:
        session.fail(replies.invalid_expire(args[0].decode("ascii").lower()))
        return
    at_ms = max(at_ms, 1)  # before 1970: over, as the first millisecond of it is

    def allowed(old: int, new: int) -> bool:
        return all(holds(old, new) for holds in conditions)

    start(session, args, changes.expire(at_ms, now_ms, allowed))
