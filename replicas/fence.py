"""The fence: what a replica knows of its own part in a bucket, and judges every operation by.

    format(1) | epoch(8) | stage(1) | role(1) | incarnation(8) | purged_through(16) |
    closed_through(16) | ballot_floor(16), in format 2 | checksum(8)

Big-endian; the checksum is the first 8 bytes of SHA-1 over the rest. The first 19 bytes are all
that a map says about an owner: a read compares them with what it expects, and parses surprises.
"""

import enum
import struct
from dataclasses import dataclass
from hashlib import sha1

from buckets.bucket_map import Stage
from replicas.version import ZERO_VERSION

FORMAT = 1
FORMAT_WITH_FLOOR = 2  # only where there is a ballot floor: all others stay as they are
PREFIX_BYTES = 19
FENCE_BYTES = 59
FLOOR_BYTES = 16

_PREFIX = struct.Struct(">BQBBQ")
_BODY = struct.Struct(">BQBBQ16s16s")
_MAX_U64 = (1 << 64) - 1


class Role(enum.IntEnum):
    """What the replica is to the bucket."""

    OWNER = 1
    JOINING = 2  # takes writes, not complete yet: counts in no read
    READ_REPLICA = 3  # follows the owners; never counts in a quorum
    RELEASED = 4  # a gravestone: the map entry beside it names the successors


@dataclass(frozen=True, slots=True)
class Fence:
    """A replica's own view of one bucket.

    Nothing at or below `purged_through` changes but by copies (tombstones are gone, or are about to
    go), and all new versions at or below `closed_through` are refused. `ballot_floor` is that of a
    linearizable acceptor which lost data and may have forgotten promises up to there: it promises
    and accepts nothing at or below it. All three are versions; ZERO_VERSION: nothing.
    """

    epoch: int
    stage: Stage
    role: Role
    incarnation: int
    purged_through: bytes = ZERO_VERSION
    closed_through: bytes = ZERO_VERSION
    ballot_floor: bytes = ZERO_VERSION

    @property
    def prefix(self) -> bytes:
        """The first 19 bytes, without a ballot floor: what a reader that knows the map expects.

        A fence with a floor differs in its first byte, and such readers parse it.
        """
        return fence_prefix(self.epoch, self.stage, self.role, self.incarnation)

    @property
    def dropped_through(self) -> bytes:
        """The version up to which tombstones are gone, every owner having been equal before; empty:
        none, or a further purge has closed the bucket since (its bound ends in 0).
        """
        return self.purged_through if self.purged_through[-1] else b""

    def encode(self) -> bytes:
        """The fence's 59 bytes, 75 with a floor. Raises ValueError for a field out of bounds."""
        if not 0 < self.epoch <= _MAX_U64 or not 0 < self.incarnation <= _MAX_U64:
            raise ValueError(f"epoch and incarnation must be within 1 and 2^64-1: {self}")
        bounds = (self.purged_through, self.closed_through, self.ballot_floor)
        if any(len(bound) != len(ZERO_VERSION) for bound in bounds):
            raise ValueError(f"what bounds a fence are versions of 16 bytes: {self}")
        body = self.prefix + self.purged_through + self.closed_through
        if self.ballot_floor != ZERO_VERSION:
            body = bytes((FORMAT_WITH_FLOOR,)) + body[1:] + self.ballot_floor
        return body + sha1(body).digest()[:8]


def fence_prefix(epoch: int, stage: Stage, role: Role, incarnation: int) -> bytes:
    """What the fence of an owner begins with when it agrees with the reader's map."""
    return _PREFIX.pack(FORMAT, epoch, stage, role, incarnation)


def decode_fence(raw: bytes) -> Fence | None:
    """The fence in `raw`; None when its checksum or form is wrong: it is no answer."""
    if len(raw) < FENCE_BYTES or sha1(raw[:-8]).digest()[:8] != raw[-8:]:
        return None
    form, epoch, stage, role, incarnation, purged, closed = _BODY.unpack_from(raw)
    floor = raw[_BODY.size : -8] or ZERO_VERSION
    wanted = FORMAT if len(raw) == FENCE_BYTES else FORMAT_WITH_FLOOR
    if form != wanted or len(floor) != FLOOR_BYTES or not epoch or not incarnation:
        return None
    if not Stage.OLD <= stage <= Stage.NEW or not Role.OWNER <= role <= Role.RELEASED:
        return None
    return Fence(epoch, Stage(stage), Role(role), incarnation, purged, closed, floor)
