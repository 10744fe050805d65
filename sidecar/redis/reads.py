"""Commands that read: GET MGET STRLEN GETRANGE EXISTS TYPE TTL PTTL EXPIRETIME PEXPIRETIME."""

from collections.abc import Sequence
from functools import partial

from sidecar.core.operation import Read
from sidecar.redis import replies
from sidecar.redis.numbers import parse_integer
from sidecar.redis.session import GatherEncoder, ReadEncoder, Session
from sidecar.wire import resp_reply as resp


def get(session: Session, args: list[bytes]) -> None:
    """GET key, by itself: usually the session reads it together with its neighbours."""
    session.reading.add(args[1])
    session.read_value(args[1])


def strlen(session: Session, args: list[bytes]) -> None:
    """STRLEN key."""
    _derive(session, args[1], _length)


def type_of(session: Session, args: list[bytes]) -> None:
    """TYPE key: all that is stored is strings."""
    _derive(session, args[1], _type)


def ttl(session: Session, args: list[bytes]) -> None:
    """TTL key: seconds, rounded; -1: never expires; -2: no such key."""
    _derive(session, args[1], _ttl)


def pttl(session: Session, args: list[bytes]) -> None:
    """PTTL key: milliseconds."""
    _derive(session, args[1], _pttl)


def expiretime(session: Session, args: list[bytes]) -> None:
    """EXPIRETIME key: Unix seconds, rounded; -1 and -2 as in TTL."""
    _derive(session, args[1], _expiretime)


def pexpiretime(session: Session, args: list[bytes]) -> None:
    """PEXPIRETIME key: Unix milliseconds."""
    _derive(session, args[1], _pexpiretime)


def getrange(session: Session, args: list[bytes]) -> None:
    """GETRANGE key start end, both inclusive, negative: from the end."""
    start, end = parse_integer(args[2]), parse_integer(args[3])
    if start is None or end is None:
        session.fail(replies.NOT_AN_INTEGER)
        return
    _derive(session, args[1], partial(_range, start=start, end=end))


def mget(session: Session, args: list[bytes]) -> None:
    """MGET key [key ...]: single reads, gathered."""
    _read_many(session, args, _values)


def exists(session: Session, args: list[bytes]) -> None:
    """EXISTS key [key ...]: a key named twice counts twice."""
    _read_many(session, args, _count_found)


def _derive(session: Session, key: bytes, encode: ReadEncoder) -> None:
    op = Read(
        session.keyspace,
        key,
        level=session.level,
        deadline=session.deadline,
        done=session.on_derived,
        tag=encode,
    )
    if session.muted:
        session.mute(op)
    session.reading.add(key)
    session.pending.append(op)
    session.read(op)


def _read_many(session: Session, args: list[bytes], encode: GatherEncoder) -> None:
    keyspace, level, deadline = session.keyspace, session.level, session.deadline
    keys = args[1:]
    check = session.door.backend.check_read
    for key in (min(keys, key=len), max(keys, key=len)):  # it judges nothing else of a key
        error = check(Read(keyspace, key, level=level, deadline=deadline, done=_not_begun))
        if error is not None:
            note = f"none of the {len(keys)} keys was read" if len(keys) > 1 else ""
            session.reply(session.failure(error, note))
            return
    gather = session.begin_gather(encode)
    gather.keeps_values = encode is _values

    def make(number: int) -> Read:
        return Read(keyspace, keys[number], level=level, deadline=deadline, done=gather.done)

    session.start_gather(gather, len(keys), make, session.read)
    if not gather.half_begun:  # else all that follows waits anyway
        session.reading.update(keys)


def _not_begun(op: Read) -> None:
    """Of a read that is only checked."""


def _length(_session: Session, op: Read) -> bytes:
    return resp.integer(len(op.record.value)) if op.record is not None else resp.ZERO


def _type(_session: Session, op: Read) -> bytes:
    return b"+string\r\n" if op.record is not None else b"+none\r\n"


def _pttl(session: Session, op: Read) -> bytes:
    return resp.integer(_left_ms(session, op))


def _ttl(session: Session, op: Read) -> bytes:
    left_ms = _left_ms(session, op)
    return resp.integer(left_ms if left_ms < 0 else (left_ms + 500) // 1000)


def _expiretime(_session: Session, op: Read) -> bytes:
    at_ms = _expires_at_ms(op)
    return resp.integer(at_ms if at_ms < 0 else (at_ms + 500) // 1000)


def _pexpiretime(_session: Session, op: Read) -> bytes:
    return resp.integer(_expires_at_ms(op))


def _left_ms(session: Session, op: Read) -> int:
    at_ms = _expires_at_ms(op)
    return at_ms if at_ms < 0 else max(0, at_ms - session.door.wall_ms())


def _expires_at_ms(op: Read) -> int:
    """Unix milliseconds; -1: never; -2: no such key."""
    if op.record is None:
        return -2
    return op.record.expires_at_ms or -1


def _range(_session: Session, op: Read, *, start: int, end: int) -> bytes:
    value = op.record.value if op.record is not None else b""
    size = len(value)
    if start < 0 and end < 0 and start > end:
        return resp.EMPTY_BULK
    first = max(0, start + size if start < 0 else start)
    last = max(0, end + size if end < 0 else end)
    return resp.bulk(value[first : last + 1])


def _values(session: Session, ops: Sequence[Read]) -> bytes:
    failed = _first_failure(session, ops)
    if failed is not None:
        return failed
    nil = session.nil
    return resp.array_of(
        [resp.bulk(op.record.value) if op.record is not None else nil for op in ops]
    )


def _count_found(session: Session, ops: Sequence[Read]) -> bytes:
    failed = _first_failure(session, ops)
    if failed is not None:
        return failed
    return resp.integer(sum(op.record is not None for op in ops))


def _first_failure(session: Session, ops: Sequence[Read]) -> bytes | None:
    """A read of many keys is answered whole or not at all."""
    failures = [(op.key, op.error) for op in ops if op.error is not None]
    if not failures:
        return None
    key, error = failures[0]
    if len(ops) == 1:
        return session.failure(error)
    note = f"{len(failures)} of {len(ops)} keys could not be read, first {replies.shown_key(key)}"
    return session.failure(error, note)
