"""DABBA.SESSION and the levels that are of reads or of writes alone, on a conversation."""

import pytest

from buckets.bucket_map import Consistency
from sidecar.core.operation import Read, Write
from tests.support.conversation import Conversation, packed


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


def token(talk: Conversation) -> bytes:
    reply = talk.send("DABBA.SESSION", "GET")
    assert reply.startswith(b"$"), reply
    return reply.split(b"\r\n")[1]


def levels(talk: Conversation) -> list[int]:
    """Of a read and of a write, as they are asked."""
    talk.coordinator.hold()
    talk.send_bytes(packed("GET", "a") + packed("SET", "b", "v"))
    asked = [op.level for op in talk.session.pending if isinstance(op, Read | Write)]
    talk.coordinator.release()
    return asked


def test_a_connection_begins_goes_on_with_and_leaves_a_session(talk: Conversation) -> None:
    assert talk.send("DABBA.SESSION", "GET").startswith(b"-ERR this connection is in no session")
    assert talk.send("DABBA.SESSION", "START") == b"+OK\r\n"
    empty = token(talk)
    talk.send("SET", "k", "v")
    full = token(talk)
    assert len(full) > len(empty)
    assert talk.send("DABBA.SESSION", "SET", full) == b"+OK\r\n"
    assert talk.send("DABBA.SESSION", full) == b"+OK\r\n"
    assert token(talk) == full
    assert talk.send("GET", "k") == b"$1\r\nv\r\n"
    assert talk.send("DABBA.SESSION", "STOP") == b"+OK\r\n"
    assert talk.send("DABBA.SESSION", "GET").startswith(b"-ERR this connection is in no session")


def test_a_bad_token_is_refused_and_the_session_stays_as_it_was(talk: Conversation) -> None:
    talk.send("DABBA.SESSION", "START")
    talk.send("SET", "k", "v")
    before = token(talk)
    assert b"reason=SESSION_INVALID" in talk.send("DABBA.SESSION", "SET", before[:-2])
    assert b"wrong number of arguments" in talk.send("DABBA.SESSION", "SET")
    assert token(talk) == before


def test_a_token_asked_for_in_a_pipeline_has_all_that_was_answered_before_it(
    talk: Conversation,
) -> None:
    talk.send("DABBA.SESSION", "START")
    empty = token(talk)
    talk.coordinator.hold()
    assert talk.send_bytes(packed("SET", "k", "v") + packed("DABBA.SESSION", "GET")) == b""
    talk.coordinator.release()
    stored, _, given = talk.session.take_output().split(b"\r\n")[:3]
    assert stored == b"+OK"
    assert given == token(talk) != empty


def test_reset_ends_a_session(talk: Conversation) -> None:
    talk.send("DABBA.CONSISTENCY", "SESSION")
    assert talk.send("RESET") == b"+RESET\r\n"
    assert talk.send("DABBA.SESSION", "GET").startswith(b"-ERR this connection is in no session")
    assert talk.send("DABBA.CONSISTENCY") == b"$7\r\nDEFAULT\r\n"


def test_level_session_begins_one_and_is_of_reads_alone(talk: Conversation) -> None:
    talk.send("DABBA.CONSISTENCY", "ALL")
    assert talk.send("DABBA.CONSISTENCY", "session") == b"+OK\r\n"
    assert talk.send("DABBA.CONSISTENCY") == b"$11\r\nSESSION ALL\r\n"
    assert token(talk)
    assert levels(talk) == [Consistency.ONE, Consistency.ALL]
    talk.send("DABBA.SESSION", "STOP")
    assert talk.send("DABBA.CONSISTENCY") == b"$11\r\nDEFAULT ALL\r\n"


def test_level_any_is_of_writes_alone(talk: Conversation) -> None:
    talk.send("DABBA.CONSISTENCY", "LOCAL_QUORUM")
    assert talk.send("DABBA.CONSISTENCY", "any") == b"+OK\r\n"
    assert talk.send("DABBA.CONSISTENCY") == b"$16\r\nLOCAL_QUORUM ANY\r\n"
    assert levels(talk) == [Consistency.LOCAL_QUORUM, Consistency.ANY]
    talk.send("DABBA.CONSISTENCY", "ONE")
    assert levels(talk) == [Consistency.ONE, Consistency.ONE]


def test_without_a_key_to_sign_with_there_are_no_sessions(talk: Conversation) -> None:
    talk.coordinator.sessions.keys = None
    for command in (("DABBA.SESSION", "START"), ("DABBA.CONSISTENCY", "SESSION")):
        reply = talk.send(*command)
        assert reply.startswith(b"-ERR this sidecar has no key")
        assert b"session_key_file" in reply
    assert talk.send("DABBA.CONSISTENCY") == b"$7\r\nDEFAULT\r\n"


def test_a_client_that_leaves_in_mid_session_is_forgotten(talk: Conversation) -> None:
    talk.send("DABBA.SESSION", "START")
    talk.coordinator.hold()
    talk.send_bytes(packed("SET", "k", "v") + packed("DABBA.SESSION", "GET"))
    talk.session.forget()
    talk.coordinator.release()
    assert talk.session.finished


def test_gets_side_by_side_in_a_session_are_reads_of_the_session(talk: Conversation) -> None:
    talk.coordinator.in_batches = True
    talk.send_bytes(packed("SET", "a", "v") + packed("SET", "b", "v"))
    talk.send("DABBA.SESSION", "START")
    before = token(talk)
    assert talk.send_bytes(packed("GET", "a") + packed("GET", "b")) == b"$1\r\nv\r\n" * 2
    assert len(token(talk)) > len(before)  # both were met
