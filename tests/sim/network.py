"""A network that delays, holds back, cuts one way and breaks connections; each keeps its order.

Nothing is ever delivered twice: as over TCP, only a retry repeats. What left before a connection
broke may still arrive, as long as the server lives the same life.
"""

from collections import deque
from random import Random
from typing import NamedTuple, Protocol

from hiredis import ReplyError

from replicas.fake import FakeReplica
from replicas.link import ReplySink
from tests.sim.schedule import Schedule
from tests.sim.trace import Trace

FASTEST_S = 0.0002
MEAN_S = 0.001


class Owner(Protocol):
    """Who has connections: a sidecar or a controller."""

    name: str
    frozen: bool

    def link_lost(self, link: "SimLink") -> None:
        """The connection is gone; its sinks have been told."""


class Server(Protocol):
    """Who is connected to: a replica server, one life after the other."""

    name: str
    number: int
    up: bool
    paused: bool
    links: "list[SimLink]"

    @property
    def replica(self) -> FakeReplica:
        """What answers now; its run_id names the life."""

    def execute(self, command: bytes, asker: str) -> object:
        """The reply to one command."""


class Network:
    """Who can reach whom, and how fast. Names are those of sidecars, controllers and servers."""

    def __init__(self, schedule: Schedule, trace: Trace, rng: Random) -> None:
        self.schedule = schedule
        self.trace = trace
        self.rng = rng
        self.spikes = 0.0  # share of messages that are held up for long
        self.torn = 0.0  # share of sends whose connection breaks before anything has left
        self.links: list[SimLink] = []
        self._blocked: set[tuple[str, str]] = set()

    def delay_s(self) -> float:
        """How long the next message takes."""
        delay_s = FASTEST_S + self.rng.expovariate(1 / MEAN_S)
        if self.spikes and self.rng.random() < self.spikes:
            delay_s += self.rng.uniform(0.02, 1.5)
        return delay_s

    def blocked(self, source: str, target: str) -> bool:
        """Whether nothing gets from `source` to `target` now."""
        return bool(self._blocked) and (source, target) in self._blocked

    def block(self, source: str, target: str) -> None:
        """What is sent from `source` to `target` waits until this is healed."""
        self._blocked.add((source, target))

    def heal(self, source: str, target: str) -> None:
        """What waited goes on."""
        self._blocked.discard((source, target))
        self.pump()

    def heal_all(self) -> None:
        """No fault of the network is left."""
        self._blocked.clear()
        self.spikes = self.torn = 0.0
        self.pump()

    def pump(self) -> None:
        """Whatever may arrive now does."""
        for link in list(self.links):
            link.pump_out()
            link.pump_in()


class _Sent(NamedTuple):
    sink: ReplySink
    slot: int
    at_s: float


class _Closed:
    """In an inbox: the end of the connection."""


_CLOSED = _Closed()


