"""How responses of a stream, saved bytes and replicas' entries become a map, or a named refusal."""

import dataclasses
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets.bucket_map import Bucket, BucketMap, Owner
from buckets.codec import (
    KEYSPACE_TYPE,
    NODE_TABLE_TYPE,
    RANGE_TYPE,
    RESOURCE_TYPES,
    MapEntry,
    map_resources,
)
from buckets.topology import Node
from buckets.validate import ChangeLimits
from protos.dabbawala.v1 import discovery_pb2
from sidecar.core.map_assembly import (
    BATCH_BOUND_RESPONSES,
    MapAssembly,
    Step,
    StreamBroken,
    decode_saved_map,
    encode_saved_map,
)
from sidecar.core.saved_map import SavedMapError, SavedMapReason
from tests.support.maps import make_map, move_bucket, with_bucket

BASE = make_map(nodes=9, buckets=128, keyspaces=("default", "places"))
ME = discovery_pb2.DiscoveryNode(id="s1")


class Stream:
    """The control plane's end of a stream to an assembly."""

    def __init__(self, assembly: MapAssembly) -> None:
        self.assembly = assembly
        self.requests = [
            discovery_pb2.DeltaDiscoveryRequest.FromString(raw) for raw in assembly.open_stream(ME)
        ]
        self._nonce = 0

    def send(
        self,
        type_url: str,
        resources: Mapping[str, bytes],
        *,
        removed: Iterable[str] = (),
        revision: int = 0,
    ) -> Step:
        self._nonce += 1
        response = discovery_pb2.DeltaDiscoveryResponse(
            type_url=type_url,
            nonce=str(self._nonce),
            removed_resources=removed,
            system_version_info=str(revision) if revision else "",
        )
        for name, value in resources.items():
            each = response.resources.add(name=name, version=f"v{revision}")
            each.resource.type_url = type_url
            each.resource.value = value
        return self.assembly.on_response(response.SerializeToString())

    def send_map(self, bucket_map: BucketMap, **damaged: bytes) -> Step:
        """Every resource of the map, a response per type; `damaged` replaces values by name."""
        step = Step()
        for type_url in RESOURCE_TYPES:
            resources = {
                resource.name: damaged.get(resource.name, resource.value)
                for resource in map_resources(bucket_map)
                if resource.type_url == type_url
            }
            last = type_url == RESOURCE_TYPES[-1]
            step = self.send(type_url, resources, revision=bucket_map.revision if last else 0)
        return step


def answers(step: Step) -> dict[str, str]:
    """By type: "" for an acknowledgement, else the reason of the refusal."""
    replies = [discovery_pb2.DeltaDiscoveryRequest.FromString(raw) for raw in step.replies]
    return {reply.type_url: reply.error_detail.message for reply in replies}


def codes(step: Step) -> set[int]:
    replies = [discovery_pb2.DeltaDiscoveryRequest.FromString(raw) for raw in step.replies]
    return {reply.error_detail.code for reply in replies}


@pytest.fixture
def synced() -> Stream:
    stream = Stream(MapAssembly("test"))
    stream.send_map(BASE)
    return stream


def test_a_complete_map_is_adopted_and_every_response_acknowledged() -> None:
    stream = Stream(MapAssembly("test"))
    step = stream.send_map(BASE)
    assert step.adopted == BASE
    assert stream.assembly.current == BASE
    assert stream.assembly.synced_revision == BASE.revision
    assert answers(step) == dict.fromkeys(RESOURCE_TYPES, "")


def test_nothing_is_adopted_or_answered_before_the_revision_is_there() -> None:
    stream = Stream(MapAssembly("test"))
    resources = {r.name: r.value for r in map_resources(BASE) if r.type_url == NODE_TABLE_TYPE}
    assert stream.send(NODE_TABLE_TYPE, resources) == Step()


def test_types_that_come_in_batches_of_their_own_at_the_beginning_make_one_map() -> None:
    stream = Stream(MapAssembly("test"))
    steps = [
        stream.send(
            type_url,
            {r.name: r.value for r in map_resources(BASE) if r.type_url == type_url},
            revision=1,
        )
        for type_url in RESOURCE_TYPES
    ]
    assert [step.adopted for step in steps] == [None, None, BASE]
    assert [answers(step) for step in steps] == [{type_url: ""} for type_url in RESOURCE_TYPES]


def test_a_stream_begins_by_asking_for_everything_and_saying_who_asks() -> None:
    requests = Stream(MapAssembly("test")).requests
    assert [request.type_url for request in requests] == list(RESOURCE_TYPES)
    assert all(list(request.resource_names_subscribe) == ["*"] for request in requests)
    assert [request.node.id for request in requests] == ["s1", "", ""]


