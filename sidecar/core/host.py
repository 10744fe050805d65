"""What a running operation may ask of the coordinator that runs it."""

from collections.abc import Callable
from typing import Protocol

from replicas.quorum import Needs
from replicas.record import Record
from sidecar.core.counters import Counters
from sidecar.core.health import Budget
from sidecar.core.operation import Read, Write
from sidecar.core.route import Route
from sidecar.errors import Fault, Outcome, Reason

NO_COPY = -1  # in `whys`, beside the slots: why the hint log does not have a write of level ANY


class Run(Protocol):
    """One operation under way: what its end and its errors are made from."""

    route: Route
    needs: Needs
    acked: int
    whys: dict[int, str]
    sent_at: float


class ReadUnderWay(Run, Protocol):
    """A read under way; `op` is None once it has ended."""

    op: Read | None


class WriteUnderWay(Run, Protocol):
    """A write under way; `op` is None once it has ended."""

    op: Write | None

    def outcome(self) -> Outcome:
        """What can be proved of it if it ends now without its level."""


class Host(Protocol):
    """The coordinator, as its runs see it."""

    now: float  # loop time at the start of the youngest operation, seconds
    health_age: int
    counters: Counters
    hedges: Budget  # for asking one more because one is slow
    replacements: Budget  # for asking another in place of one that failed

    def elapsed_s(self, since: float) -> float:
        """Seconds since loop time `since`, by the clock: not for every operation."""

    def epoch_moved(self, route: Route) -> bool:
        """Whether the map has gone on to another epoch of the bucket."""

    def fence_refusal(self, route: Route, slot: int, raw_fence: bytes | None) -> tuple[str, bool]:
        """Why a fence does not let its replica answer, and whether it is of a later epoch."""

    def learn(self, raw_entry: object) -> None:
        """A refusal carried the bucket's present map entry."""

    def finish_read(self, run: ReadUnderWay, record: Record | None) -> None:
        """Answer a read."""

    def fail_read(self, run: ReadUnderWay, reason: Reason, fault: Fault, message: str) -> None:
        """Answer a read with an error."""

    def finish_write(self, run: WriteUnderWay) -> None:
        """Answer a write with OK."""

    def fail_write(self, run: WriteUnderWay, reason: Reason, fault: Fault, message: str) -> None:
        """Answer a write with an error and the outcome that can be proved."""

    def park(self, run: ReadUnderWay | WriteUnderWay) -> None:
        """Replicas know a later epoch: wait for it."""

    def await_links(self, run: ReadUnderWay | WriteUnderWay) -> None:
        """Owners were never connected to yet: wait for that."""

    def keep_hints(self, route: Route, suffix: bytes, missed: int) -> None:
        """Owners in the mask `missed` did not acknowledge a write (as sent) whose level was met."""

    def keep_only_copy(self, route: Route, suffix: bytes, done: Callable[[str], None]) -> str:
        """No owner has a write of level ANY: why the hint log refuses it, or empty; then `done`
        says what went wrong with it, or nothing once it is on disk.
        """

    def restart(self, run: ReadUnderWay | WriteUnderWay) -> None:
        """The epoch moved: run the operation again under the present one."""
