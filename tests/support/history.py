"""What clients did and saw, and whether any order of events explains it.

Each key has one writer, which numbers its writes 1, 2, 3 ... and waits for each to end, so a later
number is a later write. Times are `time.monotonic()` seconds.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import attrgetter

OK, NOT_APPLIED, UNKNOWN = "OK", "NOT_APPLIED", "UNKNOWN"
ABSENT = 0  # the number of what nobody has written


@dataclass(frozen=True, slots=True)
class Event:
    """One operation. `outcome` of a read: OK or UNKNOWN; `version`: empty where a door has none."""

    door: str
    key: bytes
    number: int
    began: float
    ended: float
    outcome: str = OK
    version: bytes = b""
    error: str = ""

    def __str__(self) -> str:
        return f"{self.door} {self.key!r} number {self.number} {self.outcome} {self.error}"


@dataclass
class History:
    """Appended to by many threads (list.append is atomic); judged when they have ended."""

    writes: list[Event] = field(default_factory=list)
    reads: list[Event] = field(default_factory=list)

    @property
    def failures(self) -> list[Event]:
        """Operations that were not answered with OK."""
        return [event for event in [*self.writes, *self.reads] if event.outcome != OK]

    @property
    def acknowledged(self) -> int:
        """How many writes were."""
        return sum(write.outcome == OK for write in self.writes)

    def violations(self) -> list[str]:
        """What can not be explained; empty when all is well."""
        writes, reads = _by_key(self.writes), _by_key(self.reads)
        found: list[str] = []
        for key in sorted(writes.keys() | reads.keys()):
            answered = [read for read in reads[key] if read.outcome == OK]
            found += _unwritten(writes[key], answered)
            acknowledged = [write for write in writes[key] if write.outcome == OK]
            found += _went_back(acknowledged, answered, "an acknowledged write")
            found += _went_back(answered, answered, "an earlier read")
            found += _disordered([*acknowledged, *answered])
        return found


def _by_key(events: Iterable[Event]) -> defaultdict[bytes, list[Event]]:
    sorted_out: defaultdict[bytes, list[Event]] = defaultdict(list)
    for event in events:
        sorted_out[event.key].append(event)
    return sorted_out


def _unwritten(writes: Sequence[Event], reads: Iterable[Event]) -> list[str]:
    """Reads of what was proved not to be applied, or was not even begun."""
    by_number = {write.number: write for write in writes}
    found = []
    for read in reads:
        write = by_number.get(read.number)
        if read.number == ABSENT:
            continue
        if write is None or write.began > read.ended:
            found.append(f"a value that nobody had written was read: {read}")
        elif write.outcome == NOT_APPLIED:
            found.append(f"a value reported as not applied was read: {read}")
    return found


def _went_back(earlier: Sequence[Event], reads: Iterable[Event], what: str) -> list[str]:
    """Reads of less than something that had ended before they began."""
    by_end = sorted(earlier, key=attrgetter("ended"))
    ends = [event.ended for event in by_end]
    highest = list(accumulate((event.number for event in by_end), max))
    found = []
    for read in reads:
        before = bisect_left(ends, read.began)
        if before and read.number < highest[before - 1]:
            found.append(f"below {what} ({highest[before - 1]}): {read}")
    return found


def _disordered(events: Iterable[Event]) -> list[str]:
    """Versions that do not grow with the numbers, or two versions of one write."""
    versioned = {(event.number, event.version) for event in events if event.version}
    ordered = sorted(versioned)
    return [
        f"versions are out of order: number {first[0]} has {first[1].hex()},"
        f" number {second[0]} has {second[1].hex()}"
        for first, second in pairwise(ordered)
        if first[0] == second[0] or first[1] >= second[1]
    ]
