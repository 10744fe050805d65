"""A record and its bytes: what one user key is on a replica.

    checksum(8) | version(16) | flags(1) | expires_at_ms(8), if flagged | value

All integers are big-endian. The checksum is the first 8 bytes of SHA-1 over the rest: the Lua of a
server has no other digest, and the write script must verify the record it is about to judge. In
Python `hashlib.sha1` (OpenSSL) is the fastest that gives the same: 0.32 us for 100 bytes, against
0.63 us of `_sha1`; xxh3 would take 0.04 us, but no script could check it.
"""

from array import array
from collections.abc import Callable, Sequence
from hashlib import sha1

CHECKSUM_BYTES = 8
VERSION_BYTES = 16
HEADER_BYTES = CHECKSUM_BYTES + VERSION_BYTES + 1
EXPIRY_BYTES = 8

FLAG_TOMBSTONE = 1
FLAG_HAS_EXPIRY = 2
FLAG_EXPIRED = 4  # a tombstone left by an expiry: keeps its record's version, orders just above it
FLAG_LINEARIZABLE = 8  # belongs to the other mode: a register, read by replicas/acceptor.py
KNOWN_FLAGS = FLAG_TOMBSTONE | FLAG_HAS_EXPIRY | FLAG_EXPIRED | FLAG_LINEARIZABLE

# 48 bits, as in versions: far beyond any date, and exact in a script's doubles.
MAX_TIME_MS = (1 << 48) - 1

FLAGS_AT = CHECKSUM_BYTES + VERSION_BYTES
_REMEMBERED = 1 << 18  # a power of two
_PLACE = _REMEMBERED - 1
_EXPIRED_TOMBSTONE = FLAG_TOMBSTONE | FLAG_HAS_EXPIRY | FLAG_EXPIRED
# What a record can be in either mode: value, tombstone, value that expires, tombstone of an expiry.
KINDS = (0, FLAG_TOMBSTONE, FLAG_HAS_EXPIRY, _EXPIRED_TOMBSTONE)


class Record:
    """One valid record. `expires_at_ms` is Unix milliseconds, 0: never; `raw` is all its bytes."""

    __slots__ = ("expires_at_ms", "flags", "raw", "value", "version")

    def __init__(
        self, version: bytes, flags: int, expires_at_ms: int, value: bytes, raw: bytes
    ) -> None:
        self.version = version
        self.flags = flags
        self.expires_at_ms = expires_at_ms
        self.value = value
        self.raw = raw

    @property
    def is_tombstone(self) -> bool:
        """Whether the record says that the key was deleted, or that its value expired."""
        return self.flags & FLAG_TOMBSTONE != 0

    @property
    def is_linearizable(self) -> bool:
        """Whether the record belongs to a keyspace of the linearizable mode."""
        return self.flags & FLAG_LINEARIZABLE != 0

    @property
    def order(self) -> bytes:
        """Bytes that compare as records are ordered: version, expired rank, checksum.

        The checksum matters only when a client repeats a write of unknown outcome with another
        value: the replicas still converge, and records of equal order have equal bytes.
        """
        rank = b"\x01" if self.flags & FLAG_EXPIRED else b"\x00"
        return self.version + rank + self.raw[:CHECKSUM_BYTES]

    def live(self, now_ms: int) -> bool:
        """Whether a reader at `now_ms` (Unix milliseconds) is given the value."""
        if self.flags & (FLAG_TOMBSTONE | FLAG_LINEARIZABLE):
            return False
        return self.expires_at_ms == 0 or now_ms < self.expires_at_ms

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        kind = "tombstone" if self.is_tombstone else f"{len(self.value)} bytes"
        return f"<Record {self.version.hex()} {kind} flags={self.flags}>"


def encode_record(
    version: bytes, value: bytes, *, expires_at_ms: int = 0, tombstone: bool = False
) -> bytes:
    """The bytes of a value, or of a tombstone (`value` is then empty).

    Raises ValueError when `version` is not 16 bytes, a tombstone has a value or an expiry, or the
    expiry is not within 0 (never) .. 2^48-1 milliseconds.
    """
    if len(version) != VERSION_BYTES:
        raise ValueError(f"a version has {VERSION_BYTES} bytes, not {len(version)}")
    if tombstone:
        if value or expires_at_ms:
            raise ValueError("a tombstone has neither value nor expiry")
        return seal(version + b"\x01")
    if not expires_at_ms:
        return seal(version + b"\x00" + value)
    if not 0 < expires_at_ms <= MAX_TIME_MS:
        raise ValueError(f"expires_at_ms must be within 0 and {MAX_TIME_MS}, not {expires_at_ms}")
    return seal(version + b"\x02" + expires_at_ms.to_bytes(EXPIRY_BYTES, "big") + value)


