"""The leader's loop: observe, plan, act, one step at a time.

Every step is decided from what is seen now and is safe to repeat, so that a leader may stop after
any of them and another one goes on.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from buckets.topology import Node
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace
from control_plane.controllers.creation import first_fences, owner_nodes, publication
from control_plane.controllers.leading import Term
from control_plane.controllers.membership import Examine, Record, judge_new_life, next_step
from control_plane.controllers.node_door import FenceClaim, NodeDoor
from control_plane.controllers.probing import Probes
from control_plane.controllers.records import NodeRecord, encode_node_record
from control_plane.controllers.sight import Sight, cluster_mark
from control_plane.coordination.errors import Conflict
from control_plane.coordination.store import Put
from replicas.errors import ReplicaError
from replicas.identity import Identity
from replicas.layout import bucket_keys

NODE_TIMEOUT_S: Final = 5.0  # of one question to a node: a batch of fences
_log = structlog.get_logger(part="reconcile")


@dataclass(frozen=True, slots=True)
class Finish:
    """Make the fences of a keyspace that is being created, then publish it."""

    keyspace: str


Step: TypeAlias = Record | Examine | Finish


def plan_steps(state: ClusterState, sights: Mapping[str, Sight]) -> list[Step]:
    """What is to be done now; nodes before keyspaces. Pure."""
    mark = cluster_mark(state.cluster, state.uid)
    steps: list[Step] = []
    for node_id, stored in sorted(state.nodes.items()):
        step = next_step(stored.record, sights.get(node_id), mark)
        if step is not None:
            steps.append(step)
    steps += [Finish(name) for name, stored in sorted(state.keyspaces.items()) if stored.creating]
    return steps


def fence_claims(state: ClusterState, node: Node) -> list[FenceClaim]:
    """Every fence that a node must hold: those of published keyspaces. Pure."""
    return [
        FenceClaim(bucket_keys(stored.settings.name, bucket.id), bucket.epoch, owner.incarnation)
        for stored, bucket in state.owned_by(node.number)
        if not stored.creating
        for owner in bucket.owners
        if owner.node == node.number
    ]


class Reconciler:
    """Runs while an instance leads. `blocked` says why a keyspace is not published yet."""

    def __init__(self, term: Term, probes: Probes, interval_ms: int) -> None:
        self.blocked: dict[str, str] = {}
        self._term = term
        self._probes = probes
        self._interval_s = interval_ms / 1000
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something changed: do not wait for the next turn."""
        self._woken.set()

    async def run(self) -> None:
        """Step for as long as this term lasts. Raises what the store raises."""
        while self._term.is_leader():
            self._woken.clear()
            if await self.step():
                continue
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def step(self) -> bool:
        """Do what can be done now. True when the map changed, so that there may be more."""
        state = self._term.state
        self.blocked = {name: why for name, why in self.blocked.items() if name in state.keyspaces}
        for step in plan_steps(state, self._probes.sights):
            try:
                if await self._act(state, step):
                    return True
            except Conflict:
                await self._term.read_again()
                return True
        return False

    async def _act(self, state: ClusterState, step: Step) -> bool:
        if isinstance(step, Record):
            return await self._write_node(state, step.record)
        if isinstance(step, Examine):
            return await self._examine(state, step)
        return await self._finish(state, state.keyspaces[step.keyspace])

    async def _examine(self, state: ClusterState, step: Examine) -> bool:
        record = state.nodes[step.node_id].record
        try:
            judged = await judge_server(state, record)
        except ReplicaError as error:
            _log.info("examination interrupted", node=step.node_id, error=str(error))
            return False
        return await self._write_node(state, judged)

    async def _write_node(self, state: ClusterState, record: NodeRecord) -> bool:
        stored = state.nodes[record.node.id]
        if record == stored.record:
            return False
        path = self._term.paths.node(record.node.id)
        await self._term.write(state, [Put(path, encode_node_record(record), stored.version)])
        _log.warning(
            "node", node=record.node.id, state=record.node.state.name, reason=record.node.reason
        )
        return True

    async def _finish(self, state: ClusterState, stored: StoredKeyspace) -> bool:
        name = stored.settings.name
        nodes = owner_nodes(state, stored)
        waits = [waits_for(node.record, self._probes.sights) for node in nodes]
        if any(waits):  # nothing is sent to the others in vain
            self._block(name, "; ".join(filter(None, waits)))
            return False
        makers = [make_fences(state, stored, node.record) for node in nodes]
        problems = [problem for problem in await asyncio.gather(*makers) if problem]
        if problems:
            self._block(name, "; ".join(problems))
            return False
        await self._term.write(state, publication(self._term.paths, stored))
        self.blocked.pop(name, None)
        _log.info("keyspace published", keyspace=name)
        return True

    def _block(self, name: str, why: str) -> None:
        if self.blocked.get(name) != why:
            _log.warning("keyspace waits", keyspace=name, why=why)
        self.blocked[name] = why


async def judge_server(state: ClusterState, record: NodeRecord) -> NodeRecord:
    """Look at a node's server and at its fences, over one link: they are of one life.

    The record itself when the server is in the life that is trusted. Raises ReplicaError.
    """
    node = record.node
    async with await NodeDoor.open(node.host, node.port, NODE_TIMEOUT_S) as door:
        sight = await door.look()
        if sight.run_id == node.run_id:
            return record
        wrong = await door.count_wrong_fences(fence_claims(state, node))
    expected = expected_identity(state, node)
    return judge_new_life(record, sight, expected, wrong)


def expected_identity(state: ClusterState, node: Node) -> Identity:
    """What a node's server must say of itself."""
    return Identity(cluster_mark(state.cluster, state.uid), node.id, node.incarnation)


def waits_for(record: NodeRecord, sights: Mapping[str, Sight]) -> str:
    """Why no fence can be made on an owner now, in words; "" when it may be tried. Pure."""
    node = record.node
    if not record.trusted:
        return f"its owner {node.id} is SUSPECT ({node.reason})"
    sight = sights.get(node.id)
    if sight is None or not sight.reachable:
        return f"its owner {node.id} is down" + (f" ({sight.detail})" if sight else "")
    if sight.run_id != node.run_id:
        return f"its owner {node.id} restarted and is being examined"
    return ""


async def make_fences(state: ClusterState, stored: StoredKeyspace, record: NodeRecord) -> str:
    """Make a keyspace's fences on one owner. "" when all stand, else what it waits for."""
    node = record.node
    try:
        async with await NodeDoor.open(node.host, node.port, NODE_TIMEOUT_S) as door:
            if door.run_id != node.run_id:
                return f"its owner {node.id} restarted and is being examined"
            # In a thread: a second for the largest keyspaces, in which links must be answered.
            fences = await asyncio.to_thread(first_fences, state, stored, node)
            return await door.create_fences(fences)
    except ReplicaError as error:
        return f"its owner {node.id} cannot be used: {error.problem}"
