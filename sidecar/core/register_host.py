"""What an operation on a register may ask of whoever runs it."""

from collections.abc import Callable
from random import Random
from typing import Protocol

from replicas.changes import Current
from replicas.version import HybridClock
from sidecar.core.counters import Counters
from sidecar.core.host import Run
from sidecar.core.operation import Read, Write
from sidecar.core.register_op import Modify
from sidecar.core.register_route import RegisterRoute
from sidecar.core.route import Route
from sidecar.errors import Fault, Outcome, Reason


class RegisterUnderWay(Run, Protocol):
    """An operation on a register."""

    operation_id: bytes
    has_turn: bool

    @property
    def op(self) -> Read | Write | Modify | None:
        """None once it has ended."""

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""

    def end(self) -> Read | Write | Modify | None:
        """End it; gives what `op` was."""

    def slow_at(self) -> float:
        """Loop time from which on it may be hurried."""

    def hurry(self) -> bool:
        """It is slow; False: not now, try again later."""

    def timed_out(self) -> None:
        """The deadline passed."""

    def outcome(self) -> Outcome | None:
        """What can be proved of it if it ends now; None: a read."""

    def start(self) -> None:
        """Its turn has come."""

    def again(self) -> None:
        """The wait after a lost attempt is over."""

    def rerouted(self) -> None:
        """The epoch has moved."""


class RegisterHost(Protocol):
    """The runs' view of sidecar/core/registers.py."""

    ballots: HybridClock
    dice: Random
    wall_ms: Callable[[], int]  # Unix milliseconds

    @property
    def now(self) -> float:
        """Loop time at the start of the youngest operation, seconds."""

    @property
    def health_age(self) -> int:
        """Changes when replicas are to be chosen anew."""

    @property
    def counters(self) -> Counters:
        """What is counted."""

    def take_hedge(self) -> bool:
        """Spend a token of the budget for asking more replicas than a read needs."""

    def registers_of(self, route: Route) -> RegisterRoute:
        """The bucket's groups and prefixes."""

    def route_of(self, keyspace: str, key: bytes) -> Route | None:
        """The key's bucket in the present map, if its keyspace is linearizable still."""

    def epoch_moved(self, route: Route) -> bool:
        """Whether the map has gone on to another epoch of the bucket."""

    def learn(self, raw_entry: object) -> None:
        """A refusal carried the bucket's present map entry."""

    def park(self, run: RegisterUnderWay) -> None:
        """Replicas know a later epoch: wait for it."""

    def wait(self, run: RegisterUnderWay, attempt: int) -> None:
        """Another operation was faster: wait, then call `again`."""

    def await_links(self, run: RegisterUnderWay) -> None:
        """Owners were never connected to yet: wait for that."""

    def take_over(self, run: RegisterUnderWay) -> None:
        """Start `run` in place of the one whose operation it has."""

    def finish_read(self, run: RegisterUnderWay, op: Read, current: Current | None) -> None:
        """Answer a read with what stands."""

    def finish(self, run: RegisterUnderWay) -> None:
        """Answer a change."""

    def fail(self, run: RegisterUnderWay, reason: Reason, fault: Fault, message: str) -> None:
        """Answer with an error and the outcome that can be proved."""
