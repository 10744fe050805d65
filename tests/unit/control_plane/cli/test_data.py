import base64
import io
import os
import sys
import time
from pathlib import Path

import pytest

from protos.dabbawala.v1 import data_pb2
from tests.support.stand_ins import BINARY, VERSION, DataStandIn
from tests.unit.control_plane.cli.conftest import Dabba


def test_get_prints_the_value_and_nothing_else(dabba: Dabba, data: DataStandIn) -> None:
    answer = dabba("get", "k")
    assert (answer.status, answer.out, answer.err) == (0, "v\n", "")


def test_get_as_json_is_one_object(dabba: Dabba, data: DataStandIn) -> None:
    answer = dabba("get", "k", "-o", "json")
    assert answer.status == 0
    assert answer.json == {
        "keyspace": "default",
        "key": "k",
        "found": True,
        "value": "v",
        "version": VERSION.hex(),
        "consistency": "QUORUM",
        "expires_at_ms": 0,
    }


def test_a_missing_key_is_status_1_with_a_line_on_standard_error(
    dabba: Dabba, data: DataStandIn
) -> None:
    answer = dabba("get", "absent")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == "dabba: not found: 'absent' in keyspace default\n"


def test_a_missing_key_as_json_says_so_in_the_object(dabba: Dabba, data: DataStandIn) -> None:
    answer = dabba("get", "absent", "-o", "json")
    assert (answer.status, answer.err) == (1, "")
    assert answer.json["found"] is False
    assert answer.json["value"] is None


def test_a_value_that_is_not_text_is_shown_escaped_and_as_base64(
    dabba: Dabba, data: DataStandIn
) -> None:
    assert dabba("get", "binary").out == f"{BINARY!r}\n"
    shown = dabba("get", "binary", "-o", "json").json
    assert base64.b64decode(str(shown["value_base64"])) == BINARY


def test_raw_writes_the_bytes_alone(dabba: Dabba, data: DataStandIn) -> None:
    assert dabba("get", "k", "--raw").out == "v"


def test_level_keyspace_and_time_go_into_the_request(dabba: Dabba, data: DataStandIn) -> None:
    dabba("get", "k", "-k", "places", "-c", "EACH_quorum", "--timeout", "2.5")
    (request,) = data.asked
    assert request.keyspace == "places"
    assert request.consistency == data_pb2.CONSISTENCY_EACH_QUORUM
    assert request.timeout_ms == 2500


def test_without_a_level_the_keyspace_decides(dabba: Dabba, data: DataStandIn) -> None:
    dabba("get", "k")
    assert data.asked[0].consistency == data_pb2.CONSISTENCY_UNSPECIFIED


def test_an_unknown_level_names_the_right_ones(dabba: Dabba, data: DataStandIn) -> None:
    answer = dabba("get", "k", "-c", "most")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    for word in ("--consistency", "'most'", "'quorum'", "dabba get --help"):
        assert word in answer.err


def test_put_sends_the_value_and_shows_its_version(dabba: Dabba, data: DataStandIn) -> None:
    answer = dabba("put", "k", "w")
    assert answer.out == f"OK at QUORUM, version {VERSION.hex()}\n"
    assert (data.asked[0].key, data.asked[0].value) == (b"k", b"w")


def test_put_reads_standard_input(
    dabba: Dabba, data: DataStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BINARY)))
    assert dabba("put", "k", "-").status == 0
    assert data.asked[0].value == BINARY


def test_time_to_live_becomes_a_point_in_time(dabba: Dabba, data: DataStandIn) -> None:
    before = time.time() * 1000
    dabba("put", "k", "v", "--ttl", "60")
    assert before + 59_999 <= data.asked[0].expires_at_ms <= time.time() * 1000 + 60_000


def test_a_superseded_write_says_so(dabba: Dabba, data: DataStandIn) -> None:
    assert "a newer write was there" in dabba("put", "old", "v").out
    assert dabba("put", "old", "v", "-o", "json").json["superseded"] is True


def test_an_unknown_outcome_shows_how_to_repeat_the_same_write(
    dabba: Dabba, data: DataStandIn
) -> None:
    answer = dabba("put", "unknown", "v")
    assert (answer.status, answer.out) == (1, "")
    assert "outcome UNKNOWN" in answer.err
    assert f"--retry-version {VERSION.hex()}" in answer.err
    assert "dabba status" in answer.err
    dabba("put", "k", "v", "--retry-version", VERSION.hex())
    assert data.asked[-1].retry_version == VERSION


