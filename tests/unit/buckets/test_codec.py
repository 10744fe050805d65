"""The map's bytes: nothing is lost on the way, damage is named, and it stays small."""

import contextlib
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets.bucket_map import (
    RANGE_BUCKETS,
    Bucket,
    BucketMap,
    Consistency,
    Durability,
    Keyspace,
    KeyspaceSettings,
    Mode,
    Owner,
    Stage,
)
from buckets.codec import (
    KEYSPACE_TYPE,
    NODE_TABLE_TYPE,
    RANGE_TYPE,
    RangeValue,
    Resource,
    decode_entry,
    decode_keyspace,
    decode_nodes,
    decode_range,
    encode_entry,
    encode_keyspace,
    encode_nodes,
    encode_range,
    join_ranges,
    map_resources,
    range_name,
    split_ranges,
)
from buckets.errors import CodecError
from buckets.topology import Node, NodeState
from protos.dabbawala.v1 import discovery_pb2, map_pb2
from tests.support.maps import make_map, make_nodes, move_bucket

UINT32 = st.integers(0, (1 << 32) - 1)
UINT64 = st.integers(0, (1 << 64) - 1)
owners = st.builds(Owner, st.integers(1, (1 << 32) - 1), UINT64)
owner_tuples = st.lists(owners, max_size=4).map(tuple)
names = st.text("abcdefghij-0123456789", min_size=1, max_size=12)


@st.composite
def ranges(draw: st.DrawFn) -> RangeValue:
    index = draw(st.integers(0, 300))
    base = draw(st.integers(0, 1 << 60))
    bucket = st.builds(
        Bucket,
        id=st.just(0),
        epoch=UINT32.map(lambda offset: base + offset),
        owners=owner_tuples,
        stage=st.sampled_from(Stage),
        pending=owner_tuples,
        read_replicas=owner_tuples,
    )
    drawn = draw(st.lists(bucket, min_size=1, max_size=RANGE_BUCKETS))
    buckets = tuple(
        Bucket(index * 64 + slot, b.epoch, b.owners, b.stage, b.pending, b.read_replicas)
        for slot, b in enumerate(drawn)
    )
    return RangeValue(draw(names), index, buckets)


nodes = st.builds(
    Node,
    number=st.integers(1, (1 << 32) - 1),
    id=names,
    host=names,
    port=st.integers(1, 65535),
    zone=names,
    rack=st.text(max_size=5),
    weight=st.integers(1, 1000),
    incarnation=UINT64,
    run_id=st.one_of(st.just(b""), st.binary(min_size=20, max_size=20)),
    state=st.sampled_from(NodeState),
    reason=st.text(max_size=10),
)
node_tables = st.lists(nodes, max_size=5, unique_by=(lambda n: n.number, lambda n: n.id))
keyspace_settings = st.builds(
    KeyspaceSettings,
    name=names,
    buckets=st.integers(0, 20).map(lambda bits: 1 << bits),
    replication_factor=st.integers(1, 15),
    mode=st.sampled_from(Mode),
    read_consistency=st.sampled_from(Consistency),
    write_consistency=st.sampled_from(Consistency),
    durability=st.sampled_from(Durability),
    redis_db=st.integers(-1, 100),
    max_value_bytes=st.integers(1, (1 << 32) - 1),
    retention_ms=UINT64,
    log_bytes_per_bucket=UINT64,
    max_skew_ms=UINT32,
    grace_ms=UINT64,
)


@given(ranges())
def test_a_range_comes_back_as_it_was(value: RangeValue) -> None:
    assert decode_range(encode_range(value), range_name(value.keyspace, value.index)) == value


@given(node_tables)
def test_a_node_table_comes_back_as_it_was(table: list[Node]) -> None:
    assert decode_nodes(encode_nodes("mumbai", table)) == ("mumbai", {n.number: n for n in table})


@given(keyspace_settings)
def test_keyspace_settings_come_back_as_they_were(settings: KeyspaceSettings) -> None:
    assert decode_keyspace(encode_keyspace(settings), f"keyspace/{settings.name}") == settings


