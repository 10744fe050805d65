"""Becoming the leader, and what only the leader may do: write the map."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from control_plane.controllers.cluster_state import ClusterIdentity, ClusterState, identity_path
from control_plane.controllers.map_feed import MapFeed
from control_plane.coordination.epoch import with_epoch_bump
from control_plane.coordination.errors import (
    Conflict,
    CoordinationError,
    NotLeader,
    StoreClosed,
    Unavailable,
)
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import ABSENT, CoordinationStore, Leadership, Op, Put

_RETRY_S: Final = 0.5
_log = structlog.get_logger(part="leading")


class Term:
    """One term of leading. Every write is guarded by the leadership and by the revision it was
    decided from, so that of two leaders at once only one is effective.

    `deciding` is held from reading the state to writing the decision; it only saves conflicts.
    """

    def __init__(
        self,
        store: CoordinationStore,
        paths: ClusterPaths,
        leadership: Leadership,
        feed: MapFeed,
    ) -> None:
        self.paths = paths
        self.leadership = leadership
        self.deciding = asyncio.Lock()
        self._store = store
        self._feed = feed

    @property
    def state(self) -> ClusterState:
        """The last good state of the cluster."""
        return self._feed.state

    def is_leader(self) -> bool:
        """Whether to go on. Never True again once it was False for good."""
        return self.leadership.is_leader()

    async def write(self, state: ClusterState, ops: Sequence[Op]) -> ClusterState:
        """Apply `ops`, decided from `state`, as the next revision; answers the new state.

        Raises Conflict (read again, decide again), NotLeader, Unavailable.
        """
        if not self.is_leader():
            raise NotLeader("another instance leads now; ask it")
        if self._feed.problem:
            raise Unavailable(self._feed.problem)
        guarded = [*ops, self.leadership.guard()]
        await self._store.transact(with_epoch_bump(guarded, self.paths.epoch, state.epoch_entry))
        return await self._feed.refresh()

    async def begin(self) -> None:
        """See at least what earlier leaders wrote; give a new cluster its identity."""
        await self._store.sync(self.paths.epoch)
        state = await self._feed.refresh()
        if not state.uid and not self._feed.problem:
            identity = msgspec.json.encode(ClusterIdentity(uid=uuid.uuid4().hex))
            await self.write(state, [Put(identity_path(self.paths), identity, ABSENT)])

    async def read_again(self) -> ClusterState:
        """After a conflict. Raises Unavailable."""
        return await self._feed.refresh()


class Leader:
    """Campaigns for as long as it runs; while it leads, `term` is set and `work(term)` runs."""

    def __init__(
        self,
        store: CoordinationStore,
        paths: ClusterPaths,
        feed: MapFeed,
        *,
        value: bytes,
        work: Callable[[Term], Awaitable[None]],
    ) -> None:
        self.term: Term | None = None
        self._store = store
        self._paths = paths
        self._feed = feed
        self._value = value
        self._work = work

    async def run(self) -> None:
        """Lead whenever it is this instance's turn, until cancelled or the store is closed."""
        while True:
            try:
                leadership = await self._store.campaign(self._paths.leader, self._value)
            except StoreClosed:
                return
            async with leadership:
                await self._serve(Term(self._store, self._paths, leadership, self._feed))

    async def _serve(self, term: Term) -> None:
        _log.info("leading", term=term.leadership.term)
        lost = asyncio.create_task(term.leadership.lost())
        work = asyncio.create_task(self._begin_and_work(term))
        try:
            await asyncio.wait({lost, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.term = None
            for task in (lost, work):
                task.cancel()
            await asyncio.gather(lost, work, return_exceptions=True)
            _log.info("no longer leading", term=term.leadership.term)

    async def _begin_and_work(self, term: Term) -> None:
        while term.is_leader():
            try:
                await term.begin()
                break
            except (Unavailable, Conflict) as error:
                _log.warning("cannot begin to lead yet", error=str(error))
                await asyncio.sleep(_RETRY_S)
        self.term = term
        while term.is_leader():
            try:
                await self._work(term)
            except NotLeader:
                return
            except CoordinationError as error:
                _log.warning("leader's work interrupted", error=str(error))
                await asyncio.sleep(_RETRY_S)
