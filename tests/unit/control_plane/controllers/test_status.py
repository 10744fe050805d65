import pytest

from buckets.bucket_map import Durability, KeyspaceSettings
from control_plane.controllers.cluster_state import ClusterState
from control_plane.controllers.doctor import diagnose
from control_plane.controllers.records import RESTARTED_EMPTY
from control_plane.controllers.sight import Sight
from control_plane.controllers.status import (
    Instance,
    View,
    natural,
    next_healths,
    problems,
    status,
)
from control_plane.jobs.hint_reports import HintRecord
from protos.dabbawala.v1 import admin_pb2
from tests.support.cluster_states import StoreContent, healthy, record, run_id, sight

DOWN = "unreachable"


def content(durability: Durability = Durability.MEMORY) -> StoreContent:
    made = StoreContent(1, 2, 3)
    made.create_keyspace(KeyspaceSettings(name="places", buckets=8, durability=durability))
    return made


def view(state: ClusterState, sights: dict[str, Sight] | None = None, **more: object) -> View:
    seen = dict(healthy(state)) | (sights or {})
    healths = next_healths(state, seen, {}, state.nodes, 1_000)
    fields: dict[str, object] = {
        "state": state,
        "sights": seen,
        "healths": healths,
        "leader": "cp-1",
        "instances": [Instance("cp-1", "a:1"), Instance("cp-2", "a:2")],
    }
    return View(**(fields | more))  # type: ignore[arg-type]


