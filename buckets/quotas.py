"""How many replicas each zone, rack and node should hold, by weight and within what is possible."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from buckets.topology import Node

Rack = tuple[str, str]  # (zone, rack): two zones may use the same name
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Layout:
    """Nodes by number, grouped by zone and rack, and how often one bucket may use each group."""

    node: dict[int, Node]
    zone_of: dict[int, str]
    rack_of: dict[int, Rack]
    racks: dict[str, list[Rack]]  # by zone
    members: dict[Rack, list[int]]
    zone_limit: dict[str, int]
    rack_limit: dict[Rack, int]


def layout_of(nodes: Sequence[Node], replication_factor: int) -> Layout:
    """Groups the nodes; a bucket uses a zone (rack) twice only when there are too few of them."""
    members: dict[Rack, list[int]] = defaultdict(list)
    racks: dict[str, list[Rack]] = defaultdict(list)
    for node in nodes:
        rack = (node.zone, node.rack)
        if not members[rack]:
            racks[node.zone].append(rack)
        members[rack].append(node.number)
    in_zone = {zone: sum(len(members[rack]) for rack in group) for zone, group in racks.items()}
    zone_limit = _limits(in_zone, replication_factor)
    rack_limit: dict[Rack, int] = {}
    for zone, group in racks.items():
        rack_limit |= _limits({rack: len(members[rack]) for rack in group}, zone_limit[zone])
    return Layout(
        node={node.number: node for node in nodes},
        zone_of={node.number: node.zone for node in nodes},
        rack_of={node.number: (node.zone, node.rack) for node in nodes},
        racks=dict(racks),
        members=dict(members),
        zone_limit=zone_limit,
        rack_limit=rack_limit,
    )


def _limits(sizes: Mapping[_Key, int], copies: int) -> dict[_Key, int]:
    """The smallest equal limit per group (never above its size) that leaves room for all copies."""
    limit = -(-copies // len(sizes))
    while sum(min(limit, size) for size in sizes.values()) < copies:
        limit += 1
    return {group: min(limit, size) for group, size in sizes.items()}


def node_quotas(
    layout: Layout, buckets: int, replication_factor: int, held: Mapping[int, int]
) -> dict[int, int]:
    """Replicas per node: shared by weight over zones, then racks, then nodes; the sum is exact.

    `held` is what each node holds now: of two that could take an odd replica, the one that has it.
    """
    weight_of, held_by = _sums(layout, held)
    quotas: dict[int, int] = {}
    zones = list(layout.racks)
    zone_quota = share_out(
        buckets * replication_factor,
        [sum(weight_of[rack] for rack in layout.racks[zone]) for zone in zones],
        [buckets * layout.zone_limit[zone] for zone in zones],
        [sum(held_by[rack] for rack in layout.racks[zone]) for zone in zones],
    )
    for zone, of_zone in zip(zones, zone_quota, strict=True):
        racks = layout.racks[zone]
        rack_quota = share_out(
            of_zone,
            [weight_of[rack] for rack in racks],
            [buckets * layout.rack_limit[rack] for rack in racks],
            [held_by[rack] for rack in racks],
        )
        for rack, of_rack in zip(racks, rack_quota, strict=True):
            numbers = layout.members[rack]
            weights = [layout.node[number].weight for number in numbers]
            has = [held.get(number, 0) for number in numbers]
            shares = share_out(of_rack, weights, [buckets] * len(numbers), has)
            quotas.update(zip(numbers, shares, strict=True))
    return quotas


def _sums(layout: Layout, held: Mapping[int, int]) -> tuple[dict[Rack, int], dict[Rack, int]]:
    weight_of = {
        rack: sum(layout.node[number].weight for number in numbers)
        for rack, numbers in layout.members.items()
    }
    held_by = {
        rack: sum(held.get(number, 0) for number in numbers)
        for rack, numbers in layout.members.items()
    }
    return weight_of, held_by


def share_out(
    total: int, weights: Sequence[int], caps: Sequence[int], held: Sequence[int]
) -> list[int]:
    """`total` in whole parts by weight, none above its cap; the caps must leave room for it all.

    What a capped part can not take goes to the others. An odd one goes where `held` has it already,
    then to the largest fraction.
    """
    open_parts = set(range(len(weights)))
    shares = [0] * len(weights)
    left = total
    while open_parts:
        weight = sum(weights[part] for part in open_parts)
        full = {part for part in open_parts if left * weights[part] >= caps[part] * weight}
        if not full:
            break
        for part in full:
            shares[part] = caps[part]
        left -= sum(caps[part] for part in full)
        open_parts -= full
    if not open_parts:
        return shares
    weight = sum(weights[part] for part in open_parts)
    for part in open_parts:
        shares[part] = left * weights[part] // weight
    odd = left - sum(shares[part] for part in open_parts)
    order = sorted(
        open_parts,
        key=lambda part: (held[part] <= shares[part], -(left * weights[part] % weight), part),
    )
    for part in order[:odd]:
        shares[part] += 1
    return shares
