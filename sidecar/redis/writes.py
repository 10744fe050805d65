"""Commands that write without reading: SET (EX PX EXAT PXAT) SETEX PSETEX MSET DEL UNLINK."""

from collections.abc import Sequence

from sidecar.core.operation import Write
from sidecar.errors import Outcome
from sidecar.redis import changes, modifies, replies
from sidecar.redis.expiry import EXPIRIES, Expiry, deadline_ms
from sidecar.redis.numbers import parse_integer
from sidecar.redis.refusals import refuse_option
from sidecar.redis.session import Session
from sidecar.wire import resp_reply as resp

_LISTED_KEYS = 16  # in the error of a write of many keys


def set_value(session: Session, args: list[bytes]) -> None:
    """SET key value [EX s | PX ms | EXAT s | PXAT ms]."""
    if len(args) == 3:
        _put(session, args[1], args[2], 0)
        return
    options = _options(args)
    if options is None:
        session.fail(replies.SYNTAX)
        return
    expiry, amount, reading = options
    if reading:
        _set_reading(session, args, (expiry, amount), reading)
    else:
        _put_expiring(session, "set", args[1], args[2], (expiry, amount))


def _set_reading(
    session: Session,
    args: list[bytes],
    when: tuple[Expiry | None, bytes],
    reading: dict[bytes, bytes],
) -> None:
    if not session.door.backend.is_linearizable(session.keyspace):
        refuse_option(session, "SET", b" ".join(sorted(reading)).decode())
        return
    expires_at_ms = _expiry(session, "set", when)
    if expires_at_ms is None:
        return
    options = changes.SetOptions(
        only_absent=b"NX" in reading,
        only_present=b"XX" in reading,
        if_equal=reading.get(b"IFEQ"),
        get=b"GET" in reading,
        keep_ttl=b"KEEPTTL" in reading,
        expires_at_ms=expires_at_ms,
    )
    modifies.start(session, args, changes.set_value(args[2], options, session.nil))


def setex(session: Session, args: list[bytes]) -> None:
    """SETEX key seconds value."""
    _put_expiring(session, "setex", args[1], args[3], (Expiry.EX, args[2]))


def psetex(session: Session, args: list[bytes]) -> None:
    """PSETEX key milliseconds value."""
    _put_expiring(session, "psetex", args[1], args[3], (Expiry.PX, args[2]))


def mset(session: Session, args: list[bytes]) -> None:
    """MSET key value [key value ...]: single writes, gathered; not atomic together."""
    if len(args) % 2 == 0:
        session.fail(replies.wrong_arity("mset"))
        return
    _write_many(session, [(args[at], args[at + 1]) for at in range(1, len(args), 2)])


def delete(session: Session, args: list[bytes]) -> None:
    """DEL or UNLINK key [key ...]: counts the keys that an acknowledging replica reports."""
    if len(args) == 2:
        _start(session, args[1], None, 0)
    else:
        _write_many(session, [(key, None) for key in args[1:]])


def _options(args: list[bytes]) -> tuple[Expiry | None, bytes, dict[bytes, bytes]] | None:
    """The expiry, its amount, and what has to read first with its argument; None: bad syntax."""
    expiry: Expiry | None = None
    amount = b""
    reading: dict[bytes, bytes] = {}
    at = 3
    while at < len(args):
        option = args[at].upper()
        found = EXPIRIES.get(option)
        if found and expiry in (None, found) and at + 1 < len(args):  # the last amount counts
            expiry, amount = found, args[at + 1]
            at += 2
        elif option == b"IFEQ" and at + 1 < len(args):
            reading[option] = args[at + 1]
            at += 2
        elif option in (b"NX", b"XX", b"GET", b"KEEPTTL"):
            reading[option] = b""
            at += 1
        else:
            return None
    if len(reading.keys() & {b"NX", b"XX", b"IFEQ"}) > 1 or (expiry and b"KEEPTTL" in reading):
        return None
    return expiry, amount, reading


