"""The operations of one request on many keys: so many at a time.

All at once would let one request hold up the loop, and one large value, named a thousand times, be
fetched a thousand times before anybody could say that it is too much. Nor are they made before they
begin: ten thousand objects take longer than a turn of the loop may.
"""

from collections.abc import Callable

_AT_ONCE = 64  # what others wait behind: some milliseconds
_BYTES_AT_ONCE = 4 << 20  # of values, going by those seen so far
_LEAST_AT_ONCE = 2


class Turns:
    """Has `start` begin the operations 0 to `count` - 1, in order, as earlier ones end. They may be
    answered at once.
    """

    __slots__ = ("_begun", "_count", "_ended", "_start", "_starting", "value_bytes")

    def __init__(self, count: int, start: Callable[[int], None]) -> None:
        self._count = count
        self._start = start
        self._starting = False
        self._begun = 0
        self._ended = 0
        self.value_bytes = 0  # of all values read

    def begin(self) -> None:
        """Call it once."""
        self._go_on(_AT_ONCE)

    @property
    def half_begun(self) -> bool:
        """Whether some wait until others have ended."""
        return self._begun < self._count

    def ended(self, value_bytes: int) -> None:
        """One has ended, with a value so large; 0: without one."""
        self._ended += 1
        self.value_bytes += value_bytes
        if self._starting or self._begun == self._count:
            return
        mean_bytes = self.value_bytes // self._ended + 1
        at_once = max(_LEAST_AT_ONCE, min(_AT_ONCE, _BYTES_AT_ONCE // mean_bytes))
        if self._begun - self._ended <= at_once // 2:
            self._go_on(at_once)

    def stop(self) -> range:
        """Begins no more; answers those that were not begun."""
        left = range(self._begun, self._count)
        self._count = self._begun
        return left

    def _go_on(self, at_once: int) -> None:
        self._starting = True
        while self._begun < self._count and self._begun - self._ended < at_once:
            number = self._begun
            self._begun += 1
            self._start(number)
        self._starting = False
