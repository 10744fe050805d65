"""The map as resources: encoded once, and versions that say what is equal."""

import dataclasses

from buckets.bucket_map import BucketMap
from buckets.codec import KEYSPACE_TYPE, NODE_TABLE_TYPE, RANGE_TYPE
from control_plane.xds.resources import TypeDiff, difference, make_snapshot
from protos.dabbawala.v1 import discovery_pb2
from tests.support.maps import make_map, make_nodes, move_bucket

BASE = make_map(nodes=6, buckets=256, keyspaces=("a", "b"))


def all_versions(bucket_map: BucketMap) -> dict[str, str]:
    snapshot = make_snapshot(bucket_map)
    return {r.name: r.version for of_type in snapshot.types.values() for r in of_type.values()}


def test_a_map_has_a_node_table_a_resource_per_keyspace_and_one_per_64_buckets() -> None:
    snapshot = make_snapshot(BASE)
    assert list(snapshot.of(NODE_TABLE_TYPE)) == ["nodes"]
    assert list(snapshot.of(KEYSPACE_TYPE)) == ["keyspace/a", "keyspace/b"]
    ranges = [f"range/{name}/{index:03d}" for name in "ab" for index in range(4)]
    assert list(snapshot.of(RANGE_TYPE)) == ranges
    assert snapshot.of("type.googleapis.com/something.Else") == {}


def test_what_did_not_change_is_not_encoded_again() -> None:
    before = make_snapshot(BASE)
    after = make_snapshot(move_bucket(BASE, "a", 100), before)
    same = [name for name, r in after.of(RANGE_TYPE).items() if r is before.of(RANGE_TYPE)[name]]
    assert set(before.of(RANGE_TYPE)) - set(same) == {"range/a/001"}


def test_any_instance_gives_equal_content_the_same_version_whatever_the_revision() -> None:
    again = make_map(nodes=6, buckets=256, keyspaces=("a", "b"), revision=99)
    assert all_versions(again) == all_versions(BASE)


def test_content_that_differs_has_another_version_even_under_the_same_revision() -> None:
    moved = dataclasses.replace(move_bucket(BASE, "a", 100), revision=BASE.revision)
    before, after = all_versions(BASE), all_versions(moved)
    assert {name for name in before if before[name] != after[name]} == {"range/a/001"}


def test_the_difference_names_what_changed_and_what_is_gone() -> None:
    smaller = dataclasses.replace(move_bucket(BASE, "a", 0), keyspaces={"a": BASE.keyspaces["a"]})
    table = {node.number: node for node in make_nodes(7)}
    diff = difference(make_snapshot(BASE), make_snapshot(dataclasses.replace(smaller, nodes=table)))
    assert diff == {
        NODE_TABLE_TYPE: TypeDiff(("nodes",), ()),
        KEYSPACE_TYPE: TypeDiff((), ("keyspace/b",)),
        RANGE_TYPE: TypeDiff((), tuple(f"range/b/{index:03d}" for index in range(4))),
    }


def test_equal_snapshots_do_not_differ() -> None:
    assert difference(make_snapshot(BASE), make_snapshot(BASE)) == {}


def test_framed_bytes_joined_are_a_response() -> None:
    resources = make_snapshot(BASE).of(RANGE_TYPE)
    raw = b"".join(resource.framed for resource in resources.values())
    parsed = discovery_pb2.DeltaDiscoveryResponse.FromString(raw)
    assert [(r.name, r.version, r.resource.value) for r in parsed.resources] == [
        (r.name, r.version, r.value) for r in resources.values()
    ]
    assert {r.resource.type_url for r in parsed.resources} == {RANGE_TYPE}
