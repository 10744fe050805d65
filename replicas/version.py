"""Versions: 16 bytes whose memcmp order is the order of writes.

    milliseconds(6) | counter(2) | writer(8)

The first 8 bytes are a hybrid logical clock: wall-clock milliseconds where the clock moves, the
counter where it does not. The writer is random per process start, so no two writes share a version.
"""

from replicas.record import MAX_TIME_MS, VERSION_BYTES, Record

ZERO_VERSION = bytes(VERSION_BYTES)  # below every version: "nothing purged", "nothing closed"
WRITER_BYTES = 8
COUNTER_BITS = 16


class HybridClock:
    """Issues versions that only grow, whatever the wall clock does.

    `writer` is 8 random bytes, fresh per process start. `floor_ms` is a time (Unix milliseconds)
    that an earlier process promised not to pass: nothing is issued at or below it.
    """

    __slots__ = ("_last", "_writer")

    def __init__(self, writer: bytes, floor_ms: int = 0) -> None:
        if len(writer) != WRITER_BYTES:
            raise ValueError(f"a writer has {WRITER_BYTES} bytes, not {len(writer)}")
        if not 0 <= floor_ms <= MAX_TIME_MS:
            raise ValueError(f"floor_ms must be within 0 and {MAX_TIME_MS}, not {floor_ms}")
        self._writer = writer
        self._last = (floor_ms << COUNTER_BITS) | ((1 << COUNTER_BITS) - 1) if floor_ms else 0

    @property
    def writer(self) -> bytes:
        """The 8 bytes with which every version issued ends."""
        return self._writer

    @property
    def last_ms(self) -> int:
        """Milliseconds of the highest version issued or merged."""
        return self._last >> COUNTER_BITS

    def next(self, now_ms: int) -> bytes:
        """A version above every one issued or merged before, at `now_ms` where that is possible.

        A counter that is full (65,536 in one millisecond) carries into the milliseconds.
        Raises OverflowError past the year 10889.
        """
        last = self._last + 1
        now = now_ms << COUNTER_BITS
        if now > last:
            last = now
        self._last = last
        return last.to_bytes(8, "big") + self._writer

    def merge(self, version: bytes) -> None:
        """Take note of a version read from a replica: later ones are issued above it."""
        seen = int.from_bytes(version[:8], "big")
        if seen > self._last:
            self._last = seen


def physical_ms(version: bytes) -> int:
    """Unix milliseconds in a version."""
    return int.from_bytes(version[:6], "big")


def winner(a: Record | None, b: Record | None) -> Record | None:
    """The one that stands when both were written: the higher in order; None is below everything."""
    if a is None:
        return b
    if b is None or a.order >= b.order:
        return a
    return b