@given(ranges(), st.integers(0, 63))
def test_a_bucket_entry_comes_back_with_the_nodes_it_names(value: RangeValue, slot: int) -> None:
    bucket = value.buckets[slot % len(value.buckets)]
    named = {o.node for o in (*bucket.owners, *bucket.pending, *bucket.read_replicas)}
    table = {number: Node(number, f"n{number}", "h", 1, "z") for number in named | {1 << 40}}
    if not bucket.owners:
        with pytest.raises(CodecError, match="owners"):
            decode_entry(encode_entry(value.keyspace, bucket, table))
        return
    entry = decode_entry(encode_entry(value.keyspace, bucket, table))
    assert (entry.keyspace, entry.bucket) == (value.keyspace, bucket)
    assert {node.number for node in entry.nodes} == named


@given(st.one_of(st.binary(max_size=80), ranges().map(encode_range)), st.data())
def test_damaged_bytes_are_decoded_or_refused_by_name_and_nothing_else(
    raw: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(raw)
    for position in data.draw(st.lists(st.integers(0, max(0, len(raw) - 1)), max_size=3)):
        if damaged:
            damaged[position] ^= data.draw(st.integers(1, 255))
    attempts: dict[str, Callable[[], object]] = {
        "range/x/000": lambda: decode_range(bytes(damaged), "range/x/000"),
        "nodes": lambda: decode_nodes(bytes(damaged)),
        "keyspace/x": lambda: decode_keyspace(bytes(damaged), "keyspace/x"),
    }
    refused = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except CodecError as error:
            refused[name] = error.resource
    assert all(name == resource for name, resource in refused.items())
    with contextlib.suppress(CodecError):
        assert decode_entry(bytes(damaged)).keyspace


def test_equal_maps_have_equal_bytes() -> None:
    first, second = make_map(keyspaces=("b", "a")), make_map(keyspaces=("a", "b"))
    assert list(map_resources(first)) == list(map_resources(second))


def test_the_nodes_come_before_the_keyspaces_and_these_before_the_ranges() -> None:
    types = [resource.type_url for resource in map_resources(make_map(keyspaces=("a", "b")))]
    assert types == [NODE_TABLE_TYPE, *[KEYSPACE_TYPE] * 2, *[RANGE_TYPE] * 4]


@pytest.mark.parametrize("buckets", [1, 32, 64, 256])
def test_ranges_join_to_the_keyspace_they_were_split_from(buckets: int) -> None:
    keyspace = make_map(buckets=buckets).keyspaces["default"]
    split = {value.index: value for value in split_ranges(keyspace)}
    assert join_ranges(keyspace.settings, split) == keyspace


def test_a_missing_range_is_named() -> None:
    keyspace = make_map(buckets=256).keyspaces["default"]
    split = {value.index: value for value in split_ranges(keyspace) if value.index != 2}
    with pytest.raises(CodecError, match="range/default/002: is missing"):
        join_ranges(keyspace.settings, split)


def test_a_range_that_is_too_short_is_named() -> None:
    keyspace = make_map(buckets=64).keyspaces["default"]
    with pytest.raises(CodecError, match="range/default/000: holds 63 buckets"):
        join_ranges(keyspace.settings, {0: RangeValue("default", 0, keyspace.buckets[:63])})


RANGE = {"keyspace": "x", "count": 2, "owners_each": 1, "owners": [1, 2], "base_epoch": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 65}, "65 buckets, must be 1 to 64"),
        ({"count": 0}, "0 buckets"),
        ({"keyspace": "y"}, "holds range 0 of keyspace 'y'"),
        ({"index": 1}, "holds range 1"),
        ({"base_epoch": (1 << 64) - 1, "epoch_offsets": [0, 1]}, "epoch is above"),
        ({"epoch_offsets": [1]}, "1 epochs for 2 buckets"),
        ({"owners": [1, 2, 3]}, "3 owners do not fit 2 buckets"),
        ({"owner_counts": [1]}, "2 owners do not fit"),
        ({"incarnation_slots": [0]}, "differ in length"),
        ({"incarnation_slots": [2], "incarnations": [7]}, "slot 2 is beyond"),
        ({"extras": [map_pb2.BucketExtra(slot=2)]}, "extra for slot 2"),
        ({"extras": [map_pb2.BucketExtra(slot=1)] * 2}, "extra for slot 1"),
        ({"owners_each": 65, "owners": list(range(130))}, "65 owners of one bucket"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    raw = map_pb2.BucketRange(**{**RANGE, **change}).SerializeToString()  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=message):
        decode_range(raw, "range/x/000")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 0}, "number 0"),
        ({"id": ""}, "must not be empty"),
        ({"zone": ""}, "must not be empty"),
        ({"port": 70_000}, "port 70000"),
        ({"weight": 0}, "weight 0"),
        ({"run_id": b"short"}, "run_id has 5 bytes"),
        ({"state": 9}, "state 9 is unknown"),
    ],
)
def test_a_node_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    good = {"number": 1, "id": "n", "host": "h", "port": 1, "zone": "z", "weight": 1, "state": 1}
    entry = map_pb2.NodeEntry(**{**good, **change})  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=message):
        decode_nodes(map_pb2.NodeTable(nodes=[entry]).SerializeToString())


