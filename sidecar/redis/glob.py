"""The patterns of MATCH: * ? [abc] [^a-z] and \\ before what is meant literally, as in Redis.

Between stars every part has a fixed length, so that the leftmost place of each is as good as any:
no pattern takes more than its length times that of the key.
"""

import re
from collections.abc import Callable

_SPECIAL = re.compile(rb"[*?\[\\]")
_Part = tuple[int, re.Pattern[bytes]]  # its length, and what it matches


def literal_prefix(pattern: bytes) -> bytes:
    """What every key that matches begins with."""
    return _SPECIAL.split(pattern, maxsplit=1)[0]


def matcher(pattern: bytes) -> Callable[[bytes], bool]:
    """Whether a key matches the pattern as a whole."""
    parts = _parts(pattern)
    if len(parts) == 1:
        whole = parts[0][1]
        return lambda key: whole.fullmatch(key) is not None
    return lambda key: _matches(parts, key)


def _matches(parts: list[_Part], key: bytes) -> bool:
    (first_size, first), *middle, (last_size, last) = parts
    at, end = first_size, len(key) - last_size
    if end < at or first.match(key) is None or last.match(key, end) is None:
        return False
    for _, part in middle:
        found = part.search(key, at, end)
        if found is None:
            return False
        at = found.end()
    return True


def _parts(pattern: bytes) -> list[_Part]:
    """The parts between stars; at least one."""
    parts: list[_Part] = []
    size, source, at = 0, b"", 0
    while at < len(pattern):
        if pattern[at : at + 1] == b"*":
            parts.append((size, re.compile(source, re.DOTALL)))
            size, source, at = 0, b"", at + 1
            continue
        one, at = _one(pattern, at)
        size, source = size + 1, source + one
    return [*parts, (size, re.compile(source, re.DOTALL))]


def _one(pattern: bytes, at: int) -> tuple[bytes, int]:
    """What one byte of a key must be, as a regular expression; and where the pattern goes on."""
    byte = pattern[at : at + 1]
    if byte == b"?":
        return b".", at + 1
    if byte == b"[":
        return _class(pattern, at + 1)
    if byte == b"\\" and at + 1 < len(pattern):
        at += 1
    return re.escape(pattern[at : at + 1]), at + 1


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """The bytes between brackets; one that is not closed ends with the pattern."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    chosen: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            chosen.add(pattern[at + 1])
            at += 2
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            chosen.update(range(low, high + 1))
            at += 3
        else:
            chosen.add(pattern[at])
            at += 1
    if negated:
        chosen = set(range(256)) - chosen
    members = b"".join(b"\\x%02x" % byte for byte in sorted(chosen))
    return (b"[" + members + b"]" if members else b"(?!)"), at + 1
