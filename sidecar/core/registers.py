"""Operations on linearizable keyspaces: whose turn it is, who waits, how each is answered.

Changes of one key take turns within a process: two under way would only outbid each other, and with
turns fifty clients of one counter are served in the order in which they asked. Reads of a key that
nobody here is changing take one round; others wait behind the change. Against other processes there
is the wait that CASPaxos asks for.
"""

import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from buckets.bucket_map import Consistency, Mode
from replicas.changes import Current
from replicas.record import Record
from replicas.register import backoff_ms
from replicas.version import WRITER_BYTES, ZERO_VERSION, HybridClock
from sidecar.core import checks
from sidecar.core.counters import Counters, LatencyHistogram
from sidecar.core.health import Budget
from sidecar.core.operation import Read, Write
from sidecar.core.register_host import RegisterUnderWay
from sidecar.core.register_op import Modify, operation_id_error
from sidecar.core.register_read import RegisterRead
from sidecar.core.register_route import RegisterRoute
from sidecar.core.register_run import RegisterRun
from sidecar.core.route import Route
from sidecar.errors import DataError, Fault, Reason

Operation = Read | Write | Modify
_Place = tuple[str, bytes]


class Core(Protocol):
    """The coordinator, as far as registers need it."""

    now: float
    health_age: int
    active: int
    counters: Counters
    hedges: Budget
    read_latency: LatencyHistogram
    write_latency: LatencyHistogram

    def route_of(self, keyspace: str, key: bytes) -> Route | None:
        """The key's bucket in the present map."""

    def epoch_moved(self, route: Route) -> bool:
        """Whether the map has gone on to another epoch of the bucket."""

    def learn(self, raw_entry: object) -> None:
        """A refusal carried the bucket's present map entry."""

    def watch(self, run: RegisterUnderWay) -> None:
        """End the run at its deadline, hurry it if it is slow."""

    def await_connection(self, op: Operation) -> None:
        """Begin again once a first connection has been made or not."""

    def reject(self, op: Operation, error: DataError) -> None:
        """Answer with an error before anything is sent."""