@pytest.mark.parametrize("version", ["xyz", "00", "00" * 17])
def test_a_version_that_is_none_is_a_usage_error(
    dabba: Dabba, data: DataStandIn, version: str
) -> None:
    answer = dabba("put", "k", "v", "--retry-version", version)
    assert answer.status == 2
    assert "32 hexadecimal digits" in answer.err
    assert not data.asked


def test_delete_says_whether_there_was_a_value(dabba: Dabba, data: DataStandIn) -> None:
    assert "no value" not in dabba("delete", "k").out
    assert "there was no value" in dabba("delete", "absent").out
    assert dabba("delete", "absent", "-o", "json").json["existed"] is False


def test_where_as_json_names_all_that_checks_it_on_the_owner(
    dabba: Dabba, data: DataStandIn
) -> None:
    shown = dabba("where", "k", "-o", "json").json
    assert (shown["bucket"], shown["epoch"], shown["target"]) == (17, 4, "node-2")
    assert shown["key_hash"] == "0x8000000000000001"
    assert shown["reason"] == "fastest in zone b"
    assert (shown["data_key"], shown["field"]) == ("dabba:{default:17}:data", "kk")
    owners = shown["owners"]
    assert isinstance(owners, list)
    assert [owner["zone"] for owner in owners] == ["a", "b"]
    assert owners[0].keys() >= {"node", "zone", "address", "health"}
    assert shown["check"] == ("redis-cli -h 127.0.0.1 -p 21002 HGET 'dabba:{default:17}:data' kk")


def test_where_shows_owners_target_and_the_command_to_check(
    dabba: Dabba, data: DataStandIn
) -> None:
    out = dabba("where", "two words").out
    for words in ("node-1", "127.0.0.1:21001", "fastest in zone b", "connected", "0.25 ms"):
        assert words in out
    assert "HGET 'dabba:{default:17}:data' 'ktwo words'" in out


def test_a_server_error_is_one_line_with_the_next_command(dabba: Dabba, data: DataStandIn) -> None:
    answer = dabba("get", "k", "-k", "missing", "-o", "json")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == (
        "dabba: there is no keyspace 'missing'; see which there are: dabba keyspace list\n"
    )


@pytest.mark.slow
def test_a_server_that_does_not_answer_ends_the_command_in_time(
    dabba: Dabba, data: DataStandIn
) -> None:
    answer = dabba("get", "slow", "--timeout", "0.05")
    assert answer.status == 1
    assert "did not answer within 0.05 s" in answer.err


def test_a_control_plane_in_place_of_a_sidecar_is_told_apart(
    dabba: Dabba, data: DataStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = dabba("status", "--control-plane", os.environ["DABBA_SIDECAR"])
    assert answer.status == 1
    assert "--control-plane" in answer.err


@pytest.mark.parametrize("command", [("get", "k"), ("put", "k", "v"), ("delete", "k")])
def test_what_came_of_it_is_said_also_when_the_session_can_not_be_kept(
    dabba: Dabba, data: DataStandIn, tmp_path: Path, command: tuple[str, ...]
) -> None:
    said = dabba(*command).out
    answer = dabba(*command, "--session", str(tmp_path / "no folder" / "session"))
    assert (answer.status, answer.out) == (2, said)
    assert "--session" in answer.err


def test_a_token_that_can_be_none_is_refused_without_being_told(
    dabba: Dabba, data: DataStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DABBA_TOKEN", "two\nlines")
    answer = dabba("get", "k")
    assert (answer.status, data.asked) == (1, [])
    assert "DABBA_TOKEN is no token" in answer.err
    assert "two" not in answer.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"DABBA_TLS_CA": "nowhere"}, "DABBA_TLS_CA is nowhere: No such file or directory"),
        ({"DABBA_TLS_CERT": "/dev/null"}, "DABBA_TLS_CERT and DABBA_TLS_KEY belong together"),
        (
            {"DABBA_TLS_CERT": "/dev/null", "DABBA_TLS_KEY": "/dev/null"},
            "export DABBA_TLS_CA=FILE",
        ),
    ],
    ids=["no such file", "no key", "no authority"],
)
def test_half_of_what_tls_takes_is_refused_and_nothing_is_asked_in_the_clear(
    dabba: Dabba,
    data: DataStandIn,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    said: str,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    answer = dabba("get", "k")
    assert (answer.status, data.asked) == (1, [])
    assert said in answer.err
