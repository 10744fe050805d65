"""A group: records of several keys that one script writes together, under one version.

    checksum(8) | version(16) | 16 | for each: key length(2) | key | record length(4) | record

It stands where a write has its record, on the wire and in a hint; a replica keeps only the records.
The flags byte tells it from a record: none has this one.
"""

import struct
from collections.abc import Iterable
from typing import Final

from replicas.record import CHECKSUM_BYTES, HEADER_BYTES, Record, decode_record, seal

FLAG_GROUP: Final = 16
MAX_ITEMS: Final = 256
MAX_KEY_BYTES: Final = 1024

_FLAGS_AT: Final = HEADER_BYTES - 1
_KEY: Final = struct.Struct(">H")
_RECORD: Final = struct.Struct(">I")

Item = tuple[bytes, bytes]  # a user key and the bytes of its record


def is_group(raw: bytes) -> bool:
    """Whether these bytes are to be written as a group, by the script `transact`."""
    return len(raw) >= HEADER_BYTES and raw[_FLAGS_AT] == FLAG_GROUP


def encode_group(version: bytes, items: Iterable[Item]) -> bytes:
    """The bytes of 1 to 256 records, all of this version, whose keys differ."""
    parts = [version, bytes((FLAG_GROUP,))]
    for key, record in items:
        parts += (_KEY.pack(len(key)), key, _RECORD.pack(len(record)), record)
    return seal(b"".join(parts))


def decode_group(raw: bytes) -> list[tuple[bytes, Record]] | None:
    """Keys and records; None when a checksum or the form is wrong, as the script judges it."""
    if not is_group(raw) or seal(raw[CHECKSUM_BYTES:]) != raw:
        return None
    version, found = raw[CHECKSUM_BYTES:_FLAGS_AT], dict[bytes, Record]()
    at = HEADER_BYTES
    while at < len(raw):
        key, at = _field(raw, at, _KEY)
        body, at = _field(raw, at, _RECORD)
        record = decode_record(body or b"")
        if not key or len(key) > MAX_KEY_BYTES or key in found or len(found) == MAX_ITEMS:
            return None
        if record is None or record.version != version or record.flags not in (0, 1, 2):
            return None
        found[key] = record
    return list(found.items()) or None


def _field(raw: bytes, at: int, length: struct.Struct) -> tuple[bytes | None, int]:
    """What stands behind its length at `at`, None when it is cut off; and where it ends."""
    start = at + length.size
    if start > len(raw):
        return None, len(raw)
    stop = start + length.unpack_from(raw, at)[0]
    return (raw[start:stop] if stop <= len(raw) else None), stop
