"""Each rule that a map must keep, broken once: the violation names the rule and the resource."""

import dataclasses
from collections.abc import Callable

import pytest

from buckets.bucket_map import Bucket, BucketMap, Keyspace, Mode, Owner, Stage
from buckets.topology import NodeState
from buckets.validate import ChangeLimits, Rule, Violation, violations
from tests.support.maps import make_map, move_bucket, with_bucket

BASE = make_map(nodes=6, buckets=128, keyspaces=("default", "places"))


def bucket_of(bucket_map: BucketMap, number: int = 100) -> Bucket:
    return bucket_map.keyspaces["default"].buckets[number]


def changed(**fields: object) -> BucketMap:
    """BASE with bucket 100 (in range 001) under epoch 2 and with the fields given."""
    bucket = dataclasses.replace(bucket_of(BASE), **{"epoch": 2, **fields})  # type: ignore[arg-type]
    return with_bucket(BASE, "default", bucket)


def without_keyspace(name: str) -> BucketMap:
    left = {key: value for key, value in BASE.keyspaces.items() if key != name}
    return dataclasses.replace(BASE, keyspaces=left)


def without_node(number: int) -> BucketMap:
    left = {key: value for key, value in BASE.nodes.items() if key != number}
    return dataclasses.replace(BASE, nodes=left)


def short_keyspace() -> BucketMap:
    keyspace = BASE.keyspaces["default"]
    settings = dataclasses.replace(keyspace.settings, buckets=64)
    short = Keyspace(settings, keyspace.buckets[:64])
    return dataclasses.replace(BASE, keyspaces={**BASE.keyspaces, "default": short})


def incomplete_keyspace() -> BucketMap:
    keyspace = BASE.keyspaces["default"]
    short = Keyspace(keyspace.settings, keyspace.buckets[:100])
    return dataclasses.replace(BASE, keyspaces={**BASE.keyspaces, "default": short})


def other_mode() -> BucketMap:
    keyspace = BASE.keyspaces["default"]
    settings = dataclasses.replace(keyspace.settings, mode=Mode.LINEARIZABLE)
    changed_mode = Keyspace(settings, keyspace.buckets)
    return dataclasses.replace(BASE, keyspaces={**BASE.keyspaces, "default": changed_mode})


def in_one_zone() -> BucketMap:
    one_zone = [n.number for n in BASE.nodes.values() if n.zone == "a"]
    other = next(n.number for n in BASE.nodes.values() if n.zone == "b")
    return changed(owners=tuple(Owner(number, 1) for number in (*one_zone, other)))


FIRST = bucket_of(BASE).owners[0]


@pytest.mark.parametrize(
    ("broken", "rule", "resource"),
    [
        (lambda: dataclasses.replace(BASE, cluster="other"), Rule.CLUSTER_CHANGED, "nodes"),
        (lambda: dataclasses.replace(BASE, nodes={}), Rule.EMPTY, "nodes"),
        (lambda: dataclasses.replace(BASE, keyspaces={}), Rule.EMPTY, "nodes"),
        (lambda: without_keyspace("places"), Rule.KEYSPACE_LOST, "keyspace/places"),
        (short_keyspace, Rule.BUCKET_COUNT_CHANGED, "keyspace/default"),
        (other_mode, Rule.MODE_CHANGED, "keyspace/default"),
        (incomplete_keyspace, Rule.BUCKETS_INCOMPLETE, "keyspace/default"),
        (lambda: changed(owners=()), Rule.NO_OWNERS, "range/default/001"),
        (lambda: changed(owners=(FIRST, FIRST)), Rule.OWNERS_REPEATED, "range/default/001"),
        (lambda: changed(pending=(FIRST, FIRST)), Rule.OWNERS_REPEATED, "range/default/001"),
        (lambda: changed(read_replicas=(FIRST, FIRST)), Rule.OWNERS_REPEATED, "range/default/001"),
        (lambda: changed(owners=(FIRST, Owner(99, 1))), Rule.NODE_UNKNOWN, "range/default/001"),
        (lambda: changed(pending=(Owner(99, 1),)), Rule.NODE_UNKNOWN, "range/default/001"),
        (lambda: without_node(FIRST.node), Rule.NODE_UNKNOWN, "range/default/001"),
        (in_one_zone, Rule.ZONES_SHARED, "range/default/001"),
        (lambda: changed(epoch=0), Rule.EPOCH_LOWER, "range/default/001"),
        (lambda: changed(epoch=1, owners=(FIRST,)), Rule.EPOCH_REUSED, "range/default/001"),
        (
            lambda: changed(epoch=1, stage=Stage.WRITE_BOTH_READ_OLD),
            Rule.EPOCH_REUSED,
            "range/default/001",
        ),
    ],
)
def test_a_map_that_breaks_a_rule_is_refused(
    broken: Callable[[], BucketMap], rule: Rule, resource: str
) -> None:
    found = [v for v in violations(broken(), BASE) if v.rule is rule and v.resource == resource]
    assert len(found) == 1
    assert found[0].refuses


