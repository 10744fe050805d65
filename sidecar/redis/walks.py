"""Commands that walk a keyspace: SCAN DBSIZE."""

from sidecar.core.count import Count
from sidecar.core.scan import MAX_PAGE, Scan
from sidecar.core.walk import Cursor, decode_cursor, start_of_prefix
from sidecar.redis import replies
from sidecar.redis.glob import literal_prefix, matcher
from sidecar.redis.numbers import parse_integer
from sidecar.redis.session import Session
from sidecar.wire import resp_reply as resp

COUNT = 10  # as Redis, where none is asked for
_TYPES = frozenset((b"string", b"list", b"set", b"zset", b"hash", b"stream"))


def scan(session: Session, args: list[bytes]) -> None:
    """SCAN cursor [MATCH pattern] [COUNT count] [TYPE type].

    A cursor is good on every connection and every sidecar, for as long as one likes.
    """
    number = args[1]
    cursor = decode_cursor(int(number)) if number.isdigit() and len(number) < 20 else None
    if cursor is None:
        session.fail(replies.INVALID_CURSOR)
        return
    options = _options(session, args)
    if options is None:
        return
    pattern, count, kind = options
    if kind not in (b"", b"string"):
        session.reply(_page([], None))  # there is no other type here
        return
    prefix = literal_prefix(pattern)
    op = Scan(
        session.keyspace,
        cursor if cursor != Cursor() else start_of_prefix(prefix),
        level=session.level,
        deadline=session.deadline,
        done=session.on_derived,
        prefix=prefix,
        limit=count,
        wanted=matcher(pattern) if pattern not in (b"", b"*") else None,
        tag=_encode_page,
    )
    if session.muted:
        session.mute(op)
    session.pending.append(op)
    session.door.walker.scan(op)


def _options(session: Session, args: list[bytes]) -> tuple[bytes, int, bytes] | None:
    """Pattern, count and type; None: the command was refused."""
    pattern, count, kind = b"", COUNT, b""
    for at in range(2, len(args), 2):
        name = args[at].upper()
        if name == b"NOVALUES":
            session.fail(replies.NOVALUES)
            return None
        if at + 1 == len(args) or name not in (b"MATCH", b"COUNT", b"TYPE"):
            session.fail(replies.SYNTAX)
            return None
        if name == b"MATCH":
            pattern = args[at + 1]
        elif name == b"TYPE":
            kind = args[at + 1].lower()
            if kind not in _TYPES:
                session.fail(replies.unknown_type(args[at + 1]))
                return None
        else:
            number = parse_integer(args[at + 1])
            if number is None or number < 1:
                session.fail(replies.NOT_AN_INTEGER if number is None else replies.SYNTAX)
                return None
            count = min(number, MAX_PAGE)
    return pattern, count, kind


def _encode_page(_session: Session, op: Scan) -> bytes:
    return _page([found.key for found in op.found], op.next)


def _page(keys: list[bytes], following: Cursor | None) -> bytes:
    number = b"%d" % (following.encode() if following is not None else 0)
    return resp.array_of([resp.bulk(number), resp.array_of([resp.bulk(key) for key in keys])])


def dbsize(session: Session, _args: list[bytes]) -> None:
    """DBSIZE: roughly; what was deleted or has expired counts until it is purged."""
    op = Count(
        session.keyspace, deadline=session.deadline, done=session.on_derived, tag=_encode_count
    )
    if session.muted:
        session.mute(op)
    session.pending.append(op)
    session.door.walker.count(op)


def _encode_count(_session: Session, op: Count) -> bytes:
    return resp.integer(op.total)
