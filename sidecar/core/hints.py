"""Hints: a write kept for an owner that missed it. What is kept, how fast it is replayed, its end.

Who gets one: every owner that did not acknowledge a write whose level was met. The tally alone
says whether it was: a write that meets its level after its client was told UNKNOWN gets hints too,
since the owners that missed it are as stale as after an OK. A write that never meets its level gets
none: its client holds the version and is told to repeat it, which carries it to all owners, and
hints for such writes would fill the disk just when a majority is away. One that is NOT_APPLIED
never gets any: a replay would break the promise that nobody reads it.

A hint is no acknowledgement and enters no tally. The exception is a write at level ANY that no
owner took: its hint, once durable, is the answer, and the only copy (`ONLY_COPY`). It never ages
out, and only an owner whose answers count takes it over.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from replicas.replies import Code, Refusal, parse_write

ONLY_COPY: Final = 0  # no node has this number: the hint is for every owner, and none holds it
ROW_OVERHEAD_BYTES: Final = 160  # of a hint on disk beside key and record, indexes included


class Hint(NamedTuple):
    """One write that one owner missed; `record` carries the original version."""

    keyspace: str
    bucket: int  # as it was when the owner missed it; the replay hashes the key anew
    key: bytes
    record: bytes
    node: int  # the owner's number, or ONLY_COPY
    created_ms: int  # Unix milliseconds; of an only copy at most its version's

    @property
    def size_bytes(self) -> int:
        """What it takes of the log's bound."""
        return len(self.key) + len(self.record) + ROW_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class HintBounds:
    """What a log may take. At `size_bytes` new hints are refused; at `age_ms` old ones are dropped.

    Either way the bucket is marked as in need of repair: nothing is dropped silently.
    """

    size_bytes: int = 256 << 20
    age_ms: int = 3 * 3_600_000
    queue_bytes: int = 16 << 20  # waiting in memory for the disk

    def refusal(self, size_bytes: int, stored_bytes: int, queued_bytes: int) -> str:
        """Why a hint of `size_bytes` is not taken; empty when it is."""
        if stored_bytes + queued_bytes + size_bytes > self.size_bytes:
            return f"the hint log is at its bound of {self.size_bytes} bytes"
        if queued_bytes + size_bytes > self.queue_bytes:
            return f"the disk is slow: {self.queue_bytes} bytes of hints wait for it"
        return ""

    def cutoff_ms(self, now_ms: int) -> int:
        """Hints of this time and before are too old, unless they are the only copy."""
        return now_ms - self.age_ms


class HintKeeper(Protocol):
    """Who keeps hints, as the coordinator sees it. Nothing here blocks or raises."""

    def keep(self, hint: Hint) -> None:
        """Keep it, or mark its bucket as in need of repair."""

    def keep_only_copy(self, hint: Hint, done: Callable[[str], None]) -> str:
        """Why not, at once (nothing is kept then); or empty, and `done` follows.

        `done` is called with nothing when the hint is on disk, else with what went wrong: then it
        may be there or not.
        """


# --- what a replica says to a replay


class Fate(enum.Enum):
    """What becomes of a hint after one owner's answer."""

    DONE = enum.auto()  # the owner holds this version or a newer one, or has purged past it
    LEARN = enum.auto()  # our map is old: adopt the entry that came along, and try again
    KEEP = enum.auto()  # not now
    GIVE_UP = enum.auto()  # it will never take it: mark the bucket


_FATES: Final = {
    # What was purged was deleted: a late hint must not bring it back.
    Code.PURGED: Fate.DONE,
    Code.STALE_EPOCH: Fate.LEARN,
    Code.RELEASED: Fate.LEARN,
    Code.WRONG_INCARNATION: Fate.LEARN,
    # The bucket was made equal up to a time: only a repair may still write below it.
    Code.CLOSED: Fate.GIVE_UP,
    Code.WRONG_MODE: Fate.GIVE_UP,
    Code.BAD_REQUEST: Fate.GIVE_UP,
}


