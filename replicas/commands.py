"""Commands as bytes, for the paths that send many: most of each is made once per bucket.

The same suffix goes to every owner of a bucket; the prefix carries the owner's incarnation.
"""

import struct
from collections.abc import Sequence
from typing import Final

from replicas.layout import (
    FENCE_FIELD,
    HINTS_KEY,
    HINTS_TURN_KEY,
    IDENTITY_KEY,
    MAP_FIELD,
    MAX_KEY_BYTES,
    BucketKeys,
)
from replicas.scripts import SCRIPTS, Script

_LIMITS = struct.Struct(">II")
_NUMBER = struct.Struct(">Q")
_MAX_U32 = (1 << 32) - 1
# What a user key follows in a command, by the key's length: 100 ns less a read than to print it.
_KEY_HEADS: Final = tuple(b"$%d\r\nk" % (size + 1) for size in range(MAX_KEY_BYTES + 1))

TIME: Final = b"*1\r\n$4\r\nTIME\r\n"
PING: Final = b"*1\r\n$4\r\nPING\r\n"


def pack_command(*arguments: bytes) -> bytes:
    """Any command, in the protocol's form."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


def read_prefix(keys: BucketKeys) -> bytes:
    """All of a bucket's read but the user key: give it to read_command."""
    return _open(4, b"HMGET", keys.data, FENCE_FIELD)


def read_command(prefix: bytes, key: bytes) -> bytes:
    """Reads fence and record of `key` in one instant. Reply: [fence or None, record or None]."""
    return b"".join((prefix, _KEY_HEADS[len(key)], key, b"\r\n"))


def entry_command(keys: BucketKeys) -> bytes:
    """Reads a bucket's fence with its map entry. Reply: [fence or None, entry or None]."""
    return pack_command(b"HMGET", keys.data, FENCE_FIELD, MAP_FIELD)


def write_prefix(
    keys: BucketKeys, epoch: int, incarnation: int, *, script: Script = SCRIPTS["write"]
) -> bytes:
    """What the writes of one bucket to one owner begin with; `incarnation` is the owner's.

    `script` is that of `write`, `heal` or `accept`. A write is `write_prefix + write_suffix`.
    """
    head = (b"EVALSHA", script.sha, b"2", keys.data, keys.log)
    return _open(10, *head, _NUMBER.pack(epoch), _NUMBER.pack(incarnation))


def write_suffix(key: bytes, record: bytes, limits: bytes) -> bytes:
    """The rest of a write, the same for all owners; `limits` comes from pack_limits."""
    return b"$%d\r\nk%b\r\n$%d\r\n%b\r\n%b" % (len(key) + 1, key, len(record), record, limits)


def copy_command(
    keys: BucketKeys,
    epoch: int,
    incarnation: int,
    key: bytes,
    record: bytes,
    *,
    limits: bytes,
    seen: bytes,
) -> bytes:
    """Brings an owner what another one holds. Reply: as of a write; see scripts/copy.lua.

    `limits` comes from pack_limits; `seen` is purged-through of the receiver's fence, read before
    the record was.
    """
    head = (b"EVALSHA", SCRIPTS["copy"].sha, b"2", keys.data, keys.log)
    prefix = _open(11, *head, _NUMBER.pack(epoch), _NUMBER.pack(incarnation))
    return b"%b%b$%d\r\n%b\r\n" % (prefix, write_suffix(key, record, limits), len(seen), seen)


def prepare_prefix(keys: BucketKeys, epoch: int, incarnation: int) -> bytes:
    """What the prepares of one bucket to one owner begin with; add prepare_suffix."""
    head = (b"EVALSHA", SCRIPTS["prepare"].sha, b"1", keys.data)
    return _open(8, *head, _NUMBER.pack(epoch), _NUMBER.pack(incarnation))


def prepare_suffix(key: bytes, ballot: bytes) -> bytes:
    """The rest of a prepare, the same for all owners."""
    return b"$%d\r\nk%b\r\n$%d\r\n%b\r\n" % (len(key) + 1, key, len(ballot), ballot)