def findings(shown: View, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Severity by id; every finding has a cause, and a fix unless all is well."""
    found = diagnose(shown, environment or {})
    assert all(each.cause and (each.fix or each.severity == "ok") for each in found)
    return {each.id: each.severity for each in found}


def test_all_is_well() -> None:
    shown = view(content().state())
    answer = status(shown)
    assert list(answer.problems) == []
    assert [node.health for node in answer.nodes] == ["up"] * 3
    assert [node.owned_buckets for node in answer.nodes] == [8] * 3
    assert answer.keyspaces[0].buckets_healthy == 8
    assert [each.leader for each in answer.instances] == [True, False]
    assert findings(shown) == {"all-well": "ok"}


def test_hints_of_a_sidecar_that_is_away_are_shown_with_what_to_do() -> None:
    held = [HintRecord("pod-7", 0, 1, 1_000, "log"), HintRecord("pod-8", 0, 1, 1_000, "other")]
    there = admin_pb2.SidecarStatus(id="pod-8", state="SYNCED")
    shown = view(content().state(), hints=held, sidecars=[there], now_ms=2_000)
    [problem] = problems(shown)
    assert problem.startswith("sidecar pod-7: ")
    assert problem.endswith("dabba hints --forget pod-7")
    assert findings(shown) == {"hints-away": "warning"}


def test_nodes_are_listed_as_people_count() -> None:
    assert sorted(["n10", "n2", "n1", "m3"], key=natural) == ["m3", "n1", "n2", "n10"]


def test_since_is_the_last_change_of_health() -> None:
    state = content().state()
    before = next_healths(state, healthy(state), {}, state.nodes, 1_000)
    same = next_healths(state, healthy(state), before, state.nodes, 2_000)
    dead = {"n1": sight(1, fault=DOWN)}
    after = next_healths(state, dead, before, ["n1"], 3_000)
    assert same["n1"].since_ms == 1_000
    assert after == {"n1": after["n1"]}
    assert after["n1"].since_ms == 3_000


def test_one_owner_down_degrades_and_two_make_unavailable() -> None:
    state = content().state()
    one = {"n1": sight(1, fault=DOWN, detail="no connection")}
    two = one | {"n2": sight(2, fault=DOWN, detail="no connection")}
    degraded, lost = view(state, one), view(state, two)
    assert status(degraded).keyspaces[0].buckets_degraded == 8
    assert status(lost).keyspaces[0].buckets_unavailable == 8
    assert any("n1" in problem and "start it again" in problem for problem in problems(degraded))
    assert any("lost their majority" in problem for problem in problems(lost))
    assert findings(degraded) == {
        "node-unreachable": "error",
        "buckets-degraded": "warning",
        "zone-down": "error",
    }
    assert findings(lost)["buckets-unavailable"] == "error"


def test_a_suspect_node_is_no_healthy_owner() -> None:
    made = content()
    made.put_node(record(1).suspected(RESTARTED_EMPTY, "restarted empty", run_id(9)))
    shown = view(made.state())
    assert status(shown).nodes[0].health == "suspect"
    assert status(shown).keyspaces[0].buckets_degraded == 8
    assert any("restarted empty" in problem for problem in problems(shown))
    assert findings(shown)["node-suspect"] == "error"


def test_a_store_that_is_gone_is_said_and_all_else_still_answered() -> None:
    shown = view(content().state(), store_reachable=False, feed_problem="it does not answer")
    assert "it does not answer" in problems(shown)
    assert len(status(shown).nodes) == 3
    assert findings(shown) == {"store-unreachable": "error"}
    silent = view(content().state(), store_reachable=False)
    assert any("last known" in problem for problem in problems(silent))


def test_a_refused_map_is_an_alarm() -> None:
    shown = view(content().state(), feed_problem="the map went back")
    assert problems(shown) == ["the map went back"]
    assert findings(shown) == {"map-refused": "error"}


def test_nobody_leads() -> None:
    shown = view(content().state(), leader="")
    assert any("no instance leads" in problem for problem in problems(shown))
    assert findings(shown) == {"no-leader": "error"}


def test_a_keyspace_that_waits_says_for_what() -> None:
    made = content()
    made.plan_keyspace(KeyspaceSettings(name="later", buckets=4))
    shown = view(made.state(), blocked={"later": "its owner n2 is down"})
    assert problems(shown) == ["keyspace later is not published yet: its owner n2 is down"]
    assert findings(shown) == {"keyspace-creating": "warning"}


@pytest.mark.parametrize(("offset_ms", "severity"), [(-300.0, "warning"), (500.0, "error")])
def test_a_clock_that_is_off(offset_ms: float, severity: str) -> None:
    shown = view(content().state(), {"n1": sight(1, clock_offset_ms=offset_ms)})
    assert findings(shown) == {"node-clock": severity}


def test_an_instance_whose_own_clock_is_off_blames_no_node() -> None:
    seen = {f"n{number}": sight(number, clock_offset_ms=-30_000.0) for number in (1, 2, 3)}
    assert findings(view(content().state(), seen)) == {"instance-clock": "warning"}


def test_a_sidecar_whose_clock_is_off() -> None:
    off = admin_pb2.SidecarStatus(
        id="s1", state="SYNCED", clock_skew_ms=30_000, clock_problem="its clock is 30.0 s ahead"
    )
    shown = view(content().state(), sidecars=[off])
    assert findings(shown) == {"sidecar-clock": "error"}
    assert problems(shown) == ["sidecar s1: its clock is 30.0 s ahead; synchronize its clock"]


def test_a_node_that_evicts_or_has_replicas_of_its_own() -> None:
    state = content().state()
    evicting = view(state, {"n1": sight(1, fault="Evicting", detail="it evicts")})
    assert findings(evicting)["node-evicting"] == "error"
    copied = view(state, {"n1": sight(1, connected_replicas=1)})
    assert findings(copied) == {"node-has-replicas": "warning"}


def test_durability_fsync_on_a_node_that_is_not_durable() -> None:
    made = content(Durability.FSYNC)
    made.put_node(record(2, durable=False))
    assert findings(view(made.state())) == {"node-not-durable": "error"}
    plain = content()
    plain.put_node(record(2, durable=False))
    assert findings(view(plain.state())) == {"all-well": "ok"}


def test_a_proxy_that_would_swallow_local_calls() -> None:
    shown = view(content().state())
    assert findings(shown, {"http_proxy": "http://p:1"}) == {"http-proxy-set": "warning"}
    assert findings(shown, {"HTTPS_PROXY": "http://p:1"}) == {"http-proxy-set": "warning"}
    exempt = {"http_proxy": "http://p:1", "no_proxy": "example.org, 127.0.0.1"}
    assert findings(shown, exempt) == {"all-well": "ok"}


def test_sidecars_that_are_behind_or_refuse_the_map() -> None:
    stale = admin_pb2.SidecarStatus(id="s1", state="STALE", map_revision=3)
    refusing = admin_pb2.SidecarStatus(id="s2", state="REJECTED", detail="range/places/000: bad")
    shown = view(content().state(), sidecars=[stale, refusing])
    assert findings(shown) == {"sidecar-stale": "warning", "sidecar-rejected": "error"}
    assert any("s2" in problem and "range/places/000" in problem for problem in problems(shown))


def test_one_instance_alone_is_a_warning_where_there_can_be_more() -> None:
    alone = [Instance("cp-1", "a:1")]
    state = content().state()
    shared = view(state, instances=alone, store="zookeeper")
    assert findings(shared) == {"one-instance": "warning"}
    assert findings(view(state, instances=alone)) == {"all-well": "ok"}
