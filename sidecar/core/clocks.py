"""Whether this process's clock is right: what its replicas' clocks say, and which time goes.

A replica's TIME is held against the monotonic clock, not against the wall clock. So a step of the
wall clock shows at the next look at it, not at the next measurement, and no version is issued in
between. Only tunable versions and expiry need a time at all: ballots of linearizable keyspaces are
above the highest seen, whatever any clock says.
"""

import enum
from collections import deque
from collections.abc import Callable, Iterable
from statistics import median
from typing import NamedTuple, Protocol

from buckets.bucket_map import BucketMap

SAMPLES = 8
# Quartz drifts by less than 0.1 ms a second: what was measured is of use for this long.
MEASURED_FOR_S = 60.0
RESOLUTION_MS = 1.0  # TIME is read in whole milliseconds
DEFAULT_TOLERANCE_MS = 500


class _Sample(NamedTuple):
    offset_ms: float  # the replica's Unix milliseconds minus monotonic milliseconds
    error_ms: float
    at: float


class NodeClock:
    """One replica's clock. Times are monotonic seconds, `time_ms` is what the replica said."""

    __slots__ = ("_samples", "best")

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES)
        self.best: _Sample | None = None  # the shortest round trip lately: the smallest error

    def observe(self, sent_at: float, received_at: float, time_ms: float) -> None:
        """One TIME: it was read somewhere within its round trip."""
        offset_ms = time_ms + RESOLUTION_MS / 2 - (sent_at + received_at) * 500
        error_ms = (received_at - sent_at) * 500 + RESOLUTION_MS
        best = self.best
        if best is not None and abs(offset_ms - best.offset_ms) > error_ms + best.error_ms:
            self._samples.clear()  # its clock has stepped: nothing else explains both
        self._samples.append(_Sample(offset_ms, error_ms, received_at))
        self.best = min(self._samples, key=lambda sample: sample.error_ms)

    def offset_ms(self, now: float) -> float | None:
        """Its clock minus the monotonic one; None when it was not measured lately."""
        if not self._samples or self.best is None or now - self._samples[-1].at > MEASURED_FOR_S:
            return None
        return self.best.offset_ms


class ClockState(enum.Enum):
    """What tunable versions are made from."""

    UNMEASURED = "unmeasured"  # the wall clock: no replica has said its time yet
    GOOD = "good"  # the wall clock
    CORRECTED = "corrected"  # the median of the replicas' clocks: the wall clock is too far off
    REFUSING = "refusing"  # nothing: it is too far off, and too few replicas can be measured


class Clocked(Protocol):
    """A node of the map, as far as clocks go."""

    clock: NodeClock
    tried: bool  # a first attempt to connect has ended

    @property
    def link(self) -> object | None:
        """Its connection."""


class Clocks:
    """The wall clock beside the median of the replicas' clocks.

    `peers` are all nodes of the map, asked anew at each `measure`. `tolerance_ms` is how far off
    the wall clock may be for expiry; for versions it is the keyspace's max_skew.
    """

    def __init__(
        self,
        peers: Callable[[], Iterable[Clocked]],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self.tolerance_ms = DEFAULT_TOLERANCE_MS
        self.measured = 0  # nodes that said their time lately
        self.nodes = 0
        self.offset_ms: float | None = None  # median of the replicas' clocks, minus monotonic ms
        self._peers = peers
        self._wall_ms = wall_ms
        self._monotonic = monotonic

    def adopt(self, bucket_map: BucketMap) -> None:
        """Tolerate what the strictest of the map's keyspaces does."""
        skews_ms = (keyspace.settings.max_skew_ms for keyspace in bucket_map.keyspaces.values())
        self.tolerance_ms = min(skews_ms, default=DEFAULT_TOLERANCE_MS)

    def measure(self) -> None:
        """Take the median anew: a few times a second, and when a node has been measured first.

        When nothing is measured any more, what was measured last still holds: better an old
        comparison than a clock that nobody looks after.
        """
        now = self._monotonic()
        offsets_ms: list[float] = []
        self.nodes = 0
        for peer in self._peers():
            self.nodes += 1
            offset_ms = peer.clock.offset_ms(now)
            if offset_ms is not None:
                offsets_ms.append(offset_ms)
        self.measured = len(offsets_ms)
        if offsets_ms:
            self.offset_ms = median(offsets_ms)

    @property
    def skew_ms(self) -> float | None:
        """The wall clock minus the median of the replicas' clocks; None: nothing was measured."""
        if self.offset_ms is None:
            return None
        return self._wall_ms() - (self._monotonic() * 1000 + self.offset_ms)

    def node_skew_ms(self, clock: NodeClock) -> float | None:
        """A replica's clock minus the median of all; None: not measured."""
        offset_ms = clock.offset_ms(self._monotonic())
        if offset_ms is None or self.offset_ms is None:
            return None
        return offset_ms - self.offset_ms

    def connecting(self) -> bool:
        """Whether first connections are still being made, and there is none yet."""
        return not (self.connected or all(peer.tried for peer in self._peers()))

    @property
    def connected(self) -> bool:
        """Whether anything could be sent to any node."""
        return any(peer.link is not None for peer in self._peers())

    @property
    def enough(self) -> bool:
        """Whether a majority of the nodes said their time: then their median is the time."""
        return 2 * self.measured > self.nodes

    @property
    def state(self) -> ClockState:
        """What versions of a keyspace are made from whose max_skew is `tolerance_ms`."""
        skew_ms = self.skew_ms
        if skew_ms is None:
            return ClockState.UNMEASURED
        if abs(skew_ms) <= self.tolerance_ms:
            return ClockState.GOOD
        return ClockState.CORRECTED if self.enough else ClockState.REFUSING

    def version_ms(self, now: float, max_skew_ms: int) -> int | None:
        """Unix milliseconds for a version issued now (monotonic seconds); None: refuse to.

        The wall clock's, or the replicas' median where it is more than `max_skew_ms` off.
        """
        wall_ms = self._wall_ms()
        offset_ms = self.offset_ms
        if offset_ms is None:
            return wall_ms
        replicas_ms = now * 1000 + offset_ms
        if -max_skew_ms <= wall_ms - replicas_ms <= max_skew_ms:
            return wall_ms
        return int(replicas_ms) if self.enough else None

    def time_ms(self) -> int:
        """Unix milliseconds that decide what has expired: of the replicas, once they are known
        and the wall clock is off; few replicas are better than a clock that they contradict.
        """
        wall_ms = self._wall_ms()
        if self.offset_ms is None:
            return wall_ms
        replicas_ms = self._monotonic() * 1000 + self.offset_ms
        return wall_ms if abs(wall_ms - replicas_ms) <= self.tolerance_ms else int(replicas_ms)


def skewed_text(skew_ms: float) -> str:
    """How far off the clock is, for people: "30.0 s ahead of the replicas'"."""
    side = "ahead of" if skew_ms > 0 else "behind"
    size_ms = abs(skew_ms)
    size = f"{size_ms / 1000:.1f} s" if size_ms >= 1000 else f"{size_ms:.0f} ms"
    return f"{size} {side} the replicas'"
