"""Every instance looks at every node, over a link that it keeps open."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from buckets.topology import Node
from control_plane.controllers.cluster_state import ClusterState
from control_plane.controllers.node_door import NodeDoor, failed_sight
from control_plane.controllers.sight import Sight
from replicas.errors import ReplicaError

MAX_TIMEOUT_S: Final = 1.0  # a frozen node shows within the interval and this
_log = structlog.get_logger(part="probing")


class Probes:
    """`sights` has the last look at each node of the map, by node id.

    `on_sight` gets the id of a node when what is seen of it changed.
    """

    def __init__(self, interval_ms: int, on_sight: Callable[[str], None]) -> None:
        self.sights: dict[str, Sight] = {}
        self._interval_s = interval_ms / 1000
        self._on_sight = on_sight
        self._tasks: dict[tuple[str, str, int], asyncio.Task[None]] = {}

    def follow(self, state: ClusterState) -> None:
        """Look at the nodes of this state, where they are now."""
        wanted = {
            (node_id, stored.node.host, stored.node.port): stored.node
            for node_id, stored in state.nodes.items()
        }
        for key in self._tasks.keys() - wanted.keys():
            self._tasks.pop(key).cancel()
        for key, node in wanted.items():
            if key not in self._tasks:
                name = f"probe {node.id}"
                self._tasks[key] = asyncio.create_task(self._run(node), name=name)
        for node_id in self.sights.keys() - state.nodes.keys():
            del self.sights[node_id]

    def note(self, node_id: str, sight: Sight) -> None:
        """A look that somebody else had: a node that was just registered need not wait."""
        before = self.sights.get(node_id)
        self.sights[node_id] = sight
        if before is None or not before.says_the_same(sight):
            self._on_sight(node_id)

    async def stop(self) -> None:
        """Close every link."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, node: Node) -> None:
        timeout_s = min(self._interval_s, MAX_TIMEOUT_S)
        door: NodeDoor | None = None
        try:
            while True:
                try:
                    if door is None or door.closed:
                        door = await NodeDoor.open(node.host, node.port, timeout_s)
                    sight = await door.look()
                except ReplicaError as error:
                    sight = failed_sight(node.address, error, time.time_ns() // 1_000_000)
                    if door is not None:
                        door.close()  # so that what a frozen server owes us does not pile up
                self._log_change(node.id, sight)
                self.note(node.id, sight)
                await asyncio.sleep(self._interval_s)
        finally:
            if door is not None:
                door.close()

    def _log_change(self, node_id: str, sight: Sight) -> None:
        before = self.sights.get(node_id)
        if before is None or (before.fault, before.run_id) != (sight.fault, sight.run_id):
            _log.info("node", node=node_id, fault=sight.fault, detail=sight.detail)