def _put_expiring(
    session: Session, name: str, key: bytes, value: bytes, when: tuple[Expiry | None, bytes]
) -> None:
    expires_at_ms = _expiry(session, name, when)
    if expires_at_ms is not None:
        _put(session, key, value, expires_at_ms)


def _expiry(session: Session, name: str, when: tuple[Expiry | None, bytes]) -> int | None:
    """Unix milliseconds, 0: never; None: it was refused."""
    expiry, text = when
    if expiry is None:
        return 0
    amount = parse_integer(text)
    if amount is None:
        session.fail(replies.NOT_AN_INTEGER)
        return None
    expires_at_ms = deadline_ms(expiry, amount, session.door.wall_ms())
    if expires_at_ms is None:
        session.fail(replies.invalid_expire(name))
    return expires_at_ms


def _put(session: Session, key: bytes, value: bytes, expires_at_ms: int) -> None:
    _start(session, key, value, expires_at_ms)


def _start(session: Session, key: bytes, value: bytes | None, expires_at_ms: int) -> None:
    op = Write(
        session.keyspace,
        key,
        value,
        level=session.write_level,
        deadline=session.deadline,
        done=session.on_write,
        expires_at_ms=expires_at_ms,
    )
    if session.muted:
        session.mute(op)
    session.pending.append(op)
    session.write(op)


def _write_many(session: Session, items: list[tuple[bytes, bytes | None]]) -> None:
    """All of them, unless one is wrong in itself: then none, and nothing is written halfway."""
    keyspace, level, deadline = session.keyspace, session.write_level, session.deadline
    check = session.door.backend.check_write
    checked = Write(keyspace, b"", None, level=level, deadline=deadline, done=_not_begun)
    for checked.key, checked.value in items:
        error = check(checked)
        if error is not None:
            note = f"none of the {len(items)} keys was written" if len(items) > 1 else ""
            session.reply(session.failure(error, note))
            return
    gather = session.begin_gather(_written if items[0][1] is not None else _deleted)

    def make(number: int) -> Write:
        key, value = items[number]
        return Write(keyspace, key, value, level=level, deadline=deadline, done=gather.done)

    session.start_gather(gather, len(items), make, session.write)


def _not_begun(op: Write) -> None:
    """Of a write that is only checked."""


def _written(session: Session, ops: Sequence[Write]) -> bytes:
    return _first_failure(session, ops) or resp.OK


def _deleted(session: Session, ops: Sequence[Write]) -> bytes:
    return _first_failure(session, ops) or resp.integer(sum(op.existed for op in ops))


def _first_failure(session: Session, ops: Sequence[Write]) -> bytes | None:
    """The first key's error, and the outcome of every key: some may well have been written."""
    first = next((op.error for op in ops if op.error is not None), None)
    if first is None:
        return None
    if len(ops) == 1:
        return session.failure(first)
    by_outcome: dict[str, list[str]] = {"OK": [], "UNKNOWN": [], "NOT_APPLIED": []}
    for op in ops:
        by_outcome[_outcome(op)].append(_named(op))
    listed = [
        f"{outcome}: {len(keys)} [{', '.join(keys[:_LISTED_KEYS])}"
        f"{', ...' if len(keys) > _LISTED_KEYS else ''}]"
        for outcome, keys in by_outcome.items()
        if keys
    ]
    return session.failure(first, f"of {len(ops)} keys {'; '.join(listed)}")


def _outcome(op: Write) -> str:
    if op.error is None:
        return "OK"
    return "UNKNOWN" if op.error.outcome is Outcome.UNKNOWN else "NOT_APPLIED"


def _named(op: Write) -> str:
    name = replies.shown_key(op.key)
    if op.error is not None and op.error.outcome is Outcome.UNKNOWN and op.error.version:
        return f"{name} version={op.error.version.hex()}"
    return name
