"""Where a walk over a keyspace stands, as one number that any sidecar can go on from.

Buckets are walked in order of their hash range, and the keys of a bucket in order of a hash of the
whole key (`walk_hash`; a key's bucket follows its tag alone). A cursor is 63 bits: the first 20 of
the hash range, 38 of the walk hash, 5 for the number of buckets. Nothing is kept for it anywhere.

After a split or merge of buckets a cursor goes on at the beginning of the bucket that now holds its
place: keys may come twice, and none is left out.
"""

from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from buckets.hashing import HASH_BITS, MAX_BUCKETS, hash_tag, key_hash

_PLACE_BITS = MAX_BUCKETS.bit_length() - 1
_WALK_BITS = 38
_COUNT_BITS = 5
_PLACE_SHIFT = HASH_BITS - _PLACE_BITS
MAX_CURSOR = (1 << (_PLACE_BITS + _WALK_BITS + _COUNT_BITS)) - 1


def walk_hash(key: bytes) -> int:
    """By which the keys of one bucket are ordered."""
    return xxh3_64_intdigest(key, seed=1) >> (HASH_BITS - _WALK_BITS)


class Cursor(NamedTuple):
    """Go on with keys whose hash is in the range from `place` on; in the first bucket of these,
    with keys whose walk hash is `walked` or more, if there are `buckets` buckets (else: all).
    """

    place: int = 0  # the high 20 bits of a key's hash
    walked: int = 0
    buckets: int = 1

    def encode(self) -> int:
        """1 to 2^63-1."""
        count = self.buckets.bit_length()
        return ((self.place << _WALK_BITS | self.walked) << _COUNT_BITS) | count

    @property
    def position(self) -> int:
        """The lowest hash that is still to come."""
        return self.place << _PLACE_SHIFT

    def bucket(self, shift: int) -> int:
        """The bucket to go on with, where hashes are shifted so."""
        return self.position >> shift

    def walked_in(self, buckets: int) -> int:
        """Where to go on in that bucket."""
        return self.walked if buckets == self.buckets else 0

    def holds(self, key: bytes) -> bool:
        """Whether the key is not in a part that lies behind."""
        return key_hash(key) >= self.position

    def at(self, walked: int) -> "Cursor":
        """Further on in the same bucket."""
        return self._replace(walked=walked)


def decode_cursor(number: int) -> Cursor | None:
    """The cursor; None: no sidecar gave this number. 0 begins."""
    if number == 0:
        return Cursor()
    count = number & ((1 << _COUNT_BITS) - 1)
    rest = number >> _COUNT_BITS
    if not 1 <= count <= _PLACE_BITS + 1 or not 0 < number <= MAX_CURSOR:
        return None
    return Cursor(rest >> _WALK_BITS, rest & ((1 << _WALK_BITS) - 1), 1 << (count - 1))


def start_of(bucket: int, buckets: int) -> Cursor:
    """The beginning of a bucket."""
    return Cursor(bucket << (_PLACE_BITS - buckets.bit_length() + 1), 0, buckets)


def has_tag(prefix: bytes) -> bool:
    """Whether the prefix holds a whole hash tag: then all keys with it are in one bucket."""
    return hash_tag(prefix) != prefix


def start_of_prefix(prefix: bytes) -> Cursor:
    """Where a walk over the keys with this prefix begins."""
    return Cursor(key_hash(prefix) >> _PLACE_SHIFT) if has_tag(prefix) else Cursor()
