"""Registering a node: checks, its identity on the server, its entry in the store."""

from dataclasses import dataclass, replace
from typing import Final

from buckets.topology import Node
from control_plane.controllers.cluster_state import ClusterState, counter_path
from control_plane.controllers.leading import Term
from control_plane.controllers.membership import (
    Record,
    check_free,
    check_known,
    check_request,
    check_server,
    judge_new_life,
    may_return,
    new_record,
    next_step,
    readdressed,
    registration_warnings,
)
from control_plane.controllers.node_door import NodeDoor
from control_plane.controllers.reconcile import expected_identity, fence_claims
from control_plane.controllers.records import NodeRecord, encode_node_record
from control_plane.controllers.sight import Sight, cluster_mark
from control_plane.coordination.errors import Conflict
from control_plane.coordination.store import ABSENT, Op, Put
from control_plane.errors import Later, refused
from protos.dabbawala.v1 import admin_pb2
from replicas.errors import LinkFull, LinkLost, Loading, ReplicaError, Unreachable
from replicas.identity import Identity

CONNECT_TIMEOUT_S: Final = 2.0
ATTEMPTS: Final = 5

# The replica link's refusals as reasons of the admin API.
_REASONS: Final = {
    "NotAReplicaServer": "NOT_A_REPLICA_SERVER",
    "TooOld": "TOO_OLD",
    "Evicting": "EVICTING",
    "NotMaster": "NOT_MASTER",
    "AuthenticationFailed": "AUTHENTICATION_FAILED",
    "Misconfigured": "MISCONFIGURED",
    "WrongIdentity": "SERVER_TAKEN",
}


@dataclass(frozen=True, slots=True)
class Registered:
    """A node as it is registered now, what was seen of it, and what to know about it."""

    node: Node
    sight: Sight
    warnings: list[str]


async def add_node(term: Term, request: admin_pb2.AddNodeRequest) -> Registered:
    """Register a node, or a known one again (its address may have changed).

    Raises AdminError naming the field, and what the store raises.
    """
    check_request(request)
    async with term.deciding:
        check_free(term.state, request)
        try:
            async with await NodeDoor.open(request.host, request.port, CONNECT_TIMEOUT_S) as door:
                return await _register(term, request, door)
        except ReplicaError as error:
            raise _refusal(error) from None


async def _register(term: Term, request: admin_pb2.AddNodeRequest, door: NodeDoor) -> Registered:
    for _ in range(ATTEMPTS):
        state = term.state
        sight = await door.look()
        check_free(state, request)
        check_server(state, request, sight)
        check_known(state, request, sight)
        record = await _decide(state, request, door, sight)
        warnings = registration_warnings(state, record, sight)
        if record.trusted:
            sight = replace(sight, identity=await _claim(state, door, record))
        ops = _ops(term, state, record)
        try:
            if ops:
                await term.write(state, ops)
            return Registered(record.node, sight, warnings)
        except Conflict:
            await term.read_again()
    raise Later("MAP_BUSY", "the map changed each time while the node was registered; try again")


async def _decide(
    state: ClusterState, request: admin_pb2.AddNodeRequest, door: NodeDoor, sight: Sight
) -> NodeRecord:
    known = state.nodes.get(request.id)
    if known is None:
        return new_record(state, request, sight)
    record = readdressed(known.record, request)
    if sight.run_id == record.node.run_id:
        step = next_step(record, sight, cluster_mark(state.cluster, state.uid))
        return step.record if isinstance(step, Record) else record
    if not record.trusted and not may_return(record, sight):
        return record
    wrong = await door.count_wrong_fences(fence_claims(state, record.node))
    judged = judge_new_life(record, sight, expected_identity(state, record.node), wrong)
    if record.trusted or judged.trusted:
        return judged
    return record  # still SUSPECT, for the reason it has


async def _claim(state: ClusterState, door: NodeDoor, record: NodeRecord) -> Identity:
    """Before the store names the node: a crash between leaves a server that only it can use."""
    expected = expected_identity(state, record.node)
    standing = await door.claim(expected)
    if standing.incarnation != expected.incarnation:
        text = (
            f"its server holds data of incarnation {standing.incarnation},"
            f" not {expected.incarnation}; use an empty server"
        )
        raise refused("WRONG_INCARNATION", "host", text)
    return standing


def _ops(term: Term, state: ClusterState, record: NodeRecord) -> list[Op]:
    path = term.paths.node(record.node.id)
    known = state.nodes.get(record.node.id)
    if known is not None:
        if known.record == record:
            return []
        return [Put(path, encode_node_record(record), known.version)]
    counter = state.counter_entry
    guard = ABSENT if counter is None else counter.version
    number = str(record.node.number).encode()
    return [
        Put(counter_path(term.paths), number, guard),
        Put(path, encode_node_record(record), ABSENT),
    ]


def _refusal(error: ReplicaError) -> Exception:
    if isinstance(error, Unreachable | Loading | LinkLost | LinkFull):
        reason = "NODE_LOADING" if isinstance(error, Loading) else "NODE_UNREACHABLE"
        return refused(reason, "host", str(error))
    return refused(_REASONS.get(error.code, "NODE_UNUSABLE"), "host", str(error))