def test_a_later_stream_says_what_is_held(synced: Stream) -> None:
    held = {
        request.type_url: dict(request.initial_resource_versions)
        for request in Stream(synced.assembly).requests
    }
    assert held[KEYSPACE_TYPE] == {"keyspace/default": "v0", "keyspace/places": "v0"}
    assert len(held[RANGE_TYPE]) == 4


def test_a_changed_range_changes_its_buckets_and_keeps_the_others_as_they_are(
    synced: Stream,
) -> None:
    changed = move_bucket(BASE, "default", 70)
    step = synced.send(RANGE_TYPE, range_bytes(changed, "default", 1), revision=2)
    assert step.adopted == changed
    before = synced.assembly.current
    assert before is not None
    step = synced.send(
        RANGE_TYPE, range_bytes(move_bucket(changed, "default", 3), "default", 0), revision=3
    )
    assert step.adopted is not None
    # The same objects: whoever compares maps, compares what changed.
    assert step.adopted.keyspaces["default"].buckets[70] is before.keyspaces["default"].buckets[70]


def range_bytes(bucket_map: BucketMap, keyspace: str, index: int) -> dict[str, bytes]:
    name = f"range/{keyspace}/{index:03d}"
    return {r.name: r.value for r in map_resources(bucket_map) if r.name == name}


def test_a_damaged_resource_is_refused_by_name_and_the_last_good_map_stays(synced: Stream) -> None:
    step = synced.send(RANGE_TYPE, {"range/default/001": b"\xff\xff"}, revision=2)
    assert answers(step)[RANGE_TYPE].startswith("range/default/001: 2 bytes are not a BucketRange")
    assert step.adopted is None
    assert synced.assembly.current == BASE
    assert list(synced.assembly.refused) == ["range/default/001"]
    assert synced.assembly.synced_revision == 1


def test_a_first_map_with_a_damaged_range_leaves_only_its_keyspace_out() -> None:
    stream = Stream(MapAssembly("test"))
    stream.send_map(BASE, **{"range/places/001": b"\xff"})
    # One by one, as the control plane does after a refusal; the damaged one stays refused.
    for name, value in ((r.name, r.value) for r in map_resources(BASE) if "range" in r.name):
        if name != "range/places/001":
            stream.send(RANGE_TYPE, {name: value}, revision=1)
    assert stream.assembly.current is not None
    assert list(stream.assembly.current.keyspaces) == ["default"]
    assert list(stream.assembly.refused) == ["range/places/001"]
    assert stream.assembly.synced_revision == 0


def test_a_map_that_breaks_a_rule_is_refused_with_the_resource_that_broke_it(
    synced: Stream,
) -> None:
    bucket = BASE.keyspaces["default"].buckets[70]
    twice = dataclasses.replace(bucket, epoch=2, owners=(bucket.owners[0],) * 3)
    broken = with_bucket(BASE, "default", twice)
    step = synced.send(RANGE_TYPE, range_bytes(broken, "default", 1), revision=2)
    assert "OWNERS_REPEATED" in answers(step)[RANGE_TYPE]
    assert codes(step) == {3}
    assert synced.assembly.current == BASE


def test_good_responses_of_a_batch_are_kept_when_another_is_refused(synced: Stream) -> None:
    renamed = dataclasses.replace(BASE.nodes[1], reason="told to rest")
    table = next(map_resources(dataclasses.replace(BASE, nodes={**BASE.nodes, 1: renamed})))
    synced.send(NODE_TABLE_TYPE, {"nodes": table.value})
    step = synced.send(RANGE_TYPE, {"range/default/001": b"\xff"}, revision=2)
    assert answers(step)[NODE_TABLE_TYPE] == ""
    assert step.adopted is not None
    assert step.adopted.nodes[1] == renamed


def test_a_lower_epoch_is_refused(synced: Stream) -> None:
    synced.send(RANGE_TYPE, range_bytes(move_bucket(BASE, "default", 70), "default", 1), revision=2)
    step = synced.send(RANGE_TYPE, range_bytes(BASE, "default", 1), revision=3)
    assert "EPOCH_LOWER" in answers(step)[RANGE_TYPE]
    assert synced.assembly.current == move_bucket(BASE, "default", 70)


def test_a_keyspace_that_vanishes_is_refused(synced: Stream) -> None:
    step = synced.send(KEYSPACE_TYPE, {}, removed=["keyspace/places"], revision=2)
    assert "KEYSPACE_LOST" in answers(step)[KEYSPACE_TYPE]
    assert synced.assembly.current == BASE


def test_a_range_that_vanishes_is_refused(synced: Stream) -> None:
    step = synced.send(RANGE_TYPE, {}, removed=["range/places/001"], revision=2)
    assert answers(step)[RANGE_TYPE] == "range/places/001: is missing"
    assert synced.assembly.current == BASE


