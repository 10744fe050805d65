"""The coordinator: takes operations from the doors, runs each over the replicas, answers each once.

It owns the snapshot of the map, the clock of versions, and the sweep that ends what takes too long.
It does no I/O of its own: links are handed in with the peers, and the shell calls `tick`.
"""

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from buckets.bucket_map import Bucket, BucketMap, Consistency, Keyspace
from buckets.hashing import key_hash
from buckets.topology import Node
from replicas.commands import split_write_suffix
from replicas.record import CHECKSUM_BYTES, VERSION_BYTES, Record
from replicas.version import HybridClock, physical_ms
from sidecar.core import checks
from sidecar.core.clocks import Clocks
from sidecar.core.counters import Counters, LatencyHistogram
from sidecar.core.fast_lane import FastLane, LoneKey, ReadBatch
from sidecar.core.fences import fence_refusal
from sidecar.core.group_write import group_error, needs_tunable, write_run
from sidecar.core.health import Admission, Budget
from sidecar.core.hints import ONLY_COPY, Hint, HintKeeper
from sidecar.core.host import ReadUnderWay, WriteUnderWay
from sidecar.core.issuing import issue_version
from sidecar.core.levels import READ_LEVELS, WRITE_LEVELS
from sidecar.core.listing import Listing, start_listing
from sidecar.core.location import Location, location
from sidecar.core.operation import GroupWrite, Read, Write
from sidecar.core.peer import Peer
from sidecar.core.read import ReadRun, SampledReadRun
from sidecar.core.register_op import Modify
from sidecar.core.registers import Registers
from sidecar.core.route import Route, RoutingTable
from sidecar.core.session_ops import Sessions
from sidecar.core.sweep import Run, Sweep
from sidecar.core.turns import Together
from sidecar.core.write import WriteRun
from sidecar.errors import DataError, Fault, Outcome, Reason

Operation = Read | Write | Modify
UnderWay = ReadUnderWay | WriteUnderWay

MAX_ACTIVE = 65_536  # operations at once; more are shed before anything is sent


class Learner(Protocol):
    """Takes map entries that replicas hand out with a refusal."""

    def ask_map_entry(self, route: Route, slot: int) -> None:
        """Read the bucket's entry kept beside the fence of the replica in `slot`."""

    def learn(self, raw_entry: bytes) -> None:
        """Adopt a newer entry (serialized BucketEntry) of one bucket."""


