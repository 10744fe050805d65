"""The sweep: operations under way, ended at their deadlines and hurried once they are slow.

One coarse tick instead of a timer for each: only what outlives a tick is sorted at all.
"""

import heapq

from buckets.bucket_map import Consistency
from sidecar.core.read import ReadRun
from sidecar.core.register_host import RegisterUnderWay
from sidecar.core.write import WriteRun

Run = ReadRun | WriteRun | RegisterUnderWay

# Ended operations that wait for their deadlines in the heap: beyond this they are cleared away,
# for each keeps its request's bytes.
COMPACT_ABOVE = 1024
HEDGE_AGAIN_S = 0.02  # a slow read that the budget did not cover: how soon it is looked at again
DENIED_A_TICK = 64  # such reads in one tick: a storm of them must not hold up the loop


class Sweep:
    """What is under way. `now` is loop time, seconds."""

    __slots__ = ("_old", "_sequence", "_slow", "young")

    def __init__(self) -> None:
        self.young: list[Run] = []  # begun since the last tick: add to it
        self._old: list[tuple[float, int, Run]] = []  # outlived a tick: a heap by deadline
        self._slow: list[tuple[float, int, Run]] = []  # can be hurried: a heap by when it is slow
        self._sequence = 0

    def tick(self, now: float, active: int) -> None:
        """End what is overdue, hurry what is slow; `active` operations are under way in all."""
        young, self.young = self.young, []
        for run in young:
            if run.op is not None:
                self._sequence += 1
                heapq.heappush(self._old, (run.op.deadline, self._sequence, run))
                if not isinstance(run, WriteRun) or run.op.level == Consistency.ANY:
                    heapq.heappush(self._slow, (run.slow_at(), self._sequence, run))
        old = self._old
        while old and (old[0][2].op is None or old[0][0] <= now):
            heapq.heappop(old)[2].timed_out()
        if len(old) > COMPACT_ABOVE + 2 * active:
            self._old = [waiting for waiting in old if waiting[2].op is not None]
            heapq.heapify(self._old)
        self._hurry_slow(now)

    def _hurry_slow(self, now: float) -> None:
        slow = self._slow
        again: list[tuple[float, int, Run]] = []
        denied = 0
        while slow and denied < DENIED_A_TICK and (slow[0][2].op is None or slow[0][0] <= now):
            _, order, run = heapq.heappop(slow)
            if run.op is None:
                continue
            slow_at = run.slow_at()  # the one that was overdue may have answered since
            if slow_at > now:
                again.append((slow_at, order, run))
            elif not run.hurry():
                denied += 1
                again.append((now + HEDGE_AGAIN_S, order, run))
        for entry in again:
            heapq.heappush(slow, entry)
