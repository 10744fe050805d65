"""What the registers of one bucket need besides its route: computed once, at the first use."""

from buckets.bucket_map import Consistency, Durability
from replicas.commands import prepare_prefix, write_prefix
from replicas.layout import bucket_keys
from replicas.quorum import IMPOSSIBLE, Needs, tally
from replicas.register import Route as Slots
from replicas.scripts import SCRIPTS
from sidecar.core.peer import Peer
from sidecar.core.route import Route

NOT_DURABLE = (
    "is not durable, which the keyspace asks for: set appendonly yes and appendfsync always on it,"
    " then restart it or break its connections"
)


class RegisterRoute:
    """Groups, and the bytes with which prepares and accepts begin, one of each a slot."""

    __slots__ = ("accepts", "durable", "prepares", "read", "route", "write")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.write = _majorities(route.needs_of_write(Consistency.QUORUM))
        self.read = _majorities(route.needs_of_read(Consistency.QUORUM))
        self.durable = route.settings.durability is Durability.FSYNC
        keys = bucket_keys(route.keyspace, route.bucket)
        incarnations = [owner.incarnation for owner in route.members.slots]
        accept = SCRIPTS["accept"]
        self.prepares = tuple(prepare_prefix(keys, route.epoch, i) for i in incarnations)
        self.accepts = tuple(
            write_prefix(keys, route.epoch, i, script=accept) for i in incarnations
        )

    def first_to_read(self, health_age: int) -> tuple[int, ...]:
        """A majority to read from, as far as there is one; the best first, in turn."""
        return self.route.first_to_read(Consistency.QUORUM, self.read, health_age)

    def slots(self, health_age: int) -> Slots:
        """Whom to ask, the best to read first."""
        order = self.first_to_read(health_age)
        rest = tuple(slot for slot in range(len(self.route.peers)) if slot not in order)
        return Slots(self.write, self.read, order + rest)

    def countable(self) -> int:
        """Mask of the slots whose answers count now."""
        return sum(1 << slot for slot, peer in enumerate(self.route.peers) if self.counts(peer))

    def counts(self, peer: Peer) -> bool:
        """Whether an answer of the peer counts: its life is trusted and, if asked for, durable."""
        return peer.counts and (peer.durable or not self.durable)

    def explanation(self, peer: Peer) -> str:
        """Why an answer of the peer does not count; empty when it does."""
        if peer.counts and not self.counts(peer):
            return NOT_DURABLE
        return peer.explanation

    def reachable(self) -> bool:
        """Whether enough owners count for a change, or a read, to come to an end."""
        return tally(self.write, 0, ~self.countable()) != IMPOSSIBLE


def _majorities(groups: Needs | None) -> Needs:
    if groups is None:
        raise AssertionError("QUORUM always has members")
    return groups