@pytest.mark.parametrize("current", [None, BASE])
def test_a_good_map_breaks_no_rule(current: BucketMap | None) -> None:
    assert violations(BASE, current) == []


def test_a_moved_bucket_breaks_no_rule() -> None:
    assert violations(move_bucket(BASE, "default", 100), BASE) == []


def test_the_order_of_owners_may_change_under_the_same_epoch() -> None:
    assert violations(changed(epoch=1, owners=bucket_of(BASE).owners[::-1]), BASE) == []


def test_a_new_keyspace_and_a_new_node_are_welcome() -> None:
    more = make_map(nodes=9, buckets=128, keyspaces=("default", "places", "third"))
    first = make_map(nodes=6, buckets=128, keyspaces=("default", "places"))
    grown = dataclasses.replace(more, keyspaces={**more.keyspaces, **first.keyspaces})
    assert violations(grown, first) == []


def test_too_much_changed_at_once_is_refused_when_a_bound_is_set() -> None:
    moved = move_bucket(move_bucket(move_bucket(BASE, "default", 1), "default", 2), "places", 3)
    limits = ChangeLimits(max_changed_share=2 / 256)
    assert [v.rule for v in violations(moved, BASE, limits)] == [Rule.TOO_MUCH_CHANGED]
    assert violations(moved, BASE, ChangeLimits(max_changed_share=3 / 256)) == []


def test_a_first_map_with_shared_zones_is_shown_but_not_refused() -> None:
    found = violations(in_one_zone())
    assert [(v.rule, v.refuses) for v in found] == [(Rule.ZONES_SHARED, False)]


def test_buckets_placed_before_a_third_zone_existed_do_not_refuse_the_map() -> None:
    two_zones = make_map(nodes=4, zones=2, buckets=64)
    joined = dataclasses.replace(next(iter(two_zones.nodes.values())), number=5, id="n5", zone="c")
    grown = dataclasses.replace(two_zones, nodes={**two_zones.nodes, 5: joined})
    assert {v.refuses for v in violations(grown, two_zones)} == {False}


def test_only_active_nodes_count_as_a_place_in_another_zone() -> None:
    suspects = {
        number: dataclasses.replace(node, state=NodeState.SUSPECT) if node.zone == "c" else node
        for number, node in BASE.nodes.items()
    }
    crowded = dataclasses.replace(in_one_zone(), nodes=suspects)
    assert [v for v in violations(crowded, BASE) if v.refuses] == []


def test_a_violation_reads_as_one_sentence() -> None:
    violation = Violation(Rule.NO_OWNERS, "range/x/001", "bucket 70 has no owners")
    assert str(violation) == "range/x/001: bucket 70 has no owners (NO_OWNERS)"
