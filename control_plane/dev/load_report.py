"""What a load found: the report that `--json` writes, and what travels from the loader to us."""

from collections.abc import Mapping, Sequence

import msgspec


class DoorReport(msgspec.Struct, frozen=True):
    """Reads through one door. Only answered reads count in the rate and in the latencies."""

    reads_per_s: float
    p50_ms: float
    p99_ms: float
    reads: int
    errors: int


class Doors(msgspec.Struct, frozen=True):
    """Both doors, read at the same time."""

    grpc: DoorReport
    redis: DoorReport


class NodeReads(msgspec.Struct, frozen=True):
    """Reads that the sidecar took to one node while both doors were read."""

    id: str
    zone: str
    reads: int


class ZoneReads(msgspec.Struct, frozen=True):
    """The same, summed by zone."""

    zone: str
    reads: int


class Seconds(msgspec.Struct, frozen=True):
    """How long each phase took."""

    load: float
    verify: float
    run: float


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """`mismatches` are answers with another value, or none, where one was written; `errors` are
    operations that failed for good."""

    records_loaded: int
    records_verified: int
    mismatches: int
    errors: int
    doors: Doors
    nodes: Sequence[NodeReads]
    zones: Sequence[ZoneReads]
    max_over_mean: float
    seconds: Seconds
    ready_seconds: float
    sidecar_rss_bytes: int


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the loader is started with. Addresses are `host:port`."""

    grpc: str
    redis: str
    admin: str
    keyspace: str
    redis_db: int
    sidecar_pid: int
    run_s: float
    ready_seconds: float
    seed: int = 1


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far a phase is: `done` of `total` records, or seconds for the last one."""

    phase: str
    done: float
    total: float
    note: str = ""


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The end of a load. `retries`: writes and verifying reads repeated, then answered."""

    report: LoadReport
    records_expected: int
    retries: int
    first_errors: Sequence[str]

    @property
    def wrong(self) -> list[str]:
        """What was not as it must be; empty: all was well."""
        report = self.report
        found = []
        if report.records_loaded != self.records_expected:
            found.append(f"{report.records_loaded} of {self.records_expected} records were loaded")
        if report.records_verified != self.records_expected:
            found.append(f"{report.records_verified} of {self.records_expected} were verified")
        if report.mismatches:
            found.append(f"{report.mismatches} answers differ from what was written")
        if report.errors:
            found.append(f"{report.errors} operations failed")
        for name, door in (("gRPC", report.doors.grpc), ("Redis", report.doors.redis)):
            if not door.reads:
                found.append(f"no read through the {name} door was answered")
        return found


LoadEvent = Progress | Finished


def node_reads(
    before: Sequence[Mapping[str, object]], after: Sequence[Mapping[str, object]]
) -> list[NodeReads]:
    """The reads of each node between two answers of the sidecar's `/nodes`."""
    earlier = {str(node["id"]): _count(node) for node in before}
    return [
        NodeReads(
            id=str(node["id"]),
            zone=str(node["zone"]),
            reads=_count(node) - earlier.get(str(node["id"]), 0),
        )
        for node in sorted(after, key=lambda node: str(node["id"]))
    ]


def _count(node: Mapping[str, object]) -> int:
    reads = node["reads"]
    if not isinstance(reads, int):
        raise TypeError(f"/nodes: reads of {node['id']} is {reads!r}, not a number")
    return reads


def zone_reads(nodes: Sequence[NodeReads]) -> list[ZoneReads]:
    """Sums by zone, in the order of the zones' names."""
    sums: dict[str, int] = {}
    for node in nodes:
        sums[node.zone] = sums.get(node.zone, 0) + node.reads
    return [ZoneReads(zone=zone, reads=reads) for zone, reads in sorted(sums.items())]


def max_over_mean(nodes: Sequence[NodeReads]) -> float:
    """How much the most loaded node has more than the mean: 1.0 is perfectly even, 0.0 no reads."""
    total = sum(node.reads for node in nodes)
    return round(max(node.reads for node in nodes) * len(nodes) / total, 4) if total else 0.0
