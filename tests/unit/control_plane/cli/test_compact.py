"""`dabba compact`, and `dabba hints --forget`, against a control plane with fixed answers."""

from tests.support.stand_ins import AdminStandIn
from tests.unit.control_plane.cli.conftest import Dabba


def test_it_shows_what_went_and_what_was_left_out(dabba: Dabba, admin: AdminStandIn) -> None:
    answer = dabba("compact", "places")
    assert answer.status == 0
    assert admin.asked[0].keyspace == "places"
    shown = ("64/64", "900", "12", "9", "2.0 KiB", "bucket 3: n2 is not trusted now")
    assert all(part in answer.out for part in shown)


def test_as_json(dabba: Dabba, admin: AdminStandIn) -> None:
    answer = dabba("compact", "places", "-o", "json").json
    assert (answer["tombstones"], answer["purged"], answer["purged_bytes"]) == (12, 9, 2048)


def test_a_sidecar_that_will_not_come_back_is_forgotten(dabba: Dabba, admin: AdminStandIn) -> None:
    assert "forgotten" in dabba("hints", "--forget", "sidecar-1").out
    assert dabba("hints", "--forget", "sidecar-1", "-o", "json").json == {"forgotten": "sidecar-1"}
    unknown = dabba("hints", "--forget", "sidecar-2")
    assert unknown.status == 1
    assert "has reported no hints" in unknown.err
