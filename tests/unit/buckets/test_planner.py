"""The planner: spread over zones, balanced, moving little, the same answer every time."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buckets.errors import BadPlanInput, NotEnoughNodes
from buckets.planner import plan
from buckets.topology import Node

Owners = tuple[int, ...]


def make_nodes(
    count: int, zones: int, racks: int = 1, weights: Sequence[int] = (100,)
) -> list[Node]:
    return [
        Node(
            number=index + 1,
            id=f"n{index + 1}",
            host="127.0.0.1",
            port=7001 + index,
            zone=f"z{index % zones}",
            rack=f"r{index // zones % racks}",
            weight=weights[index % len(weights)],
        )
        for index in range(count)
    ]


def loads(planned: Mapping[int, Owners]) -> Counter[int]:
    return Counter(number for owners in planned.values() for number in owners)


def moved(before: Mapping[int, Owners], after: Mapping[int, Owners]) -> int:
    return sum(len(set(after[bucket]) - set(before[bucket])) for bucket in after)


def groups(nodes: Sequence[Node], owners: Owners, attribute: str) -> set[str]:
    by_number = {node.number: node for node in nodes}
    return {getattr(by_number[number], attribute) for number in owners}


@pytest.mark.parametrize(("count", "zones"), [(3, 3), (6, 3), (7, 3), (10, 4), (400, 4)])
def test_every_replica_is_in_a_zone_of_its_own_when_there_are_enough(
    count: int, zones: int
) -> None:
    nodes = make_nodes(count, zones)
    planned = plan(nodes, range(256), 3)
    assert all(len(groups(nodes, owners, "zone")) == 3 for owners in planned.values())


def test_with_too_few_zones_replicas_use_different_racks() -> None:
    nodes = make_nodes(8, 1, racks=4)
    planned = plan(nodes, range(128), 3)
    assert all(len(groups(nodes, owners, "rack")) == 3 for owners in planned.values())


def test_with_two_zones_no_zone_holds_all_three_replicas() -> None:
    nodes = make_nodes(6, 2)
    planned = plan(nodes, range(128), 3)
    assert all(len(groups(nodes, owners, "zone")) == 2 for owners in planned.values())


def test_with_one_zone_and_no_racks_replicas_use_different_nodes() -> None:
    planned = plan(make_nodes(4, 1), range(64), 3)
    assert all(len(set(owners)) == 3 for owners in planned.values())


def test_equal_nodes_hold_equal_numbers_of_buckets() -> None:
    load = loads(plan(make_nodes(12, 3), range(1024), 3))
    assert max(load.values()) - min(load.values()) <= 1


def test_a_node_of_twice_the_weight_holds_twice_as_much() -> None:
    nodes = make_nodes(12, 3, weights=(100, 100, 100, 200, 200, 200))
    load = loads(plan(nodes, range(1024), 3))
    per_weight = [load[node.number] / node.weight for node in nodes]
    assert max(per_weight) <= 1.05 * sum(load.values()) / sum(node.weight for node in nodes)


def test_a_zone_too_heavy_for_one_replica_per_bucket_holds_exactly_one() -> None:
    nodes = [*make_nodes(3, 3), Node(4, "n4", "127.0.0.1", 7004, "z0", weight=900)]
    planned = plan(nodes, range(64), 3)
    assert all(len(groups(nodes, owners, "zone")) == 3 for owners in planned.values())


@pytest.mark.parametrize("zones", [3, 4, 5])
def test_first_owners_are_spread_evenly_over_zones(zones: int) -> None:
    nodes = make_nodes(zones * 4, zones)
    zone_of = {node.number: node.zone for node in nodes}
    firsts = Counter(zone_of[owners[0]] for owners in plan(nodes, range(1024), 3).values())
    assert max(firsts.values()) <= 1.02 * 1024 / zones


def test_planning_again_changes_nothing() -> None:
    nodes = make_nodes(11, 3, racks=2, weights=(100, 150))
    planned = plan(nodes, range(512), 3)
    assert plan(nodes, range(512), 3, planned) == planned


def test_the_order_in_which_nodes_are_given_does_not_matter() -> None:
    nodes = make_nodes(11, 3)
    assert plan(nodes, range(128), 3) == plan(nodes[::-1], range(128), 3)


@pytest.mark.parametrize("zones", [1, 3, 4])
def test_a_joining_node_takes_its_share_and_nothing_else_moves(zones: int) -> None:
    nodes = make_nodes(zones * 5 + 1, zones)
    before = plan(nodes[:-1], range(1024), 3)
    after = plan(nodes, range(1024), 3, before)
    joined = loads(after)[nodes[-1].number]
    assert joined > 0
    assert moved(before, after) <= 1.05 * joined


def test_a_node_that_leaves_moves_little_more_than_what_it_held() -> None:
    nodes = make_nodes(16, 4)
    before = plan(nodes, range(1024), 3)
    after = plan(nodes[1:], range(1024), 3, before)
    assert nodes[0].number not in loads(after)
    assert moved(before, after) <= 1.05 * loads(before)[nodes[0].number]


def test_a_higher_replication_factor_adds_one_owner_and_moves_no_other() -> None:
    nodes = make_nodes(12, 4)
    before = plan(nodes, range(256), 2)
    after = plan(nodes, range(256), 3, before)
    assert moved(before, after) <= 1.05 * 256


def test_a_lower_replication_factor_takes_away_and_moves_hardly_anything() -> None:
    nodes = make_nodes(12, 4)
    before = plan(nodes, range(256), 3)
    after = plan(nodes, range(256), 2, before)
    assert moved(before, after) <= 0.02 * 256
    assert {len(owners) for owners in after.values()} == {2}
    assert max(loads(after).values()) <= 1.1 * 256 * 2 / 12


def test_the_partners_of_a_node_are_many() -> None:
    planned = plan(make_nodes(30, 3), range(1024), 3)
    partners = {number for owners in planned.values() if 1 in owners for number in owners} - {1}
    assert len(partners) >= 18


def test_fewer_nodes_than_copies_is_refused_with_both_numbers() -> None:
    with pytest.raises(NotEnoughNodes, match="at least 3 .* there are 2"):
        plan(make_nodes(2, 2), range(4), 3)


@pytest.mark.parametrize(
    ("nodes", "buckets", "copies", "message"),
    [
        (make_nodes(3, 3), [1, 1], 3, "bucket id is given twice"),
        (make_nodes(3, 3), [1], 0, "replication factor 0"),
        (make_nodes(3, 3) * 2, [1], 3, "node number is given twice"),
        (make_nodes(3, 3, weights=(0,)), [1], 3, "weight 0"),
    ],
)
def test_input_that_makes_no_sense_is_refused(
    nodes: list[Node], buckets: list[int], copies: int, message: str
) -> None:
    with pytest.raises(BadPlanInput, match=message):
        plan(nodes, buckets, copies)


@st.composite
def clusters(draw: st.DrawFn) -> list[Node]:
    places = st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz"), st.integers(1, 9))
    drawn = draw(st.lists(places, min_size=3, max_size=14))
    return [
        Node(number + 1, f"n{number + 1}", "127.0.0.1", 7001 + number, zone, rack, weight)
        for number, (zone, rack, weight) in enumerate(drawn)
    ]


@settings(max_examples=60, deadline=None)
@given(clusters(), clusters(), st.integers(1, 3), st.integers(1, 3))
def test_any_change_of_the_cluster_keeps_replicas_apart(
    old: list[Node], new: list[Node], copies_before: int, copies: int
) -> None:
    before = plan(old, range(48), copies_before)
    after = plan(new, range(48), copies, before)
    zones, racks = {n.zone for n in new}, {(n.zone, n.rack) for n in new}
    by_number = {node.number: node for node in new}
    for owners in after.values():
        assert len(set(owners)) == copies
        used = [by_number[number] for number in owners]
        assert len({n.zone for n in used}) == min(copies, len(zones))
        if len(zones) == 1:
            assert len({n.rack for n in used}) == min(copies, len(racks))


@pytest.mark.slow
def test_a_large_cluster_is_planned_balanced_and_a_join_moves_the_minimum() -> None:
    nodes = make_nodes(401, 4)
    before = plan(nodes[:400], range(16_384), 3)
    after = plan(nodes, range(16_384), 3, before)
    mean = 16_384 * 3 / 400
    assert max(loads(before).values()) <= 1.05 * mean
    assert moved(before, after) <= 1.05 * 16_384 * 3 / 401
