"""Replays hints, with their original versions, to owners that are back.

A replay is an ordinary write under the bucket's present epoch: the owner's fence, its versions and
its clock judge it. Its hint is removed after the owner's answer and never before. Every node has
its own pace, set by its latency; all share one budget. A hint for a node that owns the bucket no
more goes to all that own it now.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from replicas.commands import write_suffix
from replicas.replies import Code
from sidecar.background.hint_file import StoredHint
from sidecar.background.hint_log import HintLog
from sidecar.core.hints import ONLY_COPY, Budget, Fate, Hint, Pace, judge, targets
from sidecar.core.peer import Peer, PeerLink
from sidecar.core.route import Route

log = structlog.get_logger("hints")

RATE_PER_S: Final = 2000.0
TURN_S: Final = 0.005
IDLE_S: Final = 0.25
READ_AT_ONCE: Final = 512
FIRST_REST_S: Final = 0.25
MAX_REST_S: Final = 15.0
LEFT_IN_A_ROW: Final = 128


class Router(Protocol):
    """The coordinator, as a replay sees it."""

    peers: dict[int, Peer]

    def route_of(self, keyspace: str, key: bytes) -> Route | None:
        """The key's bucket as the present map has it; None: there is no such keyspace."""

    def learn(self, raw_entry: object) -> None:
        """A refusal carried the bucket's present map entry."""


class HintDrain:
    """Runs as a task (`run`); `finish` tries to get rid of what is left before the process ends."""

    def __init__(
        self,
        hint_log: HintLog,
        router: Router,
        clock: Callable[[], float],
        *,
        rate_per_s: float = RATE_PER_S,
    ) -> None:
        self.log = hint_log
        self.router = router
        self.clock = clock
        self.budget = Budget(rate_per_s)
        self._nodes: dict[int, _NodeReplay] = {}

    async def run(self) -> None:
        """Replay whatever can be, until cancelled."""
        while True:
            busy = self.turn()
            await asyncio.sleep(TURN_S if busy else IDLE_S)

    async def finish(self, timeout_s: float) -> int:
        """Replay without the budget until nothing is left that could be; how many hints are."""
        await self.log.flush()
        self.budget = Budget(1e9, burst=1e9)
        for replay in self._nodes.values():
            replay.rest_until = 0.0
        ends_at = self.clock() + timeout_s
        busy = self.turn()
        while busy and self.clock() < ends_at:
            await asyncio.sleep(TURN_S)
            busy = self.turn()
        await self.close()
        await self.log.flush()
        return self.log.ledger.hints

    async def close(self) -> None:
        """Read no more."""
        readings = [replay.reading for replay in self._nodes.values() if replay.reading]
        self._nodes.clear()
        await asyncio.gather(*readings, return_exceptions=True)

    def turn(self) -> bool:
        """Send what may be sent now; whether any replay is under way."""
        busy = False
        waiting = self.log.nodes()
        for node in waiting:
            if node not in self._nodes:
                self._nodes[node] = _NodeReplay(self, node)
            busy = self._nodes[node].turn() or busy
        for node in [n for n, replay in self._nodes.items() if n not in waiting and replay.idle]:
            del self._nodes[node]
        return busy


class _NodeReplay:
    """The replay of one node's hints, oldest first: pages are read as the pace has room for them.

    A pass goes over all of them once. Those that an owner did not take stay, and the next pass
    waits, longer each time nothing was taken.
    """

    def __init__(self, drain: HintDrain, node: int) -> None:
        self.drain = drain
        self.node = node
        self.pace = Pace()
        self.rest_until = 0.0
        self.reading: asyncio.Task[None] | None = None
        self._rest_s = FIRST_REST_S
        self._queue: deque[StoredHint] = deque()
        self._cursor = 0
        self._ended = False  # this pass has read all that it will
        self._taken = 0  # hints of this pass that are settled
        self._left = 0  # hints left behind since the last that was settled
        self._sending = False

    @property
    def idle(self) -> bool:
        """Nothing of it is under way."""
        return not self._queue and not self.pace.in_flight and self.reading is None

    def turn(self) -> bool:
        """Send what may be sent; False while it rests or its node is away."""
        if not self._reachable():
            self._start_again()
            return not self.idle
        if self.idle and self.drain.clock() < self.rest_until:
            return False
        self._send()
        if not self._queue and self.reading is None and self._ended and not self.pace.in_flight:
            self._end_pass()
        return True

    def _read_ahead(self) -> None:
        if len(self._queue) < READ_AT_ONCE // 2 and self.reading is None and not self._ended:
            self.reading = asyncio.create_task(self._read(), name=f"hints-{self.node}")

    def _reachable(self) -> bool:
        peer = self.drain.router.peers.get(self.node)
        return peer is None or peer.link is not None  # no such node: its hints go to others

    def _start_again(self) -> None:
        """The node is away: what was read is on disk still."""
        self._queue.clear()
        self._cursor = self._taken = self._left = 0
        self._rest_s = FIRST_REST_S
        self._ended = False

    async def _read(self) -> None:
        try:
            page, after = await self.drain.log.read(self.node, self._cursor, READ_AT_ONCE)
            self._queue.extend(page)
            self._cursor = after
            self._ended = after == 0
        finally:
            self.reading = None
        self._send()

    def _end_pass(self) -> None:
        # Even when all went well: time for the removals to reach the disk.
        self._rest_s = FIRST_REST_S if self._taken else min(2 * self._rest_s, MAX_REST_S)
        self.rest_until = self.drain.clock() + self._rest_s
        self._ended = False
        self._taken = self._left = 0

    def _send(self) -> None:
        if self._sending:
            return  # a replay that could not be sent has ended at once
        self._sending = True
        queue = self._queue
        while queue and self.pace.room(queue[0].hint.size_bytes):
            size_bytes = queue[0].hint.size_bytes
            if not self.drain.budget.take(size_bytes, self.drain.clock()):
                break
            self.pace.sent(size_bytes)
            _Replay(self, queue.popleft()).start()
        self._sending = False
        self._read_ahead()

    def replayed(self, replay: "_Replay", *, settled: bool, failed: bool) -> None:
        """One replay has all its answers."""
        now = self.drain.clock()
        size_bytes = replay.stored.hint.size_bytes
        if failed:
            self.pace.failed(size_bytes, now)
        else:
            self.pace.answered(size_bytes, now - replay.sent_at, now)
        self._taken += settled
        self._left = 0 if settled else self._left + 1
        if self._left >= LEFT_IN_A_ROW:
            # Its server takes none now. The next pass goes on behind these: they block nobody.
            self._cursor = replay.stored.id
            self._queue.clear()
            self._ended = True
        self._send()


