from dataclasses import replace

import pytest

from buckets.bucket_map import KeyspaceSettings
from buckets.codec import RangeValue, encode_range
from control_plane.controllers.cluster_state import (
    ClusterState,
    check_successor,
    counter_path,
    identity_path,
)
from control_plane.errors import MapDamaged
from tests.support.cluster_states import PATHS, StoreContent, record

SMALL = KeyspaceSettings(name="small", buckets=128)


def content() -> StoreContent:
    made = StoreContent(1, 2, 3)
    made.create_keyspace(SMALL)
    return made


def test_an_empty_store_is_a_state_without_anything() -> None:
    state = StoreContent().state()
    assert state.nodes == {}
    assert state.map.keyspaces == {}
    assert state.last_number == 0


def test_a_state_reads_what_was_written() -> None:
    state = content().state()
    assert sorted(state.nodes) == ["n1", "n2", "n3"]
    assert state.last_number == 3
    keyspace = state.map.keyspaces["small"]
    assert keyspace.settings == SMALL
    assert [bucket.id for bucket in keyspace.buckets] == list(range(128))


def test_a_keyspace_that_is_being_created_is_not_in_the_map() -> None:
    made = content()
    made.plan_keyspace(KeyspaceSettings(name="later", buckets=4))
    state = made.state()
    assert state.keyspaces["later"].creating
    assert list(state.map.keyspaces) == ["small"]


def test_ranges_of_the_same_bytes_are_not_decoded_again() -> None:
    made = content()
    before = made.state()
    made.put_node(record(4))
    after = made.state(before)
    for old, new in zip(
        before.keyspaces["small"].ranges, after.keyspaces["small"].ranges, strict=True
    ):
        assert old.value is new.value


def test_owned_by_names_every_bucket_of_a_node() -> None:
    state = content().state()
    owned = list(state.owned_by(2))
    assert len(owned) == 128
    assert all(stored.settings.name == "small" for stored, _ in owned)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (PATHS.node("n1"), b"{}", "n1"),
        (PATHS.node("n1"), b"\xff", "n1"),
        (PATHS.node("n9"), StoreContent(1).entries[PATHS.node("n1")].value, "not its own"),
        (PATHS.keyspace_config("small"), b"[]", "small"),
        (PATHS.bucket_range("small", 0), b"\xff\xff", "range/small/000"),
        (PATHS.bucket_range("small", 0), encode_range(RangeValue("other", 0, ())), "small/000"),
        (counter_path(PATHS), b"-1", "counter"),
        (identity_path(PATHS), b"{", "identity"),
    ],
)
def test_damage_is_named(path: str, value: bytes, words: str) -> None:
    made = content()
    made.put(path, value)
    with pytest.raises(MapDamaged, match=words):
        made.state()


def test_a_missing_range_is_damage() -> None:
    made = content()
    del made.entries[PATHS.bucket_range("small", 1)]
    with pytest.raises(MapDamaged, match="range/small/001"):
        made.state()


def test_an_owner_that_is_no_node_is_damage() -> None:
    made = content()
    del made.entries[PATHS.node("n2")]
    with pytest.raises(MapDamaged, match="unknown owners"):
        made.state()


def test_a_bucket_without_owners_or_with_one_twice_is_damage() -> None:
    made = content()
    value = made.state().keyspaces["small"].ranges[0].value
    first = value.buckets[0]
    for owners in ((), (first.owners[0], first.owners[0])):
        broken = (replace(first, owners=owners), *value.buckets[1:])
        made.put(PATHS.bucket_range("small", 0), encode_range(replace(value, buckets=broken)))
        with pytest.raises(MapDamaged, match="bucket 0"):
            made.state()


def test_a_later_state_follows() -> None:
    made = content()
    before = made.state()
    made.put_node(record(4))
    check_successor(before, made.state(before))
    check_successor(before, before)
    check_successor(ClusterState("test"), before)


def test_an_earlier_revision_does_not_follow() -> None:
    made = content()
    before = made.state()
    made.epoch -= 1
    with pytest.raises(MapDamaged, match="went back from revision"):
        check_successor(before, made.state())


def test_another_cluster_of_the_same_name_does_not_follow() -> None:
    made = content()
    before = made.state()
    made.put(identity_path(PATHS), b'{"uid":"other"}')
    with pytest.raises(MapDamaged, match="another cluster"):
        check_successor(before, made.state())


def test_a_state_that_lost_its_nodes_or_keyspaces_does_not_follow() -> None:
    made = content()
    before = made.state()
    for path in [path for path in made.entries if "/keyspaces/" in path]:
        del made.entries[path]
    made.epoch += 1
    with pytest.raises(MapDamaged, match="no keyspaces"):
        check_successor(before, made.state())
    for number in (1, 2, 3):
        del made.entries[PATHS.node(f"n{number}")]
    with pytest.raises(MapDamaged, match="lost all its nodes"):
        check_successor(before, made.state())


def test_a_bucket_of_an_earlier_epoch_does_not_follow() -> None:
    made = content()
    stored = made.state().keyspaces["small"].ranges[0].value
    path = PATHS.bucket_range("small", 0)
    raised = (replace(stored.buckets[0], epoch=5), *stored.buckets[1:])
    made.put(path, encode_range(replace(stored, buckets=raised)))
    before = made.state()
    made.put(path, encode_range(stored))
    with pytest.raises(MapDamaged, match="went back from epoch 5 to 1"):
        check_successor(before, made.state())


def test_a_change_without_a_new_revision_does_not_follow() -> None:
    made = content()
    before = made.state()
    made.put_node(record(1, weight=7))
    made.epoch -= 1
    with pytest.raises(MapDamaged, match="without a new revision"):
        check_successor(before, made.state())
