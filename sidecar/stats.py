"""What workers counted, as plain values that add up: for the admin door and for metrics."""

import os
import resource
import time
from collections.abc import Iterable
from functools import cache

import msgspec

from sidecar.background.hint_ledger import HintsView
from sidecar.core import fast_lane
from sidecar.core.clocks import Clocks, skewed_text
from sidecar.core.coordinator import Coordinator
from sidecar.core.counters import LATENCY_BUCKETS
from sidecar.core.divergence import Divergence
from sidecar.hint_stats import merge_hints
from sidecar.net.grpc_door import GrpcDoor
from sidecar.net.grpcio_door import GrpcioDoor
from sidecar.net.resp_door import RespDoor
from sidecar.rights import Denials

_STARTED = time.monotonic()
_PAGE_BYTES = resource.getpagesize()
# Whether the hot modules are machine code, as in a wheel that `make wheel` made.
COMPILED = not fast_lane.__file__.endswith(".py")


class NodeStats(msgspec.Struct):
    """One node as the workers see it. `latency_ms` is a moving average."""

    id: str
    number: int
    zone: str
    address: str
    health: str
    why: str
    reads: int
    writes: int
    errors: int
    latency_ms: float
    clock_ms: float | None = None  # its clock minus the median of all nodes; None: not measured
    read_last: bool = False  # it stalled or mostly failed: others are read first


class ClockStats(msgspec.Struct):
    """This process's clock beside those of its replicas; see core/clocks.py."""

    state: str
    skew_ms: float | None  # minus the median of the nodes' clocks; None: not measured
    measured: int  # nodes that said their time lately
    nodes: int
    tolerance_ms: int

    @property
    def problem(self) -> str:
        """What is wrong, for people; empty: nothing."""
        if self.skew_ms is None or abs(self.skew_ms) <= self.tolerance_ms:
            return ""
        goes = "versions are refused" if self.state == "refusing" else "theirs is used instead"
        return f"its clock is {skewed_text(self.skew_ms)}; {goes}"


class DivergentBucket(msgspec.Struct):
    """What reads found to differ in one bucket; bucket -1 of no keyspace: in all others."""

    keyspace: str
    bucket: int
    keys: int
    oldest_ms: int  # Unix milliseconds: of the versions that a replica lacked, the earliest


class WorkerStats(msgspec.Struct):
    """Counts since a worker's start."""

    counters: dict[str, int]
    errors: dict[str, int]
    read_latency: list[int]  # bucket i: below 2^i microseconds
    write_latency: list[int]
    read_seconds: float
    write_seconds: float
    grpc: dict[str, int]
    redis: dict[str, int]
    nodes: list[NodeStats]
    hints: HintsView
    clock: ClockStats
    divergent: list[DivergentBucket]
    active: int
    map_revision: int
    resident_bytes: int
    uptime_s: float
    tls_problem: str = ""  # why new files are not in force; empty: they are
    rights_problem: str = ""
    compiled: bool = COMPILED
    workers: int = 1


_COUNTED = (
    "reads",
    "writes",
    "reads_divergent",
    "reads_hurried",
    "reads_replaced",
    "demotions",
    "read_repairs",
    "corrupt_records",
    "fence_refusals",
    "restarts",
    "not_applied",
    "unknown",
    "outbid",
)


