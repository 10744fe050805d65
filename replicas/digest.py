"""Comparing the copies of a bucket: digests by leaf, keys and versions, what differs. Pure.

A bucket's keys fall into leaves by their SHA-1, so that two versions of one key meet in one leaf. A
leaf's digest is the XOR of its records' digests, so order does not matter. Copies whose leaves are
equal are equal; of leaves that differ keys and versions are listed, and only records that differ
are copied. The scripts that compute this on a replica work in steps of a few milliseconds.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Final, NamedTuple

from replicas.commands import pack_command
from replicas.layout import BucketKeys
from replicas.record import decode_record
from replicas.replies import Refusal, parse_refusal
from replicas.scripts import SCRIPTS

LEAF_BYTES: Final = 8
FIRST_CURSOR: Final = b"0"
NO_ORDER: Final = b""  # in a listing: the record fails its checksum

_NUMBER = struct.Struct(">Q")


class DigestStep(NamedTuple):
    """One step's reply: the next cursor (FIRST_CURSOR after the last one), records seen, leaves."""

    cursor: bytes
    records: int
    leaves: bytes


class PromisesStep(NamedTuple):
    """One step's reply: the next cursor (FIRST_CURSOR after the last), records seen, promise."""

    cursor: bytes
    records: int
    promise: bytes


class EntriesStep(NamedTuple):
    """One step's reply: the next cursor, records seen, fields with their orders (or NO_ORDER)."""

    cursor: bytes
    records: int
    entries: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Difference:
    """A key on which copies do not agree.

    `best` is the highest valid order, NO_ORDER where no copy has a valid record. Copies, by their
    place: `holders` have that record, `behind` lack it or have an older one, `corrupt` have one
    that fails its checksum.
    """

    field: bytes
    best: bytes
    holders: tuple[int, ...]
    behind: tuple[int, ...]
    corrupt: tuple[int, ...]


def leaf_of(field: bytes, leaves: int) -> int:
    """The leaf, from 0, that the record of `field` belongs to."""
    return int.from_bytes(sha1(field).digest()[:2], "big") % leaves


def record_digest(field: bytes, raw: bytes) -> int:
    """What one record adds to its leaf."""
    return int.from_bytes(sha1(field + raw).digest()[:LEAF_BYTES], "big")


def leaf_digests(records: Iterable[tuple[bytes, bytes]], leaves: int) -> bytes:
    """The leaves of these (field, record) pairs, LEAF_BYTES each."""
    words = [0] * leaves
    for field, raw in records:
        words[leaf_of(field, leaves)] ^= record_digest(field, raw)
    return b"".join(word.to_bytes(LEAF_BYTES, "big") for word in words)


def add_digests(one: bytes, other: bytes) -> bytes:
    """The leaves of two steps together."""
    combined = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return combined.to_bytes(len(one), "big")


def differing_leaves(copies: Sequence[bytes]) -> list[int]:
    """Leaves on which not all copies agree."""
    count = len(copies[0]) // LEAF_BYTES
    found = []
    for leaf in range(count):
        at = leaf * LEAF_BYTES
        if len({digests[at : at + LEAF_BYTES] for digests in copies}) > 1:
            found.append(leaf)
    return found


def differences(listings: Sequence[Mapping[bytes, bytes]]) -> Iterator[Difference]:
    """What is to be done about the keys in these listings (field -> order), by field.

    Copies that lack a key no valid record of which is anywhere are not behind: there is nothing
    that they could be given.
    """
    fields = sorted(set().union(*listings))
    for field in fields:
        orders = [listing.get(field) for listing in listings]
        if len(set(orders)) == 1 and orders[0] != NO_ORDER:
            continue
        best = max((order for order in orders if order), default=NO_ORDER)
        places = range(len(orders))
        yield Difference(
            field,
            best,
            holders=tuple(n for n in places if best and orders[n] == best),
            behind=tuple(n for n in places if best and orders[n] not in (best, NO_ORDER)),
            corrupt=tuple(n for n in places if orders[n] == NO_ORDER),
        )


def order_of(raw: bytes) -> bytes:
    """A record's place in the order of its key's records; NO_ORDER: it fails its checksum."""
    record = decode_record(raw)
    return record.order if record is not None else NO_ORDER


# --- commands ------------------------------------------------------------------------------------


def digest_command(
    keys: BucketKeys, epoch: int, incarnation: int, *, cursor: bytes, count: int, leaves: int
) -> bytes:
    """One step of about `count` records. Reply: see scripts/digest.lua, and parse_digest."""
    step = (cursor, b"%d" % count, b"%d" % leaves)
    return _step("digest", keys, epoch, incarnation, *step)


def promises_command(
    keys: BucketKeys, epoch: int, incarnation: int, *, cursor: bytes, count: int
) -> bytes:
    """One step of about `count` records. Reply: see scripts/promises.lua, and parse_promises."""
    return _step("promises", keys, epoch, incarnation, cursor, b"%d" % count)


def entries_command(
    keys: BucketKeys,
    epoch: int,
    incarnation: int,
    *,
    cursor: bytes,
    count: int,
    leaves: int,
    wanted: Iterable[int],
) -> bytes:
    """One step of listing the wanted leaves. Reply: see scripts/entries.lua, and parse_entries."""
    chosen = bytearray(b"0" * leaves)
    for leaf in wanted:
        chosen[leaf] = ord("1")
    step = (cursor, b"%d" % count, b"%d" % leaves, bytes(chosen))
    return _step("entries", keys, epoch, incarnation, *step)


def drop_command(keys: BucketKeys, epoch: int, incarnation: int, field: bytes) -> bytes:
    """Removes a leftover of a former life from a joining replica. Reply: see scripts/drop.lua."""
    return _step("drop", keys, epoch, incarnation, field)


def overwrite_fence(keys: BucketKeys, fence: bytes, entry: bytes) -> bytes:
    """Begins a new life on a joining replica. Reply: see scripts/fence_overwrite.lua."""
    named = (b"3", keys.data, keys.log, keys.history)
    return pack_command(b"EVALSHA", SCRIPTS["fence_overwrite"].sha, *named, fence, entry)


def _step(name: str, keys: BucketKeys, epoch: int, incarnation: int, *arguments: bytes) -> bytes:
    judged = (_NUMBER.pack(epoch), _NUMBER.pack(incarnation))
    return pack_command(b"EVALSHA", SCRIPTS[name].sha, b"1", keys.data, *judged, *arguments)


# --- replies -------------------------------------------------------------------------------------


def parse_digest(reply: object) -> DigestStep | Refusal | None:
    """None: the reply is not one of the script's."""
    match reply:
        case [bytes() as cursor, int() as records, bytes() as leaves]:
            return DigestStep(cursor, records, leaves)
    return parse_refusal(reply)


def parse_promises(reply: object) -> PromisesStep | Refusal | None:
    """None: the reply is not one of the script's."""
    match reply:
        case [bytes() as cursor, int() as records, bytes() as promise]:
            return PromisesStep(cursor, records, promise)
    return parse_refusal(reply)


def parse_entries(reply: object) -> EntriesStep | Refusal | None:
    """None: the reply is not one of the script's."""
    match reply:
        case [bytes() as cursor, int() as records, list() as flat] if len(flat) % 2 == 0:
            return EntriesStep(cursor, records, dict(zip(flat[::2], flat[1::2], strict=True)))
    return parse_refusal(reply)
