"""What the coordination store holds: JSON with the names of the messages, checked when read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets.bucket_map import Consistency, Durability, KeyspaceSettings, Mode
from buckets.documents import keyspace_from_json, keyspace_to_json, node_from_json, node_to_json
from buckets.errors import CodecError
from buckets.topology import Node, NodeState
from protos.dabbawala.v1 import map_pb2

NODE = Node(
    7, "n7", "127.0.0.1", 7007, "a", "r1", 100, 2, bytes(range(20)), NodeState.SUSPECT, "why"
)
SETTINGS = KeyspaceSettings(
    "places",
    64,
    3,
    Mode.LINEARIZABLE,
    Consistency.ONE,
    Consistency.ALL,
    Durability.FSYNC,
    redis_db=1,
)


def test_a_node_comes_back_as_it_was() -> None:
    assert node_from_json(node_to_json(NODE), "nodes/n7") == NODE


@given(st.sampled_from(NodeState), st.text(max_size=20), st.binary(min_size=20, max_size=20))
def test_any_state_and_reason_come_back(state: NodeState, reason: str, run_id: bytes) -> None:
    node = Node(1, "n", "h", 1, "z", run_id=run_id, state=state, reason=reason)
    assert node_from_json(node_to_json(node), "nodes/n") == node


@pytest.mark.parametrize("creating", [False, True])
def test_a_keyspace_comes_back_as_it_was(creating: bool) -> None:
    raw = keyspace_to_json(SETTINGS, creating=creating)
    assert keyspace_from_json(raw, "keyspaces/places/config") == (SETTINGS, creating)


def test_the_names_are_those_of_the_messages() -> None:
    node, config = json.loads(node_to_json(NODE)), json.loads(keyspace_to_json(SETTINGS))
    assert set(node) == set(map_pb2.NodeEntry.DESCRIPTOR.fields_by_name)
    assert set(config) == set(map_pb2.KeyspaceConfig.DESCRIPTOR.fields_by_name)
    assert node["state"] == "SUSPECT"
    assert node["run_id"] == bytes(range(20)).hex()
    assert config["write_consistency"] == "ALL"


def test_a_field_that_a_later_release_added_is_ignored() -> None:
    document = {**json.loads(node_to_json(NODE)), "colour": "red"}
    assert node_from_json(json.dumps(document).encode(), "nodes/n7") == NODE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": "x"}, r"nodes/n7: .*\$.port"),
        ({"port": 0}, "port 0"),
        ({"state": "ASLEEP"}, "state 'ASLEEP' must be one of ACTIVE"),
        ({"run_id": "zz"}, "not hexadecimal"),
        ({"run_id": "ab"}, "run_id has 1 bytes"),
    ],
)
def test_a_damaged_node_is_refused_by_its_path(change: dict[str, object], message: str) -> None:
    raw = json.dumps({**json.loads(node_to_json(NODE)), **change}).encode()
    with pytest.raises(CodecError, match=message):
        node_from_json(raw, "nodes/n7")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'{"name":"x"}'])
def test_what_is_no_document_is_refused_by_its_path(raw: bytes) -> None:
    with pytest.raises(CodecError, match="keyspaces/x/config"):
        keyspace_from_json(raw, "keyspaces/x/config")


def test_settings_out_of_bounds_are_refused() -> None:
    raw = json.dumps({"name": "x", "buckets": 48, "replication_factor": 3}).encode()
    with pytest.raises(CodecError, match="power of two"):
        keyspace_from_json(raw, "keyspaces/x/config")