class SimLink:
    """One connection of `owner` to one life of `server`. Part of it is core.peer.PeerLink."""

    def __init__(self, network: Network, owner: Owner, server: Server) -> None:
        self.owner = owner
        self.server = server
        self.life = server.replica.run_id
        self.closed = False  # known to the owner
        self.broken = False  # perhaps not known to the owner yet
        self._network = network
        self._schedule = network.schedule
        self._waiting: deque[_Sent] = deque()
        self._outbox: deque[tuple[float, bytes]] = deque()
        self._inbox: deque[tuple[float, object]] = deque()
        self._out_s = self._in_s = 0.0  # when the last message of either direction is due
        network.links.append(self)
        server.links.append(self)

    @property
    def oldest_sent_s(self) -> float | None:
        """When the oldest command without an answer was sent."""
        return self._waiting[0].at_s if self._waiting else None

    def send(self, command: bytes, sink: ReplySink, slot: int) -> bool:
        """Part of PeerLink."""
        if self.closed:
            return False
        network, now = self._network, self._schedule.now
        self._waiting.append(_Sent(sink, slot, now))
        if self.broken:
            return True  # into the void: nobody has noticed yet
        self._out_s = ready_s = max(self._out_s, now + network.delay_s())
        self._outbox.append((ready_s, command))
        self._schedule.at(ready_s, self.pump_out)
        if network.torn and network.rng.random() < network.torn:
            self._schedule.after(0, self._tear)
        return True

    def pump_out(self) -> None:
        """Commands arrive at the server."""
        server, outbox, now = self.server, self._outbox, self._schedule.now
        while outbox and outbox[0][0] <= now and server.up and not server.paused:
            if server.replica.run_id != self.life:
                outbox.clear()  # a connection belongs to one life
                return
            if self._network.blocked(self.owner.name, server.name):
                return
            command = outbox.popleft()[1]
            reply = server.execute(command, self.owner.name)
            if not self.broken and not self.closed:
                self._reply(reply)

    def _reply(self, reply: object) -> None:
        self._in_s = ready_s = max(self._in_s, self._schedule.now + self._network.delay_s())
        self._inbox.append((ready_s, reply))
        self._schedule.at(ready_s, self.pump_in)

    def pump_in(self) -> None:
        """Replies arrive at the owner."""
        inbox, owner = self._inbox, self.owner
        while inbox and inbox[0][0] <= self._schedule.now and not owner.frozen and not self.closed:
            if self._network.blocked(self.server.name, owner.name):
                return
            reply = inbox.popleft()[1]
            if reply is _CLOSED:
                self._lose(unsent_at_s=None)
                return
            sent = self._waiting.popleft()
            if self._network.trace.on:
                said = _readable(reply)
                self._network.trace(owner.name, "has from %s: %s", self.server.name, said)
            sent.sink.on_reply(sent.slot, reply, self)  # type: ignore[arg-type]

    # --- ends

    def server_died(self) -> None:
        """The server's life ends: what had not arrived never will; replies under way may."""
        self._outbox.clear()
        self._break(self._network.rng.randint(0, len(self._inbox)))

    def reset(self) -> None:
        """The connection breaks in between: some of what is under way still arrives at the server,
        none of the replies.
        """
        keep = self._network.rng.randint(0, len(self._outbox))
        while len(self._outbox) > keep:
            self._outbox.pop()
        self._break(0)

    def drop(self) -> None:
        """The connection is gone on both sides at once, with all that was under way."""
        self._outbox.clear()
        if self.owner.frozen:
            self._break(0)  # it learns of it when it wakes up
        elif not self.closed:
            self.broken = True
            self._lose(unsent_at_s=None)

    def _break(self, replies: int) -> None:
        if self.broken or self.closed:
            return
        self.broken = True
        while len(self._inbox) > replies:
            self._inbox.pop()
        self._reply(_CLOSED)
        self._forget_at_server()

    def close(self) -> None:
        """The owner drops the connection. What it had written goes on to the server."""
        if not self.closed:
            self._lose(unsent_at_s=None)

    def abandon(self) -> None:
        """The owner is dead: nobody is told."""
        if self.closed:
            return
        self.closed = True
        self._waiting.clear()
        self._forget_at_server()
        self._network.links.remove(self)

    def _tear(self) -> None:
        """It breaks in the turn in which commands were queued: those never left."""
        if not self.closed and not self.broken:
            self._lose(unsent_at_s=self._schedule.now)

    def _lose(self, unsent_at_s: float | None) -> None:
        self.closed = True
        self._inbox.clear()
        waiting, self._waiting = self._waiting, deque()
        unsent = sum(sent.at_s == unsent_at_s for sent in waiting)
        for _ in range(min(unsent, len(self._outbox))):
            self._outbox.pop()
        self._forget_at_server()
        self._network.links.remove(self)
        self._network.trace(self.owner.name, "has lost its connection to %s", self.server.name)
        for at, sent in enumerate(waiting):
            left = at < len(waiting) - unsent
            sent.sink.on_lost(sent.slot, left, self)  # type: ignore[arg-type]
        self.owner.link_lost(self)

    def _forget_at_server(self) -> None:
        if self in self.server.links:
            self.server.links.remove(self)


def _readable(reply: object) -> str:
    if isinstance(reply, ReplyError):
        return str(reply)
    if isinstance(reply, list):
        return "[" + ", ".join(_readable(each) for each in reply) + "]"
    if isinstance(reply, bytes) and len(reply) > 16:
        return f"{len(reply)} bytes"
    return repr(reply)
