"""Latencies in a fixed amount of memory, however many there are."""

import math

_STEPS_PER_DOUBLING = 32  # neighbouring counters are 2.2 % apart
_COUNTERS = _STEPS_PER_DOUBLING * 32  # up to 2^32 microseconds


class Latencies:
    """A histogram whose counters are spaced by ratio."""

    def __init__(self) -> None:
        self.count = 0
        self._counters = [0] * _COUNTERS

    def add(self, seconds: float) -> None:
        """Counts one answer; what is below a microsecond counts as one."""
        step = int(math.log2(max(seconds * 1e6, 1.0)) * _STEPS_PER_DOUBLING)
        self._counters[min(step, _COUNTERS - 1)] += 1
        self.count += 1

    def quantile_ms(self, share: float) -> float:
        """What `share` (0 to 1) of all answers did not exceed, within 2.2 %; 0.0: no answers."""
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for step, count in enumerate(self._counters):
            seen += count
            if seen >= wanted:
                return round(2 ** ((step + 1) / _STEPS_PER_DOUBLING) / 1000, 3)
        return 0.0
