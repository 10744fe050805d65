"""New epochs of buckets, as jobs make them: through the store, then into the owners' fences."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

import structlog

from buckets.bucket_map import Bucket, Owner
from buckets.codec import encode_entry, encode_range
from buckets.topology import Node
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace
from control_plane.controllers.leading import Term
from control_plane.coordination.store import Put
from control_plane.jobs.admission import changed_range
from control_plane.jobs.node_links import NodeLinks
from replicas.client import FenceChange
from replicas.errors import ReplicaError
from replicas.fence import Fence, Role
from replicas.layout import bucket_keys

_log = structlog.get_logger(part="jobs")

Raised = dict[int, dict[int, Fence]]  # by bucket and node: the fences that stand after raising


async def publish(
    term: Term, state: ClusterState, keyspace: str, index: int, changed: Sequence[Bucket]
) -> ClusterState:
    """One range with some of its buckets replaced. Raises Conflict when it has changed since."""
    stored = state.keyspaces[keyspace]
    old = next(known for known in stored.ranges if known.value.index == index)
    path = term.paths.bucket_range(keyspace, index)
    value = encode_range(changed_range(old, changed))
    return await term.write(state, [Put(path, value, old.version)])


def fence_change(
    state: ClusterState, stored: StoredKeyspace, bucket: Bucket, fence: Fence
) -> FenceChange:
    """A fence with the bucket's map entry, which is kept beside it."""
    nodes = {number: known.node for number, known in state.by_number.items()}
    name = stored.settings.name
    return FenceChange(bucket_keys(name, bucket.id), fence, encode_entry(name, bucket, nodes))


async def raise_owners(
    links: NodeLinks,
    state: ClusterState,
    stored: StoredKeyspace,
    owners: Iterable[tuple[Bucket, Owner]],
) -> Raised:
    """Raise the fences of these owners to their bucket's epoch; what stands on those that were."""
    by_node: dict[int, list[tuple[Bucket, FenceChange]]] = defaultdict(list)
    raised: Raised = defaultdict(dict)
    for bucket, owner in owners:
        fence = Fence(bucket.epoch, bucket.stage, Role.OWNER, owner.incarnation)
        by_node[owner.node].append((bucket, fence_change(state, stored, bucket, fence)))
    found = await asyncio.gather(
        *(_raise_all(links, state.by_number[n].node, pairs) for n, pairs in by_node.items())
    )
    for number, stands in zip(by_node, found, strict=True):
        for bucket_id, fence in stands.items():
            raised[bucket_id][number] = fence
    return raised


async def _raise_all(
    links: NodeLinks, node: Node, pairs: list[tuple[Bucket, FenceChange]]
) -> dict[int, Fence]:
    """What stands after raising, by bucket; nothing from a node that can not be used."""
    try:
        client = await links.open(node)
        if client.server.run_id != node.run_id:
            return {}
        changes = [change for _, change in pairs]
        refusals = await client.raise_fences(changes)
        stored = await client.read_fences([change.keys for change in changes])
    except ReplicaError as error:
        _log.warning("fences not raised", node=node.id, error=str(error))
        return {}
    return {
        bucket.id: now.fence
        for (bucket, _), refusal, now in zip(pairs, refusals, stored, strict=True)
        if refusal is None and now.fence is not None
    }
