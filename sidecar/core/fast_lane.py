"""The fast lane: plain reads that came together, for as long as nothing unusual happens.

A batch asks of each key exactly as many replicas as its level needs. When every reply comes with a
fence that was judged good before, when the replies for one key are equal bytes and their record
passes its checksum, the batch is answered as a whole: from a client's bytes to its answer 2.9 us of
Python a GET in pipelines of 16, where it takes 7.5 with a `ReadRun` for each.

Anything else *dissolves* the batch: an unknown fence, an error, replicas that differ, a record that
is no answer, a link that is full or lost, a replica that is slow, a deadline, a new map. Each of
its keys becomes a `Read` whose `ReadRun` has asked and heard what the batch has. So whatever is
hard to decide is decided in one place, read.py, and here is only what is easy.
"""

from collections.abc import Callable, Iterator
from itertools import chain, cycle, repeat
from typing import Any, Final, Protocol

from buckets.bucket_map import Consistency
from buckets.hashing import bucket_ids, key_hash
from replicas.commands import read_command
from replicas.layout import MAX_KEY_BYTES
from replicas.link import ReplySink
from replicas.quorum import REACHED, Needs, tally
from replicas.record import RecordReader
from replicas.version import HybridClock
from sidecar.core.counters import LatencyHistogram
from sidecar.core.health import LEAST_HEDGE_S, Admission
from sidecar.core.host import Host
from sidecar.core.levels import SETTLING_LEVELS
from sidecar.core.operation import Read
from sidecar.core.peer import PeerLink
from sidecar.core.read import ReadRun
from sidecar.core.route import Route, RoutingTable

# Levels whose answer is what so many replicas agree on, and nothing else.
_BY_AGREEMENT: Final = frozenset(
    (
        Consistency.ONE,
        Consistency.LOCAL_ONE,
        Consistency.QUORUM,
        Consistency.LOCAL_QUORUM,
        Consistency.EACH_QUORUM,
        Consistency.ALL,
    )
)
_UNHEARD: Final = object()  # in place of a record: no reply yet
_UNJUDGED: Final = object()  # in place of a fence: equal to no reply


class LaneHost(Host, Protocol):
    """The coordinator, as the fast lane sees it."""

    active: int
    admission: Admission
    clock: HybridClock
    monotonic: Callable[[], float]
    read_latency: LatencyHistogram
    sample_due: bool  # the next request is to measure its replica: one a tick

    def tunable_table(self, keyspace: str) -> RoutingTable | None:
        """The keyspace's routes in the present map, if it is there and tunable."""

    def watch(self, run: ReadRun) -> None:
        """End the run at its deadline, hurry it if it is slow."""


class Target:
    """One replica of one bucket, as batches ask it: made anew when the map or health changes."""

    __slots__ = ("failed", "good_fence", "link", "needs", "peer", "prefix", "route", "slot")

    def __init__(self, route: Route, needs: Needs, slot: int, link: PeerLink) -> None:
        self.route = route
        self.needs = needs  # of the level
        self.failed = ~route.countable()
        self.slot = slot
        self.peer = route.peers[slot]
        self.link = link
        self.prefix = route.read_prefix
        known = route.known_fences[slot]
        self.good_fence: object = _UNJUDGED if known is None else known

    def judges_good(self, reply: Any) -> bool:
        """Whether a reply has a fence that lets the record beside it count; known from then on."""
        if type(reply) is not list or len(reply) != 2:
            return False
        if not self.route.fence_is_good(self.slot, reply[0]):
            return False
        self.good_fence = reply[0]
        return True


class LoneKey(Protocol):
    """One key that somebody asks for, to be read together with those of others."""

    keyspace: str
    level: int  # as in Read
    key: bytes

    @property
    def asker(self) -> "Asker":
        """Who hears of its batch, in whose `tag` it is: only its own keys are in it."""


class Asker(Protocol):
    """Who hands in batches. One of the two is called for each, once, perhaps before
    `Coordinator.read_batch` has returned.
    """

    def batch_read(self, batch: "ReadBatch") -> None:
        """Every key was read: see `raws` and `values`."""

    def batch_dissolved(self, batch: "ReadBatch", reads: list[Read]) -> None:
        """Each key is read by itself from here on; set the reads' `done` before returning, and
        their deadlines if they are not the batch's."""