def test_a_node_table_that_vanishes_is_refused(synced: Stream) -> None:
    step = synced.send(NODE_TABLE_TYPE, {}, removed=["nodes"], revision=2)
    assert "gone" in answers(step)[NODE_TABLE_TYPE]
    assert synced.assembly.current == BASE


def test_a_node_table_without_a_node_that_owns_something_is_refused(synced: Stream) -> None:
    fewer = {number: node for number, node in BASE.nodes.items() if number != 1}
    table = next(map_resources(dataclasses.replace(BASE, nodes=fewer)))
    step = synced.send(NODE_TABLE_TYPE, {"nodes": table.value}, revision=2)
    assert "NODE_UNKNOWN" in answers(step)[NODE_TABLE_TYPE]
    assert synced.assembly.current == BASE


def test_a_map_of_another_cluster_is_refused_as_a_whole() -> None:
    stream = Stream(MapAssembly("test"))
    step = stream.send_map(dataclasses.replace(BASE, cluster="other"))
    assert codes(step) == {9}
    assert stream.assembly.current is None
    assert list(stream.assembly.refused) == ["map"]


def test_too_much_changed_at_once_is_refused_as_a_whole() -> None:
    stream = Stream(MapAssembly("test", ChangeLimits(max_changed_share=1 / 256)))
    stream.send_map(BASE)
    changed = move_bucket(move_bucket(BASE, "default", 70), "default", 71)
    step = stream.send(RANGE_TYPE, range_bytes(changed, "default", 1), revision=3)
    assert codes(step) == {9}
    assert "TOO_MUCH_CHANGED" in answers(step)[RANGE_TYPE]
    assert stream.assembly.current == BASE


def test_a_cluster_without_keyspaces_is_neither_a_map_nor_wrong() -> None:
    stream = Stream(MapAssembly("test"))
    step = stream.send_map(dataclasses.replace(BASE, keyspaces={}))
    assert step.adopted is None
    assert answers(step) == dict.fromkeys(RESOURCE_TYPES, "")
    assert stream.send_map(dataclasses.replace(BASE, revision=2)).adopted is not None


def test_a_revision_without_changes_is_no_new_map(synced: Stream) -> None:
    step = synced.send(RANGE_TYPE, {}, revision=7)
    assert step.adopted is None
    assert synced.assembly.synced_revision == 7


def test_a_refusal_is_forgotten_once_the_resource_is_good(synced: Stream) -> None:
    synced.send(RANGE_TYPE, {"range/default/001": b"\xff"}, revision=2)
    changed = move_bucket(BASE, "default", 70)
    assert synced.send(RANGE_TYPE, range_bytes(changed, "default", 1), revision=3).adopted
    assert dict(synced.assembly.refused) == {}
    assert synced.assembly.synced_revision == 3


@pytest.mark.parametrize(
    "response",
    [
        b"\xff\xff\xff",
        discovery_pb2.DeltaDiscoveryResponse(type_url="other").SerializeToString(),
        discovery_pb2.DeltaDiscoveryResponse(
            type_url=RANGE_TYPE, system_version_info="newest"
        ).SerializeToString(),
    ],
    ids=["not a response", "another type", "not a revision"],
)
def test_what_is_no_answer_to_our_requests_breaks_the_stream(response: bytes) -> None:
    assembly = MapAssembly("test")
    Stream(assembly)
    with pytest.raises(StreamBroken):
        assembly.on_response(response)


def test_responses_without_end_break_the_stream() -> None:
    stream = Stream(MapAssembly("test"))
    for _ in range(BATCH_BOUND_RESPONSES):
        stream.send(RANGE_TYPE, {})
    with pytest.raises(StreamBroken, match="without a revision"):
        stream.send(RANGE_TYPE, {})


# --- entries of replicas ------------------------------------------------------------------


def entry(bucket: Bucket, *nodes: Node) -> MapEntry:
    return MapEntry("default", bucket, nodes or tuple(BASE.nodes.values()))


def later(epoch: int, **fields: object) -> Bucket:
    bucket = BASE.keyspaces["default"].buckets[70]
    return dataclasses.replace(bucket, epoch=epoch, **fields)  # type: ignore[arg-type]


def test_a_newer_entry_is_adopted(synced: Stream) -> None:
    adopted = synced.assembly.learn(entry(later(5)))
    assert adopted is not None
    assert adopted.keyspaces["default"].buckets[70] == later(5)


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_entry_that_is_not_newer_is_not_adopted(synced: Stream, epoch: int) -> None:
    assert synced.assembly.learn(entry(later(epoch))) is None


