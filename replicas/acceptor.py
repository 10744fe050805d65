"""A record of the linearizable mode: what one replica, as an acceptor, holds of one register.

    checksum(8) | accepted(16) | flags(1) | expires_at_ms(8) | promise(16) | changed(16) |
    forgotten_ms(8) | count(1) | count times: id(16), decided(16) | value

Big-endian, times in Unix milliseconds, 0: none. It begins as every record does, so whoever looks at
checksum, version and flags alone sees a record of the other mode. The ballot accepted is the
record's version; it moves on whenever a change in flight is finished for somebody else. `changed`
is the ballot under which the value itself came to be: the version that readers are given, so that a
compare-and-set on it does not fail because somebody has read in the meantime.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import NamedTuple

from replicas.record import (
    CHECKSUM_BYTES,
    FLAG_EXPIRED,
    FLAG_HAS_EXPIRY,
    FLAG_LINEARIZABLE,
    FLAG_TOMBSTONE,
    KINDS,
    MAX_TIME_MS,
    VERSION_BYTES,
    seal,
)
from replicas.version import ZERO_VERSION

MAX_IDS = 16
ID_BYTES = 16
ACCEPTOR_BYTES = 74  # before ids and value
REFUSED = ZERO_VERSION  # in place of the ballot, beside the id of a change that was refused

_BODY = struct.Struct(">16sBQ16s16sQB")
_ID = struct.Struct(">16s16s")
_TOMBSTONE_OF_EXPIRY = FLAG_TOMBSTONE | FLAG_HAS_EXPIRY | FLAG_EXPIRED


class Decided(NamedTuple):
    """A change that was decided: its operation id, and its ballot, or REFUSED."""

    id: bytes
    ballot: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """What is accepted under a ballot: the value, and what was decided lately.

    `value` None: deleted, expired (`expired`) or never written. `expires_at_ms` 0: never. `changed`
    is the value's version. `decided` is in order, the latest last; of ids whose time is at or below
    `forgotten_ms` some were forgotten.
    """

    value: bytes | None = None
    expires_at_ms: int = 0
    expired: bool = False
    changed: bytes = ZERO_VERSION
    decided: tuple[Decided, ...] = ()
    forgotten_ms: int = 0

    def due(self, now_ms: int) -> bool:
        """Whether its value is to expire: readers get it until a tombstone is accepted."""
        return self.value is not None and 0 < self.expires_at_ms <= now_ms

    def find(self, operation_id: bytes) -> Decided | None:
        """What was decided under an id, as far as it is remembered."""
        return next((past for past in self.decided if past.id == operation_id), None)

    def remember(self, new: Decided) -> tuple[tuple[Decided, ...], int]:
        """`decided` and `forgotten_ms` with one more id."""
        kept = (*self.decided, new)
        gone, kept = kept[:-MAX_IDS], kept[-MAX_IDS:]
        return kept, max([self.forgotten_ms, *(id_time_ms(past.id) for past in gone)])


class Acceptor:
    """One replica's state of a register; `accepted` ZERO_VERSION: nothing was ever accepted.

    Its content is parsed when it is asked for: a read looks at one of several, and at the ids never
    (1.4 us for a state with three ids, where parsing it all took 6).
    """

    __slots__ = ("_content", "accepted", "promise", "raw")

    def __init__(
        self, promise: bytes, accepted: bytes, raw: bytes, content: Content | None = None
    ) -> None:
        self.promise = promise
        self.accepted = accepted
        self.raw = raw
        self._content = content

    @property
    def content(self) -> Content:
        """What is accepted."""
        if self._content is None:
            self._content = _parse_content(self.raw)
        return self._content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Acceptor) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"<Acceptor {self.accepted.hex()} promise={self.promise.hex()} {self.content}>"


NOTHING = Content()
UNTOUCHED = Acceptor(ZERO_VERSION, ZERO_VERSION, b"", NOTHING)  # of a key without a record


def id_time_ms(operation_id: bytes) -> int:
    """The time with which an operation id (UUIDv7) begins, Unix milliseconds."""
    return int.from_bytes(operation_id[:6], "big")


def encode_acceptor(ballot: bytes, content: Content) -> bytes:
    """The record that an acceptor is asked to take under `ballot`.

    Raises ValueError for a field out of its bounds.
    """
    return seal(_pack(ballot, ballot, content))


def encode_promise(acceptor: Acceptor, ballot: bytes) -> bytes:
    """The record after a promise, as the prepare script makes it."""
    return seal(_pack(acceptor.accepted, ballot, acceptor.content))


def decode_acceptor(raw: bytes) -> Acceptor | None:
    """The state in `raw`; None: checksum or form is wrong, or it is of the tunable mode."""
    head = _head(raw)
    return Acceptor(head.promise, head.accepted, raw) if head is not None else None


class Standing(NamedTuple):
    """What stands in a register; `value` None: nothing, since version `changed`."""

    value: bytes | None
    changed: bytes
    expires_at_ms: int
    ballot: bytes


def decode_standing(raw: bytes, now_ms: int) -> Standing | None:
    """What stands, if a majority holds these very bytes.

    None: they do not say so alone, since they are damaged, a change is in flight (the promise is
    later than what is accepted), or the value is due to expire. Half the work of decode_acceptor:
    what was decided lately is not looked at.
    """
    head = _head(raw)
    if head is None or head.promise != head.accepted:
        return None
    if head.flags & FLAG_TOMBSTONE:
        return Standing(None, head.changed, 0, head.accepted)
    if 0 < head.expires_at_ms <= now_ms:
        return None
    value = raw[ACCEPTOR_BYTES + head.ids * _ID.size :]
    return Standing(value, head.changed, head.expires_at_ms, head.accepted)


class _Head(NamedTuple):
    """The fields of fixed size, in their order in the record."""

    accepted: bytes
    flags: int
    expires_at_ms: int
    promise: bytes
    changed: bytes
    forgotten_ms: int
    ids: int


def _head(raw: bytes) -> _Head | None:
    """None: checksum or form is wrong, or it is of the tunable mode."""
    if len(raw) < ACCEPTOR_BYTES or sha1(raw[8:]).digest()[:8] != raw[:8]:
        return None
    fields = _BODY.unpack_from(raw, CHECKSUM_BYTES)
    accepted, flags, expires_at_ms, promise, changed, forgotten_ms, count = fields
    kind = flags - FLAG_LINEARIZABLE
    value_at = ACCEPTOR_BYTES + count * _ID.size
    if kind not in KINDS or count > MAX_IDS or len(raw) < value_at:
        return None
    if expires_at_ms > MAX_TIME_MS or forgotten_ms > MAX_TIME_MS:
        return None
    if kind & FLAG_TOMBSTONE and len(raw) > value_at:
        return None
    if bool(kind & FLAG_HAS_EXPIRY) != bool(expires_at_ms) or not changed <= accepted <= promise:
        return None
    if accepted == ZERO_VERSION and (kind != FLAG_TOMBSTONE or count):
        return None
    return _Head._make(fields)


def _parse_content(raw: bytes) -> Content:
    fields = _BODY.unpack_from(raw, CHECKSUM_BYTES)
    _, flags, expires_at_ms, _, changed, forgotten_ms, count = fields
    value_at = ACCEPTOR_BYTES + count * _ID.size
    decided = tuple(map(Decided._make, _ID.iter_unpack(raw[ACCEPTOR_BYTES:value_at])))
    value = None if flags & FLAG_TOMBSTONE else raw[value_at:]
    expired = flags & FLAG_EXPIRED != 0
    return Content(value, expires_at_ms, expired, changed, decided, forgotten_ms)


def _pack(accepted: bytes, promise: bytes, content: Content) -> bytes:
    _check(accepted, content.changed, content.decided)
    if len(promise) != VERSION_BYTES or not content.changed <= accepted <= promise:
        raise ValueError(f"a promise is a version from {accepted.hex()} on, not {promise.hex()}")
    if not 0 <= content.expires_at_ms <= MAX_TIME_MS or content.forgotten_ms > MAX_TIME_MS:
        raise ValueError(f"times must be within 0 and {MAX_TIME_MS}: {content}")
    flags = FLAG_LINEARIZABLE | _kind(content)
    times = (content.changed, content.forgotten_ms, len(content.decided))
    head = _BODY.pack(accepted, flags, content.expires_at_ms, promise, *times)
    ids = b"".join(_ID.pack(past.id, past.ballot) for past in content.decided)
    return head + ids + (content.value or b"")


def _check(accepted: bytes, changed: bytes, decided: Sequence[Decided]) -> None:
    if len(accepted) != VERSION_BYTES or len(changed) != VERSION_BYTES:
        raise ValueError(f"versions have {VERSION_BYTES} bytes: {accepted.hex()}, {changed.hex()}")
    if len(decided) > MAX_IDS or any(len(past.id) != ID_BYTES for past in decided):
        raise ValueError(f"at most {MAX_IDS} ids of {ID_BYTES} bytes: {decided}")


def _kind(content: Content) -> int:
    if content.value is None:
        if content.expired != bool(content.expires_at_ms):
            raise ValueError(f"the tombstone of an expiry, and no other, has one: {content}")
        return _TOMBSTONE_OF_EXPIRY if content.expired else FLAG_TOMBSTONE
    if content.expired:
        raise ValueError(f"what expired has no value: {content}")
    return FLAG_HAS_EXPIRY if content.expires_at_ms else 0
