"""Where a key lives, as this sidecar sees it: plain values for the doors to show."""

from dataclasses import dataclass

from buckets.bucket_map import Consistency
from replicas.layout import bucket_keys, user_field
from sidecar.core.peer import Peer
from sidecar.core.route import Route


@dataclass(frozen=True, slots=True)
class OwnerView:
    """One replica of a bucket and how it fares."""

    node: str
    address: str
    zone: str
    rack: str
    incarnation: int
    health: str  # connected, suspect, unreachable
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Location:
    """A key's bucket, its replicas, and the one that a read at `level` would take first."""

    keyspace: str
    bucket: int
    key_hash: int
    epoch: int
    stage: str
    owners: tuple[OwnerView, ...]
    pending_owners: tuple[OwnerView, ...]
    target: str  # node id; empty: none can be reached
    reason: str
    data_key: str  # the hash on the owners that holds the record ...
    field: bytes  # ... and its field
    level: Consistency
    map_revision: int


def location(
    route: Route,
    key: bytes,
    target: Peer | None,
    *,
    key_hash: int,
    level: Consistency,
    map_revision: int,
) -> Location:
    """Everything about `key` that `route` knows."""
    members = route.members
    views = [
        _owner_view(peer, owner.incarnation)
        for peer, owner in zip(route.peers, members.slots, strict=True)
    ]
    old = tuple(view for slot, view in enumerate(views) if members.old >> slot & 1)
    pending = tuple(view for slot, view in enumerate(views) if not members.old >> slot & 1)
    return Location(
        keyspace=route.keyspace,
        bucket=route.bucket,
        key_hash=key_hash,
        epoch=route.epoch,
        stage=route.stage.name,
        owners=old,
        pending_owners=pending,
        target=target.node.id if target is not None else "",
        reason=_why(route, target),
        data_key=bucket_keys(route.keyspace, route.bucket).data.decode(),
        field=user_field(key),
        level=level,
        map_revision=map_revision,
    )


def _owner_view(peer: Peer, incarnation: int) -> OwnerView:
    node = peer.node
    return OwnerView(
        node=node.id,
        address=node.address,
        zone=node.zone,
        rack=node.rack,
        incarnation=incarnation,
        health=peer.health,
        latency_ms=round(peer.latency_s * 1000, 3),
    )


def _why(route: Route, target: Peer | None) -> str:
    if target is None:
        return "no owner can be reached"
    latency = f"{target.latency_s * 1000:.2f} ms"
    if target.node.zone == route.zone:
        return f"it stands in this sidecar's zone {route.zone} and answers in {latency}"
    return f"no owner in zone {route.zone} can be reached; of the others it answers in {latency}"
