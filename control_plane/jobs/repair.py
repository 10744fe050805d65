"""Anti-entropy: the owners of each bucket are compared, and what differs is moved, both ways.

One step is one bucket. A bucket whose owners all took part is recorded as *repaired through* a
version that was fixed before the pass: every owner holds everything up to it.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from buckets.bucket_map import RANGE_BUCKETS, Bucket, Mode
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace
from control_plane.controllers.leading import Term
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import Entry, Op, Put
from control_plane.jobs.equalizing import Findings, Terms, equalize
from control_plane.jobs.job import DONE, FAILED, Divergence, Job, JobLedger, JobRecord, now_ms
from control_plane.jobs.node_links import NodeLinks
from replicas.bucket_copy import Copy, Pace, StepRefused
from replicas.commands import pack_limits
from replicas.errors import ReplicaError
from replicas.layout import bucket_keys
from replicas.quorum import majority
from replicas.version import ZERO_VERSION, physical_ms

MOST_PASSES: Final = 3
MOST_RETRIES: Final = 3
SETTLED_MS: Final = 5_000  # a difference younger than this may be a write on its way
# Repaired-through stays this far behind: a write is sent within its deadline, but may be slow.
THROUGH_MARGIN_MS: Final = 60_000
MOST_DIVERGED: Final = 1_000
_log = structlog.get_logger(part="repair")


def repaired_path(paths: ClusterPaths, keyspace: str, index: int) -> str:
    """Where repaired-through of a range's buckets is: JSON, bucket -> version in hexadecimal."""
    return f"{paths.root}/repaired/{keyspace}/{index:03d}"


def repaired_through(entry: Entry | None, bucket: int) -> int:
    """Unix milliseconds up to which every owner of a bucket has everything; 0: not known."""
    return physical_ms(bytes.fromhex(_known(entry).get(str(bucket), ZERO_VERSION.hex())))


def repair_began_ms(entry: Entry | None) -> dict[int, int]:
    """When the last repair began in which all owners took part, by bucket (Unix milliseconds)."""
    return {
        int(bucket): physical_ms(bytes.fromhex(through)) + THROUGH_MARGIN_MS
        for bucket, through in _known(entry).items()
    }


def put_repaired(path: str, entry: Entry | None, bucket: int, through: bytes) -> Put:
    """Records it. `entry` is what stands at `path`."""
    return Put(path, msgspec.json.encode(_known(entry) | {str(bucket): through.hex()}))


def _known(entry: Entry | None) -> dict[str, str]:
    return msgspec.json.decode(entry.value, type=dict[str, str]) if entry is not None else {}


@dataclass(frozen=True, slots=True)
class BucketRepair:
    """What one bucket came to. `through`: repaired-through, empty unless every owner took part."""

    findings: Findings
    through: bytes
    problem: str = ""
    moved_on: bool = False  # the map changed meanwhile: try again


