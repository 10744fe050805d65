"""Write a version that was read back to replicas that lack it, under its own version.

*Settling* holds an answer back until the version stands on every majority that a write needs; a
repair that fails is replaced by another replica. *Mending* follows an answer and waits for nobody.
"""

from typing import Protocol

from replicas.commands import write_suffix
from replicas.quorum import IMPOSSIBLE, REACHED, Needs, tally
from replicas.record import Record
from replicas.replies import APPLIED, SUPERSEDED, Code, parse_refusal
from sidecar.core.host import Host
from sidecar.core.peer import PeerLink
from sidecar.core.route import Route

_STALE_EPOCH = Code.STALE_EPOCH.value.encode()


class Settler(Protocol):
    """Who waits for a version to be settled."""

    def settled(self, record: Record) -> None:
        """It stands on every majority that matters."""

    def not_settled(self, why: str, *, stale: bool) -> None:
        """It can not be brought there now; `stale`: replicas know a later epoch."""


class RepairRun:
    """One version being written back; the sink of the replicas' acknowledgements."""

    __slots__ = (
        "core",
        "failed",
        "holders",
        "key",
        "needs",
        "record",
        "route",
        "sent",
        "stale",
        "waiter",
    )

    def __init__(
        self,
        core: Host,
        route: Route,
        key: bytes,
        record: Record | None,
        *,
        holders: int,
    ) -> None:
        self.core = core
        self.route = route
        self.key = key
        self.record = record
        self.holders = holders
        self.sent = 0
        self.failed = 0
        self.needs: Needs = route.settle_needs()
        self.stale = False
        self.waiter: Settler | None = None

    def settle(self, behind: int, waiter: Settler) -> None:
        """Write to the replicas in the mask `behind`, and to others until majorities hold it."""
        self.waiter = waiter
        self.failed = ~self.route.countable() & ~self.holders
        self.mend(behind)
        self._judge()

    def mend(self, behind: int) -> None:
        """Write to the replicas in the mask `behind`."""
        for slot in range(len(self.route.peers)):
            if behind >> slot & 1:
                self._write(slot)

    def _write(self, slot: int) -> None:
        self.sent |= 1 << slot
        link = self.route.peers[slot].link
        if self.record is None or link is None:
            self.failed |= 1 << slot
            return
        suffix = write_suffix(self.key, self.record.raw, self.route.write_limits)
        if link.send(self.route.write_prefixes[slot] + suffix, self, slot):
            self.core.counters.read_repairs += 1
        else:
            self.failed |= 1 << slot

    def on_reply(self, slot: int, reply: object, link: PeerLink) -> None:
        """Applied, or superseded by something newer still: either way nothing older is left."""
        peer = self.route.peers[slot]
        if not self._holds(reply):
            self.failed |= 1 << slot
            self._refused(reply)
        elif peer.counts and peer.link is link:
            self.holders |= 1 << slot
        else:  # it has begun another life meanwhile, or its data is not trusted any more
            self.failed |= 1 << slot
        self._judge()

    def _holds(self, reply: object) -> bool:
        """Whether the replica has this version, or what is as good.

        Where tombstones of this time were dropped no owner holds anything that they covered. A
        bucket that is merely closed also refuses, and says nothing: it may lack the tombstone.
        """
        if type(reply) is int:
            return APPLIED <= reply <= SUPERSEDED
        record, refusal = self.record, parse_refusal(reply)
        if refusal is None or refusal.code is not Code.PURGED or refusal.fence is None:
            return False
        dropped = refusal.fence.dropped_through
        return record is not None and record.is_tombstone and record.version <= dropped

    def _refused(self, reply: object) -> None:
        if type(reply) is list and len(reply) > 2 and reply[0] == _STALE_EPOCH:
            self.stale = True
            self.core.learn(reply[2])

    def on_lost(self, slot: int, sent: bool, link: PeerLink) -> None:
        """The connection broke before the acknowledgement."""
        self.failed |= 1 << slot
        self._judge()

    def _judge(self) -> None:
        if self.waiter is None:
            return
        verdict = tally(self.needs, self.holders, self.failed & ~self.holders)
        if verdict == IMPOSSIBLE:
            self._give_up()
        elif verdict == REACHED:
            self._settled()
        else:
            self._replace_failed()

    def _settled(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and self.record is not None:
            waiter.settled(self.record)

    def _replace_failed(self) -> None:
        """Write to one more replica when those under way would not be enough."""
        hoped = self.holders | (self.sent & ~self.failed)
        if tally(self.needs, hoped, self.failed & ~self.holders) == REACHED:
            return
        if not self._write_to_another():
            self._give_up()

    def hurry(self) -> bool:
        """Slow: write to one more replica while the others are still awaited.

        False: the budget for that is spent; try again later.
        """
        if self.waiter is not None:
            if not self.core.hedges.take():
                return False
            self._write_to_another()
        return True

    def _write_to_another(self) -> bool:
        tried = self.holders | self.sent | self.failed
        for slot, peer in enumerate(self.route.peers):
            if not tried >> slot & 1 and peer.counts:
                self._write(slot)
                self._judge()
                return True
        return False

    def _give_up(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.not_settled("too few of its owners can be reached", stale=self.stale)
