"""A write's version: of which clock, and when there is none."""

from typing import Protocol

from buckets.bucket_map import Consistency
from replicas.version import HybridClock
from sidecar.core import checks
from sidecar.core.clocks import Clocks
from sidecar.core.operation import Write
from sidecar.errors import DataError


class Core(Protocol):
    """The coordinator, as far as versions need it."""

    clock: HybridClock
    clocks: Clocks
    now: float

    def await_connection(self, op: Write) -> None:
        """Begin again once a first connection has been made or not."""

    def reject(self, op: Write, error: DataError) -> None:
        """Answer with an error before anything is sent."""


def issue_version(core: Core, op: Write, max_skew_ms: int) -> bool:
    """Give a write its version; False when it was refused, or waits for the first replica.

    While no replica has ever said its time nothing can be sent, so a write needs no version; one of
    a wrong clock would raise all later ones above what replicas take. Level ANY may be kept as a
    hint all the same.
    """
    clocks = core.clocks
    if clocks.offset_ms is None:
        if clocks.connecting():  # the first replicas will say what time it is
            core.await_connection(op)
            return False
        if not clocks.connected and op.level != Consistency.ANY:
            return True
    at_ms = clocks.version_ms(core.now, max_skew_ms)
    if at_ms is None:
        core.reject(op, checks.skewed(clocks))
        return False
    try:
        op.version = core.clock.next(at_ms)
    except OSError as why:
        core.reject(op, checks.clock_error(why))
        return False
    return True
