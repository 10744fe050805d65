from dataclasses import replace

import pytest

from buckets.topology import NodeState
from control_plane.controllers.membership import (
    Examine,
    Record,
    check_free,
    check_known,
    check_request,
    check_server,
    judge_new_life,
    may_return,
    new_record,
    next_step,
    readdressed,
    registration_warnings,
    usable,
)
from control_plane.controllers.records import (
    EVICTING,
    FENCES_MISSING,
    FLUSHED,
    RESTARTED_EMPTY,
    RESTARTED_NOT_DURABLE,
    ROLE_CHANGED,
)
from control_plane.errors import Invalid, Refused
from protos.dabbawala.v1 import admin_pb2
from replicas.identity import Identity
from tests.support.cluster_states import MARK, StoreContent, healthy, node, record, run_id, sight

OWN = Identity(MARK, "n1", 1)
NEW_LIFE = run_id(99)


def request(**changes: object) -> admin_pb2.AddNodeRequest:
    fields: dict[str, object] = {"id": "n4", "host": "10.0.0.1", "port": 7004, "zone": "b"}
    return admin_pb2.AddNodeRequest(**(fields | changes))  # type: ignore[arg-type]


# --- requests


def test_a_good_request_passes() -> None:
    check_request(request(rack="r-1", weight=200))
    check_request(request(host="::1", id="0", zone="eu-west-1a"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "-a"),
        ("id", "a" * 64),
        ("id", "N1"),
        ("id", "a/b"),
        ("host", ""),
        ("host", "a b"),
        ("host", "a\nb"),
        ("port", 0),
        ("port", 65_536),
        ("zone", ""),
        ("zone", " "),
        ("zone", "z" * 64),
        ("rack", "/"),
        ("weight", 10_001),
    ],
)
def test_a_bad_field_is_named_with_its_bound(field: str, value: object) -> None:
    with pytest.raises(Invalid) as caught:
        check_request(request(**{field: value}))
    assert [violation.field for violation in caught.value.violations] == [field]
    assert "must be" in caught.value.violations[0].description


def refusal(check: object, *arguments: object) -> Refused:
    assert callable(check)
    with pytest.raises(Refused) as caught:
        check(*arguments)
    return caught.value


def test_an_address_belongs_to_one_node() -> None:
    state = StoreContent(1, 2).state()
    check_free(state, request())
    assert refusal(check_free, state, request(port=7001)).reason == "ADDRESS_TAKEN"


def test_a_node_stays_in_its_zone() -> None:
    state = StoreContent(1).state()
    check_free(state, request(id="n1", port=7001))
    assert refusal(check_free, state, request(id="n1", zone="c")).reason == "NODE_ID_TAKEN"


def test_a_server_is_one_node() -> None:
    state = StoreContent(1).state()
    fresh = sight(4, identity=None)
    check_server(state, request(), fresh)
    same = replace(fresh, run_id=run_id(1))
    assert refusal(check_server, state, request(), same).reason == "SERVER_TAKEN"


def test_the_data_of_another_cluster_or_node_is_refused() -> None:
    state = StoreContent(1).state()
    check_server(state, request(), sight(4))
    for identity, reason, words in (
        (Identity("prod/77", "n4", 1), "OTHER_CLUSTER", "'prod'"),
        (Identity("test/77", "n4", 1), "OTHER_CLUSTER", "another one of the same name"),
        (Identity("", "", 0), "OTHER_CLUSTER", "something else"),
        (Identity(MARK, "n3", 1), "SERVER_TAKEN", "'n3'"),
    ):
        caught = refusal(check_server, state, request(), sight(4, identity=identity))
        assert caught.reason == reason
        assert words in caught.message


def test_a_registered_node_is_not_given_an_empty_server() -> None:
    state = StoreContent(1).state()
    known = request(id="n1", port=7001)
    check_known(state, known, sight(1))
    check_known(state, known, sight(1, run_id=NEW_LIFE))
    check_known(state, request(), sight(4, identity=None))
    empty = sight(1, run_id=NEW_LIFE, identity=None)
    assert refusal(check_known, state, known, empty).reason == "NODE_ID_TAKEN"


def test_a_new_node_takes_the_next_number_and_trusts_the_life_that_was_seen() -> None:
    made = new_record(StoreContent(1, 7).state(), request(), sight(4))
    assert made.node.number == 8
    assert made.node.incarnation == 1
    assert made.node.run_id == run_id(4)
    assert made.node.weight == 100
    assert made.durable


def test_a_node_is_durable_only_once_all_its_data_is_on_disk() -> None:
    state = StoreContent().state()
    assert not new_record(state, request(), sight(4, settled=False)).durable
    assert not new_record(state, request(), sight(4, configured_durable=False)).durable


def test_registering_again_moves_the_address_and_nothing_of_the_trust() -> None:
    moved = readdressed(record(1), request(id="n1", port=9000, rack="r", weight=5))
    assert (moved.node.port, moved.node.rack, moved.node.weight) == (9000, "r", 5)
    assert moved == replace(record(1), node=node(1, port=9000, rack="r", weight=5))


def test_warnings_of_a_registration() -> None:
    state = StoreContent().state()
    plain = record(1)
    assert registration_warnings(state, plain, sight(1)) == []
    [replicas] = registration_warnings(state, plain, sight(1, connected_replicas=2))
    [durable] = registration_warnings(state, record(1, durable=False), sight(1))
    [keys] = registration_warnings(state, plain, sight(1, keys=12))
    assert "2 servers replicate from it" in replicas
    assert "not durable" in durable
    assert "12 keys" in keys


# --- what a look asks for