class ReadBatch:
    """Reads of single keys that came together."""

    __slots__ = (
        "asker",
        "deadline",
        "keys",
        "keyspace",
        "lane",
        "left",
        "level",
        "raws",
        "runs",
        "sent",
        "sent_at",
        "tag",
        "targets",
        "values",
        "width",
    )

    def __init__(
        self, asker: Asker, keyspace: str, keys: list[bytes], level: int, deadline: float
    ) -> None:
        self.asker = asker
        self.keyspace = keyspace
        self.keys = keys
        self.level = level  # as in Read
        self.deadline = deadline  # loop time, seconds
        self.tag: Any = None  # the asker's own; of lone keys a list: something for each
        # Key by key, once it was read: what a reader is given now. None: not there.
        self.values: list[bytes | None]
        # Of its requests, numbered: `width` for each key. Once it was read: the record's bytes
        # or None, key by key.
        self.raws: list[Any]
        # The lane's own.
        self.lane: FastLane
        self.width: int
        self.targets: list[Target]  # one a request
        self.left: int  # requests without a reply
        self.sent: int  # requests that a link has taken
        self.sent_at: float
        self.runs: list[ReadRun] | None = None  # once dissolved: who reads each key

    def cancel(self) -> None:
        """Nobody waits for it any more: its end will be quiet."""
        self.asker = _NOBODY

    def on_reply(self, number: int, reply: Any, link: PeerLink) -> None:
        """A replica answered `HMGET data fence key`."""
        if (
            reply.__class__ is list
            and len(reply) == 2
            and reply[0] == self.targets[number].good_fence
            and self.runs is None
        ):
            self.raws[number] = reply[1]
            self.left -= 1
            if not self.left:
                self.lane.heard_all(self)
        elif self.runs is None and self.targets[number].judges_good(reply):
            self.on_reply(number, reply, link)
        else:
            self._run_of(number).on_reply(self.targets[number].slot, reply, link)

    def on_lost(self, number: int, sent: bool, link: PeerLink) -> None:
        """The connection broke before the answer."""
        self._run_of(number).on_lost(self.targets[number].slot, sent, link)

    def _run_of(self, number: int) -> ReadRun:
        runs = self.runs or self.lane.dissolve(self)
        return runs[number // self.width]

    @property
    def flies(self) -> bool:
        """Whether it is under way in the fast lane."""
        return self.left > 0 and self.runs is None

    def is_due(self, now: float) -> bool:
        """Whether its deadline has passed, or one of those awaited is slower than it usually is."""
        waited_s = now - self.sent_at
        if now >= self.deadline or waited_s < LEAST_HEDGE_S:
            return now >= self.deadline
        asked = zip(self.targets, self.raws, strict=True)
        return waited_s >= min(
            target.peer.breaker.hedge_after_s for target, raw in asked if raw is _UNHEARD
        )


class FastLane:
    """Begins batches, answers them, and dissolves those that it should not answer."""

    def __init__(self, core: LaneHost, wall_ms: Callable[[], int]) -> None:
        self._core = core
        self._wall_ms = wall_ms
        self._aims: dict[str, dict[int, _Aims | None]] = {}
        self._flying: list[ReadBatch] = []
        self._joinable: list[_Aims] = []  # with batches of this turn
        self._records = RecordReader()
        self._newest = b""  # version that the clock was told of

    def begin(self, batch: ReadBatch) -> bool:
        """Ask for all keys of `batch`; False: nothing was begun, read each key by itself."""
        core, keys = self._core, batch.keys
        try:
            aims = self._aims[batch.keyspace][batch.level]
        except KeyError:
            aims = self._make_aims(batch)
        count = len(keys)
        if aims is None or core.active + count > core.admission.limit:
            return False
        targets = aims.take_many(keys, core)
        width = aims.width
        requests = len(targets)
        if not requests or requests != width * count or not _all_valid(keys):
            return False
        batch.lane = self
        batch.level = aims.level
        batch.width = width
        batch.targets = targets
        batch.left = requests
        batch.raws = [_UNHEARD] * requests
        batch.sent_at = core.now = core.monotonic()
        core.active += count
        core.counters.reads += count
        self._flying.append(batch)
        self._send(batch)
        return True

    def join(self, lone: LoneKey, deadline: float) -> bool:
        """Read a key in one batch with others of this turn that the same replicas are asked for;
        False: nothing was begun, read it by itself. `end_turn` ends what may be joined. At the
        earliest of their deadlines the batch dissolves; the asker may give each read its own.
        """
        core, key = self._core, lone.key
        try:
            aims = self._aims[lone.keyspace][lone.level]
        except KeyError:
            aims = self._make_aims(lone)
        if aims is None or core.active >= core.admission.limit:
            return False
        if not 0 < len(key) <= MAX_KEY_BYTES:
            return False
        targets = aims.take_one(key, core)
        width = aims.width
        if not targets or len(targets) != width:
            return False
        links = targets[0].link if width == 1 else tuple([target.link for target in targets])
        batch = aims.joined.get(links)
        if batch is None or batch.runs is not None or batch.asker is not lone.asker:
            batch = aims.joined[links] = self._open(lone, deadline, aims)
        elif deadline < batch.deadline:
            batch.deadline = deadline
        batch.keys.append(key)
        batch.tag.append(lone)
        batch.targets += targets
        batch.raws += [_UNHEARD] * width
        batch.left += width
        core.active += 1
        core.counters.reads += 1
        sink: ReplySink = batch
        if core.sample_due:
            core.sample_due = False
            sink = _Timed(batch, core)
        for target in targets:
            if not target.link.send(read_command(target.prefix, key), sink, batch.sent):
                self.dissolve(batch)
                break
            target.peer.reads += 1
            batch.sent += 1
        return True

    def _open(self, lone: LoneKey, deadline: float, aims: "_Aims") -> ReadBatch:
        batch = ReadBatch(lone.asker, lone.keyspace, [], aims.level, deadline)
        batch.lane = self
        batch.width = aims.width
        batch.tag, batch.targets, batch.raws = [], [], []
        batch.left = batch.sent = 0
        batch.sent_at = self._core.now = self._core.monotonic()
        self._flying.append(batch)
        self._joinable.append(aims)
        return batch

    def end_turn(self) -> None:
        """What was joined in this turn is on its way: who comes later begins anew."""
        for aims in self._joinable:
            aims.joined.clear()
        self._joinable.clear()

    def _send(self, batch: ReadBatch) -> None:
        keys, width = batch.keys, batch.width
        if width > 1:
            keys = [key for key in keys for _ in range(width)]
        sinks: Iterator[ReplySink] = repeat(batch)
        if self._core.sample_due:
            self._core.sample_due = False
            sinks = chain(repeat(_Timed(batch, self._core), width), sinks)
        number = 0
        for target, key, sink in zip(batch.targets, keys, sinks, strict=False):
            if not target.link.send(read_command(target.prefix, key), sink, number):
                batch.sent = number
                self.dissolve(batch)
                return
            target.peer.reads += 1
            number += 1
        batch.sent = number

    def _make_aims(self, batch: ReadBatch | LoneKey) -> "_Aims | None":
        table = self._core.tunable_table(batch.keyspace)
        if table is None or (batch.level and batch.level not in _BY_AGREEMENT):
            return None  # and nothing is kept: clients may say anything
        made = self._aims.setdefault(batch.keyspace, {})[batch.level] = _Aims(table, batch.level)
        return made

    def heard_all(self, batch: ReadBatch) -> None:
        """Every replica has replied with a good fence: the end, if all agree on valid records."""
        raws, width = batch.raws, batch.width
        if width > 1:
            raws = raws[::width]
            if any(batch.raws[other::width] != raws for other in range(1, width)):
                self.dissolve(batch)
                return
        found = self._records.live_values(raws, self._wall_ms)
        if found is None:
            self.dissolve(batch)
            return
        core, count = self._core, len(raws)
        batch.raws = raws
        batch.values, newest = found
        if newest > self._newest:
            self._newest = newest
            core.clock.merge(newest)
        core.active -= count
        core.read_latency.observe_many(core.monotonic() - batch.sent_at, count)
        batch.asker.batch_read(batch)

    def dissolve(self, batch: ReadBatch) -> list[ReadRun]:
        """Have each key read by itself, from where the batch is; returns who reads."""
        core, width, targets = self._core, batch.width, batch.targets
        reads = [
            Read(batch.keyspace, key, level=batch.level, deadline=batch.deadline, done=_nobody)
            for key in batch.keys
        ]
        batch.runs = runs = [
            ReadRun(core, read, target.route, target.needs)
            for read, target in zip(reads, targets[::width], strict=True)
        ]
        batch.asker.batch_dissolved(batch, reads)
        for at, run in enumerate(runs):
            run.sent_at = batch.sent_at
            core.watch(run)
            own = range(at * width, min(at * width + width, batch.sent))
            heard = [(number, batch.raws[number]) for number in own]
            run.resume(
                targets[at * width].failed,
                [targets[number].slot for number in own],
                [(targets[number].slot, raw) for number, raw in heard if raw is not _UNHEARD],
            )
        return runs

    def tick(self, now: float) -> None:
        """Dissolve what is slow or overdue, so that it is hurried or ended."""
        # As `flies` says, without 30,000 calls a second.
        flying = [batch for batch in self._flying if batch.left > 0 and batch.runs is None]
        self._flying = flying
        for batch in flying.copy():
            if batch.flies and batch.is_due(now):
                self.dissolve(batch)

    def map_changed(self) -> None:
        """Epochs may have moved: what is under way is judged read by read."""
        self._aims.clear()
        for batch in self._flying.copy():
            if batch.flies:
                self.dissolve(batch)

    def health_changed(self) -> None:
        """Others may be the best to ask now, or the only ones."""
        self._aims.clear()


class _Aims:
    """Whom batches of one keyspace and level ask, bucket by bucket, in turn."""

    __slots__ = ("_table", "by_bucket", "joined", "level", "shift", "width")

    def __init__(self, table: RoutingTable, level: int) -> None:
        self._table = table
        self.level = level or int(table.keyspace.settings.read_consistency)
        self.shift = table.shift
        # Lone keys of this turn, by the link or links that are asked.
        self.joined: dict[Any, ReadBatch] = {}
        self.width = 0  # replicas for each key; 0: not known yet, or none can be asked this way
        self.by_bucket: list[Iterator[tuple[Target, ...]] | None] = [None] * table.buckets

    def take_one(self, key: bytes, core: LaneHost) -> tuple[Target, ...]:
        """Whom to ask for a key; nobody: it is not for the lane."""
        bucket = key_hash(key) >> self.shift
        return next(self.by_bucket[bucket] or self.take_aim(bucket, core.health_age))

    def take_many(self, keys: list[bytes], core: LaneHost) -> list[Target]:
        """The same for many keys, one after the other; `width` for each that is for the lane."""
        by_bucket = self.by_bucket
        targets: list[Target] = []
        for bucket in bucket_ids(keys, self.shift):
            targets += next(by_bucket[bucket] or self.take_aim(bucket, core.health_age))
        return targets

    def take_aim(self, bucket: int, health_age: int) -> Iterator[tuple[Target, ...]]:
        """The sets of replicas that meet the level, one after the other, for ever.

        Empty ones where a batch may not do it: too few can be reached, or agreement alone would
        not be an answer.
        """
        aim = self._choose(self._table.route_of(bucket), health_age)
        self.by_bucket[bucket] = aim
        return aim

    def _choose(self, route: Route, health_age: int) -> Iterator[tuple[Target, ...]]:
        nobody: Iterator[tuple[Target, ...]] = repeat(())
        if self.level not in _BY_AGREEMENT:
            return nobody
        groups = route.needs_of_read(Consistency(self.level))
        if groups is None or (route.writes_need_more and self.level in SETTLING_LEVELS):
            return nobody
        plans = route.plans_to_read(self.level, groups, health_age)
        self.width = self.width or len(plans[0])
        if not all(_meets(groups, plan) for plan in plans):
            return nobody
        sets = [_targets(route, groups, plan) for plan in plans]
        if any(len(targets) != self.width for targets in sets):
            return nobody
        route.turn += 1  # who asks seldom must not begin with the same one each time
        turn = route.turn % len(sets)
        return cycle(sets[turn:] + sets[:turn])


def _all_valid(keys: list[bytes]) -> bool:
    return all(keys) and max(map(len, keys)) <= MAX_KEY_BYTES


def _meets(groups: Needs, plan: tuple[int, ...]) -> bool:
    return tally(groups, sum(1 << slot for slot in plan), 0) == REACHED


def _targets(route: Route, needs: Needs, plan: tuple[int, ...]) -> tuple[Target, ...]:
    # In an order of their own: buckets that are asked of the same replicas can be read together.
    by_number = sorted(plan, key=lambda slot: route.peers[slot].node.number)
    links = [(slot, route.peers[slot].link) for slot in by_number]
    return tuple(Target(route, needs, slot, link) for slot, link in links if link is not None)


class _Timed:
    """The sink of a sampled request: measures the replica, then passes the reply on."""

    __slots__ = ("_batch", "_core")

    def __init__(self, batch: ReadBatch, core: LaneHost) -> None:
        self._batch = batch
        self._core = core

    def on_reply(self, number: int, reply: object, link: PeerLink) -> None:
        """The reply, in time or late."""
        batch = self._batch
        batch.targets[number].peer.breaker.observe(self._core.elapsed_s(batch.sent_at))
        batch.on_reply(number, reply, link)

    def on_lost(self, number: int, sent: bool, link: PeerLink) -> None:
        """No reply: nothing was measured."""
        self._batch.on_lost(number, sent, link)


def _nobody(_ended: object) -> None:
    """The `done` of what nobody waits for."""


class _Nobody:
    """The asker of what nobody waits for."""

    def batch_read(self, batch: ReadBatch) -> None:
        """It was read in vain."""

    def batch_dissolved(self, batch: ReadBatch, reads: list[Read]) -> None:
        """So are they."""


_NOBODY: Final = _Nobody()
