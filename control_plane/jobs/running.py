"""The leader's jobs: nodes that lost data are taken back, repairs go on where they were."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from hashlib import sha1
from typing import Final

import structlog

from control_plane.controllers.leading import Term
from control_plane.controllers.probing import Probes
from control_plane.controllers.sight import cluster_mark
from control_plane.coordination.errors import Conflict
from control_plane.jobs.admission import (
    Target,
    may_begin,
    next_incarnation,
    outlook,
    trusted_nodes,
)
from control_plane.jobs.admitting import AdmissionJob
from control_plane.jobs.compaction import CompactionJob, compaction_id
from control_plane.jobs.hint_reports import HintReports
from control_plane.jobs.job import (
    ADMISSION,
    COMPACTION,
    DONE,
    REPAIR,
    RUNNING,
    Divergence,
    JobLedger,
    JobRecord,
    now_ms,
)
from control_plane.jobs.node_links import NodeLinks
from control_plane.jobs.repair import RepairJob

IDLE_S: Final = 0.5
# A keyspace that was never compacted waits so long at most: no leader may lead for an interval.
FIRST_COMPACTION_MS: Final = 600_000
_log = structlog.get_logger(part="jobs")


def admission_id(node_id: str) -> str:
    """The job that admits a node; there is at most one."""
    name = node_id if len(node_id) <= 57 else sha1(node_id.encode()).hexdigest()
    return f"admit-{name}"


class Jobs:
    """Runs while an instance leads. `settle_ms`: how long a node is SUSPECT before it is taken
    back by itself, in which several that restart together are all seen; negative: never.
    `compact_every_ms`: how often each keyspace's tombstones are looked at; 0 or less: never.
    """

    def __init__(
        self,
        term: Term,
        ledger: JobLedger,
        probes: Probes,
        *,
        settle_ms: int,
        compact_every_ms: int,
    ) -> None:
        self._term = term
        self._ledger = ledger
        self._probes = probes
        self._settle_ms = settle_ms
        self._compact_every_ms = compact_every_ms
        self._began_ms = now_ms()
        self._links = NodeLinks()
        self._woken = asyncio.Event()
        self._suspect_since: dict[str, float] = {}
        self._admissions: dict[str, AdmissionJob] = {}
        self._passes: dict[str, RepairJob | CompactionJob] = {}  # in turn
        self._compactions: dict[str, JobRecord] = {}  # the last of each keyspace
        self._diverged: dict[tuple[str, int], Divergence] = {}

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    def admissions(self) -> dict[str, str]:
        """How far each admission is, in words, by node id."""
        return {node_id: _words(job.record) for node_id, job in self._admissions.items()}

    def diverged(self) -> dict[tuple[str, int], Divergence]:
        """Buckets whose copies differed when they were last compared, by keyspace and number."""
        return dict(self._diverged)

    async def run(self) -> None:
        """Step for as long as this term lasts. Raises what the store raises."""
        try:
            await self._read()
            while self._term.is_leader():
                self._woken.clear()
                if await self._step():
                    continue
                try:
                    async with asyncio.timeout(IDLE_S):
                        await self._woken.wait()
                except TimeoutError:
                    pass
        finally:
            self._links.close()

    async def start_repair(self, keyspace: str, buckets: Sequence[int], total: int) -> JobRecord:
        """A new repair; it begins once those before it are over."""
        record = JobRecord(
            id=f"repair-{uuid.uuid4().hex[:12]}",
            kind=REPAIR,
            keyspace=keyspace,
            buckets=list(buckets),
            total=total,
            started_ms=now_ms(),
        )
        await self._forget_old(await self._ledger.read_all())
        await self._ledger.save(record, self._term.leadership.guard())
        self._passes[record.id] = self._repair(record)
        self.wake()
        return record

    async def start_compaction(self, keyspace: str) -> JobRecord:
        """Look at a keyspace's tombstones once the passes before are over; or the one under way."""
        known = self._compactions.get(keyspace)
        if known is not None and known.state == RUNNING:
            return known
        total = self._term.state.keyspaces[keyspace].settings.buckets
        record = JobRecord(
            id=compaction_id(keyspace),
            kind=COMPACTION,
            keyspace=keyspace,
            total=total,
            started_ms=now_ms(),
        )
        await self._ledger.save(record, self._term.leadership.guard())
        self._compactions[keyspace] = record
        self._passes[record.id] = self._compaction(record)
        self.wake()
        return record

    def compactions(self) -> dict[str, JobRecord]:
        """The last compaction of each keyspace, also while it is under way."""
        return dict(self._compactions)

    async def recover(self, node_id: str, *, accept_loss: bool) -> JobRecord:
        """Take a node back now, whatever it is SUSPECT for."""
        job = self._admissions.get(node_id)
        if job is None:
            job = await self._admit(node_id)
        job.record.accept_loss |= accept_loss
        await self._ledger.save(job.record, self._term.leadership.guard())
        self.wake()
        return job.record

    def obstacle_of(self, node_id: str) -> str:
        """Why a node could not be taken back without loss, in words; "": it could."""
        state = self._term.state
        node = state.nodes[node_id].node
        target = Target(node.number, node_id, b"", next_incarnation(state, node.number))
        trusted = trusted_nodes(state, self._probes.sights)
        blocked = outlook(state, target, trusted).blocked
        return blocked[0] if blocked else ""

    # --- what there is to do

    async def _read(self) -> None:
        jobs = await self._ledger.read_all()
        await self._forget_old(jobs)
        for record in jobs:
            if record.kind == COMPACTION:
                self._compactions[record.keyspace] = record
            if record.state != RUNNING:
                continue
            if record.kind == REPAIR:
                self._passes[record.id] = self._repair(record)
            elif record.kind == COMPACTION:
                self._passes[record.id] = self._compaction(record)
            elif record.kind == ADMISSION:
                self._admissions[record.node] = self._admission(record)

    async def _forget_old(self, jobs: Sequence[JobRecord]) -> None:
        await self._ledger.forget_old(jobs, self._term.leadership.guard())

    async def _step(self) -> bool:
        """One step of each job that can go on. True when there may be more to do at once."""
        try:
            await self._begin_admissions()
            await self._begin_compactions()
            more = False
            for node_id, admission in list(self._admissions.items()):
                more |= await admission.run_once()
                if admission.record.state == DONE:
                    del self._admissions[node_id]
            for job in list(self._passes.values())[:1]:
                more |= await job.run_once()
                if job.record.state != RUNNING:
                    del self._passes[job.record.id]
                    more = True
            return more
        except Conflict:
            await self._term.read_again()
            return True

    async def _begin_admissions(self) -> None:
        if self._settle_ms < 0:
            return
        state, now_s = self._term.state, time.monotonic()
        mark = cluster_mark(state.cluster, state.uid)
        lost = {
            node_id
            for node_id, stored in state.nodes.items()
            if may_begin(stored.record, self._probes.sights.get(node_id), mark)
        }
        self._suspect_since = {n: self._suspect_since.get(n, now_s) for n in sorted(lost)}
        for node_id, since_s in self._suspect_since.items():
            settled = (now_s - since_s) * 1000 >= self._settle_ms
            if settled and node_id not in self._admissions:
                await self._admit(node_id)

    async def _begin_compactions(self) -> None:
        if self._compact_every_ms <= 0:
            return
        for name, stored in self._term.state.keyspaces.items():
            if not stored.creating and self._compaction_due(name):
                await self.start_compaction(name)

    def _compaction_due(self, keyspace: str) -> bool:
        last = self._compactions.get(keyspace)
        if last is None:
            first_ms = min(self._compact_every_ms, FIRST_COMPACTION_MS)
            return now_ms() - self._began_ms >= first_ms
        return last.state != RUNNING and now_ms() - last.started_ms >= self._compact_every_ms

    async def _admit(self, node_id: str) -> AdmissionJob:
        record = JobRecord(
            id=admission_id(node_id), kind=ADMISSION, node=node_id, started_ms=now_ms()
        )
        await self._ledger.save(record, self._term.leadership.guard())
        self._admissions[node_id] = job = self._admission(record)
        _log.info("admission begins", node=node_id)
        return job

    def _admission(self, record: JobRecord) -> AdmissionJob:
        return AdmissionJob(self._term, self._ledger, self._links, self._probes, record)

    def _compaction(self, record: JobRecord) -> CompactionJob:
        hints = HintReports(self._ledger.store, self._term.paths)
        return CompactionJob(self._term, self._ledger, self._links, record, hints)

    def _repair(self, record: JobRecord) -> RepairJob:
        return RepairJob(self._term, self._ledger, self._links, record, self._diverged)


def _words(record: JobRecord) -> str:
    text = f"being repaired: {record.done} of {record.total} buckets"
    return f"{text}; it waits: {record.problem}" if record.problem else text
