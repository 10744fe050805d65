"""SCAN and DBSIZE over the Redis door."""

import pytest
from hiredis import Reader

from sidecar.errors import DataError, Fault, Reason
from tests.support.conversation import Conversation


@pytest.fixture
def talk() -> Conversation:
    made = Conversation()
    for n in range(25):
        made.send("SET", f"user:{n}", "v")
    made.send("SET", "other", "v")
    return made


def scanned(talk: Conversation, *arguments: str) -> tuple[bytes, list[bytes]]:
    reader = Reader()
    reader.feed(talk.send("SCAN", *arguments))
    cursor, keys = reader.gets()
    return cursor, keys


def walked(talk: Conversation, *options: str) -> list[bytes]:
    cursor, keys = scanned(talk, "0", *options)
    pages = 1
    while cursor != b"0":
        cursor, more = scanned(talk, cursor.decode(), *options)
        keys += more
        pages += 1
        assert pages < 100
    return sorted(keys)


def test_every_key_is_given_once_ten_at_a_time(talk: Conversation) -> None:
    cursor, keys = scanned(talk, "0")
    assert len(keys) == 10
    assert 0 < int(cursor) < 1 << 63
    assert walked(talk) == sorted([b"other", *(b"user:%d" % n for n in range(25))])


def test_match_count_and_type(talk: Conversation) -> None:
    assert walked(talk, "MATCH", "user:1?", "COUNT", "3") == [b"user:%d" % n for n in range(10, 20)]
    assert walked(talk, "match", "*er", "type", "STRING") == [b"other"]
    assert scanned(talk, "0", "TYPE", "hash") == (b"0", [])
    assert len(scanned(talk, "0", "COUNT", "1000000")[1]) == 26


def test_what_was_deleted_or_has_expired_is_not_given(talk: Conversation) -> None:
    talk.send("DEL", "user:1")
    talk.send("SET", "user:2", "v", "PX", "10")
    talk.clock.now_ms += 11
    assert not {b"user:1", b"user:2"} & set(walked(talk))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x",), b"-ERR invalid cursor\r\n"),
        (("-1",), b"-ERR invalid cursor\r\n"),
        (("31",), b"-ERR invalid cursor\r\n"),
        (("0", "MATCH"), b"-ERR syntax error\r\n"),
        (("0", "FOO", "x"), b"-ERR syntax error\r\n"),
        (("0", "COUNT", "0"), b"-ERR syntax error\r\n"),
        (("0", "COUNT", "x"), b"-ERR value is not an integer or out of range\r\n"),
    ],
)
def test_wrong_arguments(talk: Conversation, arguments: tuple[str, ...], said: bytes) -> None:
    assert talk.send("SCAN", *arguments) == said


def test_a_key_that_can_not_be_read_fails_the_page(talk: Conversation) -> None:
    talk.coordinator.failures[b"user:3"] = DataError(
        Reason.NOT_ENOUGH_REPLICAS, Fault.UNAVAILABLE, "not now"
    )
    assert talk.send("SCAN", "0", "COUNT", "100").startswith(b"-UNAVAILABLE not now")


def test_a_scan_keeps_its_place_among_the_replies(talk: Conversation) -> None:
    talk.coordinator.hold()
    assert talk.send("SCAN", "0", "COUNT", "1000") == b""
    assert talk.send("PING") == b""
    while talk.coordinator.held:
        talk.coordinator.release()
        talk.coordinator.hold()
    reply = talk.take()
    assert reply.startswith(b"*2\r\n$1\r\n0\r\n*26\r\n")
    assert reply.endswith(b"+PONG\r\n")


def test_a_client_that_leaves_is_not_answered(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.send("SCAN", "0")
    talk.session.forget()
    talk.coordinator.release()
    assert talk.take() == b""


def test_dbsize_counts_and_client_reply_swallows_it(talk: Conversation) -> None:
    assert talk.send("DBSIZE") == b":26\r\n"
    assert talk.send("CLIENT", "REPLY", "SKIP") == b""
    assert talk.send("DBSIZE") == b""
    assert talk.send("PING") == b"+PONG\r\n"