@pytest.mark.parametrize(
    "strange",
    [
        MapEntry("nowhere", later(5), tuple(BASE.nodes.values())),
        entry(dataclasses.replace(later(5), id=4096)),
        entry(later(5, owners=(Owner(1, 1), Owner(1, 1)))),
        entry(later(5, owners=(Owner(77, 1),))),
        entry(later(5), dataclasses.replace(BASE.nodes[1], id="impostor")),
    ],
    ids=["keyspace", "bucket", "owners twice", "unknown node", "another node's number"],
)
def test_an_entry_that_makes_no_sense_is_not_adopted(synced: Stream, strange: MapEntry) -> None:
    assert synced.assembly.learn(strange) is None
    assert synced.assembly.current == BASE


def test_an_entry_brings_nodes_that_were_not_known(synced: Stream) -> None:
    joined = Node(50, "n50", "127.0.0.1", 7050, "a")
    adopted = synced.assembly.learn(entry(later(5, owners=(Owner(50, 1),)), joined))
    assert adopted is not None
    assert adopted.nodes[50] == joined


def test_an_entry_without_a_map_is_of_no_use() -> None:
    assert MapAssembly("test").learn(entry(later(5))) is None


def test_a_learnt_entry_outlasts_maps_that_do_not_know_it_yet(synced: Stream) -> None:
    synced.assembly.learn(entry(later(5)))
    behind = move_bucket(BASE, "default", 71)
    adopted = synced.send(RANGE_TYPE, range_bytes(behind, "default", 1), revision=2).adopted
    assert adopted is not None
    assert adopted.keyspaces["default"].buckets[70].epoch == 5
    assert adopted.keyspaces["default"].buckets[71].epoch == 2


def test_a_map_that_went_further_replaces_a_learnt_entry(synced: Stream) -> None:
    synced.assembly.learn(entry(later(5)))
    ahead = with_bucket(BASE, "default", later(6))
    adopted = synced.send(RANGE_TYPE, range_bytes(ahead, "default", 1), revision=2).adopted
    assert adopted is not None
    assert adopted.keyspaces["default"].buckets[70] == later(6)


# --- the disk -----------------------------------------------------------------------------


def test_a_saved_map_comes_back_and_resumes_by_its_versions(synced: Stream) -> None:
    raw = synced.assembly.save()
    assert raw is not None
    after = MapAssembly("test")
    assert after.load(raw) == BASE
    held = [dict(r.initial_resource_versions) for r in Stream(after).requests]
    assert held == [dict(r.initial_resource_versions) for r in Stream(synced.assembly).requests]


def test_a_range_with_a_learnt_entry_is_asked_for_again_after_a_restart(synced: Stream) -> None:
    synced.assembly.learn(entry(later(5)))
    raw = synced.assembly.save()
    assert raw is not None
    after = MapAssembly("test")
    assert after.load(raw).keyspaces["default"].buckets[70].epoch == 5
    held = Stream(after).requests[2].initial_resource_versions
    assert "range/default/000" in held
    assert "range/default/001" not in held


def test_without_a_map_there_is_nothing_to_save() -> None:
    assert MapAssembly("test").save() is None


def test_a_saved_map_of_another_cluster_is_refused() -> None:
    raw = encode_saved_map(dataclasses.replace(BASE, cluster="other"))
    with pytest.raises(SavedMapError, match="'other'") as refused:
        MapAssembly("test").load(raw)
    assert refused.value.reason is SavedMapReason.OTHER_CLUSTER


def test_a_saved_map_that_is_older_is_refused(synced: Stream) -> None:
    raw = synced.assembly.save()
    assert raw is not None
    synced.assembly.learn(entry(later(5)))
    with pytest.raises(SavedMapError) as refused:
        synced.assembly.load(raw)
    assert refused.value.reason is SavedMapReason.OLDER
    assert synced.assembly.current is not None
    assert synced.assembly.current.keyspaces["default"].buckets[70].epoch == 5


def test_a_saved_map_that_breaks_a_rule_is_refused() -> None:
    fewer = {number: node for number, node in BASE.nodes.items() if number != 1}
    with pytest.raises(SavedMapError, match="NODE_UNKNOWN") as refused:
        decode_saved_map(encode_saved_map(dataclasses.replace(BASE, nodes=fewer)))
    assert refused.value.reason is SavedMapReason.INVALID


SAVED = encode_saved_map(BASE)


@given(st.integers(0, len(SAVED) - 1), st.integers(1, 255))
def test_any_flipped_byte_of_a_saved_map_is_noticed(position: int, flip: int) -> None:
    damaged = bytearray(SAVED)
    damaged[position] ^= flip
    with pytest.raises(SavedMapError) as refused:
        decode_saved_map(bytes(damaged))
    assert refused.value.reason is SavedMapReason.DAMAGED


@given(st.integers(0, len(SAVED) - 1))
def test_a_saved_map_cut_short_is_noticed(length: int) -> None:
    with pytest.raises(SavedMapError) as refused:
        decode_saved_map(SAVED[:length])
    assert refused.value.reason is SavedMapReason.DAMAGED