def split_write_suffix(suffix: bytes) -> tuple[bytes, bytes]:
    """The key and the record that write_suffix was given."""
    key_end = suffix.index(b"\r\n")
    key_at, key_bytes = key_end + 3, int(suffix[1:key_end]) - 1
    size_at = key_at + key_bytes + 3
    size_end = suffix.index(b"\r\n", size_at)
    record_at = size_end + 2
    record = suffix[record_at : record_at + int(suffix[size_at:size_end])]
    return suffix[key_at : key_at + key_bytes], record


def pack_limits(max_skew_ms: int, log_bytes: int) -> bytes:
    """What bounds a keyspace's writes, as an argument ready for write_suffix.

    A version may be `max_skew_ms` ahead of the replica's clock; the bucket's change log is kept
    within `log_bytes`. Both are capped at 2^32-1.
    """
    packed = _LIMITS.pack(min(max_skew_ms, _MAX_U32), min(log_bytes, _MAX_U32))
    return b"$%d\r\n%b\r\n" % (len(packed), packed)


def create_fence(keys: BucketKeys, fence: bytes, entry: bytes) -> bytes:
    """Makes a bucket's first fence. Reply: see scripts/fence_create.lua."""
    named = (keys.data, keys.log, keys.history)
    return _evalsha("fence_create", named, fence, entry)


def raise_fence(keys: BucketKeys, fence: bytes, entry: bytes) -> bytes:
    """Raises a bucket's fence. Reply: see scripts/fence_raise.lua."""
    return _evalsha("fence_raise", (keys.data,), fence, entry)


def release_fence(keys: BucketKeys, fence: bytes, entry: bytes) -> bytes:
    """Leaves a gravestone. Reply: see scripts/fence_release.lua."""
    return _evalsha("fence_release", (keys.data,), fence, entry)


def set_identity(identity: bytes) -> bytes:
    """Gives the server its identity once. Reply: the identity that stands."""
    return _evalsha("identity", (IDENTITY_KEY,), identity)


def keep_hint(
    keys: BucketKeys, epoch: int, incarnation: int, entry: bytes, *, most_bytes: int
) -> bytes:
    """Gives a hint to an owner that it is not for. Reply: see scripts/hint_keep.lua."""
    named = (keys.data, HINTS_KEY)
    place = (_NUMBER.pack(epoch), _NUMBER.pack(incarnation))
    return _evalsha("hint_keep", named, *place, entry, b"%d" % most_bytes)


def list_hints(after: bytes, count: int) -> bytes:
    """Hints on a server with ids above `after` (empty: from the first). Reply: of XRANGE."""
    start = b"(" + after if after else b"-"
    return pack_command(b"XRANGE", HINTS_KEY, start, b"+", b"COUNT", b"%d" % count)


def drop_hints(ids: Sequence[bytes]) -> bytes:
    """Deletes hints that are settled. Reply: how many were there."""
    return pack_command(b"XDEL", HINTS_KEY, *ids)


def claim_hints(name: bytes, for_ms: int) -> list[bytes]:
    """Asks for the turn to replay a server's hints; the second reply names who has it.

    Nothing depends on it: two that replay the same hints only do the work twice.
    """
    return [
        pack_command(b"SET", HINTS_TURN_KEY, name, b"NX", b"PX", b"%d" % for_ms),
        pack_command(b"GET", HINTS_TURN_KEY),
    ]


def keep_claim(for_ms: int) -> bytes:
    """Whoever has the turn asks for it to last so long from now."""
    return pack_command(b"PEXPIRE", HINTS_TURN_KEY, b"%d" % for_ms)


def _evalsha(name: str, keys: tuple[bytes, ...], *arguments: bytes) -> bytes:
    count = b"%d" % len(keys)
    return pack_command(b"EVALSHA", SCRIPTS[name].sha, count, *keys, *arguments)


def _open(count: int, *arguments: bytes) -> bytes:
    """The beginning of a command of `count` arguments, of which these are the first."""
    return b"*%d\r\n" % count + pack_command(*arguments).partition(b"\r\n")[2]
