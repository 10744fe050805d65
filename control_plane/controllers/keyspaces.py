"""Creating a keyspace on request: checks, then the first step; the reconciler does the others."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from buckets.bucket_map import KeyspaceSettings
from buckets.codec import keyspace_value
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace
from control_plane.controllers.creation import first_keyspace, first_writes, owners_zones
from control_plane.controllers.keyspace_rules import violations, warnings, with_defaults
from control_plane.controllers.leading import Term
from control_plane.controllers.map_feed import MapFeed
from control_plane.controllers.membership import usable
from control_plane.controllers.reconcile import Reconciler
from control_plane.controllers.sight import Sight
from control_plane.coordination.errors import Conflict
from control_plane.errors import Duplicate, Later, Violation, invalid
from protos.dabbawala.v1 import map_pb2

ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Created:
    """What was created, and what its creator should know."""

    settings: KeyspaceSettings
    warnings: list[str]


async def create_keyspace(
    term: Term, reconciler: Reconciler, sights: Mapping[str, Sight], config: map_pb2.KeyspaceConfig
) -> Created:
    """Decide and write the first map of a keyspace; it is published once all fences stand.

    Asked again for one with the same settings that is still being created, it goes on. Raises
    AdminError, and what the store raises.
    """
    wanted = with_defaults(config)
    async with term.deciding:
        for _ in range(ATTEMPTS):
            state = term.state
            known = state.keyspaces.get(wanted.name)
            if known is not None:
                return _known(state, known, wanted)
            try:
                created = await _begin(term, sights, wanted)
            except Conflict:
                await term.read_again()
                continue
            reconciler.wake()
            return created
    raise Later("MAP_BUSY", "the map changed each time while the keyspace was planned; try again")


async def wait_published(
    feed: MapFeed, reconciler: Reconciler, name: str, timeout_s: float
) -> None:
    """Return once the keyspace is published. Raises Later, which says what it waits for."""
    try:
        async with asyncio.timeout(timeout_s):
            while name not in feed.state.keyspaces or feed.state.keyspaces[name].creating:
                await feed.wait_changed()
    except TimeoutError:
        why = reconciler.blocked.get(name, "its fences are still being made")
        text = (
            f"keyspace {name!r} is planned but not published yet: {why}."
            " It will be published by itself once that is over"
        )
        raise Later("KEYSPACE_CREATING", text, metadata={"keyspace": name}) from None


async def _begin(
    term: Term, sights: Mapping[str, Sight], wanted: map_pb2.KeyspaceConfig
) -> Created:
    state = term.state
    nodes = usable(state, sights, durable=wanted.durability == map_pb2.DURABILITY_FSYNC)
    taken = {
        stored.settings.redis_db: name
        for name, stored in state.keyspaces.items()
        if stored.settings.redis_db >= 0
    }
    found = violations(wanted, len(nodes), taken)
    if found:
        raise invalid("KEYSPACE_INVALID", found)
    settings = keyspace_value(wanted, wanted.name)
    # In a thread: seconds for the largest keyspaces, in which leadership must be kept alive.
    keyspace = await asyncio.to_thread(first_keyspace, settings, nodes)
    writes = await asyncio.to_thread(first_writes, term.paths, keyspace)
    await term.write(state, writes)
    zones = [stored.node.zone for stored in state.nodes.values()]
    return Created(settings, warnings(settings, owners_zones(keyspace, nodes), zones))


def _known(state: ClusterState, known: StoredKeyspace, wanted: map_pb2.KeyspaceConfig) -> Created:
    name = wanted.name
    if not known.creating or known.settings != keyspace_value(wanted, name):
        how = "with other settings" if known.creating else "already"
        text = f"keyspace {name!r} exists {how}; choose another name, or describe it"
        violation = Violation("name", text)
        raise Duplicate("KEYSPACE_EXISTS", f"name: {text}", violations=[violation])
    nodes = [stored.node for stored in state.nodes.values()]
    zones = [node.zone for node in nodes]
    found = warnings(known.settings, owners_zones(known.keyspace, nodes), zones)
    return Created(known.settings, found)
