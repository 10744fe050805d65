"""Taking old tombstones away: how far one may go, the order of the steps, the commands. Pure.

A tombstone may go once nothing can come back that it covers. So every owner must have it, and must
refuse whatever is older; see docs/decisions/0009-purging-tombstones.md.
"""

import enum
import struct
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from replicas.commands import pack_command
from replicas.layout import BucketKeys
from replicas.replies import Refusal, parse_refusal
from replicas.scripts import SCRIPTS
from replicas.version import ZERO_VERSION

_NUMBER = struct.Struct(">Q")
_LOW_BYTES: Final = len(ZERO_VERSION) - 6


class What(enum.Enum):
    """One step over all owners of a bucket."""

    LOOK = b"look"  # count what could go
    CLOSE = b"close"  # from now on what is at or below the bound changes through copies only
    EQUALIZE = b""  # make the owners equal (a pass of the repair): no script of its own
    DROP = b"drop"


@dataclass(slots=True)
class Purged:
    """What the owners of a bucket held together: records, tombstones, and what went of them."""

    records: int = 0
    tombstones: int = 0
    purged: int = 0
    size_bytes: int = 0

    def add(self, other: "Purged") -> None:
        """Sum up."""
        self.records += other.records
        self.tombstones += other.tombstones
        self.purged += other.purged
        self.size_bytes += other.size_bytes


class PurgeStep(NamedTuple):
    """One step's reply: the next cursor (b"0" after the last one), and what was seen."""

    cursor: bytes
    seen: Purged


def purge_bound(
    repaired_ms: int, now_ms: int, grace_ms: int, hints_ms: Iterable[int] = ()
) -> bytes:
    """The version up to which tombstones may go; ZERO_VERSION: none.

    `repaired_ms`: every owner has everything up to there. `now_ms` is the lowest of the owners'
    clocks. `hints_ms`: times of the oldest hints that may still be replayed. Unix milliseconds.
    """
    through = min([repaired_ms, now_ms - grace_ms, *(at_ms - 1 for at_ms in hints_ms)])
    return max(0, through).to_bytes(6, "big") + bytes(_LOW_BYTES)


def purging(bound: bytes) -> Generator[What, Purged | None, Purged]:
    """The steps for one bucket, in order; what they came to.

    Each is to be done on *every* owner before it is answered, with the sum of what they saw. One
    that can not be done on all ends it: closing the generator leaves nothing that has to be undone,
    and it may begin again at any time. None as an answer to EQUALIZE: they are equal.
    """
    if bound == ZERO_VERSION:
        return Purged()
    seen = yield What.LOOK
    if seen is None or not seen.purged:
        return seen or Purged()
    yield What.CLOSE
    yield What.EQUALIZE
    gone = (yield What.DROP) or Purged()
    return Purged(seen.records, seen.tombstones, gone.purged, gone.size_bytes)


def purge_command(
    keys: BucketKeys,
    epoch: int,
    incarnation: int,
    *,
    what: What,
    bound: bytes,
    grace_ms: int,
    cursor: bytes = b"0",
    count: int = 1,
) -> bytes:
    """One step of about `count` records. Reply: see scripts/purge.lua, and parse_purge."""
    judged = (_NUMBER.pack(epoch), _NUMBER.pack(incarnation))
    step = (cursor, b"%d" % count, bound, b"%d" % grace_ms, what.value)
    return pack_command(b"EVALSHA", SCRIPTS["purge"].sha, b"1", keys.data, *judged, *step)


def parse_purge(reply: object) -> PurgeStep | Refusal | None:
    """None: the reply is not one of the script's."""
    match reply:
        case [
            bytes() as cursor,
            int() as records,
            int() as tombstones,
            int() as purged,
            int() as b,
        ]:
            return PurgeStep(cursor, Purged(records, tombstones, purged, b))
    return parse_refusal(reply)
