"""Virtual time: what happens when, in one fixed order."""

import heapq
from collections.abc import Callable
from typing import Any

_Call = Callable[..., object]


class Schedule:
    """A heap of calls. Of two at the same instant the one asked for first comes first."""

    __slots__ = ("_heap", "_sequence", "now")

    def __init__(self) -> None:
        self.now = 0.0  # seconds since the run began
        self._heap: list[tuple[float, int, _Call, tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, when_s: float, call: _Call, *arguments: Any) -> None:
        """Call at `when_s`, or now if that is past."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(when_s, self.now), self._sequence, call, arguments))

    def after(self, delay_s: float, call: _Call, *arguments: Any) -> None:
        """Call `delay_s` from now."""
        self.at(self.now + delay_s, call, *arguments)

    def run_until(self, end_s: float) -> None:
        """Everything up to `end_s` happens."""
        heap = self._heap
        while heap and heap[0][0] <= end_s:
            self.now, _, call, arguments = heapq.heappop(heap)
            call(*arguments)
        self.now = end_s
