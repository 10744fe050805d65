"""A node as this sidecar sees it: its link, whether its life is trusted, how fast it answers."""

from typing import Protocol

from buckets.topology import Node, NodeState
from replicas.link import ReplySink
from sidecar.core.clocks import NodeClock
from sidecar.core.health import Breaker

LATENCY_SMOOTHING = 0.3  # weight of the newest sample in the moving average
# Latencies within this factor are the same: load is spread over such replicas in turn.
SIMILAR_LATENCY = 2.0
FLOOR_LATENCY_S = 0.001


class PeerLink(Protocol):
    """What the core needs of a connection to a replica; the simulator brings its own."""

    def send(self, command: bytes, sink: ReplySink, slot: int) -> bool:
        """Queue a command; False when the link is closed or full: then nothing was sent."""


class Peer:
    """Mutable view of one node. `counts` decides everything: may its answers form a quorum?

    A connection belongs to one life of the server, checked by `run_id` when it was made; an answer
    counts only if the map trusts that life. A restarted server is another life until the control
    plane says otherwise, so nothing of a forgetful replica is ever added up.
    """

    __slots__ = (
        "breaker",
        "clock",
        "counts",
        "durable",
        "errors",
        "last_error",
        "latency_s",
        "life",
        "link",
        "node",
        "reads",
        "tried",
        "writes",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.link: PeerLink | None = None
        self.life = b""  # run_id seen on the present connection
        self.counts = False
        self.durable = False  # on the present connection: on disk before it is acknowledged
        self.latency_s = 0.0
        self.breaker = Breaker()
        self.clock = NodeClock()
        self.reads = 0
        self.writes = 0
        self.errors = 0
        self.last_error = "not connected yet"
        self.tried = False  # a first attempt to connect has ended

    def connected(self, link: PeerLink, life: bytes, *, durable: bool = False) -> None:
        """A checked connection to the life `life` stands."""
        self.link = link
        self.durable = durable
        self.life = life
        self.tried = True
        self.judge()

    def disconnected(self, why: str) -> None:
        """The connection is gone, with the life it belonged to."""
        self.link = None
        self.life = b""
        self.last_error = why
        self.judge()

    def adopt(self, node: Node) -> None:
        """The map says something new of the node."""
        self.node = node
        self.judge()

    def judge(self) -> None:
        """Decide again whether answers of this node count."""
        self.counts = (
            self.link is not None
            and self.node.state is not NodeState.SUSPECT
            and self.life == self.node.run_id
        )

    def observe(self, latency_s: float) -> None:
        """Fold one answer's latency into the moving average."""
        self.latency_s += LATENCY_SMOOTHING * (latency_s - self.latency_s)

    @property
    def latency_class(self) -> int:
        """Equal for replicas that answer about as fast; higher is slower."""
        latency_s, level = self.latency_s, 0
        while latency_s > FLOOR_LATENCY_S:
            latency_s /= SIMILAR_LATENCY
            level += 1
        return level

    @property
    def standing(self) -> tuple[object, ...]:
        """All that decides whether and when it is asked: plans hold while this stays the same."""
        return self.link, self.counts, self.breaker.demoted, self.latency_class

    @property
    def health(self) -> str:
        """One word for people: connected, suspect or unreachable."""
        if self.link is None:
            return "unreachable"
        return "connected" if self.counts else "suspect"

    @property
    def explanation(self) -> str:
        """Why its answers do not count; empty when they do."""
        if self.link is None:
            return self.last_error
        if self.node.state is NodeState.SUSPECT:
            return self.node.reason or "suspect: its data is not trusted"
        if self.life != self.node.run_id:
            return "restarted: this life of the server is not trusted yet"
        return ""
