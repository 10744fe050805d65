"""Which nodes should own which buckets: zone-aware, balanced by weight, with little moved.

The planner proposes the final state only; how to get there safely is decided elsewhere. Its answer
depends on nothing but its arguments: two leaders plan the same.

Every node gets a quota, shared out by weight from zones to racks to nodes, and capped so that each
bucket finds its replicas in different zones when there are enough, else racks, else nodes.
Owners that stand keep what they have; free places go to the zone, rack and node that are furthest
below their quota (always taking the largest remainder first is what makes the quotas reachable);
what is above quota then moves, one replica at a time, to a node that is below.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from xxhash import xxh3_64_intdigest

from buckets.errors import BadPlanInput, NotEnoughNodes
from buckets.quotas import Layout, Rack, layout_of, node_quotas
from buckets.topology import Node

Owners = tuple[int, ...]


def plan(
    nodes: Iterable[Node],
    buckets: Sequence[int],
    replication_factor: int,
    current: Mapping[int, Owners] | None = None,
) -> dict[int, Owners]:
    """Owners (node numbers, the first one preferred for single reads) of every bucket id given.

    `nodes` are those that may hold buckets; owners in `current` that are not among them are
    replaced. Raises NotEnoughNodes, BadPlanInput.
    """
    candidates = _checked_nodes(nodes, replication_factor)
    if len(set(buckets)) != len(buckets):
        raise BadPlanInput("a bucket id is given twice; give each bucket once")
    layout = layout_of(candidates, replication_factor)
    placement = _Placement(layout, buckets, replication_factor)
    placement.keep(current or {})
    placement.set_quotas()
    placement.trim()
    placement.fill()
    placement.level()
    return _with_first_owners(placement.owners, layout, current or {})


def _checked_nodes(nodes: Iterable[Node], replication_factor: int) -> list[Node]:
    if replication_factor < 1:
        raise BadPlanInput(f"replication factor {replication_factor} must be at least 1")
    candidates = sorted(nodes, key=lambda node: node.number)
    if len({node.number for node in candidates}) != len(candidates):
        raise BadPlanInput("a node number is given twice; give each node once")
    for node in candidates:
        if node.weight < 1:
            raise BadPlanInput(f"node {node.id!r}: weight {node.weight} must be at least 1")
    if len(candidates) < replication_factor:
        raise NotEnoughNodes(replication_factor, len(candidates))
    return candidates


class _Placement:
    """Owners while they are decided. The steps are called in the order in which they stand here."""

    def __init__(self, layout: Layout, buckets: Sequence[int], replication_factor: int) -> None:
        self.owners: dict[int, list[int]] = {bucket: [] for bucket in buckets}
        self._layout = layout
        self._replication_factor = replication_factor
        # Dictionaries as ordered sets: the order of a set would differ from process to process.
        self._held: dict[int, dict[int, None]] = {number: {} for number in layout.node}
        self._quota: dict[int, int] = {}

    def keep(self, current: Mapping[int, Owners]) -> None:
        """Takes over the owners that still exist and do not crowd a zone or a rack."""
        for bucket in self.owners:
            for number in current.get(bucket, ()):
                if number in self._held and self._allows(bucket, number):
                    self._add(bucket, number)

    def set_quotas(self) -> None:
        """What each node should hold in the end."""
        held = {number: len(buckets) for number, buckets in self._held.items()}
        self._quota = node_quotas(self._layout, len(self.owners), self._replication_factor, held)

    def trim(self) -> None:
        """Takes away what a lower replication factor leaves over, from the fullest nodes."""
        for bucket, owners in self.owners.items():
            while len(owners) > self._replication_factor:
                self._remove(
                    bucket, max(owners, key=lambda number: (self._surplus(number), number))
                )

    def fill(self) -> None:
        """Gives every free place to the zone, rack and node furthest below their quotas."""
        vacancies = _Vacancies(self._layout, {n: -self._surplus(n) for n in self._held})
        for bucket, owners in self.owners.items():
            while len(owners) < self._replication_factor:
                self._add(bucket, vacancies.take(owners, bucket))

    def level(self) -> None:
        """Moves single replicas from nodes above their quota to nodes below, while one fits."""
        below = [number for number in self._held if self._surplus(number) < 0]
        for source in self._held:
            while self._surplus(source) > 0 and below:
                below.sort(key=lambda number: (self._surplus(number), number))
                if not self._move_one(source, below):
                    break
                below = [number for number in below if self._surplus(number) < 0]

    def _move_one(self, source: int, targets: Sequence[int]) -> bool:
        for target in targets:
            for bucket in self._held[source]:
                if self._allows(bucket, target, instead_of=source):
                    self._remove(bucket, source)
                    self._add(bucket, target)
                    return True
        return False

    def _allows(self, bucket: int, number: int, instead_of: int = 0) -> bool:
        layout, zones, racks = self._layout, 0, 0
        for owner in self.owners[bucket]:
            if owner == number:
                return False
            if owner != instead_of:
                zones += layout.zone_of[owner] == layout.zone_of[number]
                racks += layout.rack_of[owner] == layout.rack_of[number]
        return (
            zones < layout.zone_limit[layout.zone_of[number]]
            and racks < layout.rack_limit[layout.rack_of[number]]
        )

    def _surplus(self, number: int) -> int:
        return len(self._held[number]) - self._quota[number]

    def _add(self, bucket: int, number: int) -> None:
        self.owners[bucket].append(number)
        self._held[number][bucket] = None

    def _remove(self, bucket: int, number: int) -> None:
        self.owners[bucket].remove(number)
        del self._held[number][bucket]


class _Vacancies:
    """What zones, racks and nodes still lack; hands out the place that lacks most."""

    def __init__(self, layout: Layout, lacking: Mapping[int, int]) -> None:
        self._layout = layout
        self._of_zone: dict[str, int] = defaultdict(int)
        self._of_rack: dict[Rack, int] = defaultdict(int)
        self._heaps: dict[Rack, list[tuple[int, int, int]]] = defaultdict(list)
        for number, count in lacking.items():
            self._of_zone[layout.zone_of[number]] += count
            self._of_rack[layout.rack_of[number]] += count
            self._push(number, count, 0)

    def take(self, owners: Sequence[int], bucket: int) -> int:
        """The node that should join these owners of the bucket."""
        layout = self._layout
        zones = [layout.zone_of[owner] for owner in owners]
        racks = [layout.rack_of[owner] for owner in owners]
        zone = max(
            (zone for zone in layout.racks if zones.count(zone) < layout.zone_limit[zone]),
            key=self._of_zone.__getitem__,
        )
        rack = max(
            (rack for rack in layout.racks[zone] if racks.count(rack) < layout.rack_limit[rack]),
            key=self._of_rack.__getitem__,
        )
        self._of_zone[zone] -= 1
        self._of_rack[rack] -= 1
        return self._take_node(rack, owners, bucket)

    def _take_node(self, rack: Rack, owners: Sequence[int], bucket: int) -> int:
        heap, passed = self._heaps[rack], []
        while heap[0][2] in owners:
            passed.append(heapq.heappop(heap))
        lacking, _, number = heapq.heappop(heap)
        for entry in passed:
            heapq.heappush(heap, entry)
        self._push(number, -lacking - 1, bucket)
        return number

    def _push(self, number: int, lacking: int, bucket: int) -> None:
        # Among equals the order changes each time, so that the partners of a node are many: when it
        # fails, its load is shared by all of them.
        shuffle = xxh3_64_intdigest(b"%d/%d" % (number, bucket))
        entry = (-lacking, shuffle, number)
        heapq.heappush(self._heaps[self._layout.rack_of[number]], entry)


def _with_first_owners(
    owners: Mapping[int, Sequence[int]], layout: Layout, current: Mapping[int, Owners]
) -> dict[int, Owners]:
    """Puts one owner first, evenly over zones, then over nodes; a first one that stands stays."""
    zone_firsts = dict.fromkeys(layout.racks, 0)
    node_firsts = dict.fromkeys(layout.node, 0)
    fair = -(-len(owners) // len(layout.racks))
    firsts: dict[int, int] = {}
    for bucket, of_bucket in owners.items():
        first = next(iter(current.get(bucket, ())), 0)
        if first in of_bucket and zone_firsts[layout.zone_of[first]] < fair:
            firsts[bucket] = first
            zone_firsts[layout.zone_of[first]] += 1
            node_firsts[first] += 1
    for bucket, of_bucket in owners.items():
        if bucket not in firsts:
            first = min(
                of_bucket, key=lambda n: (zone_firsts[layout.zone_of[n]], node_firsts[n], n)
            )
            firsts[bucket] = first
            zone_firsts[layout.zone_of[first]] += 1
            node_firsts[first] += 1
    return {
        bucket: (firsts[bucket], *(number for number in of_bucket if number != firsts[bucket]))
        for bucket, of_bucket in owners.items()
    }
