"""One link to every node of the map, kept: connected with jittered backoff, checked, probed.

A link belongs to one life of a server: whatever `open_link` found out about it (run id, role,
eviction policy) holds until the connection breaks, and a restart breaks it.
"""

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial

import structlog

from buckets.topology import Node
from replicas.commands import TIME, entry_command
from replicas.errors import ReplicaError
from replicas.handshake import parse_time_ms
from replicas.layout import bucket_keys
from replicas.link import Link, open_link
from sidecar.core.clocks import ClockState, skewed_text
from sidecar.core.coordinator import Coordinator
from sidecar.core.peer import Peer
from sidecar.core.route import Route

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 2.0
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0
PROBE_INTERVAL_S = 0.25
# A replica that leaves requests unanswered for this long is frozen: TCP would never notice.
FROZEN_AFTER_S = 5.0
WATCH_INTERVAL_S = 0.01  # how often the oldest unanswered request of every link is looked at
# A look this late: our own loop stood still, and what is unanswered may only be unread.
WATCH_LATE_S = 0.03
FIRST_ERROR_S = 0.1  # of the clock as the handshake saw it: any probe knows better


class Links:
    """Keeps `Coordinator.peers` connected."""

    def __init__(self, core: Coordinator, learn: Callable[[bytes], object]) -> None:
        self._core = core
        self._learn = learn
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._prober = asyncio.create_task(self._probe_forever(), name="probe-links")
        self._watched_at = 0.0
        self._clock_said = ClockState.UNMEASURED
        self._watcher = asyncio.create_task(self._watch_forever(), name="watch-links")

    def follow(self, joined: list[Node], left: list[Node]) -> None:
        """Connect to nodes that joined the map, leave those that left it."""
        for node in left:
            self._stop(node.number)
        for node in joined:
            self._stop(node.number)
            peer = self._core.peers[node.number]
            keeper = self._keep(peer)
            self._keepers[node.number] = asyncio.create_task(keeper, name=f"link-{node.id}")

    def _stop(self, number: int) -> None:
        keeper = self._keepers.pop(number, None)
        if keeper is not None:
            keeper.cancel()

    async def close(self) -> None:
        """Close every link."""
        tasks = [self._prober, self._watcher, *self._keepers.values()]
        self._keepers.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, peer: Peer) -> None:
        backoff = FIRST_BACKOFF_S
        while True:
            node = peer.node
            try:
                link = await open_link(node.host, node.port, timeout_s=CONNECT_TIMEOUT_S)
            except ReplicaError as error:
                self._say(peer, str(error))
            else:
                backoff = FIRST_BACKOFF_S
                await self._hold(peer, link)
            # Full jitter: after a node's restart its sidecars must not come back in step.
            await asyncio.sleep(random.uniform(0, backoff))
            backoff = min(backoff * 2, MAX_BACKOFF_S)

    def _say(self, peer: Peer, why: str) -> None:
        if why != peer.last_error:
            log.warning("replica unreachable", node=peer.node.id, why=why)
        peer.last_error = why
        peer.tried = True

    async def _hold(self, peer: Peer, link: Link) -> None:
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        link.on_closed = partial(_wake, closed)
        try:
            if link.closed:
                return
            identity = link.identity
            self._measure_first(peer, identity.clock_offset_ms)
            peer.connected(link, identity.run_id, durable=identity.durable)
            peer.latency_s = 0.0
            self._core.health_changed()
            log.info("replica connected", node=peer.node.id, health=peer.health)
            await closed
        finally:
            if peer.link is link:
                peer.disconnected(link.reason or "its connection broke")
                self._core.health_changed()
            link.close()

    # --- probes

    async def _probe_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            now = loop.time()
            for peer in list(self._core.peers.values()):
                link = peer.link
                if not isinstance(link, Link):
                    continue
                if link.in_flight and now - link.oldest_sent_at > FROZEN_AFTER_S:
                    why = f"left requests unanswered for {FROZEN_AFTER_S:g} s"
                    self._say(peer, why)
                    link.close(why)
                else:
                    link.send(TIME, _Probe(peer), 0)
                if peer.breaker.count(now, peer.reads + peer.writes, peer.errors):
                    self._demoted(peer, "most of what it was asked failed")
            self._judge_clock()
            self._core.health_changed()

    # --- clocks

    def _measure_first(self, peer: Peer, ahead_ms: int) -> None:
        """The handshake held the replica's clock against the wall clock, moments ago."""
        now = time.monotonic()
        sent_at = now - FIRST_ERROR_S
        half_ms = FIRST_ERROR_S * 500
        peer.clock.observe(sent_at, now, time.time() * 1000 + ahead_ms - half_ms)
        self._judge_clock()

    def _judge_clock(self) -> None:
        clocks = self._core.clocks
        clocks.measure()
        state = clocks.state
        if state is self._clock_said:
            return
        self._clock_said = state
        if state is ClockState.CORRECTED or state is ClockState.REFUSING:
            log.error(
                "this sidecar's clock is off: synchronize it (chrony, ntpd)",
                clock=skewed_text(clocks.skew_ms or 0.0),
                versions="of the replicas' time" if clocks.enough else "refused",
            )
        else:
            log.info("clock", state=state.value, skew_ms=round(clocks.skew_ms or 0.0))

    async def _watch_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            self._watch(loop.time())

    def _watch(self, now: float) -> None:
        late, self._watched_at = now - self._watched_at > WATCH_LATE_S, now
        if late:
            return
        for peer in self._core.peers.values():
            link = peer.link
            if isinstance(link, Link) and peer.breaker.watch(now, link.oldest_sent_at):
                self._demoted(peer, "it leaves requests unanswered")
                self._core.health_changed()

    def _demoted(self, peer: Peer, why: str) -> None:
        self._core.counters.demotions += 1
        log.warning("replica is read last from now on", node=peer.node.id, why=why)

    # --- map entries from the replicas themselves (core.Learner)

    def ask_map_entry(self, route: Route, slot: int) -> None:
        """Read the bucket's map entry that the replica in `slot` keeps beside its fence."""
        link = route.peers[slot].link
        command = entry_command(bucket_keys(route.keyspace, route.bucket))
        if link is None or not link.send(command, _EntrySink(self._learn, route), slot):
            route.learning = False

    def learn(self, raw_entry: bytes) -> None:
        """Adopt a newer entry of one bucket."""
        self._learn(raw_entry)