def encode_expired(record: Record) -> bytes:
    """The tombstone that an expired record leaves: its own version, its own expiry.

    Raises ValueError for a record without an expiry.
    """
    if not record.expires_at_ms:
        raise ValueError("only a record with an expiry can expire")
    expiry = record.expires_at_ms.to_bytes(EXPIRY_BYTES, "big")
    return seal(record.version + bytes((_EXPIRED_TOMBSTONE,)) + expiry)


def decode_record(raw: bytes) -> Record | None:
    """The record in `raw`; None when its checksum or form is wrong: then it is no answer at all.

    Of a record of the linearizable mode only version and flags are given, never a value: look at
    `is_linearizable` wherever one may be met.
    """
    if len(raw) < HEADER_BYTES or sha1(raw[8:]).digest()[:8] != raw[:8]:
        return None
    flags = raw[FLAGS_AT]
    if not flags:  # nine of ten records
        return Record(raw[8:24], 0, 0, raw[25:], raw)
    return _decode_flagged(raw, flags)


def _decode_flagged(raw: bytes, flags: int) -> Record | None:
    if flags & ~KNOWN_FLAGS:
        return None
    if flags & FLAG_LINEARIZABLE:
        known = flags - FLAG_LINEARIZABLE in KINDS
        return Record(raw[8:24], flags, 0, b"", raw) if known else None
    expires_at_ms = 0
    value_at = HEADER_BYTES
    if flags & FLAG_HAS_EXPIRY:
        value_at += EXPIRY_BYTES
        expires_at_ms = int.from_bytes(raw[HEADER_BYTES:value_at], "big")
        if len(raw) < value_at or not 0 < expires_at_ms <= MAX_TIME_MS:
            return None
    tombstone_flags = flags & _EXPIRED_TOMBSTONE
    if flags & FLAG_TOMBSTONE:
        if tombstone_flags not in (FLAG_TOMBSTONE, _EXPIRED_TOMBSTONE) or len(raw) != value_at:
            return None
    elif flags & FLAG_EXPIRED:
        return None
    return Record(raw[8:24], flags, expires_at_ms, raw[value_at:], raw)


class RecordReader:
    """Gives the values of records, and remembers which it found whole.

    A record whose bytes passed their checksum before needs no SHA-1 again: 0.07 us instead of 0.5,
    and the keys that are read most are those that are remembered. Bytes are known by Python's own
    hash of them, 64 bits with a random key: a damaged record passes for one that was whole with a
    chance of 2^-64. The table takes 2 MB; what comes last to a place of it stays.
    """

    __slots__ = ("_whole",)

    def __init__(self) -> None:
        # Hashes of records without any flag. No hash is -1; that of no bytes at all is 0.
        self._whole = array("q", [-1]) * _REMEMBERED

    def live_values(
        self, raws: Sequence[bytes | None], wall_ms: Callable[[], int]
    ) -> tuple[list[bytes | None], bytes] | None:
        """What a reader is given now of many records, in their order, and the newest version of
        those that were not given before.

        A value is None where the record is, and where it is a tombstone or has expired. None for
        all of them when one is no answer: its checksum or form is wrong, or it is of the
        linearizable mode. The version is empty when there is none. `wall_ms` gives Unix
        milliseconds.
        """
        values: list[bytes | None] = []
        newest = b""
        whole = self._whole
        fresh: list[int] = []  # remembered once all are given: the version is told only then
        for raw in raws:
            if raw is None:
                values.append(None)
                continue
            known = hash(raw)
            if whole[known & _PLACE] == known:
                values.append(raw[HEADER_BYTES:])
                continue
            record = decode_record(raw)
            if record is None or record.flags & FLAG_LINEARIZABLE:
                return None
            if record.version > newest:
                newest = record.version
            if not record.flags:
                fresh.append(known)
                values.append(record.value)
            else:
                values.append(record.value if record.live(wall_ms()) else None)
        for known in fresh:
            whole[known & _PLACE] = known
        return values, newest


def seal(body: bytes) -> bytes:
    """`body` with its checksum before it."""
    return sha1(body).digest()[:CHECKSUM_BYTES] + body
