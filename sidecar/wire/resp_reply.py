"""Replies of the Redis protocol, as bytes, in both versions of it.

RESP2 knows simple strings, errors, integers, bulk strings and arrays; RESP3 adds maps, null,
verbatim strings and more. What differs takes the version (2 or 3) as its first argument.
"""

from collections.abc import Iterable, Mapping, Sequence

OK = b"+OK\r\n"
PONG = b"+PONG\r\n"
NIL = {2: b"$-1\r\n", 3: b"_\r\n"}
ZERO = b":0\r\n"
ONE = b":1\r\n"
EMPTY_BULK = b"$0\r\n\r\n"
EMPTY_ARRAY = b"*0\r\n"

_LINE_BREAKS = str.maketrans("\r\n", "  ")
_LINE_BREAKS_BYTES = bytes.maketrans(b"\r\n", b"  ")


def bulk(value: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def integer(value: int) -> bytes:
    """A signed 64-bit integer."""
    return b":%d\r\n" % value


def simple(text: str) -> bytes:
    """A simple string; line breaks become spaces."""
    return b"+" + text.translate(_LINE_BREAKS).encode() + b"\r\n"


def error(text: str | bytes) -> bytes:
    """An error, first word in capitals. CR and LF become spaces: nothing that a client sent can
    end the line and forge a second reply."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return b"-" + raw.translate(_LINE_BREAKS_BYTES) + b"\r\n"


def array_of(replies: Sequence[bytes]) -> bytes:
    """An array of replies that are already bytes."""
    return b"*%d\r\n%b" % (len(replies), b"".join(replies))


def map_of(version: int, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A map of replies that are already bytes: in RESP2 a flat array."""
    flat = [part for pair in pairs for part in pair]
    body = b"".join(flat)
    if version == 2:
        return b"*%d\r\n%b" % (len(flat), body)
    return b"%%%d\r\n%b" % (len(flat) // 2, body)


def set_of(version: int, replies: Sequence[bytes]) -> bytes:
    """A set of replies that are already bytes: in RESP2 an array."""
    return array_of(replies) if version == 2 else b"~%d\r\n%b" % (len(replies), b"".join(replies))


def text(version: int, value: str) -> bytes:
    """Text for people: verbatim in RESP3, a bulk string in RESP2."""
    raw = value.encode()
    return bulk(raw) if version == 2 else b"=%d\r\ntxt:%b\r\n" % (len(raw) + 4, raw)


def encode(version: int, value: object) -> bytes:
    """Any nesting of bytes, int, str (simple), None, sequences and mappings. Not for hot paths."""
    if isinstance(value, bytes):
        return bulk(value)
    if value is None:
        return NIL[version]
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, str):
        return simple(value)
    if isinstance(value, Mapping):
        return map_of(
            version,
            ((encode(version, name), encode(version, part)) for name, part in value.items()),
        )
    if isinstance(value, Sequence):
        return array_of([encode(version, part) for part in value])
    raise TypeError(f"{type(value).__name__} is no part of a reply")