def step_of(**changes: object) -> Record | Examine | None:
    return next_step(record(1), sight(1, **changes), MARK)


def cause_of(step: Record | Examine | None) -> str:
    assert isinstance(step, Record)
    assert step.record.node.state is NodeState.SUSPECT
    assert step.record.node.run_id == run_id(1)  # still the last trusted life
    assert step.record.node.reason
    return step.record.cause


def test_nothing_is_done_about_a_node_that_is_well_or_down() -> None:
    assert step_of() is None
    assert step_of(fault="unreachable", run_id=b"") is None
    assert next_step(record(1), None, MARK) is None


def test_a_look_at_a_former_address_says_nothing() -> None:
    assert step_of(address="10.0.0.9:1", run_id=NEW_LIFE, identity=None) is None


def test_a_new_life_with_its_own_data_is_examined() -> None:
    assert step_of(run_id=NEW_LIFE) == Examine("n1", NEW_LIFE)


def test_a_new_life_without_identity_is_suspect() -> None:
    assert cause_of(step_of(run_id=NEW_LIFE, identity=None)) == RESTARTED_EMPTY


def test_an_identity_that_vanished_is_suspect() -> None:
    assert cause_of(step_of(identity=None)) == FLUSHED


@pytest.mark.parametrize("life", [run_id(1), NEW_LIFE])
def test_another_nodes_server_at_the_address_is_not_held_against_the_node(life: bytes) -> None:
    assert step_of(run_id=life, identity=Identity(MARK, "n2", 1)) is None
    assert step_of(run_id=life, identity=Identity("other/1", "n1", 1)) is None


def test_a_role_or_an_eviction_policy_that_changed_is_suspect() -> None:
    assert cause_of(step_of(role="slave")) == ROLE_CHANGED
    assert cause_of(step_of(fault="NotMaster", detail="its role is slave")) == ROLE_CHANGED
    assert cause_of(step_of(eviction_policy="allkeys-lru")) == EVICTING
    assert cause_of(step_of(fault="Evicting", detail="x")) == EVICTING
    assert cause_of(step_of(evicted_keys=1)) == EVICTING


def test_a_suspect_node_stays_so_whatever_is_seen() -> None:
    out = record(1).suspected(RESTARTED_EMPTY, "because", NEW_LIFE)
    for seen in (sight(1), sight(1, run_id=NEW_LIFE), sight(1, identity=None)):
        assert next_step(out, seen, MARK) is None


def test_durability_is_lost_at_once_and_gained_when_all_is_on_disk() -> None:
    lost = next_step(record(1), sight(1, configured_durable=False), MARK)
    assert lost == Record("n1", record(1, durable=False))
    assert next_step(record(1), sight(1, settled=False), MARK) is None
    plain = record(1, durable=False)
    assert next_step(plain, sight(1, settled=False), MARK) is None
    assert next_step(plain, sight(1), MARK) == Record("n1", record(1))


# --- a new life


def judge(known: object = None, fences: dict[str, int] | None = None, **changes: object) -> object:
    seen = sight(1, run_id=NEW_LIFE, **changes)
    return judge_new_life(known or record(1), seen, OWN, fences or {})  # type: ignore[arg-type]


def test_durable_data_with_all_fences_is_trusted_in_its_incarnation() -> None:
    assert judge() == record(1, run_id=NEW_LIFE)
    assert judge(fences={"missing": 0}) == record(1, run_id=NEW_LIFE)


def test_a_rewrite_under_way_does_not_take_trust_but_the_claim_of_durability() -> None:
    assert judge(settled=False) == record(1, run_id=NEW_LIFE, durable=False)


@pytest.mark.parametrize(
    ("known", "fences", "changes", "cause"),
    [
        (record(1, durable=False), {}, {}, RESTARTED_NOT_DURABLE),
        (record(1), {}, {"configured_durable": False}, RESTARTED_NOT_DURABLE),
        (record(1), {"missing": 1}, {}, FENCES_MISSING),
        (record(1), {"of another incarnation": 2}, {}, FENCES_MISSING),
        (record(1), {}, {"identity": None}, RESTARTED_EMPTY),
        (record(1), {}, {"identity": Identity(MARK, "n1", 2)}, FENCES_MISSING),
    ],
)
def test_any_doubt_makes_it_suspect(
    known: object, fences: dict[str, int], changes: dict[str, object], cause: str
) -> None:
    judged = judge(known, fences, **changes)
    assert cause_of(Record("n1", judged)) == cause  # type: ignore[arg-type]


def test_another_nodes_data_says_nothing() -> None:
    assert judge(identity=Identity(MARK, "n2", 1)) == record(1)


def test_only_an_empty_stand_in_is_forgiven() -> None:
    out = record(1).suspected(RESTARTED_EMPTY, "because", NEW_LIFE)
    assert may_return(out, sight(1))
    assert not may_return(out, sight(1, run_id=NEW_LIFE))
    assert not may_return(replace(out, cause=FENCES_MISSING), sight(1))


# --- where new buckets may go


def test_usable_nodes_are_up_and_in_the_life_that_is_trusted() -> None:
    content = StoreContent(1, 2, 3, 4, 5)
    content.put_node(record(2).suspected(FLUSHED, "because", run_id(2)))
    content.put_node(record(5, durable=False))
    state = content.state()
    seen = dict(healthy(state))
    seen["n3"] = sight(3, fault="unreachable")
    seen["n4"] = sight(4, run_id=NEW_LIFE)
    assert [each.id for each in usable(state, seen, durable=False)] == ["n1", "n5"]
    assert [each.id for each in usable(state, seen, durable=True)] == ["n1"]
    assert usable(state, {}, durable=False) == []
