"""The keys of one bucket, as a level's groups of owners list them together.

Each owner asked goes over its whole copy, step by step, judged by its fence at each; of all the
keys seen the first in walk order are kept, so that memory is bounded and the next call goes on
behind them. An owner that fails on the way is replaced by one that begins anew: what it listed
stays, for whoever reads a key judges it anyway.
"""

import heapq
from collections.abc import Callable
from typing import Any, Protocol

from buckets.bucket_map import Consistency
from replicas.layout import BucketKeys, bucket_keys
from replicas.listing import FIRST_CURSOR, count_command, list_command
from replicas.quorum import Needs
from replicas.replies import Code
from sidecar.core.checks import level_error, linearizable_level, overloaded
from sidecar.core.health import Admission
from sidecar.core.host import Host
from sidecar.core.levels import READ_LEVELS
from sidecar.core.operation import Read
from sidecar.core.peer import PeerLink
from sidecar.core.read import ReadRun
from sidecar.core.route import Route, RoutingTable
from sidecar.core.walk import Cursor, walk_hash
from sidecar.errors import DataError

KEPT_KEYS = 4096  # of one listing; of a larger bucket there are several


class Listing(Read):
    """List keys of the bucket in which `cursor` stands, `key` being their prefix.

    After `done`: `error`, or `keys` in walk order, each with its walk hash; `more`: the bucket has
    further keys. `counting`: `count` them only, roughly.
    """

    __slots__ = ("bucket", "buckets", "count", "counting", "cursor", "keys", "more")

    def __init__(
        self,
        keyspace: str,
        cursor: Cursor,
        *,
        prefix: bytes,
        level: int,
        deadline: float,
        done: Callable[[Any], None],
        counting: bool = False,
        tag: Any = None,
    ) -> None:
        super().__init__(keyspace, prefix, level=level, deadline=deadline, done=done, tag=tag)
        self.cursor = cursor
        self.counting = counting
        self.keys: list[tuple[int, bytes]] = []
        self.more = False
        self.count = 0
        self.bucket = self.buckets = 0  # as the map was when it was listed


class ListRun(ReadRun):
    """As a ReadRun, of steps instead of one record; the sink of their replies."""

    __slots__ = ("_bound", "_found", "_listing", "_names", "_walked")

    def __init__(self, core: Host, op: Listing, route: Route, read_needs: Needs) -> None:
        super().__init__(core, op, route, read_needs)
        self._listing = op
        self._names: BucketKeys = bucket_keys(route.keyspace, route.bucket)
        self._found: set[tuple[int, bytes]] = set()
        self._walked = op.cursor.walked_in(op.buckets)
        self._bound: tuple[int, bytes] | None = None  # what lies above is not kept

    def _ask(self, slot: int) -> None:
        self.asked |= 1 << slot
        self._step(slot, FIRST_CURSOR)

    def _step(self, slot: int, cursor: bytes) -> None:
        peer = self.route.peers[slot]
        link = peer.link
        if (
            link is None
            or not peer.counts
            or not link.send(self._command(slot, cursor), self, slot)
        ):
            self._no_answer(slot, peer.explanation or "its connection is full")

    def _command(self, slot: int, cursor: bytes) -> bytes:
        epoch, incarnation = self.route.epoch, self.route.members.slots[slot].incarnation
        if self._listing.counting:
            return count_command(self._names, epoch, incarnation)
        prefix = self._listing.key
        return list_command(self._names, epoch, incarnation, cursor=cursor, prefix=prefix)

    def on_reply(self, slot: int, reply: object, link: PeerLink) -> None:
        """An owner answered one step."""
        if self.op is None:
            return
        if self._listing.counting and type(reply) is int:
            self._listing.count = max(self._listing.count, reply)
            self.acked |= 1 << slot
        elif type(reply) is list and len(reply) == 2:
            cursor, keys = reply
            self._take(slot, keys)
            if cursor != FIRST_CURSOR:
                self._step(slot, cursor)
            else:
                self.acked |= 1 << slot
        else:
            self._refused_step(slot, reply)
        self._judge()

    def _take(self, slot: int, keys: Any) -> None:
        cursor, bound, walked = self._listing.cursor, self._bound, self._walked
        for key in keys:
            entry = (walk_hash(key), key)
            if entry[0] >= walked and (bound is None or entry < bound) and cursor.holds(key):
                self._found.add(entry)
        if len(self._found) > 2 * KEPT_KEYS:
            self._keep_the_first()

    def _keep_the_first(self) -> None:
        """Whole runs of one walk hash, for a cursor can not stand within one."""
        first = heapq.nsmallest(KEPT_KEYS + 1, self._found)
        self._bound = (first[-1][0], b"")
        if first[0][0] < first[-1][0]:
            self._found = {entry for entry in first if entry < self._bound}
            self._listing.more = True
        else:
            self._bound = None

    def _refused_step(self, slot: int, reply: object) -> None:
        code = reply[0] if type(reply) is list and reply else None
        if code == Code.STALE_EPOCH.value.encode() and type(reply) is list and len(reply) > 2:
            self.stale = True
            self.core.learn(reply[2])
        self._no_answer(slot, code.decode() if isinstance(code, bytes) else str(reply))

    def slow_at(self) -> float:
        """A listing takes as long as its bucket is large: nobody else is asked."""
        return self._listing.deadline

    def hurry(self) -> bool:
        """See slow_at."""
        return True

    def _reached(self) -> None:
        if self.core.epoch_moved(self.route):
            self.core.restart(self)
            return
        if len(self._found) > KEPT_KEYS:
            self._keep_the_first()
        self._listing.keys = sorted(self._found)
        self._listing.acks = self.acked.bit_count()
        self.core.finish_read(self, None)


class ListingCore(Host, Protocol):
    """What a listing needs of the coordinator beyond what every run does."""

    admission: Admission
    active: int

    def reject(self, op: Listing, error: DataError, /) -> None:
        """Answer with an error before anything is sent."""

    def without_table(self, op: Listing, /) -> None:
        """Wait for a map, or say that there is no such keyspace in it."""

    def watch(self, run: Any, /) -> None:
        """End the run at its deadline."""


def start_listing(core: ListingCore, op: Listing, table: RoutingTable | None) -> None:
    """Run a listing; `table`: of its keyspace, in the present map."""
    if table is None:
        core.without_table(op)
        return
    settings = table.keyspace.settings
    op.keys, op.more, op.count = [], False, 0
    op.buckets = len(table.keyspace.buckets)
    op.bucket = op.cursor.bucket(table.shift)
    route = table.route_of(op.bucket)
    level, error = _level(op, table)
    needs = route.needs_of_read(Consistency(level)) if level in READ_LEVELS else None
    if error is None and core.active >= core.admission.limit:
        error = overloaded(core.admission)
    if error is None and needs is None:
        error = level_error(level, route, READ_LEVELS, "scans")
    if error is not None or needs is None:
        core.reject(op, error or linearizable_level(level, settings))
        return
    op.level = level
    core.active += 1
    run = ListRun(core, op, route, needs)
    core.watch(run)
    run.start()


def _level(op: Listing, table: RoutingTable) -> tuple[int, DataError | None]:
    """Whose groups list. Who counts asks one owner, for it is rough anyway."""
    settings = table.keyspace.settings
    if op.counting:
        return Consistency.ONE, None
    if table.tunable:
        return op.level or settings.read_consistency, None
    wrong = op.level not in (Consistency.UNSPECIFIED, Consistency.QUORUM)
    return Consistency.QUORUM, linearizable_level(op.level, settings) if wrong else None