def judge(reply: object) -> tuple[Fate, Refusal | None]:
    """What an owner's reply to the write script means for the hint, with the refusal, if it is one.

    Whatever is not understood keeps the hint.
    """
    parsed = parse_write(reply)
    if isinstance(parsed, Refusal):
        if parsed.code is Code.PURGED and not (parsed.fence and parsed.fence.dropped_through):
            return Fate.KEEP, parsed  # closed for a purge: its owners are not equal yet
        return _FATES.get(parsed.code, Fate.KEEP), parsed
    return (Fate.KEEP if parsed is None else Fate.DONE), None


def targets(node: int, owners: Sequence[int]) -> tuple[int, ...]:
    """Slots of the present owners (node numbers) that a hint for `node` goes to now.

    When the owner it was meant for is none any more, that is all of them: who has the bucket now
    may have been filled before the write arrived.
    """
    if node in owners:
        return (owners.index(node),)
    return tuple(range(len(owners)))


# --- pacing

FIRST_WINDOW: Final = 2.0
MAX_WINDOW: Final = 64.0
MAX_BYTES_ON_THE_WAY: Final = 1 << 20
BASE_INTERVAL_S: Final = 5.0
# Round trips of up to twice the shortest lately, or this much more, are no sign of a queue.
SLACK_S: Final = 0.002


class Pace:
    """How many hints may be on their way to one node: additive increase, multiplicative decrease.

    Congestion is the receiver's own latency: a round trip of twice the shortest of the last seconds
    means that replays queue there, before the reads and writes of everyone else.
    """

    __slots__ = ("_base_s", "_base_until", "_calm_until", "_older_base_s", "in_flight",
                 "in_flight_bytes", "window")  # fmt: skip

    def __init__(self) -> None:
        self.window = FIRST_WINDOW
        self.in_flight = 0
        self.in_flight_bytes = 0
        self._base_s = self._older_base_s = float("inf")
        self._base_until = 0.0
        self._calm_until = 0.0

    def room(self, size_bytes: int) -> bool:
        """Whether one more hint of `size_bytes` may be sent now."""
        if not self.in_flight:
            return True
        fits = self.in_flight_bytes + size_bytes <= MAX_BYTES_ON_THE_WAY
        return fits and self.in_flight < int(self.window)

    def sent(self, size_bytes: int) -> None:
        """One more is on its way."""
        self.in_flight += 1
        self.in_flight_bytes += size_bytes

    def answered(self, size_bytes: int, latency_s: float, now_s: float) -> None:
        """The receiver answered one, after `latency_s`."""
        self._landed(size_bytes)
        if now_s >= self._base_until:
            self._older_base_s, self._base_s = self._base_s, float("inf")
            self._base_until = now_s + BASE_INTERVAL_S
        self._base_s = min(self._base_s, latency_s)
        base_s = min(self._base_s, self._older_base_s)
        if latency_s <= max(2 * base_s, base_s + SLACK_S):
            self.window = min(MAX_WINDOW, self.window + 1 / self.window)
        else:
            self._slow_down(now_s, latency_s)

    def failed(self, size_bytes: int, now_s: float) -> None:
        """One was lost, could not be sent, or its server refused to run it."""
        self._landed(size_bytes)
        self._slow_down(now_s, SLACK_S)

    def _landed(self, size_bytes: int) -> None:
        self.in_flight -= 1
        self.in_flight_bytes -= size_bytes

    def _slow_down(self, now_s: float, for_s: float) -> None:
        # Once a round trip: what was sent before the last decrease says nothing about it.
        if now_s >= self._calm_until:
            self.window = max(1.0, self.window / 2)
            self._calm_until = now_s + for_s


class Budget:
    """What all replays of a process may take together: hints a second, a large one counts as more.

    The receiver is not all that a replay burdens: a hint costs this process 50 us of the loop that
    serves everybody, so the budget leaves four fifths of it.
    """

    __slots__ = ("_last_s", "_tokens", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float = 16.0) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._tokens = burst
        self._last_s = 0.0

    def take(self, size_bytes: int, now_s: float) -> bool:
        """Whether a hint of `size_bytes` may go now; if so, it is paid for."""
        earned = max(0.0, now_s - self._last_s) * self.rate_per_s
        self._tokens = min(self.burst, self._tokens + earned)
        self._last_s = now_s
        if self._tokens <= 0:
            return False
        self._tokens -= max(1.0, size_bytes / 1024)  # may fall below: a large one is paid later
        return True