class Coordinator:
    """The data path. All methods are called on the event loop's thread."""

    def __init__(
        self,
        *,
        zone: str,
        clock: HybridClock,
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        learner: Learner | None = None,
        hints: HintKeeper | None = None,
        dice: Random | None = None,
        default_timeout_ms: int = 1000,
    ) -> None:
        self.zone = zone
        self.clock = clock
        self.default_timeout_ms = default_timeout_ms
        self.counters = Counters()
        self.read_latency = LatencyHistogram()
        self.write_latency = LatencyHistogram()
        self.peers: dict[int, Peer] = {}
        self.map: BucketMap | None = None
        self.health_age = 0
        self._standings: dict[int, tuple[object, ...]] = {}
        self.now = monotonic()
        self.learner = learner
        self.hints = hints
        self.monotonic = monotonic
        self.clocks = clocks = Clocks(self.peers.values, wall_ms, monotonic)
        # The clock's writer is as random as a process's dice have to be.
        self._registers = Registers(self, clocks.time_ms, monotonic, dice or Random(clock.writer))
        self.sessions = Sessions(self, clocks.time_ms)
        self._fast_lane = FastLane(self, clocks.time_ms)
        # Runs reads that came together, if they can be run as one; see ReadBatch for their end.
        # False: nothing was begun, give each key to `read`.
        self.read_batch: Callable[[ReadBatch], bool] = self._fast_lane.begin
        # Reads a key together with those of others, until `end_turn`.
        self.join_batch: Callable[[LoneKey, float], bool] = self._fast_lane.join
        self.end_turn: Callable[[], None] = self._fast_lane.end_turn
        self._tables: dict[str, RoutingTable] = {}
        self._sweep = Sweep()
        self._parked: list[Operation] = []  # wait for a (newer) map
        self._unconnected: list[Operation] = []  # wait for a node's first connection
        self.active = 0
        self.together = Together()
        self.admission = Admission(MAX_ACTIVE, self.now)
        self.hedges = Budget(share=0.1, per_s=1.0, burst=50.0)
        self.replacements = Budget(share=0.2, per_s=100.0, burst=1000.0)
        self._earned_for = 0  # reads that the budgets have been filled for
        self.sample_due = True  # the next read measures its replicas: one a tick

    # --- the map

    def adopt(self, bucket_map: BucketMap) -> tuple[list[Node], list[Node]]:
        """Route by `bucket_map` from now on; returns the nodes (to connect to, to leave).

        Operations under way finish under the epoch they began with, or begin again if it moved.
        """
        joined, left = self._adopt_nodes(bucket_map)
        self.map = bucket_map
        self._tables = {
            name: RoutingTable(keyspace, self._make_route)
            for name, keyspace in bucket_map.keyspaces.items()
        }
        self.clocks.adopt(bucket_map)
        self.health_age += 1
        self._fast_lane.map_changed()
        parked, self._parked = self._parked, []
        for op in parked:
            self._again(op)
        self._registers.adopted()
        return joined, left

    def _adopt_nodes(self, bucket_map: BucketMap) -> tuple[list[Node], list[Node]]:
        joined, left = [], []
        for number, node in bucket_map.nodes.items():
            peer = self.peers.get(number)
            if peer is None:
                self.peers[number] = Peer(node)
                joined.append(node)
            else:
                if peer.node.address != node.address:
                    left.append(peer.node)
                    joined.append(node)
                peer.adopt(node)
        gone = [number for number in self.peers if number not in bucket_map.nodes]
        left += [self.peers.pop(number).node for number in gone]
        return joined, left

    def _make_route(self, keyspace: Keyspace, bucket: Bucket) -> Route:
        return Route(keyspace, bucket, self.peers, self.zone)

    def epoch_moved(self, route: Route) -> bool:
        """Whether the map has gone on to another epoch of the bucket since `route` was made."""
        table = self._tables.get(route.keyspace)
        try:
            return table is None or table.epoch_of(route.bucket) != route.epoch
        except IndexError:  # another keyspace of the same name, with fewer buckets
            return True

    def health_changed(self) -> None:
        """A link came or went, or latencies were measured: choose the replicas to read anew, if
        anything changed that decides it."""
        standings = {number: peer.standing for number, peer in self.peers.items()}
        if standings != self._standings:
            self._standings = standings
            self.health_age += 1
            self._fast_lane.health_changed()
        if self._unconnected:
            waiting, self._unconnected = self._unconnected, []
            for op in waiting:
                self._again(op)

    # --- operations

    def read(self, op: Read) -> None:
        """Run a read; `op.done` is called once, perhaps before this returns."""
        table = self._tables.get(op.keyspace)
        if table is None:
            self.without_table(op)
            return
        if not table.tunable:
            self._start_register(op, table)
            return
        error = checks.key_error(op.key)
        if error is None and self.active >= self.admission.limit:
            error = checks.overloaded(self.admission)
        if error is not None:
            self.reject(op, error)
            return
        if op.level == Consistency.UNSPECIFIED:
            op.level = table.keyspace.settings.read_consistency
        route = table.route(op.key)
        groups = route.read_needs.get(op.level)
        if groups is None:  # not asked for before, or not to be had
            groups = route.needs_of_read(Consistency(op.level)) if op.level in READ_LEVELS else None
            if groups is None:
                self.reject(op, checks.level_error(op.level, route, READ_LEVELS, "reads"))
                return
        self.counters.reads += 1
        self.now = self.monotonic()
        if self.sample_due:
            self.sample_due = False
            run: ReadRun = SampledReadRun(self, op, route, groups)
        else:
            run = ReadRun(self, op, route, groups)
        self.active += 1
        self._sweep.young.append(run)
        run.start()

    def write(self, op: Write) -> None:
        """Run a put or a delete; `op.done` is called once, perhaps before this returns."""
        table = self._tables.get(op.keyspace)
        if table is None:
            self.without_table(op)
            return
        if not table.tunable:
            self._start_register(op, table)
            return
        settings = table.keyspace.settings
        error = checks.write_error(op, settings)
        if error is None and self.active >= self.admission.limit:
            error = checks.overloaded(self.admission)
        if error is not None:
            self.reject(op, error)
            return
        if op.level == Consistency.UNSPECIFIED:
            op.level = settings.write_consistency
        route = table.route(op.key)
        groups = route.write_needs.get(op.level)
        if groups is None:
            known = op.level in WRITE_LEVELS
            groups = route.needs_of_write(Consistency(op.level)) if known else None
            if groups is None:
                self.reject(op, checks.level_error(op.level, route, WRITE_LEVELS, "writes"))
                return
        self.now = self.monotonic()
        if not op.version and not issue_version(self, op, settings.max_skew_ms):
            return
        self.counters.writes += 1
        run = write_run(self, op, route, groups)
        self.active += 1
        self._sweep.young.append(run)
        run.start()

    def transact(self, op: GroupWrite) -> None:
        """Write several keys together; `op.done` is called once, perhaps before this returns."""
        table = self._tables.get(op.keyspace)
        if table is None:
            self.without_table(op)
            return
        settings = table.keyspace.settings
        error = group_error(op, settings) if table.tunable else needs_tunable(settings)
        if error is not None:
            self.reject(op, error)
        else:
            self.write(op)

    def list_keys(self, op: Listing) -> None:
        """List keys of one bucket; `op.done` is called once, perhaps before this returns."""
        self.now = self.monotonic()
        start_listing(self, op, self._tables.get(op.keyspace))

    def modify(self, op: Modify) -> None:
        """Run a change that depends on what stands; `op.done` is called once, perhaps before this
        returns.
        """
        table = self._tables.get(op.keyspace)
        if table is None:
            self.without_table(op)
        elif table.tunable:
            self.reject(op, checks.needs_linearizable(table.keyspace.settings))
        else:
            self._start_register(op, table)

    def _start_register(self, op: Operation, table: RoutingTable) -> None:
        if self.active >= self.admission.limit:
            self.reject(op, checks.overloaded(self.admission))
            return
        self.now = self.monotonic()
        self._registers.start(op, table.route(op.key))

    def cancel(self, op: Operation) -> None:
        """Nobody waits for `op` any more: its end will be quiet. What was sent is not undone."""
        op.done = _nobody

    def check_read(self, op: Read) -> DataError | None:
        """What `read` would refuse whatever the replicas say; None: nothing, or no map yet."""
        if self.map is not None and op.keyspace not in self._tables:
            return self._unknown(op.keyspace)
        return checks.key_error(op.key)

    def check_write(self, op: Write) -> DataError | None:
        """What `write` would refuse whatever the replicas say; None: nothing, or no map yet.

        Who is to write many keys or none of them asks this of each before the first is sent.
        """
        table = self._tables.get(op.keyspace)
        if table is None:
            error = self._unknown(op.keyspace) if self.map is not None else None
        elif not table.tunable:
            error = checks.register_write_error(op, table.keyspace.settings)
        else:
            error = checks.write_error(op, table.keyspace.settings) or self._level_error(op, table)
        return checks.with_outcome(error, op) if error is not None else None

    def _level_error(self, op: Write, table: RoutingTable) -> DataError | None:
        level = op.level or table.keyspace.settings.write_consistency
        route = table.route(op.key)
        if level in WRITE_LEVELS and route.needs_of_write(Consistency(level)) is not None:
            return None
        return checks.level_error(level, route, WRITE_LEVELS, "writes")

    def locate(self, keyspace: str, key: bytes, level: int) -> Location | DataError:
        """Where `key` lives and which replica a read at `level` would take first."""
        table = self._tables.get(keyspace)
        error = self._unknown(keyspace) if table is None else checks.key_error(key)
        if error is not None or table is None:
            return error or checks.no_map()
        level = level or table.keyspace.settings.read_consistency
        route = table.route(key)
        groups = route.needs_of_read(Consistency(level)) if level in READ_LEVELS else None
        if groups is None:
            return checks.level_error(level, route, READ_LEVELS, "reads")
        slots = route.first_to_read(level, groups, self.health_age)
        return location(
            route,
            key,
            route.peers[slots[0]] if slots else None,
            key_hash=key_hash(key),
            level=Consistency(level),
            map_revision=self.map.revision if self.map is not None else 0,
        )

    def route_of(self, keyspace: str, key: bytes) -> Route | None:
        """The key's bucket in the present map; None: no such keyspace in it, or no map."""
        table = self._tables.get(keyspace)
        return table.route(key) if table is not None else None

    def is_linearizable(self, keyspace: str) -> bool:
        """Whether the keyspace is in the map, and of that mode."""
        table = self._tables.get(keyspace)
        return table is not None and not table.tunable

    def keyspace_for_db(self, db: int) -> str | None:
        """The keyspace that `SELECT db` names."""
        if self.map is None:
            return None
        keyspace = self.map.keyspace_by_db.get(db)
        return keyspace.settings.name if keyspace is not None else None

    def keyspace_names(self) -> list[str]:
        """All keyspaces of the present map."""
        return sorted(self._tables)

    # --- ends (called by the runs)

    def finish_read(self, run: ReadUnderWay, record: Record | None) -> None:
        """Answer a read with a record (None: never written)."""
        op = run.op
        if op is None:
            return
        run.op = None
        self.active -= 1
        self.read_latency.observe(self.monotonic() - run.sent_at)
        if record is not None:
            op.version = record.version
            self.clock.merge(record.version)
            if record.flags and not record.live(self.clocks.time_ms()):
                record = None  # a tombstone, or expired: reads as absent
        op.record = record
        op.done(op)

    def fail_read(self, run: ReadUnderWay, reason: Reason, fault: Fault, message: str) -> None:
        """Answer a read with an error."""
        op = run.op
        if op is None:
            return
        run.op = None
        self.active -= 1
        op.record = None
        op.error = checks.replica_error(run, reason, fault, message)
        self.counters.failed(op.error)
        op.done(op)

    def finish_write(self, run: WriteUnderWay) -> None:
        """Answer a write with OK."""
        op = run.op
        if op is None:
            return
        run.op = None
        self.active -= 1
        self.write_latency.observe(self.monotonic() - run.sent_at)
        op.done(op)

    def fail_write(self, run: WriteUnderWay, reason: Reason, fault: Fault, message: str) -> None:
        """Answer a write with an error and the outcome that can be proved."""
        op = run.op
        if op is None:
            return
        outcome = run.outcome()
        run.op = None
        self.active -= 1
        version = op.version if outcome is Outcome.UNKNOWN else b""
        op.error = checks.replica_error(
            run, reason, fault, message, outcome=outcome, version=version
        )
        self.counters.failed(op.error)
        op.done(op)

    # --- registers and the fast lane

    def watch(self, run: Run) -> None:
        """End the run at its deadline, hurry it if it is slow."""
        self._sweep.young.append(run)

    def tunable_table(self, keyspace: str) -> RoutingTable | None:
        """Part of LaneHost."""
        table = self._tables.get(keyspace)
        return table if table is not None and table.tunable else None

    def await_connection(self, op: Operation) -> None:
        """Begin again once a first connection has been made or not."""
        self._queue(op, self._unconnected)

    # --- hints

    def keep_hints(self, route: Route, suffix: bytes, missed: int) -> None:
        """Owners in the mask `missed` did not acknowledge a write whose level was met."""
        if self.hints is None:
            return
        key, record = split_write_suffix(suffix)
        now_ms = self.clocks.time_ms()
        for slot, peer in enumerate(route.peers):
            if missed >> slot & 1:
                node = peer.node.number
                self.hints.keep(Hint(route.keyspace, route.bucket, key, record, node, now_ms))

    def keep_only_copy(self, route: Route, suffix: bytes, done: Callable[[str], None]) -> str:
        """No owner has a write of level ANY; see Host."""
        if self.hints is None:
            return "this sidecar keeps no hints"
        key, record = split_write_suffix(suffix)
        # As old as its version, which may be a repeat's: purges wait for all that is as old as it.
        version_ms = physical_ms(record[CHECKSUM_BYTES : CHECKSUM_BYTES + VERSION_BYTES])
        created_ms = min(version_ms, self.clocks.time_ms())
        hint = Hint(route.keyspace, route.bucket, key, record, ONLY_COPY, created_ms)
        return self.hints.keep_only_copy(hint, done)

    # --- epochs

    def fence_refusal(self, route: Route, slot: int, raw_fence: bytes | None) -> tuple[str, bool]:
        """Why a fence does not let its replica answer, and whether it is of a later epoch."""
        why, newer = fence_refusal(route, slot, raw_fence)
        self.counters.fence_refusals += 1
        if newer and self.learner is not None and not route.learning:
            route.learning = True
            self.learner.ask_map_entry(route, slot)
        return why, newer

    def learn(self, raw_entry: object) -> None:
        """A write was refused as of an old epoch; the refusal carried the present entry."""
        self.counters.fence_refusals += 1
        if self.learner is not None and isinstance(raw_entry, bytes):
            self.learner.learn(raw_entry)

    def park(self, run: UnderWay) -> None:
        """The replicas know a later epoch: wait for it, up to the deadline."""
        op = self._abandon(run)
        if op is None:
            return
        if self.epoch_moved(run.route):
            self._again(op)
        else:
            self._queue(op, self._parked)

    def await_links(self, run: UnderWay) -> None:
        """Owners are new in the map: wait for their first connections, up to the deadline."""
        op = self._abandon(run)
        if op is not None:
            self._queue(op, self._unconnected)

    def restart(self, run: UnderWay) -> None:
        """The epoch moved while the operation was under way: run it under the present one."""
        op = self._abandon(run)
        if op is not None:
            self.counters.restarts += 1
            self._again(op)

    def _abandon(self, run: UnderWay) -> Read | Write | None:
        op = run.op
        if op is None:
            return None
        if isinstance(run, WriteRun) and isinstance(op, Write):
            op.maybe_applied = run.outcome() is Outcome.UNKNOWN
        run.op = None
        self.active -= 1
        return op

    def _again(self, op: Operation) -> None:
        if isinstance(op, Listing):
            self.list_keys(op)
        elif isinstance(op, Read):
            op.record = None
            self.read(op)
        elif isinstance(op, Modify):
            self.modify(op)
        elif isinstance(op, GroupWrite):
            op.superseded = False
            self.transact(op)
        else:
            op.superseded = False  # but a value that once existed did, whatever stands there now
            self.write(op)

    # --- time

    def elapsed_s(self, since: float) -> float:
        """Part of Host."""
        return self.monotonic() - since

    def tick(self) -> None:
        """Called every few milliseconds: ends what is overdue, wakes what is slow."""
        self.now = now = self.monotonic()
        self.admission.ticked(now, self.active)
        self._earn(self.admission.turn_s)
        self.sample_due = True
        self._fast_lane.tick(now)
        self._sweep.tick(now, self.active)
        self._registers.tick(now)
        self._sweep_parked(now)

    def _earn(self, elapsed_s: float) -> None:
        reads = self.counters.reads
        for budget in (self.hedges, self.replacements):
            budget.earn(reads - self._earned_for, elapsed_s)
        self._earned_for = reads

    def _sweep_parked(self, now: float) -> None:
        if self._parked:
            overdue = [op for op in self._parked if op.deadline <= now]
            self._parked = [op for op in self._parked if op.deadline > now]
            for op in overdue:
                known = op.keyspace in self._tables
                self.reject(op, checks.epoch_timeout(op) if known else self._unknown(op.keyspace))
        if self._unconnected:
            overdue = [op for op in self._unconnected if op.deadline <= now]
            self._unconnected = [op for op in self._unconnected if op.deadline > now]
            for op in overdue:
                self.reject(op, checks.connect_timeout(op))

    # --- refusals before anything is sent

    def _unknown(self, keyspace: str) -> DataError:
        if self.map is None:
            return checks.no_map()
        return checks.unknown_keyspace(keyspace, self.keyspace_names())

    def without_table(self, op: Operation) -> None:
        """No map yet: wait for it up to the deadline. A map without the keyspace: say so."""
        if self.map is not None:
            self.reject(op, self._unknown(op.keyspace))
        else:
            self._queue(op, self._parked)

    def _queue(self, op: Operation, queue: list[Operation]) -> None:
        if len(queue) >= self.admission.limit:
            self.reject(op, checks.overloaded(self.admission))
        else:
            queue.append(op)

    def reject(self, op: Operation, error: DataError) -> None:
        """Answer with an error before anything is sent."""
        op.error = error = checks.with_outcome(error, op)
        self.counters.failed(error)
        _end(op)


def _end(op: Operation) -> None:
    done: Callable[[Any], None] = op.done
    done(op)


def _nobody(op: object) -> None:
    """The `done` of a cancelled operation."""
