"""Where reads found replicas that differ: how many keys, and how old the oldest difference was.

The repair job counts the same, bucket by bucket, when it goes over all records; reads see only what
is asked for, but at once.
"""

from dataclasses import dataclass
from typing import Final

from replicas.version import physical_ms

MOST_PLACES: Final = 256  # buckets told apart; what is found elsewhere counts together
ELSEWHERE: Final = ("", -1)
Place = tuple[str, int]  # keyspace and bucket


@dataclass(slots=True)
class Found:
    """Of one bucket, since the process started."""

    keys: int = 0  # reads whose replicas differed
    oldest_ms: int = 0  # of the versions that a replica lacked, the earliest: Unix milliseconds


class Divergence:
    """All buckets in which reads met a difference."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        self.places: dict[Place, Found] = {}

    def found(self, keyspace: str, bucket: int, version: bytes) -> None:
        """Replicas differed: `version` is the newest, which some of them lacked."""
        self.add((keyspace, bucket), 1, physical_ms(version))

    def add(self, place: Place, keys: int, oldest_ms: int) -> None:
        """Count what was found in a bucket."""
        if place not in self.places and len(self.places) >= MOST_PLACES:
            place = ELSEWHERE
        known = self.places.get(place)
        if known is None:
            known = self.places[place] = Found()
        known.keys += keys
        known.oldest_ms = min(known.oldest_ms or oldest_ms, oldest_ms)
