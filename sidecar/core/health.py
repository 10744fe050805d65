"""How promptly a replica answers, and what may be spent on not waiting for it. No clock, no I/O.

A frozen server keeps its TCP connections, so only what it leaves unanswered tells. Whoever owns
the connections looks at their oldest unanswered requests every few milliseconds (`watch`): no
request pays for it. A replica that stalls is *demoted*: still asked when an answer needs it, and
written to as ever, but read only after the others. It comes back by probes that it answers
promptly (half open), after a pause that grows when it keeps relapsing.
"""

from collections import deque
from typing import ClassVar

SAMPLES = 64  # latencies that the p95 is taken from: 16 s of probes alone, 0.3 s under load
FEWEST_SAMPLES = 8
PROMPT_SHARE = 0.95
# A read is not hedged sooner than a tick can tell, nor later than this, whatever its replica does.
LEAST_HEDGE_S = 0.005
MOST_HEDGE_S = 0.1
# A replica whose oldest request has waited this long is read last.
STALL_S = 0.05
GOOD_PROBES = 2  # answered in a row within STALL_S: it is read again
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
RELAPSE_S = 10.0  # demoted again this soon after: the pause doubles
# Of what it was asked since the last look: this many errors, and this share, demote it too.
FAILING_ERRORS = 5
FAILING_SHARE = 0.5


class Breaker:
    """The promptness of one replica. `now` is loop time, seconds."""

    __slots__ = (
        "_asked",
        "_errors",
        "_fresh",
        "_good_probes",
        "_latencies_s",
        "_pause_s",
        "_pause_until",
        "_recovered_at",
        "demoted",
        "hedge_after_s",
    )

    def __init__(self) -> None:
        self.demoted = False
        self.hedge_after_s = MOST_HEDGE_S  # after this long a read asks another: its p95, bounded
        self._latencies_s: deque[float] = deque(maxlen=SAMPLES)
        self._fresh = 0
        self._good_probes = 0
        self._pause_s = FIRST_PAUSE_S
        self._pause_until = 0.0
        self._recovered_at = float("-inf")
        self._asked = 0
        self._errors = 0

    def observe(self, latency_s: float) -> None:
        """One answer's latency: of a probe, or of a sampled read."""
        self._latencies_s.append(latency_s)
        self._fresh += 1
        if self._fresh >= FEWEST_SAMPLES:
            self._fresh = 0
            ranked = sorted(self._latencies_s)
            p95_s = ranked[int(PROMPT_SHARE * len(ranked))]
            self.hedge_after_s = min(max(p95_s, LEAST_HEDGE_S), MOST_HEDGE_S)

    def probed(self, latency_s: float, now: float) -> bool:
        """A probe was answered; True: the replica is demoted no more."""
        self.observe(latency_s)
        if not self.demoted:
            return False
        self._good_probes = self._good_probes + 1 if latency_s < STALL_S else 0
        if self._good_probes < GOOD_PROBES or now < self._pause_until:
            return False
        self.demoted = False
        self._recovered_at = now
        return True

    def watch(self, now: float, oldest_sent_at: float) -> bool:
        """Look at its oldest unanswered request (infinity: none); True: it is demoted now."""
        if now - oldest_sent_at <= STALL_S:
            return False
        self._good_probes = 0
        return self._demote(now)

    def count(self, now: float, asked: int, errors: int) -> bool:
        """Look at what it was asked, and failed at, in all; True: it is demoted now."""
        failed, tried = errors - self._errors, asked - self._asked
        self._asked, self._errors = asked, errors
        if failed < FAILING_ERRORS or failed < FAILING_SHARE * tried:
            return False
        return self._demote(now)

    def _demote(self, now: float) -> bool:
        if self.demoted:
            return False
        relapsed = now - self._recovered_at < RELAPSE_S
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S) if relapsed else FIRST_PAUSE_S
        self._pause_until = now + self._pause_s
        self._good_probes = 0
        self.demoted = True
        return True


class Budget:
    """A token bucket that fills with the work done: so many extra requests per request."""

    __slots__ = ("_burst", "_per_s", "_share", "denied", "tokens")

    def __init__(self, *, share: float, per_s: float, burst: float) -> None:
        """`share` tokens for each operation and `per_s` a second, up to `burst` kept."""
        self._share = share
        self._per_s = per_s
        self._burst = burst
        self.tokens = burst
        self.denied = 0

    def earn(self, operations: int, elapsed_s: float) -> None:
        """So many operations were begun, so much time passed."""
        earned = operations * self._share + elapsed_s * self._per_s
        self.tokens = min(self._burst, self.tokens + earned)

    def take(self) -> bool:
        """Spend a token; False when there is none."""
        if self.tokens < 1.0:
            self.denied += 1
            return False
        self.tokens -= 1.0
        return True


class Admission:
    """How many operations may be under way: less while the event loop can not keep up.

    What waits for a loop that is late has waited unseen, in sockets, and its callers go on asking:
    served in full, the backlog never ends. Half as many are let in for every late tick, twice as
    many again for every one in time.
    """

    __slots__ = ("_ticked_at", "limit", "most", "turn_s")

    # A tick so long after the one before: the loop was blocked, or is too slow.
    LATE_S: ClassVar[float] = 0.1
    LEAST: ClassVar[int] = 1024

    def __init__(self, most: int, now: float) -> None:
        self.most = most
        self.limit = most
        self.turn_s = 0.0  # between the last two ticks
        self._ticked_at = now

    def ticked(self, now: float, active: int) -> None:
        """The tick came; `active` operations are under way."""
        self.turn_s, self._ticked_at = now - self._ticked_at, now
        if self.turn_s > self.LATE_S:
            self.limit = min(self.most, max(self.LEAST, min(self.limit, active) // 2))
        elif self.limit < self.most:
            self.limit = min(self.most, self.limit * 2)
