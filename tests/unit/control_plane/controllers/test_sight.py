from dataclasses import replace

import pytest

from control_plane.controllers.records import RESTARTED_EMPTY
from control_plane.controllers.sight import (
    DOWN,
    SUSPECT,
    UP,
    Sight,
    cluster_mark,
    health,
    parse_info,
    sight_of,
)
from replicas.identity import Identity
from tests.support.cluster_states import MARK, record, run_id, sight

INFO = (
    b"# Server\r\nredis_version:7.2.4\r\nvalkey_version:9.0.1\r\nserver_mode:standalone\r\n"
    b"run_id:0101010101010101010101010101010101010101\r\n# Replication\r\nrole:master\r\n"
    b"connected_slaves:1\r\nmaxmemory_policy:noeviction\r\nused_memory:1234\r\nevicted_keys:0\r\n"
    b"aof_enabled:1\r\naof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0\r\n"
    b"aof_last_bgrewrite_status:ok\r\naof_last_write_status:ok\r\n"
    b"# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\ndb7:keys=4,expires=0,avg_ttl=0\r\n"
)
APPEND = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}


def look(info: bytes = INFO, append: dict[str, str] = APPEND) -> Sight:
    return sight_of(
        "10.0.0.1:7001",
        parse_info(info),
        append,
        at_ms=1,
        clock_offset_ms=0.0,
        identity=Identity(MARK, "n1", 1),
    )


def test_info_is_read() -> None:
    assert look() == replace(
        sight(1),
        server="valkey 9.0.1",
        connected_replicas=1,
        used_memory_bytes=1234,
        keys=7,
    )


@pytest.mark.parametrize(
    "append",
    [
        {"appendonly": "no"},
        {"appendfsync": "everysec"},
        {"no-appendfsync-on-rewrite": "yes"},
    ],
)
def test_durable_means_on_disk_before_every_answer(append: dict[str, str]) -> None:
    found = look(append=APPEND | append)
    assert not found.configured_durable
    assert not found.durable


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"aof_rewrite_in_progress:0", b"aof_rewrite_in_progress:1"),
        (b"aof_rewrite_scheduled:0", b"aof_rewrite_scheduled:1"),
        (b"aof_last_bgrewrite_status:ok", b"aof_last_bgrewrite_status:err"),
        (b"aof_last_write_status:ok", b"aof_last_write_status:err"),
        (b"aof_enabled:1", b"aof_enabled:0"),
    ],
)
def test_data_is_settled_once_the_log_is_complete(good: bytes, bad: bytes) -> None:
    assert good in INFO
    found = look(INFO.replace(good, bad))
    assert found == replace(look(), settled=False)


def test_a_server_that_says_little_is_not_taken_for_more() -> None:
    found = sight_of("h:1", {}, {}, at_ms=1, clock_offset_ms=0.0, identity=None)
    assert found.run_id == b""
    assert found.role == ""
    assert not found.durable


def test_only_what_always_changes_is_no_news() -> None:
    before = sight(1)
    quiet = replace(before, at_ms=9, keys=9, used_memory_bytes=9, clock_offset_ms=9.0)
    assert before.says_the_same(quiet)
    for news in (
        replace(before, run_id=run_id(2)),
        replace(before, fault="unreachable"),
        replace(before, settled=False),
        replace(before, identity=None),
        replace(before, role="slave"),
    ):
        assert not before.says_the_same(news)


def test_health_in_one_word_with_its_reason() -> None:
    out = record(1).suspected(RESTARTED_EMPTY, "restarted empty", run_id(9))
    down = sight(1, fault="unreachable", detail="no connection")
    cases = [
        (record(1), sight(1), UP, ""),
        (record(1), None, DOWN, "not looked at yet"),
        (record(1), down, DOWN, "no connection"),
        (out, down, DOWN, "no connection; restarted empty"),
        (out, sight(1), SUSPECT, "restarted empty"),
        (record(1), sight(1, fault="Evicting", detail="evicts"), SUSPECT, "evicts"),
        (record(1), sight(1, fault="TooOld", detail="too old"), DOWN, "too old"),
    ]
    for known, seen, word, reason in cases:
        assert health(known, seen, MARK) == (word, reason)


def test_a_restarted_node_is_suspect_until_it_is_judged() -> None:
    word, reason = health(record(1), sight(1, run_id=run_id(9)), MARK)
    assert word == SUSPECT
    assert "restarted" in reason


def test_another_nodes_server_is_not_this_node() -> None:
    stranger = sight(1, run_id=run_id(9), identity=Identity(MARK, "n2", 1))
    word, reason = health(record(1), stranger, MARK)
    assert word == DOWN
    assert "node 'n2' of cluster 'test'" in reason
    other = replace(stranger, identity=Identity(cluster_mark("prod", "1"), "n1", 1))
    assert "'prod'" in health(record(1), other, MARK)[1]
