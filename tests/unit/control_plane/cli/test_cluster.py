import pytest

from protos.dabbawala.v1 import admin_pb2
from tests.support.stand_ins import AdminStandIn, DataStandIn, sidecar_stand_in
from tests.unit.control_plane.cli.conftest import Dabba


def test_status_shows_nodes_keyspaces_sidecars_and_problems(
    dabba: Dabba, admin: AdminStandIn
) -> None:
    out = dabba("status").out
    for words in (
        "cluster test",
        "leader control-plane-1",
        "node-2",
        "down",
        "connection refused",
        "default",
        "EACH_QUORUM",
        "SYNCED",
        "! node-2 is down: start it again",
        "next: dabba doctor",
    ):
        assert words in out


def test_status_as_json_keeps_large_numbers_and_names(dabba: Dabba, admin: AdminStandIn) -> None:
    shown = dabba("status", "-o", "json").json
    assert shown["map_revision"] == (1 << 53) + 1
    nodes, keyspaces = shown["nodes"], shown["keyspaces"]
    assert isinstance(nodes, list)
    assert isinstance(keyspaces, list)
    assert [(node["node"]["id"], node["health"]) for node in nodes] == [
        ("node-1", "up"),
        ("node-2", "down"),
    ]
    assert nodes[0]["node"]["state"] == "ACTIVE"
    assert nodes[0]["node"]["run_id"] == "ab" * 20
    config = keyspaces[0]["config"]
    assert (config["mode"], config["read_consistency"]) == ("TUNABLE", "QUORUM")
    assert shown["problems"] == ["node-2 is down: start it again"]


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("node", "list"),
        ("keyspace", "list"),
        ("keyspace", "describe", "default"),
        ("map", "show"),
        ("sidecars",),
    ],
)
def test_every_question_answers_in_both_forms(
    dabba: Dabba, admin: AdminStandIn, command: tuple[str, ...]
) -> None:
    people, programs = dabba(*command), dabba(*command, "-o", "json")
    assert (people.status, people.err) == (0, "")
    assert people.out.strip()
    assert (programs.status, programs.err) == (0, "")
    assert programs.json


def test_map_show_names_the_owners_of_each_bucket(dabba: Dabba, admin: AdminStandIn) -> None:
    shown = dabba("map", "show", "-k", "default", "-o", "json").json
    assert admin.asked[0].keyspace == "default"
    assert shown["buckets"] == [
        {
            "keyspace": "default",
            "bucket": 64,
            "epoch": 5,
            "stage": "OLD",
            "owners": ["node-1", "node-2"],
            "pending": [],
            "read_replicas": [],
        },
        {
            "keyspace": "default",
            "bucket": 65,
            "epoch": 7,
            "stage": "WRITE_BOTH_READ_OLD",
            "owners": ["node-2", "node-1"],
            "pending": [],
            "read_replicas": [],
        },
    ]


def test_sidecars_shows_a_rejected_map_with_its_reason(dabba: Dabba, admin: AdminStandIn) -> None:
    out = dabba("sidecars").out
    assert "REJECTED" in out
    assert "range/default/000" in out


def test_keyspace_create_sends_what_was_asked(dabba: Dabba, admin: AdminStandIn) -> None:
    answer = dabba(
        "keyspace", "create", "orders", "--copies", "5", "--mode", "linearizable",
        "--durability", "fsync", "--write-consistency", "all", "--redis-db", "7",
    )  # fmt: skip
    assert answer.status == 0
    assert "created orders: 64 buckets, 5 copies" in answer.out
    assert "! one owner in each zone" in answer.out
    config = admin.asked[0].config
    assert (config.name, config.replication_factor, config.redis_db) == ("orders", 5, 7)
    assert (config.mode, config.durability, config.write_consistency) == (2, 2, 7)


def test_a_refused_keyspace_is_one_line(dabba: Dabba, admin: AdminStandIn) -> None:
    answer = dabba("keyspace", "create", "taken", "-o", "json")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == "dabba: keyspace taken is there already\n"


def test_node_add_sends_the_address_in_its_parts(dabba: Dabba, admin: AdminStandIn) -> None:
    answer = dabba("node", "add", "node-7", "[::1]:7000", "--zone", "c")
    assert answer.status == 0
    assert "added node-7" in answer.out
    request = admin.asked[0]
    assert (request.host, request.port, request.zone) == ("::1", 7000, "c")


@pytest.mark.parametrize("address", ["nowhere", "host:", ":7000", "host:0", "host:70000"])
def test_a_bad_node_address_is_a_usage_error(
    dabba: Dabba, admin: AdminStandIn, address: str
) -> None:
    answer = dabba("node", "add", "node-7", address, "--zone", "c")
    assert answer.status == 2
    assert "HOST:PORT" in answer.err
    assert not admin.asked


def test_a_node_without_a_zone_is_a_usage_error(dabba: Dabba, admin: AdminStandIn) -> None:
    answer = dabba("node", "add", "node-7", "127.0.0.1:7000")
    assert answer.status == 2
    assert "--zone" in answer.err


def test_doctor_is_content_when_all_is_well(
    dabba: Dabba, admin: AdminStandIn, data: DataStandIn
) -> None:
    answer = dabba("doctor", "-o", "json")
    assert answer.status == 0
    findings = answer.json["findings"]
    assert isinstance(findings, list)
    assert [finding["id"] for finding in findings] == ["store-reachable", "sidecar-ready"]


def test_doctor_fails_on_an_error_and_names_the_fix(
    dabba: Dabba, admin: AdminStandIn, data: DataStandIn
) -> None:
    fix = "start the server again"
    found = admin_pb2.Finding(
        id="node-unreachable", severity="error", subject="node-2", cause="refused", fix=fix
    )
    admin.findings = [found]
    answer = dabba("doctor")
    assert answer.status == 1
    for words in ("node-unreachable", "node-2", "refused", fix):
        assert words in answer.out


def test_doctor_works_with_nothing_there(dabba: Dabba) -> None:
    answer = dabba("doctor", "--control-plane", "127.0.0.1:1", "-o", "json")
    assert answer.status == 1
    findings = answer.json["findings"]
    assert isinstance(findings, list)
    assert [finding["id"] for finding in findings] == [
        "control-plane-unreachable",
        "sidecar-unreachable",
    ]


def test_doctor_tells_a_sidecar_that_does_not_serve(dabba: Dabba, admin: AdminStandIn) -> None:
    with sidecar_stand_in(DataStandIn(), serving=False) as address:
        answer = dabba("doctor", "--sidecar", address, "-o", "json")
    assert answer.status == 1
    assert "sidecar-not-ready" in answer.out