class Registers:
    """A RegisterHost. `dice` makes ids, waits and the writer of ballots."""

    def __init__(
        self,
        core: Core,
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        dice: Random,
    ) -> None:
        self.wall_ms = wall_ms
        self.dice = dice
        # Not the clock of tunable versions: a key's ballots may run ahead of time.
        self.ballots = HybridClock(self.dice.randbytes(WRITER_BYTES))
        self._core = core
        self._monotonic = monotonic
        self._turns: dict[_Place, deque[RegisterRun]] = {}  # keys under change; who waits
        self._waiting: list[tuple[float, int, RegisterUnderWay]] = []  # a heap by time
        self._parked: list[RegisterUnderWay] = []  # for a newer map
        self._sequence = 0
        self._later: deque[Callable[[], None]] = deque()
        self._handing_over = False

    # --- in

    def start(self, op: Operation, route: Route) -> None:
        """Run an operation; `op.done` is called once, perhaps before this returns."""
        error = self._error(op, route)
        if error is not None:
            self._core.reject(op, error)
            return
        if isinstance(op, Read):
            self.counters.reads += 1
        else:
            self.counters.writes += 1
        self._core.active += 1
        queue = self._turns.get((op.keyspace, op.key))
        if isinstance(op, Read) and queue is None:
            self.take_over(RegisterRead(self, op, route))
            return
        run = RegisterRun(self, op, route)
        if queue is None:
            self._turns[op.keyspace, op.key] = deque()
            run.has_turn = True
            self.take_over(run)
        else:
            self._core.watch(run)
            queue.append(run)

    def _error(self, op: Operation, route: Route) -> DataError | None:
        settings = route.settings
        if op.level != Consistency.UNSPECIFIED:
            return checks.linearizable_level(op.level, settings)
        if isinstance(op, Read):
            return checks.key_error(op.key)
        if isinstance(op, Write):
            error = checks.register_write_error(op, settings)
        else:
            error = checks.key_error(op.key)
        if error is None and op.operation_id:
            error = operation_id_error(op.operation_id, self.wall_ms(), settings.max_skew_ms)
        return error

    # --- time and maps

    def tick(self, now: float) -> None:
        """Called every few milliseconds: whose wait is over goes on."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            heapq.heappop(waiting)[2].again()

    def adopted(self) -> None:
        """There is a newer map."""
        parked, self._parked = self._parked, []
        for run in parked:
            if run.op is not None and self.epoch_moved(run.route):
                run.rerouted()
            elif run.op is not None:
                self._parked.append(run)

    # --- RegisterHost

    @property
    def now(self) -> float:
        """Loop time at the start of the youngest operation, seconds."""
        return self._core.now

    @property
    def health_age(self) -> int:
        """Changes when replicas are to be chosen anew."""
        return self._core.health_age

    @property
    def counters(self) -> Counters:
        """What is counted."""
        return self._core.counters

    def take_hedge(self) -> bool:
        """Spend a token of the budget for asking more replicas than a read needs."""
        return self._core.hedges.take()

    def registers_of(self, route: Route) -> RegisterRoute:
        """The bucket's groups and prefixes."""
        known: RegisterRoute | None = route.registers
        if known is None:
            known = route.registers = RegisterRoute(route)
        return known

    def route_of(self, keyspace: str, key: bytes) -> Route | None:
        """The key's bucket in the present map, if its keyspace is linearizable still."""
        route = self._core.route_of(keyspace, key)
        linearizable = route is not None and route.settings.mode is Mode.LINEARIZABLE
        return route if linearizable else None

    def epoch_moved(self, route: Route) -> bool:
        """Whether the map has gone on to another epoch of the bucket."""
        return self._core.epoch_moved(route)

    def learn(self, raw_entry: object) -> None:
        """A refusal carried the bucket's present map entry."""
        self._core.learn(raw_entry)

    def park(self, run: RegisterUnderWay) -> None:
        """Replicas know a later epoch: wait for it, up to the deadline."""
        self._parked = [other for other in self._parked if other.op is not None]
        self._parked.append(run)

    def wait(self, run: RegisterUnderWay, attempt: int) -> None:
        """Another operation was faster: wait, then go on."""
        wait_ms = backoff_ms(attempt, self.dice)
        if not wait_ms:
            run.again()
            return
        self._sequence += 1
        due = self._monotonic() + wait_ms / 1000
        heapq.heappush(self._waiting, (due, self._sequence, run))

    def await_links(self, run: RegisterUnderWay) -> None:
        """Owners are new in the map: wait for their first connections, up to the deadline."""
        op = self._end(run)
        if op is not None:
            self._core.await_connection(op)

    def take_over(self, run: RegisterUnderWay) -> None:
        """Start `run`, perhaps in place of the one whose operation it has."""
        self._core.watch(run)
        run.start()

    def finish_read(self, run: RegisterUnderWay, op: Read, current: Current | None) -> None:
        """Answer a read with what stands."""
        if current is not None and current.version != ZERO_VERSION:
            op.version = current.version
        op.record = None
        if current is not None and current.value is not None:
            op.record = Record(current.version, 0, current.expires_at_ms, current.value, b"")
        op.acks = run.acked.bit_count()
        self._core.read_latency.observe(self._monotonic() - run.sent_at)
        self._end(run)
        op.done(op)

    def finish(self, run: RegisterUnderWay) -> None:
        """Answer a change that was decided."""
        self._core.write_latency.observe(self._monotonic() - run.sent_at)
        op = self._end(run)
        if op is not None:
            _tell(op)

    def fail(self, run: RegisterUnderWay, reason: Reason, fault: Fault, message: str) -> None:
        """Answer with an error and the outcome that can be proved."""
        outcome = run.outcome()
        operation_id = run.operation_id if outcome is not None else b""
        error = checks.replica_error(
            run, reason, fault, message, outcome=outcome, operation_id=operation_id
        )
        op = self._end(run)
        if op is not None:
            op.error = error
            self._core.counters.failed(error)
            _tell(op)

    # --- turns

    def _end(self, run: RegisterUnderWay) -> Operation | None:
        op = run.end()
        if op is None:
            return None
        self._core.active -= 1
        if run.has_turn:
            self._hand_over((op.keyspace, op.key))
        return op

    def _hand_over(self, place: _Place) -> None:
        """The reads that wait next, then the next change: its turn begins with theirs."""
        queue = self._turns.get(place)
        while queue:
            run = queue.popleft()
            if run.op is None:
                continue
            run.has_turn = not run.is_read
            self._soon(run.start)
            if run.has_turn:
                return
        self._turns.pop(place, None)

    def _soon(self, start: Callable[[], None]) -> None:
        """Call `start`, but never from within another: a thousand that wait and fail one after the
        other would be a thousand calls deep."""
        self._later.append(start)
        if self._handing_over:
            return
        self._handing_over = True
        try:
            while self._later:
                self._later.popleft()()
        finally:
            self._handing_over = False


def _tell(op: Operation) -> None:
    done: Callable[[Any], None] = op.done
    done(op)
