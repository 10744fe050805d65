"""One instance of the control plane: what every one watches, and what the leader does."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import structlog

from buckets.bucket_map import BucketMap
from control_plane.controllers.cluster_state import ClusterState
from control_plane.controllers.leading import Leader, Term
from control_plane.controllers.map_feed import MapFeed
from control_plane.controllers.probing import Probes
from control_plane.controllers.reconcile import Reconciler
from control_plane.controllers.roster import InstanceRecord, Roster
from control_plane.controllers.status import Health, View, next_healths
from control_plane.coordination.errors import CoordinationError, StoreClosed
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import CoordinationStore
from control_plane.jobs.hint_reports import HintRecord, HintReports
from control_plane.jobs.job import JobLedger, now_ms
from control_plane.jobs.running import Jobs
from protos.dabbawala.v1 import admin_pb2

_RETRY_S: Final = 1.0
_log = structlog.get_logger(part="instance")


class ControlPlaneInstance:
    """Ties the controllers together. `publish` gets every map that sidecars may see."""

    def __init__(
        self,
        store: CoordinationStore,
        paths: ClusterPaths,
        own: InstanceRecord,
        *,
        store_kind: str,
        probe_interval_ms: int,
        admission_settle_ms: int,
        compaction_interval_ms: int,
        publish: Callable[[BucketMap], None],
    ) -> None:
        self.feed = MapFeed(store, paths, self._on_state)
        self.probes = Probes(probe_interval_ms, self._on_sight)
        self.roster = Roster(store, paths, own)
        self.leader = Leader(store, paths, self.feed, value=self.roster.value, work=self._lead)
        self.ledger = JobLedger(store, paths)
        self.hints = HintReports(store, paths)
        self.reconciler: Reconciler | None = None
        self.jobs: Jobs | None = None
        self.healths: dict[str, Health] = {}
        self._own_id = own.id
        self._store_kind = store_kind
        self._probe_interval_ms = probe_interval_ms
        self._admission_settle_ms = admission_settle_ms
        self._compaction_interval_ms = compaction_interval_ms
        self._publish = publish
        self._published_revision = -1
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def term(self) -> Term | None:
        """The term of leading that this instance is in, if it leads."""
        term = self.leader.term
        return term if term is not None and term.is_leader() else None

    def start(self) -> None:
        """Begin to watch, to look, and to campaign."""
        for name, run in (
            ("map feed", self.feed.run),
            ("roster", self.roster.run),
            ("leader", self.leader.run),
        ):
            self._tasks.append(asyncio.create_task(_run_on(name, run), name=name))

    async def stop(self) -> None:
        """Stop leading, so that another instance can at once; then stop all else."""
        tasks, self._tasks = self._tasks[::-1], []
        for task in tasks:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.probes.stop()

    def view(
        self,
        sidecars: Sequence[admin_pb2.SidecarStatus] = (),
        hints: Sequence[HintRecord] = (),
    ) -> View:
        """What this instance knows now; the last known, when the store is gone."""
        return View(
            state=self.feed.state,
            sights=self.probes.sights,
            healths=self.healths,
            # The list is up to half a second old; of itself an instance knows better.
            leader=self._own_id if self.term is not None else self.roster.leader,
            instances=self.roster.instances,
            sidecars=sidecars,
            store=self._store_kind,
            store_reachable=self.roster.reachable,
            feed_problem=self.feed.problem,
            blocked=self.reconciler.blocked if self.reconciler is not None else {},
            admissions=self.jobs.admissions() if self.jobs is not None else {},
            diverged=self.jobs.diverged() if self.jobs is not None else {},
            compactions=self.jobs.compactions() if self.jobs is not None else {},
            hints=hints,
            now_ms=now_ms(),
        )

    async def _lead(self, term: Term) -> None:
        self.reconciler = Reconciler(term, self.probes, self._probe_interval_ms)
        self.jobs = Jobs(
            term,
            self.ledger,
            self.probes,
            settle_ms=self._admission_settle_ms,
            compact_every_ms=self._compaction_interval_ms,
        )
        work = (self.reconciler.run, self.jobs.run)
        tasks = [asyncio.create_task(_lead_on(run)) for run in work]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended.pop().result()
        finally:
            self.reconciler = self.jobs = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _on_state(self, state: ClusterState) -> None:
        self.probes.follow(state)
        self._judge(state.nodes)
        # A sidecar can do nothing with a map without nodes, and is right to refuse it.
        if state.nodes and state.revision != self._published_revision:
            self._published_revision = state.revision
            self._publish(state.map)

    def _on_sight(self, node_id: str) -> None:
        if node_id in self.feed.state.nodes:
            self._judge([node_id])

    def _judge(self, node_ids: Iterable[str]) -> None:
        now_ms = time.time_ns() // 1_000_000
        known = (self.feed.state, self.probes.sights, self.healths)
        kept = {name: self.healths[name] for name in self.healths if name in known[0].nodes}
        self.healths = kept | next_healths(*known, node_ids, now_ms)
        if self.reconciler is not None:
            self.reconciler.wake()


async def _lead_on(run: Callable[[], Awaitable[None]]) -> None:
    """As _run_on, for what only the leader does: what the store raises ends the term's work."""
    while True:
        try:
            await run()
            return
        except CoordinationError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is: the rest of the leader's work goes on
            _log.exception("the leader's work failed and begins again")
        await asyncio.sleep(_RETRY_S)


async def _run_on(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """A fault of ours in one loop must not end the others: log it, and begin again."""
    while True:
        try:
            await run()
            return
        except StoreClosed:
            return
        except Exception:  # noqa: BLE001 - whatever it is: the map goes on being served
            _log.exception("a loop failed and begins again", loop=name)
        await asyncio.sleep(_RETRY_S)
