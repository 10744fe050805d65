"""Plain integers of the data path, read by the metrics; an increment costs 30 ns."""

from sidecar.core.divergence import Divergence
from sidecar.errors import DataError, Outcome, Reason

LATENCY_BUCKETS = 24  # powers of two of microseconds: bucket i holds less than 2^i us


class LatencyHistogram:
    """Counts by powers of two of microseconds: up to 8 s, wide enough to see a shape."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * LATENCY_BUCKETS
        self.total_s = 0.0

    def observe(self, latency_s: float) -> None:
        """Count one latency in seconds."""
        bucket = int(latency_s * 1_000_000).bit_length()
        self.counts[bucket if bucket < LATENCY_BUCKETS else -1] += 1
        self.total_s += latency_s

    def observe_many(self, latency_s: float, count: int) -> None:
        """Count the latency of so many that came and ended together."""
        bucket = int(latency_s * 1_000_000).bit_length()
        self.counts[bucket if bucket < LATENCY_BUCKETS else -1] += count
        self.total_s += latency_s * count


class Counters:
    """What happened since the process started."""

    __slots__ = (
        "corrupt_records",
        "demotions",
        "divergence",
        "errors",
        "fence_refusals",
        "not_applied",
        "outbid",
        "read_repairs",
        "reads",
        "reads_divergent",
        "reads_hurried",
        "reads_replaced",
        "restarts",
        "unknown",
        "writes",
    )

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self.reads_divergent = 0  # replicas differed
        self.reads_hurried = 0  # asked one more replica because one was slow
        self.reads_replaced = 0  # asked another replica in place of one that failed
        self.demotions = 0  # replicas that stalled or failed, and are read last since
        self.read_repairs = 0
        self.corrupt_records = 0
        self.fence_refusals = 0
        self.restarts = 0  # the epoch moved while the operation was under way
        self.outbid = 0  # attempts at a register that another operation was faster than
        self.not_applied = 0
        self.unknown = 0
        self.divergence = Divergence()
        self.errors: dict[Reason, int] = dict.fromkeys(Reason, 0)

    def failed(self, error: DataError) -> None:
        """Count one operation's error."""
        self.errors[error.reason] += 1
        if error.outcome is Outcome.UNKNOWN:
            self.unknown += 1
        elif error.outcome is Outcome.NOT_APPLIED:
            self.not_applied += 1
