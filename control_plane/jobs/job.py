"""What a job is: steps that are safe to repeat, and a record in the coordination store.

The record is the job's cursor. Whoever leads reads it and goes on; a leader that slept can not
write it, because every write is guarded by its term.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import Check, CoordinationStore, Delete, Op, Put

RUNNING: Final = "running"
DONE: Final = "done"
FAILED: Final = "failed"
REPAIR: Final = "repair"
ADMISSION: Final = "admission"
COMPACTION: Final = "compaction"
POLL_S: Final = 0.1
MOST_WAIT_S: Final = 1.0
KEPT: Final = 20  # finished jobs of each kind that are still shown

_log = structlog.get_logger(part="jobs")


class Counts(msgspec.Struct):
    """What was compared and moved. Keys, but for `records` (of the largest copy of each bucket).
    What a compaction saw and removed is counted on all owners.
    """

    records: int = 0
    differing: int = 0
    copied: int = 0
    healed: int = 0
    unhealed: int = 0
    moved_bytes: int = 0
    tombstones: int = 0
    purged: int = 0
    purged_bytes: int = 0


class Divergence(msgspec.Struct, frozen=True):
    """One bucket in which copies differed: how many keys, since when at most (Unix ms)."""

    keys: int
    oldest_ms: int


class JobRecord(msgspec.Struct, kw_only=True):
    """A job as the store holds it. Times are Unix milliseconds.

    A repair or a compaction goes over `buckets` of `keyspace` (none named: all), of which `next` is
    the cursor. An admission gives `node` the life `run_id` (hex) under `incarnation`; `passed` are
    the buckets of the present range that are repaired already, each with epoch and incarnation.
    Where no majority was left, what was acknowledged between `loss_from_ms` and `loss_to_ms` may be
    lost (to 0: nothing is).
    """

    id: str
    kind: str
    state: str = RUNNING
    problem: str = ""
    keyspace: str = ""
    buckets: list[int] = []
    next: int = 0
    done: int = 0
    skipped: int = 0
    total: int = 0
    node: str = ""
    run_id: str = ""
    incarnation: int = 0
    passed: list[str] = []
    accept_loss: bool = False
    loss_from_ms: int = 0
    loss_to_ms: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)
    diverged: dict[str, Divergence] = {}
    started_ms: int = 0
    updated_ms: int = 0

    @property
    def eta_ms(self) -> int:
        """How long it will still take at the pace so far; 0: unknown, or over."""
        if self.state != RUNNING or not self.done:
            return 0
        return (self.updated_ms - self.started_ms) * (self.total - self.done) // self.done


class JobLedger:
    """The jobs in the store. Writes carry the guard of the leader's term."""

    def __init__(self, store: CoordinationStore, paths: ClusterPaths) -> None:
        self.store = store
        self.paths = paths

    async def read_all(self) -> list[JobRecord]:
        """Every job, the oldest first; one that can not be read is left out."""
        names = await self.store.children(self.paths.jobs)
        entries = await self.store.read_many([self.paths.job(name) for name in names])
        found = [_decoded(entry.value) for entry in entries if entry is not None]
        return sorted((job for job in found if job is not None), key=lambda job: job.started_ms)

    async def read(self, job_id: str) -> JobRecord | None:
        """One job, or None."""
        entry = await self.store.read(self.paths.job(job_id))
        return _decoded(entry.value) if entry is not None else None

    async def save(self, job: JobRecord, guard: Check, more: Sequence[Op] = ()) -> None:
        """Write the job's cursor, and what belongs to it. Raises Conflict for a deposed leader."""
        job.updated_ms = now_ms()
        put = Put(self.paths.job(job.id), msgspec.json.encode(job))
        await self.store.transact([put, *more, guard])

    async def forget_old(self, jobs: Sequence[JobRecord], guard: Check) -> None:
        """Keep the latest finished ones of each kind; of compactions there is one a keyspace."""
        for kind in (REPAIR, ADMISSION):
            over = [job for job in jobs if job.kind == kind and job.state != RUNNING]
            for job in over[:-KEPT]:
                await self.store.transact([Delete(self.paths.job(job.id)), guard])


class Job(ABC):
    """One job that is under way. `run_once` does one step; it raises what the store raises."""

    record: JobRecord

    @abstractmethod
    async def run_once(self) -> bool:
        """One step, which any instance may repeat. True: there may be more to do at once."""

    async def run_forever(self) -> None:
        """Step by step until it is over, or until it waits for something."""
        while self.record.state == RUNNING and await self.run_once():
            pass


async def wait_moved(ledger: JobLedger, job_id: str, seen_ms: int) -> None:
    """Return once the job has gone on since `seen_ms`, is over, or a second has passed."""
    for _ in range(int(MOST_WAIT_S / POLL_S)):
        job = await ledger.read(job_id)
        if job is None or job.state != RUNNING or job.updated_ms != seen_ms:
            return
        await asyncio.sleep(POLL_S)


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def _decoded(raw: bytes) -> JobRecord | None:
    try:
        return msgspec.json.decode(raw, type=JobRecord)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        _log.warning("a job in the store cannot be read", error=str(error))
        return None
