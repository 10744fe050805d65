"""Which servers may be nodes, and whether a node that changed may still be trusted. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from buckets.topology import Node, NodeState
from control_plane.controllers.cluster_state import ClusterState
from control_plane.controllers.records import (
    EVICTING,
    FENCES_MISSING,
    FLUSHED,
    RESTARTED_EMPTY,
    RESTARTED_NOT_DURABLE,
    ROLE_CHANGED,
    NodeRecord,
)
from control_plane.controllers.sight import Sight, cluster_mark, other_owner
from control_plane.errors import Violation, invalid, refused
from protos.dabbawala.v1 import admin_pb2
from replicas.identity import Identity

DEFAULT_WEIGHT: Final = 100
MAX_WEIGHT: Final = 10_000
_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PLACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}")

_NAME_BOUND: Final = "1 to 63 of a-z, 0-9 and '-', not beginning with '-'"
_PLACE_BOUND: Final = "1 to 63 letters, digits, '.', '_' and '-'"
_NO_REPAIR: Final = "it stays out until it is repaired or replaced"


def check_request(request: admin_pb2.AddNodeRequest) -> None:
    """Raises Invalid naming every bad field."""
    checks = (
        ("id", request.id, bool(_ID.fullmatch(request.id)), _NAME_BOUND),
        ("host", request.host, bool(_HOST.fullmatch(request.host)), "a host name or an address"),
        ("port", request.port, 0 < request.port < 65_536, "1 to 65535"),
        ("zone", request.zone, bool(_PLACE.fullmatch(request.zone)), _PLACE_BOUND),
        (
            "rack",
            request.rack,
            not request.rack or bool(_PLACE.fullmatch(request.rack)),
            f"empty, or {_PLACE_BOUND}",
        ),
        ("weight", request.weight, request.weight <= MAX_WEIGHT, f"0 (100) to {MAX_WEIGHT}"),
    )
    found = [
        Violation(field, f"{value!r} is not allowed; it must be {bound}")
        for field, value, fits, bound in checks
        if not fits
    ]
    if found:
        raise invalid("NODE_INVALID", found)


def check_free(state: ClusterState, request: admin_pb2.AddNodeRequest) -> None:
    """Raises Refused when another node has the address, or the id stands for another place."""
    for stored in state.nodes.values():
        node = stored.node
        if node.id != request.id and (node.host, node.port) == (request.host, request.port):
            text = f"{node.address} is node {node.id!r} already; give this node a server of its own"
            raise refused("ADDRESS_TAKEN", "host", text)
    known = state.nodes.get(request.id)
    if known is not None and known.node.zone != request.zone:
        text = (
            f"node {request.id!r} is registered in zone {known.node.zone!r}; use another id,"
            " or register it with the zone it has"
        )
        raise refused("NODE_ID_TAKEN", "zone", text)


def check_server(state: ClusterState, request: admin_pb2.AddNodeRequest, sight: Sight) -> None:
    """Raises Refused when the server that answered is not one to be this node."""
    _check_not_another(state, request, sight)
    identity = sight.identity
    if identity is None:
        return
    if identity.cluster != cluster_mark(state.cluster, state.uid):
        whose = identity.cluster.partition("/")[0] or "something else"
        same = " (another one of the same name)" if whose == state.cluster else ""
        text = (
            f"the server at {sight.address} holds the data of cluster {whose!r}{same};"
            " use an empty server, or join it to its own cluster"
        )
        raise refused("OTHER_CLUSTER", "host", text)
    if identity.node != request.id:
        text = (
            f"the server at {sight.address} holds the data of node {identity.node!r};"
            f" register it as {identity.node!r}, or use an empty server"
        )
        raise refused("SERVER_TAKEN", "host", text)


def _check_not_another(
    state: ClusterState, request: admin_pb2.AddNodeRequest, sight: Sight
) -> None:
    for stored in state.nodes.values():
        node = stored.node
        if node.id != request.id and node.run_id and node.run_id == sight.run_id:
            text = (
                f"{sight.address} is the same server as node {node.id!r} at {node.address}"
                " (equal run_id); give each node a server of its own"
            )
            raise refused("SERVER_TAKEN", "host", text)


def check_known(state: ClusterState, request: admin_pb2.AddNodeRequest, sight: Sight) -> None:
    """Raises Refused when a registered node would get a server that never was this node."""
    known = state.nodes.get(request.id)
    if known is None or sight.identity is not None or sight.run_id == known.node.run_id:
        return
    text = (
        f"node {request.id!r} is registered already, and the server at {sight.address} does not"
        " hold its data; use another id for a new server"
    )
    raise refused("NODE_ID_TAKEN", "id", text)


def new_record(state: ClusterState, request: admin_pb2.AddNodeRequest, sight: Sight) -> NodeRecord:
    """The record of a node that was never registered. Its number is one that was never given."""
    node = Node(
        number=state.last_number + 1,
        id=request.id,
        host=request.host,
        port=request.port,
        zone=request.zone,
        rack=request.rack,
        weight=request.weight or DEFAULT_WEIGHT,
        incarnation=1,
        run_id=sight.run_id,
    )
    return NodeRecord(node, durable=sight.durable)


def readdressed(record: NodeRecord, request: admin_pb2.AddNodeRequest) -> NodeRecord:
    """A registered node at the address, rack and weight that it is registered with again."""
    node = replace(
        record.node,
        host=request.host,
        port=request.port,
        rack=request.rack,
        weight=request.weight or DEFAULT_WEIGHT,
    )
    return replace(record, node=node)


def registration_warnings(state: ClusterState, record: NodeRecord, sight: Sight) -> list[str]:
    """What whoever registers a node should know."""
    found = []
    if sight.connected_replicas:
        found.append(
            f"{sight.connected_replicas} servers replicate from it; their copies are not used"
        )
    if not record.durable:
        found.append(
            "it is not durable (appendonly yes, appendfsync always): once it restarts, "
            + _NO_REPAIR
        )
    if not record.trusted:
        found.append(f"it is SUSPECT: {record.node.reason}")
    if sight.keys > 1 and record.node.id not in state.nodes:
        found.append(f"its server already holds {sight.keys} keys; they are left as they are")
    return found


# --- what becomes of a node that changed ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """Write this record: nothing more has to be found out."""

    node_id: str
    record: NodeRecord


@dataclass(frozen=True, slots=True)
class Examine:
    """Its server restarted with its own data: read its fences, then judge_new_life."""

    node_id: str
    run_id: bytes


def next_step(record: NodeRecord, sight: Sight | None, mark: str) -> Record | Examine | None:
    """What a look at a node asks for. `mark` is the cluster's in identities.

    A node that is SUSPECT stays so: only a repair, or registering it again, brings it back.
    """
    node = record.node
    if sight is None or sight.address != node.address or not record.trusted:
        return None
    changed = _changed_behind_our_back(record, sight)
    if changed is not None:
        return Record(node.id, changed)
    if not sight.reachable or other_owner(record, sight, mark):
        return None
    if sight.run_id != node.run_id:
        if sight.identity is None:
            return Record(node.id, _restarted_empty(record, sight))
        return Examine(node.id, sight.run_id)
    if sight.identity is None:
        reason = f"its data was deleted (FLUSHALL or the like); {_NO_REPAIR}"
        return Record(node.id, record.suspected(FLUSHED, reason, sight.run_id))
    if record.durable and not sight.configured_durable:
        return Record(node.id, replace(record, durable=False))
    if sight.durable and not record.durable:
        return Record(node.id, replace(record, durable=True))
    return None


def _changed_behind_our_back(record: NodeRecord, sight: Sight) -> NodeRecord | None:
    if sight.fault == "NotMaster" or (sight.reachable and sight.role != "master"):
        what = sight.detail or f"its server is a {sight.role} now"
        return record.suspected(ROLE_CHANGED, f"{what}; {_NO_REPAIR}", sight.run_id)
    if sight.fault == "Evicting" or (sight.reachable and sight.eviction_policy != "noeviction"):
        what = sight.detail or f"its maxmemory-policy is {sight.eviction_policy} now"
        reason = f"{what}; records may have been evicted; {_NO_REPAIR}"
        return record.suspected(EVICTING, reason, sight.run_id)
    if sight.reachable and sight.evicted_keys:
        reason = f"it has evicted {sight.evicted_keys} keys; {_NO_REPAIR}"
        return record.suspected(EVICTING, reason, sight.run_id)
    return None


def _restarted_empty(record: NodeRecord, sight: Sight) -> NodeRecord:
    reason = f"its server restarted empty: identity and fences are missing; {_NO_REPAIR}"
    return record.suspected(RESTARTED_EMPTY, reason, sight.run_id)


def judge_new_life(
    record: NodeRecord, sight: Sight, expected: Identity, fences: Mapping[str, int]
) -> NodeRecord:
    """The record of a node whose server restarted: the same incarnation, or SUSPECT.

    `fences` counts what the server should hold and does not, in words ("missing", "of another
    incarnation"). Only data that was durable when it was acknowledged has lost nothing; whether
    the new life is durable decides about the next restart only, but without an append-only file
    the server has not read the old one.
    """
    if sight.identity is None:
        return _restarted_empty(record, sight)
    if not sight.identity.names_same_node(expected):
        return record  # another node's server at its address says nothing about its own
    if sight.identity != expected:
        reason = f"its data is of another incarnation ({sight.identity.incarnation}); {_NO_REPAIR}"
        return record.suspected(FENCES_MISSING, reason, sight.run_id)
    if not record.durable or not sight.configured_durable:
        reason = f"it restarted, and may have lost the last it acknowledged; {_NO_REPAIR}"
        return record.suspected(RESTARTED_NOT_DURABLE, reason, sight.run_id)
    wrong = {words: count for words, count in fences.items() if count}
    if wrong:
        words = ", ".join(f"{count} fences {words}" for words, count in sorted(wrong.items()))
        reason = f"it restarted without all of its data ({words}); {_NO_REPAIR}"
        return record.suspected(FENCES_MISSING, reason, sight.run_id)
    return record.trusted_in(sight.run_id, durable=sight.durable)


def may_return(record: NodeRecord, sight: Sight) -> bool:
    """Whether registering a SUSPECT node again may bring it back, if its new life is judged well.

    Only when the life that was judged was an empty server: that one had no fence, so it
    acknowledged nothing that this one could lack.
    """
    return record.cause == RESTARTED_EMPTY and record.judged_run_id != sight.run_id.hex()


def usable(state: ClusterState, sights: Mapping[str, Sight], *, durable: bool) -> list[Node]:
    """The nodes that new buckets may go to: up, trusted, in the life that is trusted."""
    found: list[Node] = []
    for node_id, stored in sorted(state.nodes.items()):
        sight = sights.get(node_id)
        if sight is None or not sight.reachable or stored.node.state is not NodeState.ACTIVE:
            continue
        if sight.run_id == stored.node.run_id and (stored.record.durable or not durable):
            found.append(stored.node)
    return found
