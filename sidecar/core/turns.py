"""The operations of one request on many keys: so many at a time.

All at once would let one request hold up the loop, and one large value, named a thousand times, be
fetched a thousand times before anybody could say that it is too much. Nor are they made before they
begin: ten thousand objects take longer than a turn of the loop may. What one request may not do,
many at once may not do either: they know of each other.
"""

from collections.abc import Callable

_AT_ONCE = 64  # what others wait behind: some milliseconds
_BYTES_AT_ONCE = 4 << 20  # of values, going by those seen so far
_LEAST_AT_ONCE = 2
# With so many under way for all requests together, others begin with the least.
MOST_UNDER_WAY = 1024
MOST_HELD_BYTES = 256 << 20  # of values, for all requests that are not answered yet


class Together:
    """What the requests on many keys of one worker have under way, and hold, in all."""

    __slots__ = ("held_bytes", "under_way")

    def __init__(self) -> None:
        self.held_bytes = 0
        self.under_way = 0


class Turns:
    """Has `start` begin the operations 0 to `count` - 1, in order, as earlier ones end. They may be
    answered at once.
    """

    __slots__ = (
        "_begun",
        "_count",
        "_ended",
        "_held_bytes",
        "_start",
        "_starting",
        "_together",
        "value_bytes",
    )

    def __init__(self, count: int, start: Callable[[int], None], together: Together) -> None:
        self._count = count
        self._start = start
        self._together = together
        self._held_bytes = 0
        self._starting = False
        self._begun = 0
        self._ended = 0
        self.value_bytes = 0  # of all values read

    def begin(self) -> None:
        """Call it once."""
        self._go_on(self._share(_AT_ONCE))

    @property
    def half_begun(self) -> bool:
        """Whether some wait until others have ended."""
        return self._begun < self._count

    def fits(self, value_bytes: int) -> bool:
        """Whether there is room for one more value beside those that all requests hold."""
        return self._together.held_bytes + value_bytes <= MOST_HELD_BYTES

    def ended(self, value_bytes: int, *, held: bool = True) -> None:
        """One has ended, with a value so large; 0: without one. `held`: it is kept until the last
        has ended."""
        together = self._together
        together.under_way -= 1
        self._ended += 1
        self.value_bytes += value_bytes
        if held:
            self._held_bytes += value_bytes
            together.held_bytes += value_bytes
        if self._ended == self._count:
            self._let_go()
        if self._starting or self._begun == self._count:
            return
        mean_bytes = self.value_bytes // self._ended + 1
        fitting = max(_LEAST_AT_ONCE, min(_AT_ONCE, _BYTES_AT_ONCE // mean_bytes))
        at_once = self._share(fitting)
        if self._begun - self._ended <= at_once // 2:
            self._go_on(at_once)

    def _share(self, wanted: int) -> int:
        return wanted if self._together.under_way < MOST_UNDER_WAY else _LEAST_AT_ONCE

    def stop(self) -> range:
        """Begins no more; answers those that were not begun."""
        left = range(self._begun, self._count)
        self._count = self._begun
        return left

    def abandon(self) -> None:
        """Begins no more and keeps no values; `ended` is still to be told of those under way."""
        self.stop()
        self._let_go()

    def _let_go(self) -> None:
        self._together.held_bytes -= self._held_bytes
        self._held_bytes = 0

    def _go_on(self, at_once: int) -> None:
        self._starting = True
        while self._begun < self._count and self._begun - self._ended < at_once:
            number = self._begun
            self._begun += 1
            self._together.under_way += 1
            self._start(number)
        self._starting = False
