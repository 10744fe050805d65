"""Taking tombstones away that nobody needs any more: bucket by bucket, on all owners or on none.

What is done in which order stands in replicas/purge.py, and why in
docs/decisions/0009-purging-tombstones.md. A bucket whose owners are not all here and trusted is
left out; it comes again with the next run. One that was interrupted begins anew.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final, cast

import structlog

from buckets.bucket_map import RANGE_BUCKETS, Bucket, Stage
from control_plane.controllers.cluster_state import StoredKeyspace
from control_plane.controllers.leading import Term
from control_plane.coordination.store import Op
from control_plane.jobs.hint_reports import HintRecord, HintReports
from control_plane.jobs.job import DONE, FAILED, Job, JobLedger, JobRecord
from control_plane.jobs.job import now_ms as wall_ms
from control_plane.jobs.node_links import NodeLinks
from control_plane.jobs.repair import (
    open_copies,
    put_repaired,
    repair_bucket,
    repaired_path,
    repaired_through,
    until_equal,
)
from replicas.bucket_copy import Copy, Pace, StepRefused
from replicas.errors import ReplicaError
from replicas.purge import Purged, What, purge_bound, purging
from replicas.version import physical_ms

MOST_RETRIES: Final = 3
_log = structlog.get_logger(part="compaction")


def compaction_id(keyspace: str) -> str:
    """The job that compacts a keyspace; there is at most one."""
    name = keyspace if len(keyspace) <= 55 else sha1(keyspace.encode()).hexdigest()
    return f"compact-{name}"


class LeftOut(Exception):
    """A bucket can not be compacted now, for the reason in words."""


@dataclass(slots=True)
class _Result:
    """What one bucket came to."""

    purged: Purged = field(default_factory=Purged)
    problem: str = ""
    moved_on: bool = False  # the map changed meanwhile: try again


class CompactionJob(Job):
    """Goes over the buckets of one keyspace."""

    def __init__(
        self,
        term: Term,
        ledger: JobLedger,
        links: NodeLinks,
        record: JobRecord,
        hints: HintReports,
    ) -> None:
        self.record = record
        self._term = term
        self._ledger = ledger
        self._links = links
        self._hints = hints
        self._retries = 0  # of the present bucket

    async def run_once(self) -> bool:
        """One bucket, and the cursor after it."""
        record = self.record
        stored = self._term.state.keyspaces.get(record.keyspace)
        if stored is None:
            record.state, record.problem = FAILED, f"keyspace {record.keyspace!r} is gone"
            await self._save()
            return False
        if record.next < len(stored.keyspace.buckets):
            bucket = stored.keyspace.buckets[record.next]
            result = await self._compact(stored, bucket)
            if result.moved_on and self._retries < MOST_RETRIES:
                self._retries += 1
                await self._term.read_again()
                return True
            self._retries = 0
            self._count(bucket, result)
            record.next += 1
        if record.next >= len(stored.keyspace.buckets):
            record.state = DONE
            await self._hints.forget_aged(wall_ms())
            _log.info("compacted", keyspace=record.keyspace, purged=record.counts.purged)
        await self._save()
        return record.state != DONE

    def _count(self, bucket: Bucket, result: _Result) -> None:
        record, counts = self.record, self.record.counts
        record.done += 1
        counts.records += result.purged.records
        counts.tombstones += result.purged.tombstones
        counts.purged += result.purged.purged
        counts.purged_bytes += result.purged.size_bytes
        if result.problem:
            record.skipped += 1
            record.problem = f"bucket {bucket.id}: {result.problem}"

    async def _compact(self, stored: StoredKeyspace, bucket: Bucket) -> _Result:
        pace = Pace()
        try:
            return _Result(await self._purge(stored, bucket, pace))
        except StepRefused as error:
            return _Result(problem=str(error), moved_on=True)
        except (LeftOut, ReplicaError) as error:
            return _Result(problem=str(error))
        finally:
            self.record.counts.moved_bytes += pace.moved_bytes

    async def _purge(self, stored: StoredKeyspace, bucket: Bucket, pace: Pace) -> Purged:
        state = self._term.state
        if bucket.pending or bucket.stage is not Stage.OLD:
            raise LeftOut("its owners are changing")
        copies, missing = await open_copies(state, stored, bucket, self._links, pace)
        if missing:
            raise LeftOut("; ".join(missing))
        await asyncio.gather(*(copy.measure() for copy in copies))
        grace_ms = stored.settings.grace_ms
        now_ms = min(await asyncio.gather(*(copy.client.time_ms() for copy in copies)))
        repaired_ms = await self._repaired_ms(bucket)
        if repaired_ms < now_ms - grace_ms:  # is there anything worth a repair?
            seen = await _sum(copies, What.LOOK, purge_bound(now_ms, now_ms, grace_ms), grace_ms)
            if not seen.purged:
                return seen
            repaired_ms = await self._repair(stored, bucket)
        held = held_ms(await self._hints.read_all(), wall_ms())
        bound = purge_bound(repaired_ms, now_ms, grace_ms, held)
        return await purge_copies(stored, bucket, copies, bound)

    async def _repaired_ms(self, bucket: Bucket) -> int:
        entry = await self._ledger.store.read(self._repaired_path(bucket))
        return repaired_through(entry, bucket.id)

    async def _repair(self, stored: StoredKeyspace, bucket: Bucket) -> int:
        repaired = await repair_bucket(self._term.state, stored, bucket, self._links, Pace())
        if not repaired.through:
            raise LeftOut(repaired.problem)
        path = self._repaired_path(bucket)
        entry = await self._ledger.store.read(path)
        await self._save([put_repaired(path, entry, bucket.id, repaired.through)])
        return physical_ms(repaired.through)

    def _repaired_path(self, bucket: Bucket) -> str:
        index = bucket.id // RANGE_BUCKETS
        return repaired_path(self._term.paths, self.record.keyspace, index)

    async def _save(self, more: Sequence[Op] = ()) -> None:
        await self._ledger.save(self.record, self._term.leadership.guard(), more)


def held_ms(records: Sequence[HintRecord], now_ms: int) -> list[int]:
    """The times of the oldest hints that may still come, of the sidecars that have any."""
    return [held for record in records if (held := record.holds_ms(now_ms))]


async def purge_copies(
    stored: StoredKeyspace, bucket: Bucket, copies: Sequence[Copy], bound: bytes
) -> Purged:
    """Purge all owners of a bucket, step by step. Raises LeftOut, StepRefused, ReplicaError."""
    steps = purging(bound)
    seen: Purged | None = None
    while True:
        try:
            what = steps.send(seen)
        except StopIteration as end:
            return cast(Purged, end.value)
        seen = await _on_all(stored, bucket, copies, what, bound)


async def _on_all(
    stored: StoredKeyspace, bucket: Bucket, copies: Sequence[Copy], what: What, bound: bytes
) -> Purged | None:
    if what is What.EQUALIZE:
        _, left = await until_equal(stored, bucket, list(copies))
        if left:
            raise LeftOut(f"{left} keys stay different; dabba repair {stored.settings.name}")
        return None
    return await _sum(copies, what, bound, stored.settings.grace_ms)


async def _sum(copies: Sequence[Copy], what: What, bound: bytes, grace_ms: int) -> Purged:
    """What they came to together."""
    total = Purged()
    for seen in await asyncio.gather(*(copy.purge(what, bound, grace_ms) for copy in copies)):
        total.add(seen)
    return total