def worker_stats(
    core: Coordinator,
    grpc_door: GrpcDoor | GrpcioDoor,
    redis_door: RespDoor,
    hints: HintsView,
    grpc_denials: Denials,
) -> WorkerStats:
    """The counts of this process."""
    connections = {"connections": grpc_door.connections}
    counters = core.counters
    return WorkerStats(
        counters={name: getattr(counters, name) for name in _COUNTED}
        | {
            "hedges_denied": core.hedges.denied,
            "replacements_denied": core.replacements.denied,
        },
        errors={reason.value: count for reason, count in counters.errors.items() if count},
        read_latency=list(core.read_latency.counts),
        write_latency=list(core.write_latency.counts),
        read_seconds=core.read_latency.total_s,
        write_seconds=core.write_latency.total_s,
        grpc=grpc_door.counters.snapshot() | connections | grpc_denials.numbers(),
        redis=redis_door.counters.numbers() | {"connections": redis_door.connections},
        nodes=[
            NodeStats(
                id=peer.node.id,
                number=peer.node.number,
                zone=peer.node.zone,
                address=peer.node.address,
                health=peer.health,
                why=peer.explanation,
                reads=peer.reads,
                writes=peer.writes,
                errors=peer.errors,
                latency_ms=round(peer.latency_s * 1000, 3),
                clock_ms=_rounded(core.clocks.node_skew_ms(peer.clock)),
                read_last=peer.breaker.demoted,
            )
            for peer in core.peers.values()
        ],
        hints=hints,
        clock=clock_stats(core.clocks),
        divergent=_divergent(counters.divergence),
        active=core.active,
        map_revision=core.map.revision if core.map is not None else 0,
        resident_bytes=resident_bytes(),
        uptime_s=round(time.monotonic() - _STARTED, 3),
    )


def clock_stats(clocks: Clocks) -> ClockStats:
    """The clock of this process."""
    return ClockStats(
        state=clocks.state.value,
        skew_ms=_rounded(clocks.skew_ms),
        measured=clocks.measured,
        nodes=clocks.nodes,
        tolerance_ms=clocks.tolerance_ms,
    )


def _divergent(found: Divergence) -> list[DivergentBucket]:
    return [
        DivergentBucket(*place, one.keys, one.oldest_ms)
        for place, one in sorted(found.places.items())
    ]


def _rounded(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(value_ms, 1)


@cache
def _memory_file() -> int:
    # Kept open: what a process counts is asked for when it has no file descriptor left, too.
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(os.pread(_memory_file(), 100, 0).split()[1]) * _PAGE_BYTES


def add_up(workers: Iterable[WorkerStats]) -> WorkerStats:
    """The sums over all workers; latencies of nodes are averaged, the oldest map counts."""
    first, *rest = workers
    total = msgspec.convert(msgspec.to_builtins(first), WorkerStats)  # a copy of our own
    for other in rest:
        for mine, theirs in (
            (total.counters, other.counters),
            (total.errors, other.errors),
            (total.grpc, other.grpc),
            (total.redis, other.redis),
        ):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0) + value
        for bucket in range(LATENCY_BUCKETS):
            total.read_latency[bucket] += other.read_latency[bucket]
            total.write_latency[bucket] += other.write_latency[bucket]
        total.read_seconds += other.read_seconds
        total.write_seconds += other.write_seconds
        total.active += other.active
        total.map_revision = min(total.map_revision, other.map_revision)
        total.resident_bytes += other.resident_bytes
        total.workers += other.workers
        total.tls_problem = total.tls_problem or other.tls_problem
        total.rights_problem = total.rights_problem or other.rights_problem
        total.hints = merge_hints(total.hints, other.hints)
        total.divergent = _merged(total.divergent, other.divergent)
        if abs(other.clock.skew_ms or 0.0) > abs(total.clock.skew_ms or 0.0):
            total.clock = other.clock  # one host has one clock: the worst that was seen of it
        _add_nodes(total, other)
    return total


def _merged(mine: list[DivergentBucket], theirs: list[DivergentBucket]) -> list[DivergentBucket]:
    both = Divergence()
    for one in (*mine, *theirs):
        both.add((one.keyspace, one.bucket), one.keys, one.oldest_ms)
    return _divergent(both)


def _add_nodes(total: WorkerStats, other: WorkerStats) -> None:
    by_id = {node.id: node for node in total.nodes}
    weight = total.workers - other.workers
    for theirs in other.nodes:
        mine = by_id.get(theirs.id)
        if mine is None:
            total.nodes.append(msgspec.structs.replace(theirs))
            continue
        mine.reads += theirs.reads
        mine.writes += theirs.writes
        mine.errors += theirs.errors
        mine.latency_ms = round((mine.latency_ms * weight + theirs.latency_ms) / (weight + 1), 3)
        mine.read_last |= theirs.read_last
        if theirs.health != "connected":
            mine.health, mine.why = theirs.health, theirs.why