class _Replay:
    """One hint on its way to one owner, or to all of them; the sink of their replies."""

    __slots__ = ("awaited", "by", "failed", "given_up", "held", "route", "sent_at", "slots",
                 "starting", "stored")  # fmt: skip

    def __init__(self, by: _NodeReplay, stored: StoredHint) -> None:
        self.by = by
        self.stored = stored
        self.route: Route | None = None
        self.slots: tuple[int, ...] = ()
        self.awaited = 0
        self.held = 0  # mask of the owners that have it now
        self.given_up = 0  # mask of those that will never take it
        self.failed = True  # until an owner has answered
        self.starting = True
        self.sent_at = by.drain.clock()

    def start(self) -> None:
        hint = self.stored.hint
        self.route = route = self.by.drain.router.route_of(hint.keyspace, hint.key)
        if route is not None:
            self.slots = targets(hint.node, [peer.node.number for peer in route.peers])
            prefixes = route.prefixes_for(hint.record)
            suffix = write_suffix(hint.key, hint.record, route.write_limits)
            for slot in self.slots:
                link = route.peers[slot].link
                if link is not None and link.send(prefixes[slot] + suffix, self, slot):
                    self.awaited += 1
        self.starting = False
        self._judge()

    def on_reply(self, slot: int, reply: object, link: PeerLink) -> None:
        """An owner judged the write."""
        self.awaited -= 1
        fate, refusal = judge(reply)
        if fate is Fate.DONE:
            self._done(slot, link, purged=refusal is not None)
        elif fate is Fate.GIVE_UP:
            self.given_up |= 1 << slot
        elif fate is Fate.LEARN and refusal is not None:
            self.by.drain.router.learn(refusal.entry)
        self.failed = fate is Fate.KEEP and (refusal is None or refusal.code is Code.SERVER)
        self._judge()

    def _done(self, slot: int, link: PeerLink, *, purged: bool) -> None:
        # What only the log holds is handed over to an owner that counts: one that is suspect may
        # be emptied before anybody else has it.
        peer = self.route.peers[slot] if self.route is not None else None
        counts = peer is not None and peer.counts and peer.link is link
        only = self.stored.hint.node == ONLY_COPY
        if counts or not only:
            if only and purged and not self.held:
                place = (self.stored.hint.keyspace, self.stored.hint.bucket)
                self.by.drain.log.mark(place, "the only copy of a write came after its purge")
            self.held |= 1 << slot
            self.by.drain.log.ledger.counters["purged"] += purged

    def on_lost(self, slot: int, sent: bool, link: PeerLink) -> None:
        """The connection broke: it may have been applied, and is sent again some time."""
        self.awaited -= 1
        self.failed = True
        self._judge()

    def _judge(self) -> None:
        if self.starting or self.awaited:
            return
        settled = self._settle()
        self.by.replayed(self, settled=settled, failed=self.failed)

    def _settle(self) -> bool:
        """Remove the hint if an owner has it or none will take it; whether it was removed."""
        hint_log = self.by.drain.log
        hint = self.stored.hint
        only = hint.node == ONLY_COPY
        ended = self.held | (0 if only and not self.held else self.given_up)
        if not ended:
            return False
        if self.held:
            hint_log.ledger.counters["replayed"] += 1
        if self.given_up:
            hint_log.ledger.counters["refused_for_good"] += 1
            hint_log.mark((hint.keyspace, hint.bucket), "an owner refused a hint for good")
        hint_log.remove(self.stored, self._for_the_rest(ended))
        return True

    def _for_the_rest(self, ended: int) -> Sequence[Hint]:
        """Hints for the other present owners, where this one was for all of them."""
        if self.route is None:
            return ()
        hint = self.stored.hint
        left = [slot for slot in self.slots if not ended >> slot & 1]
        return [hint._replace(node=self.route.peers[slot].node.number) for slot in left]
