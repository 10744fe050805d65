"""Anti-entropy: the owners of each bucket are compared, and what differs is moved, both ways.

One step is one bucket. A bucket whose owners all took part is recorded as *repaired through* a
version that was fixed before the pass: every owner holds everything up to it. In the linearizable
mode nothing is moved: a register that differs passes through an identity change, and what was
acknowledged up to that time is on every owner.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog

from buckets.bucket_map import RANGE_BUCKETS, Bucket, Mode, Stage
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace
from control_plane.controllers.leading import Term
from control_plane.coordination.errors import Conflict
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import Entry, Op, Put
from control_plane.jobs.equalizing import Findings, Terms, equalize
from control_plane.jobs.fencing import publish, raise_owners
from control_plane.jobs.job import DONE, FAILED, Divergence, Job, JobLedger, JobRecord, now_ms
from control_plane.jobs.node_links import NodeLinks
from control_plane.jobs.passing import Quorum, equalize_registers, new_ballots
from replicas.bucket_copy import Copy, Pace, StepRefused
from replicas.commands import pack_limits
from replicas.errors import ReplicaError
from replicas.layout import bucket_keys
from replicas.quorum import majority
from replicas.version import ZERO_VERSION, HybridClock, physical_ms

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
        self._ballots = new_ballots()
        self._retries = 0  # of the present bucket

    async def run_once(self) -> bool:
        """One bucket, and the cursor after it."""
        record, state = self.record, self._term.state
        stored = state.keyspaces.get(record.keyspace)
        if stored is None:
            record.state = FAILED
            record.problem = f"keyspace {record.keyspace!r} is gone"
            await self._ledger.save(record, self._term.leadership.guard())
            return False
        chosen = record.buckets or range(len(stored.keyspace.buckets))
        more: list[Op] = []
        if record.next < len(chosen):
            bucket = stored.keyspace.buckets[chosen[record.next]]
            pace = Pace()
            repaired = await self._repair(stored, bucket, pace)
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

    async def _repair(self, stored: StoredKeyspace, bucket: Bucket, pace: Pace) -> BucketRepair:
        """One bucket. Damaged registers are healed under a new epoch: what their records had
        promised is not known, and nothing that was promised before can be used under it.
        """
        state, ballots = self._term.state, self._ballots
        repaired = await repair_bucket(state, stored, bucket, self._links, pace, ballots=ballots)
        found = repaired.findings
        if not found.healable or bucket.stage is not Stage.OLD or bucket.pending:
            return repaired
        raised = replace(bucket, epoch=bucket.epoch + 1)
        name, index = stored.settings.name, bucket.id // RANGE_BUCKETS
        try:
            state = await publish(self._term, state, name, index, [raised])
        except Conflict:
            return replace(repaired, moved_on=True)
        owners = [
            (raised, owner) for owner in raised.owners if state.by_number[owner.node].record.trusted
        ]
        fenced = await raise_owners(self._links, state, stored, owners)
        healed = await repair_bucket(
            state, stored, raised, self._links, pace, ballots=ballots, fenced=fenced[bucket.id]
        )
        found.copied += healed.findings.copied
        found.healed += healed.findings.healed
        found.unhealed = healed.findings.unhealed
        return replace(healed, findings=found)

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
    state: ClusterState,
    stored: StoredKeyspace,
    bucket: Bucket,
    links: NodeLinks,
    pace: Pace,
    *,
    ballots: HybridClock | None = None,
    fenced: Collection[int] | None = None,
) -> BucketRepair:
    """Make the owners of one bucket equal, as far as they can be reached and are trusted.

    `ballots` are for registers (None: new ones). `fenced`: the bucket's epoch is new, and these
    nodes have been raised to it; they alone take part, and damaged registers are healed.
    """
    allowed = [owner for owner in bucket.owners if fenced is None or owner.node in fenced]
    taking_part = replace(bucket, owners=tuple(allowed))
    copies, missing = await open_copies(state, stored, taking_part, links, pace)
    if missing and len(copies) < 2:
        return BucketRepair(Findings(), b"", "; ".join(missing))
    try:
        times = await asyncio.gather(*(copy.client.time_ms() for copy in copies))
        through = (min(times) - THROUGH_MARGIN_MS).to_bytes(6, "big") + bytes(10)
        healing = fenced is not None
        found, left = await until_equal(stored, bucket, copies, ballots=ballots, may_heal=healing)
    except StepRefused as error:
        return BucketRepair(Findings(), b"", str(error), moved_on=True)
    except ReplicaError as error:
        return BucketRepair(Findings(), b"", str(error))
    if left:
        return BucketRepair(found, b"", f"{left} keys stay different; see `unhealed`")
    return BucketRepair(found, b"" if missing else through, "; ".join(missing))


def _passes(
    stored: StoredKeyspace,
    bucket: Bucket,
    copies: list[Copy],
    ballots: HybridClock | None,
    *,
    may_heal: bool,
) -> Callable[[], Awaitable[Findings]]:
    """What makes one pass over these copies, by the keyspace's mode."""
    settings = stored.settings
    limits = pack_limits(settings.max_skew_ms, settings.log_bytes_per_bucket)
    need = majority(len(bucket.owners))
    if settings.mode is Mode.TUNABLE:
        return lambda: equalize(copies, Terms(limits, need, now_ms() - SETTLED_MS))
    quorum = Quorum(tuple(copies), need, limits, ballots or new_ballots(), may_heal=may_heal)
    return lambda: equalize_registers(quorum, now_ms() - SETTLED_MS)


async def until_equal(
    stored: StoredKeyspace,
    bucket: Bucket,
    copies: list[Copy],
    *,
    ballots: HybridClock | None = None,
    may_heal: bool = False,
) -> tuple[Findings, int]:
    """What the passes found in all, and how many old differences the last one left."""
    one_pass = _passes(stored, bucket, copies, ballots, may_heal=may_heal)
    total, left = Findings(), 0
    for number in range(MOST_PASSES):
        found = await one_pass()
        left = found.settled
        if number:  # the same keys again, if they are still there
            found.differing = found.settled = found.records = 0
            found.unhealed = found.healable = 0
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
