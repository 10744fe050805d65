"""What the shell does about replicas all the time, in the simulation: probes that measure latency
and clocks, a look at what is left unanswered. The product's own breakers and clocks decide.
"""

from typing import Protocol

from replicas.commands import TIME
from sidecar.core.coordinator import Coordinator
from sidecar.core.peer import Peer
from tests.sim.network import SimLink
from tests.sim.schedule import Schedule

FROZEN_AFTER_S = 1.5


class Host(Protocol):
    """A sidecar, as far as its replicas are looked at."""

    core: Coordinator
    links: dict[int, SimLink]


def probe(host: Host, schedule: Schedule) -> None:
    """One round: closes connections that leave requests unanswered for long, probes the others."""
    now = schedule.now
    for link in list(host.links.values()):
        oldest_s = link.oldest_sent_s
        peer = host.core.peers.get(link.server.number)
        if oldest_s is not None and now - oldest_s > FROZEN_AFTER_S:
            link.close()
        elif peer is not None and peer.link is link:
            link.send(TIME, _Probe(peer, schedule), 0)
            peer.breaker.count(now, peer.reads + peer.writes, peer.errors)
    host.core.clocks.measure()
    host.core.health_changed()


def watch(host: Host, now: float) -> None:
    """Looks at the oldest request of each connection."""
    for link in host.links.values():
        peer, oldest_s = host.core.peers.get(link.server.number), link.oldest_sent_s
        if peer is not None and oldest_s is not None and peer.breaker.watch(now, oldest_s):
            host.core.health_changed()


class _Probe:
    """Measures one TIME, as the product's do."""

    def __init__(self, peer: Peer, schedule: Schedule) -> None:
        self._peer = peer
        self._schedule = schedule
        self._sent_s = schedule.now

    def on_reply(self, slot: int, reply: object, link: object) -> None:
        """Part of ReplySink."""
        now = self._schedule.now
        if isinstance(reply, list):
            seconds, micros = reply
            self._peer.clock.observe(self._sent_s, now, int(seconds) * 1000 + int(micros) / 1000)
        self._peer.observe(now - self._sent_s)
        self._peer.breaker.probed(now - self._sent_s, now)

    def on_lost(self, slot: int, sent: bool, link: object) -> None:
        """Part of ReplySink."""