def test_a_node_listed_twice_is_refused() -> None:
    (node,) = make_nodes(1)
    raw = encode_nodes("c", [node, node])
    with pytest.raises(CodecError, match="'n1' .* is listed twice"):
        decode_nodes(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"buckets": 3}, "power of two"),
        ({"replication_factor": 0}, "replication_factor 0 must be 1 to 15"),
        ({"mode": 0}, "not a valid Mode"),
        ({"read_consistency": 99}, "not a valid Consistency"),
        ({"redis_db": -2}, "redis_db -2"),
        ({"name": "y"}, "settings of keyspace 'y'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object], message: str) -> None:
    config = map_pb2.KeyspaceConfig()
    config.MergeFromString(encode_keyspace(KeyspaceSettings("x")))
    for field, value in change.items():
        setattr(config, field, value)
    with pytest.raises(CodecError, match=message):
        decode_keyspace(config.SerializeToString(), "keyspace/x")


def test_an_entry_is_not_made_without_the_nodes_it_names() -> None:
    with pytest.raises(CodecError, match=r"nodes \[7\]"):
        encode_entry("x", Bucket(1, 1, (Owner(7, 1),)), {})


def large_map() -> BucketMap:
    """16,384 buckets on 300 nodes in a cluster with a past: epochs and incarnations differ."""
    rng = random.Random(7)
    base = make_map(nodes=300, zones=3, buckets=16_384, cluster="production")
    table = {
        number: Node(
            number, f"node-{number:03d}", f"10.0.{number >> 8}.{number & 255}", 7000, node.zone,
            rack=f"rack-{number % 20}", incarnation=1 + (number % 10 == 0),
            run_id=rng.randbytes(20),
        )
        for number, node in base.nodes.items()
    }  # fmt: skip
    keyspace = base.keyspaces["default"]
    buckets = tuple(
        Bucket(
            bucket.id,
            1 + rng.randrange(200) * (rng.random() < 0.2),
            tuple(Owner(o.node, table[o.node].incarnation) for o in bucket.owners),
        )
        for bucket in keyspace.buckets
    )
    return BucketMap("production", 9, table, {"default": Keyspace(keyspace.settings, buckets)})


def sent_bytes(resources: Iterable[Resource]) -> int:
    """Size of these resources in a delta response, each with a version of 16 characters."""
    response = discovery_pb2.DeltaDiscoveryResponse()
    for resource in resources:
        sent = response.resources.add(name=resource.name, version="0123456789abcdef")
        sent.resource.type_url = resource.type_url
        sent.resource.value = resource.value
    return response.ByteSize()


@pytest.mark.slow
def test_16384_buckets_on_300_nodes_take_160_kb_and_a_changed_bucket_1_kb() -> None:
    before = large_map()
    after = move_bucket(before, "default", 5_000)
    assert sent_bytes(map_resources(before)) <= 160_000
    assert sent_bytes(set(map_resources(after)) - set(map_resources(before))) <= 1_000
