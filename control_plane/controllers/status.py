"""What the admin API shows, made from the state of the cluster and what is seen of it. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from buckets.codec import keyspace_message
from buckets.topology import Node, NodeState
from control_plane.controllers.cluster_state import (
    ClusterState,
    StoredKeyspace,
    StoredNode,
)
from control_plane.controllers.sight import (
    DOWN,
    SUSPECT,
    UP,
    Sight,
    cluster_mark,
    health,
)
from control_plane.jobs.hint_reports import HintRecord, hints_away
from control_plane.jobs.job import Divergence, JobRecord
from protos.dabbawala.v1 import admin_pb2, map_pb2


@dataclass(frozen=True, slots=True)
class Health:
    """UP, DOWN or SUSPECT, why, and since when (Unix milliseconds)."""

    word: str
    detail: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A control-plane instance that is alive."""

    id: str
    address: str


@dataclass(frozen=True, slots=True)
class View:
    """Everything that one answer is made of."""

    state: ClusterState
    sights: Mapping[str, Sight]
    healths: Mapping[str, Health]
    leader: str = ""
    instances: Sequence[Instance] = ()
    sidecars: Sequence[admin_pb2.SidecarStatus] = ()
    store: str = "embedded"
    store_reachable: bool = True
    feed_problem: str = ""
    blocked: Mapping[str, str] = field(default_factory=dict)
    admissions: Mapping[str, str] = field(default_factory=dict)  # how far, in words, by node id
    diverged: Mapping[tuple[str, int], Divergence] = field(default_factory=dict)
    compactions: Mapping[str, JobRecord] = field(default_factory=dict)  # the last, by keyspace
    hints: Sequence[HintRecord] = ()
    now_ms: int = 0


def next_healths(
    state: ClusterState,
    sights: Mapping[str, Sight],
    before: Mapping[str, Health],
    node_ids: Iterable[str],
    now_ms: int,
) -> dict[str, Health]:
    """The health of these nodes; `since_ms` stays while the word stays."""
    mark = cluster_mark(state.cluster, state.uid)
    healths: dict[str, Health] = {}
    for node_id in node_ids:
        stored = state.nodes[node_id]
        sight = sights.get(node_id)
        if sight is not None and sight.address != stored.node.address:
            sight = None
        word, detail = health(stored.record, sight, mark)
        known = before.get(node_id)
        since_ms = known.since_ms if known is not None and known.word == word else now_ms
        healths[node_id] = Health(word, detail, since_ms)
    return healths


def status(view: View) -> admin_pb2.StatusResponse:
    """All there is, on one page."""
    return admin_pb2.StatusResponse(
        cluster=view.state.cluster,
        map_revision=view.state.revision,
        leader=view.leader,
        instances=[
            admin_pb2.InstanceStatus(
                id=instance.id, address=instance.address, leader=instance.id == view.leader
            )
            for instance in view.instances
        ],
        nodes=node_statuses(view),
        keyspaces=[keyspace_status(view, stored) for stored in _keyspaces(view.state)],
        sidecars=view.sidecars,
        store=view.store,
        store_reachable=view.store_reachable,
        problems=problems(view),
    )


def node_statuses(view: View) -> list[admin_pb2.NodeStatus]:
    """One line per node, by natural order of their ids: n2 before n10."""
    owned = Counter(
        owner.node
        for stored in view.state.keyspaces.values()
        for bucket in stored.keyspace.buckets
        for owner in bucket.owners
    )
    nodes = sorted(view.state.nodes.values(), key=lambda stored: natural(stored.node.id))
    return [_node_status(view, stored, owned[stored.node.number]) for stored in nodes]


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts n2 before n10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def node_entry(node: Node) -> map_pb2.NodeEntry:
    """A node as it travels."""
    return map_pb2.NodeEntry(
        number=node.number,
        id=node.id,
        host=node.host,
        port=node.port,
        zone=node.zone,
        rack=node.rack,
        weight=node.weight,
        incarnation=node.incarnation,
        run_id=node.run_id,
        state=map_pb2.NodeState.ValueType(node.state),
        reason=node.reason,
    )


def _node_status(view: View, stored: StoredNode, owned: int) -> admin_pb2.NodeStatus:
    node_id = stored.node.id
    known = view.healths.get(node_id, Health(DOWN, "not looked at yet", 0))
    answer = admin_pb2.NodeStatus(
        node=node_entry(stored.node),
        health=known.word,
        detail=_detail(view, node_id, known),
        since_ms=known.since_ms,
        durable=stored.record.durable,
        owned_buckets=owned,
    )
    sight = view.sights.get(node_id)
    if sight is not None and sight.reachable:
        answer.reachable = True
        answer.server = sight.server
        answer.used_memory_bytes = sight.used_memory_bytes
        answer.keys = sight.keys
        answer.clock_offset_ms = sight.clock_offset_ms
    return answer


