"""An instance's view of the store: follows the epoch, reads again, hands on what may be believed.

What the store holds is never handed on when it is empty, corrupt or rolled back: the last good
state stays in use, and `problem` says so.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from control_plane.controllers.cluster_state import ClusterState, check_successor, read_state
from control_plane.coordination.epoch import read_snapshot
from control_plane.coordination.errors import Unavailable, WrongStore
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import CoordinationStore
from control_plane.errors import MapDamaged

_RETRY_S: Final = 0.25
_log = structlog.get_logger(part="map_feed")


class MapFeed:
    """`state` is the last good one; `problem` says why what the store holds is not used, and what
    to do ("" when it is used). A store that does not answer is no problem of its content.
    """

    def __init__(
        self,
        store: CoordinationStore,
        paths: ClusterPaths,
        on_state: Callable[[ClusterState], None],
    ) -> None:
        self.state = ClusterState(cluster=paths.cluster)
        self.problem = ""
        self._store = store
        self._paths = paths
        self._on_state = on_state
        self._reading = asyncio.Lock()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow the store until it is closed."""
        async for _ in self._store.watch(self._paths.epoch):
            while True:
                try:
                    await self.refresh()
                    break
                except Unavailable:
                    await asyncio.sleep(_RETRY_S)

    async def refresh(self) -> ClusterState:
        """Read the store now. Answers the state in use, which is the last good one when what was
        read is damaged. Raises Unavailable."""
        async with self._reading:
            try:
                snapshot = await read_snapshot(self._store, self._paths.root, self._paths.epoch)
                state = read_state(self._paths, snapshot, self.state)
                check_successor(self.state, state)
            except (MapDamaged, WrongStore) as error:
                self._reject(str(error))
                return self.state
            self.problem = ""
            self._accept(state)
            return state

    async def wait_changed(self) -> ClusterState:
        """The next state that is handed on."""
        await self._changed.wait()
        return self.state

    def _accept(self, state: ClusterState) -> None:
        before, self.state = self.state, state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if before.revision != state.revision or before.uid != state.uid:
            _log.info("map", revision=state.revision, nodes=len(state.nodes))
        self._on_state(state)

    def _reject(self, problem: str) -> None:
        text = (
            f"{problem}; revision {self.state.revision} stays in use;"
            " restore the store, then restart the control plane"
        )
        if text != self.problem:
            _log.error("map refused", problem=problem, kept_revision=self.state.revision)
        self.problem = text