def _wake(closed: asyncio.Future[None], link: Link) -> None:
    if not closed.done():
        closed.set_result(None)


class _Probe:
    """Measures one TIME, queueing behind real work included, and the replica's clock by it."""

    __slots__ = ("_peer", "_sent_at")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._sent_at = time.monotonic()

    def on_reply(self, slot: int, reply: object, link: Link) -> None:
        now = time.monotonic()
        try:
            self._peer.clock.observe(self._sent_at, now, parse_time_ms(link.address, reply))
        except ReplicaError as error:
            log.warning("a probe was refused", node=self._peer.node.id, why=str(error))
        self._peer.observe(now - self._sent_at)
        if self._peer.breaker.probed(now - self._sent_at, now):
            log.info("replica is read again as before", node=self._peer.node.id)

    def on_lost(self, slot: int, sent: bool, link: Link) -> None:
        """The link's keeper hears of it too."""


class _EntrySink:
    """Takes one map entry; whatever comes, the route may ask again."""

    __slots__ = ("_learn", "_route")

    def __init__(self, learn: Callable[[bytes], object], route: Route) -> None:
        self._learn = learn
        self._route = route

    def on_reply(self, slot: int, reply: object, link: Link) -> None:
        self._route.learning = False
        if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes):
            self._learn(reply[1])

    def on_lost(self, slot: int, sent: bool, link: Link) -> None:
        """The next refusal asks another replica."""
        self._route.learning = False