def _detail(view: View, node_id: str, known: Health) -> str:
    """Why it is not up, and how far its repair is."""
    return "; ".join(filter(None, (known.detail, view.admissions.get(node_id, ""))))


def keyspace_status(view: View, stored: StoredKeyspace) -> admin_pb2.KeyspaceStatus:
    """How many of its buckets have all, a majority, or too few of their owners."""
    counts = bucket_counts(view, stored)
    return admin_pb2.KeyspaceStatus(
        config=keyspace_message(stored.settings, creating=stored.creating),
        buckets_healthy=counts[UP],
        buckets_degraded=counts[SUSPECT],
        buckets_unavailable=counts[DOWN],
    )


def bucket_counts(view: View, stored: StoredKeyspace) -> Counter[str]:
    """Buckets by UP (all owners up), SUSPECT (a majority) and DOWN."""
    good = {
        known.node.number
        for node_id, known in view.state.nodes.items()
        if node_id in view.healths and view.healths[node_id].word == UP
    }
    counts: Counter[str] = Counter()
    for bucket in stored.keyspace.buckets:
        up = sum(owner.node in good for owner in bucket.owners)
        # A bucket that waits for an owner to be repaired names fewer than it should have.
        if up == max(len(bucket.owners), stored.settings.replication_factor):
            counts[UP] += 1
        else:
            counts[SUSPECT if up > len(bucket.owners) // 2 else DOWN] += 1
    return counts


def shares(view: View, stored: StoredKeyspace) -> list[admin_pb2.NodeShare]:
    """How many buckets of a keyspace each node has."""
    owned = Counter(owner.node for b in stored.keyspace.buckets for owner in b.owners)
    nodes = sorted((view.state.by_number[n].node for n in owned), key=lambda n: natural(n.id))
    return [
        admin_pb2.NodeShare(node=node.id, zone=node.zone, buckets=owned[node.number])
        for node in nodes
    ]


def problems(view: View) -> list[str]:
    """One sentence each, with what to do; empty when all is well."""
    found: list[str] = []
    if view.feed_problem:
        found.append(view.feed_problem)
    elif not view.store_reachable:
        found.append(
            "the coordination store does not answer; what is shown is the last known."
            " Reads and writes go on; start it again"
        )
    if not view.leader:
        found.append("no instance leads now: nodes and keyspaces cannot be changed; wait")
    found += [_node_problem(view, stored) for stored in _sick(view)]
    for stored in _keyspaces(view.state):
        found += _keyspace_problems(view, stored)
    for sidecar in view.sidecars:
        if sidecar.state == "REJECTED":
            found.append(f"sidecar {sidecar.id} refused the map: {sidecar.detail}")
        if sidecar.clock_problem:
            found.append(f"sidecar {sidecar.id}: {sidecar.clock_problem}; synchronize its clock")
    found += [
        f"sidecar {record.sidecar}: {hints_away_text(record)}; {HINTS_AWAY_FIX} {record.sidecar}"
        for record in hints_of_absent(view)
    ]
    return found


HINTS_AWAY_FIX: Final = (
    "start it again with its state_dir; or, if that is lost: dabba hints --forget"
)


def hints_of_absent(view: View) -> list[HintRecord]:
    """What sidecars kept that are not there to replay it."""
    return hints_away(view.hints, (sidecar.id for sidecar in view.sidecars), view.now_ms)


def hints_away_text(record: HintRecord) -> str:
    """What it costs that it is away, in words."""
    what = "the only copies of writes at level ANY" if record.only_copy_ms else "hints"
    return f"it is away with {what}, and no younger tombstone may go in any keyspace"


def _sick(view: View) -> list[StoredNode]:
    nodes = sorted(view.state.nodes.values(), key=lambda stored: natural(stored.node.id))
    return [
        stored
        for stored in nodes
        if stored.node.id in view.healths and view.healths[stored.node.id].word != UP
    ]


def _node_problem(view: View, stored: StoredNode) -> str:
    known = view.healths[stored.node.id]
    what = f"node {stored.node.id} ({stored.node.zone}, {stored.node.address}) is {known.word}"
    todo = " start it again" if known.word == DOWN else ""
    if stored.node.state is NodeState.SUSPECT:
        todo = ""  # its reason says what to do
    return f"{what}: {_detail(view, stored.node.id, known)};{todo}".rstrip(";")


def _keyspace_problems(view: View, stored: StoredKeyspace) -> list[str]:
    name = stored.settings.name
    if stored.creating:
        why = view.blocked.get(name, "its fences are being made")
        return [f"keyspace {name} is not published yet: {why}"]
    counts = bucket_counts(view, stored)
    if counts[DOWN]:
        return [f"keyspace {name}: {counts[DOWN]} buckets have lost their majority; start nodes"]
    return []


def _keyspaces(state: ClusterState) -> list[StoredKeyspace]:
    return [stored for _, stored in sorted(state.keyspaces.items())]