class RepairJob(Job):
    """Goes over the buckets of one keyspace. `seen` is told which of them differed, by keyspace and
    bucket, and forgets those that did not.
    """

    def __init__(
        self,
        term: Term,
        ledger: JobLedger,
        links: NodeLinks,
        record: JobRecord,
        seen: dict[tuple[str, int], Divergence],
    ) -> None:
        self.record = record
        self._seen = seen
        self._term = term
        self._ledger = ledger
        self._links = links
        self._retries = 0  # of the present bucket

    async def run_once(self) -> bool:
        """One bucket, and the cursor after it."""
        record, state = self.record, self._term.state
        stored = state.keyspaces.get(record.keyspace)
        if stored is None or stored.settings.mode is not Mode.TUNABLE:
            record.state = FAILED
            record.problem = f"keyspace {record.keyspace!r} is gone, or is not tunable"
            await self._ledger.save(record, self._term.leadership.guard())
            return False
        chosen = record.buckets or range(len(stored.keyspace.buckets))
        more: list[Op] = []
        if record.next < len(chosen):
            bucket = stored.keyspace.buckets[chosen[record.next]]
            pace = Pace()
            repaired = await repair_bucket(state, stored, bucket, self._links, pace)
            record.counts.moved_bytes += pace.moved_bytes
            if repaired.moved_on and self._retries < MOST_RETRIES:
                self._retries += 1
                await self._term.read_again()
                return True
            self._retries = 0
            self._count(bucket, repaired)
            more = await self._through(bucket, repaired)
            record.next += 1
        if record.next >= len(chosen):
            record.state = DONE
        await self._ledger.save(record, self._term.leadership.guard(), more)
        return record.state != DONE

    def _count(self, bucket: Bucket, repaired: BucketRepair) -> None:
        record, found = self.record, repaired.findings
        counts = record.counts
        record.done += 1
        counts.records += found.records
        counts.differing += found.settled
        counts.copied += found.copied
        counts.healed += found.healed
        counts.unhealed += found.unhealed
        if repaired.problem:
            record.skipped += 1
            record.problem = f"bucket {bucket.id}: {repaired.problem}"
        place, diverged = (record.keyspace, bucket.id), Divergence(found.settled, found.oldest_ms)
        if not found.settled:
            self._seen.pop(place, None)
        elif len(record.diverged) < MOST_DIVERGED:
            record.diverged[str(bucket.id)] = self._seen[place] = diverged

    async def _through(self, bucket: Bucket, repaired: BucketRepair) -> list[Op]:
        if not repaired.through:
            return []
        index = bucket.id // RANGE_BUCKETS
        path = repaired_path(self._term.paths, self.record.keyspace, index)
        entry = await self._ledger.store.read(path)
        return [put_repaired(path, entry, bucket.id, repaired.through)]


async def repair_bucket(
    state: ClusterState, stored: StoredKeyspace, bucket: Bucket, links: NodeLinks, pace: Pace
) -> BucketRepair:
    """Make the owners of one bucket equal, as far as they can be reached and are trusted."""
    copies, missing = await open_copies(state, stored, bucket, links, pace)
    if missing and len(copies) < 2:
        return BucketRepair(Findings(), b"", "; ".join(missing))
    try:
        times = await asyncio.gather(*(copy.client.time_ms() for copy in copies))
        through = (min(times) - THROUGH_MARGIN_MS).to_bytes(6, "big") + bytes(10)
        found, left = await until_equal(stored, bucket, copies)
    except StepRefused as error:
        return BucketRepair(Findings(), b"", str(error), moved_on=True)
    except ReplicaError as error:
        return BucketRepair(Findings(), b"", str(error))
    if left:
        return BucketRepair(found, b"", f"{left} keys stay different; see `unhealed`")
    return BucketRepair(found, b"" if missing else through, "; ".join(missing))


async def until_equal(
    stored: StoredKeyspace, bucket: Bucket, copies: list[Copy]
) -> tuple[Findings, int]:
    """What the passes found in all, and how many old differences the last one left."""
    settings = stored.settings
    limits = pack_limits(settings.max_skew_ms, settings.log_bytes_per_bucket)
    total, left = Findings(), 0
    for number in range(MOST_PASSES):
        terms = Terms(limits, majority(len(bucket.owners)), now_ms() - SETTLED_MS)
        found = await equalize(copies, terms)
        left = found.settled
        if number:  # the same keys again, if they are still there
            found.differing = found.settled = found.records = found.unhealed = 0
        total.add(found)
        if not found.copied and not found.healed:
            break
    return total, left


async def open_copies(
    state: ClusterState, stored: StoredKeyspace, bucket: Bucket, links: NodeLinks, pace: Pace
) -> tuple[list[Copy], list[str]]:
    """The copies that may take part, and in words why the others may not."""
    copies, missing = [], []
    for owner in bucket.owners:
        known = state.by_number[owner.node]
        try:
            client = await links.open(known.node)
        except ReplicaError as error:
            missing.append(f"{known.node.id}: {error.problem}")
            continue
        if not known.record.trusted or client.server.run_id != known.node.run_id:
            missing.append(f"{known.node.id} is not trusted now")
            continue
        keys = bucket_keys(stored.settings.name, bucket.id)
        copies.append(
            Copy(client, keys, epoch=bucket.epoch, incarnation=owner.incarnation, pace=pace)
        )
    return copies, missing
