from dataclasses import replace

import pytest

from buckets.bucket_map import KeyspaceSettings
from control_plane.controllers.creation import (
    FIRST_EPOCH,
    first_fences,
    first_keyspace,
    first_writes,
    owner_nodes,
    publication,
)
from control_plane.controllers.membership import Examine, Record
from control_plane.controllers.reconcile import (
    Finish,
    expected_identity,
    fence_claims,
    plan_steps,
    waits_for,
)
from control_plane.controllers.records import FLUSHED, decode_node_record, encode_node_record
from control_plane.coordination.store import (
    ABSENT,
    TRANSACTION_BOUND_BYTES,
    VALUE_BOUND_BYTES,
    Put,
)
from replicas.identity import Identity
from replicas.layout import bucket_keys
from tests.support.cluster_states import (
    MARK,
    PATHS,
    StoreContent,
    healthy,
    node,
    record,
    run_id,
    sight,
)

SMALL = KeyspaceSettings(name="small", buckets=8)


def planned() -> StoreContent:
    made = StoreContent(1, 2, 3, 4)
    made.plan_keyspace(SMALL)
    return made


def test_a_settled_cluster_needs_no_step() -> None:
    made = StoreContent(1, 2, 3)
    made.create_keyspace(SMALL)
    state = made.state()
    assert plan_steps(state, healthy(state)) == []


def test_a_keyspace_left_half_created_is_finished() -> None:
    state = planned().state()
    assert plan_steps(state, healthy(state)) == [Finish("small")]


def test_nodes_are_judged_before_keyspaces_are_finished() -> None:
    state = planned().state()
    seen = dict(healthy(state))
    seen["n2"] = sight(2, identity=None)
    seen["n3"] = sight(3, run_id=run_id(9))
    flushed, examine, finish = plan_steps(state, seen)
    assert isinstance(flushed, Record)
    assert flushed.record.cause == FLUSHED
    assert examine == Examine("n3", run_id(9))
    assert finish == Finish("small")


def test_every_prefix_of_a_creation_leads_on_to_its_end() -> None:
    """The leader may die after any write; what stands then asks for what is still to be done."""
    made = StoreContent(1, 2, 3)
    nodes = [stored.node for stored in made.state().nodes.values()]
    assert plan_steps(made.state(), healthy(made.state())) == []  # nothing written: no keyspace
    made.apply(first_writes(PATHS, first_keyspace(SMALL, nodes)))
    state = made.state()
    assert plan_steps(state, healthy(state)) == [Finish("small")]
    assert "small" not in state.map.keyspaces
    made.apply(publication(PATHS, state.keyspaces["small"]))
    state = made.state()
    assert plan_steps(state, healthy(state)) == []
    assert "small" in state.map.keyspaces


def test_the_first_writes_are_guarded_against_a_keyspace_of_that_name() -> None:
    ops = first_writes(PATHS, first_keyspace(SMALL, [node(1), node(2), node(3)]))
    assert all(isinstance(op, Put) and op.expect is ABSENT for op in ops)


@pytest.mark.slow
def test_the_largest_keyspace_fits_one_transaction() -> None:
    # Numbers of five bytes each, as after four thousand million registrations.
    nodes = [replace(node(n), number=(1 << 32) - n) for n in range(1, 9)]
    settings = KeyspaceSettings(name="a" * 63, buckets=16_384, replication_factor=7)
    ops = [op for op in first_writes(PATHS, first_keyspace(settings, nodes)) if isinstance(op, Put)]
    assert sum(len(op.path) + len(op.value) for op in ops) < TRANSACTION_BOUND_BYTES
    assert max(len(op.value) for op in ops) < VALUE_BOUND_BYTES


def test_the_first_fences_of_a_node_are_those_of_its_buckets() -> None:
    state = planned().state()
    stored = state.keyspaces["small"]
    for known in owner_nodes(state, stored):
        fences = first_fences(state, stored, known.node)
        owned = {bucket.id for _, bucket in state.owned_by(known.node.number)}
        assert {change.keys for change in fences} == {bucket_keys("small", b) for b in owned}
        assert all(change.fence.epoch == FIRST_EPOCH for change in fences)
        assert all(change.fence.incarnation == 1 for change in fences)


def test_fences_are_claimed_of_published_keyspaces_only() -> None:
    made = planned()
    assert fence_claims(made.state(), node(1)) == []
    made.apply(publication(PATHS, made.state().keyspaces["small"]))
    state = made.state()
    claims = fence_claims(state, node(1))
    assert len(claims) == len(list(state.owned_by(1))) > 0


def test_an_owner_that_cannot_take_fences_is_waited_for() -> None:
    known = record(1)
    assert waits_for(known, {"n1": sight(1)}) == ""
    out = known.suspected(FLUSHED, "flushed", run_id(1))
    for owner, seen, words in (
        (known, {}, "n1 is down"),
        (known, {"n1": sight(1, fault="unreachable", detail="why")}, "n1 is down (why)"),
        (known, {"n1": sight(1, run_id=run_id(9))}, "n1 restarted"),
        (out, {"n1": sight(1)}, "n1 is SUSPECT (flushed)"),
    ):
        assert words in waits_for(owner, seen)


def test_an_identity_names_cluster_uid_node_and_incarnation() -> None:
    assert expected_identity(StoreContent(1).state(), node(1)) == Identity(MARK, "n1", 1)


def test_a_node_record_survives_the_store() -> None:
    for known in (
        record(1),
        record(2, durable=False, rack="r", weight=3),
        record(3).suspected(FLUSHED, "because", run_id(7)),
    ):
        assert decode_node_record(encode_node_record(known), "n") == known


def test_a_record_of_which_nothing_is_known_is_not_durable() -> None:
    raw = encode_node_record(record(1)).replace(b'"durable":true', b'"durable":"maybe"')
    assert not decode_node_record(raw, "n").durable
