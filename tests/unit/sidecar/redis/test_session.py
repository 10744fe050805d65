"""One connection: the order of its replies, and what happens at its bounds."""

from dataclasses import replace

import pytest

from sidecar.core.operation import Read
from sidecar.errors import DataError, Fault, Reason
from sidecar.redis.limits import RespLimits
from tests.support.conversation import Conversation, packed


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


def test_replies_keep_the_order_of_commands_whatever_the_order_of_answers(
    talk: Conversation,
) -> None:
    for key in "abc":
        talk.send("SET", key, key.upper())
    talk.coordinator.hold()
    asked = packed("GET", "a") + packed("GET", "b") + packed("PING") + packed("GET", "c")
    assert talk.send_bytes(asked) == b""
    talk.coordinator.release(2)
    assert talk.take() == b""
    talk.coordinator.release(0)
    assert talk.take() == b"$1\r\nA\r\n"
    talk.coordinator.release()
    assert talk.take() == b"$1\r\nB\r\n+PONG\r\n$1\r\nC\r\n"


def test_a_command_on_many_keys_is_answered_when_its_last_key_is(talk: Conversation) -> None:
    talk.send("MSET", "a", "1", "b", "2")
    talk.coordinator.hold()
    assert talk.send("MGET", "a", "b", "c") == b""
    talk.coordinator.release(2, 0)
    assert talk.take() == b""
    talk.coordinator.release()
    assert talk.take() == b"*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n"


def test_the_door_is_woken_once_for_what_becomes_due_together(talk: Conversation) -> None:
    talk.session.feed(packed("PING") * 5 + packed("GET", "a") * 5, talk.now)
    assert talk.woken == 1
    assert talk.take() == b"+PONG\r\n" * 5 + b"$-1\r\n" * 5
    talk.session.feed(packed("PING"), talk.now)
    assert talk.woken == 2


def test_reading_stops_while_too_much_is_under_way() -> None:
    talk = Conversation(replace(RespLimits(), in_flight=4))
    talk.coordinator.hold()
    talk.session.feed(packed("GET", "a") * 10, talk.now)
    assert len(talk.session.pending) == 4
    assert talk.session.blocked
    talk.coordinator.release(0)
    assert talk.take() == b"$-1\r\n"
    assert len(talk.session.pending) == 4
    assert len(talk.session.backlog) == 5
    talk.coordinator.release()
    assert talk.take() == b"$-1\r\n" * 9
    assert not talk.session.blocked


def test_keys_of_one_command_count_as_under_way() -> None:
    talk = Conversation(replace(RespLimits(), in_flight=4))
    talk.coordinator.hold()
    talk.session.feed(packed("MGET", *"abcdef") + packed("PING"), talk.now)
    talk.session.feed(packed("GET", "a"), talk.now)
    assert [command[0] for command in talk.session.backlog] == [b"GET"]
    talk.coordinator.release()
    assert talk.take() == b"*6\r\n" + b"$-1\r\n" * 6 + b"+PONG\r\n" + b"$-1\r\n"


def test_a_backlog_that_needs_no_replica_is_worked_off_turn_by_turn() -> None:
    talk = Conversation(replace(RespLimits(), in_flight=4))
    talk.session.feed(packed("PING") * 10, talk.now)
    assert len(talk.session.backlog) == 6
    assert talk.session.take_output() == b"+PONG\r\n" * 4
    woken = talk.woken
    talk.session.advance(talk.now)
    assert talk.woken == woken + 1
    assert talk.take() == b"+PONG\r\n" * 6


def test_nothing_is_dispatched_while_the_client_does_not_read() -> None:
    talk = Conversation(replace(RespLimits(), in_flight=4))
    talk.session.feed(packed("PING") * 10, talk.now)
    talk.session.output_paused = True
    talk.session.advance(talk.now)
    assert len(talk.session.backlog) == 6
    assert talk.session.blocked


def test_large_replies_lower_what_may_be_under_way(talk: Conversation) -> None:
    talk.send("SET", "big", b"v" * 200_000)
    talk.send_bytes(packed("GET", "big") * 5)
    large = talk.session.in_flight_limit
    assert large < 16
    talk.send_bytes(packed("PING") * 5)
    assert talk.session.in_flight_limit == talk.limits.in_flight


def test_one_large_reply_lowers_it_too(talk: Conversation) -> None:
    talk.send("SET", "big", b"v" * 1_000_000)
    talk.send_bytes(packed("PING") * 5)
    talk.send("GET", "big")
    assert talk.session.in_flight_limit == 2


def test_a_new_connection_has_little_under_way_until_replies_have_a_size(
    talk: Conversation,
) -> None:
    talk.coordinator.hold()
    talk.session.feed(packed("GET", "a") * 500, talk.now)
    assert len(talk.session.pending) == 16


def test_commands_before_a_protocol_error_are_answered_then_it_is_then_the_end(
    talk: Conversation,
) -> None:
    talk.coordinator.hold()
    assert talk.send_bytes(packed("GET", "a") + b"*1\r\n$-1\r\n" + packed("PING")) == b""
    assert talk.session.closing
    assert not talk.session.finished
    talk.coordinator.release()
    assert talk.take() == b"$-1\r\n-ERR Protocol error: invalid bulk length\r\n"
    assert talk.session.finished


def test_a_protocol_error_behind_a_backlog_waits_for_it() -> None:
    talk = Conversation(replace(RespLimits(), in_flight=2))
    assert talk.send_bytes(packed("PING") * 5 + b"*x\r\n") == (
        b"+PONG\r\n" * 5 + b"-ERR Protocol error: invalid multibulk length\r\n"
    )
    assert talk.session.finished


def test_http_is_hung_up_on_without_a_word(talk: Conversation) -> None:
    assert talk.send_bytes(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
    assert talk.session.finished


def test_nothing_after_quit_is_run(talk: Conversation) -> None:
    assert talk.send_bytes(packed("QUIT") + packed("SET", "a", "1")) == b"+OK\r\n"
    assert talk.session.finished
    assert talk.send("PING") == b""
    talk.session = talk.another()
    assert talk.send("GET", "a") == b"$-1\r\n"


def test_an_answer_after_the_connection_is_gone_goes_nowhere(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.session.feed(packed("GET", "a") + packed("MGET", "a", "b"), talk.now)
    waiting = [op for op in talk.session.pending if isinstance(op, Read)]
    talk.session.forget()
    woken = talk.woken
    talk.coordinator.release()
    assert talk.woken == woken
    assert talk.take() == b""
    assert waiting[0].record is None


@pytest.mark.parametrize("command", [("GET", "a"), ("MGET", "a", "b"), ("PING",), ("NOSUCH",)])
def test_reply_off_swallows_every_reply(talk: Conversation, command: tuple[str, ...]) -> None:
    assert talk.send("CLIENT", "REPLY", "OFF") == b""
    assert talk.send(*command) == b""
    assert talk.send("CLIENT", "REPLY", "ON") == b"+OK\r\n"
    assert talk.send("PING") == b"+PONG\r\n"


@pytest.mark.parametrize("command", [("GET", "a"), ("DEL", "a", "b"), ("PING",), ("SET", "a", "1")])
def test_reply_skip_swallows_the_next_reply_only(
    talk: Conversation, command: tuple[str, ...]
) -> None:
    assert talk.send("CLIENT", "REPLY", "SKIP") == b""
    assert talk.send_bytes(packed(*command) + packed("PING")) == b"+PONG\r\n"


def test_muted_operations_keep_their_place(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.send_bytes(packed("GET", "x") + packed("CLIENT", "REPLY", "SKIP") + packed("GET", "a"))
    talk.send_bytes(packed("GET", "y"))
    talk.coordinator.release(2, 1)
    assert talk.take() == b""
    talk.coordinator.release()
    assert talk.take() == b"$-1\r\n" * 2


def test_a_connection_older_than_the_map_finds_its_keyspace_later() -> None:
    talk = Conversation()
    talk.coordinator.has_map = False
    talk.session = talk.another()
    assert talk.send("GET", "a") == (b"-UNAVAILABLE no map of the cluster yet (reason=NO_MAP)\r\n")
    talk.coordinator.has_map = True
    talk.coordinator.keyspaces = {0: "other", 1: "default"}
    talk.send("SET", "a", "1")
    assert talk.session.keyspace == "other"


def test_deadlines_count_from_the_batch(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.now = 500.0
    talk.send("GET", "a")
    op = talk.session.pending[0]
    assert isinstance(op, Read)
    assert op.deadline == pytest.approx(501.0)


def test_commands_and_errors_are_counted(talk: Conversation) -> None:
    talk.coordinator.failures[b"bad"] = DataError(Reason.TIMEOUT, Fault.TIMEOUT, "too late")
    talk.send_bytes(packed("GET", "a") * 3 + packed("get", "bad") + packed("FOO") + packed("GET"))
    counters = talk.door.counters
    assert counters.calls == [5, 0, 0, 0, 0, 0, 0, 1]
    assert counters.errors == 3
    assert counters.bytes_in > 0
    assert counters.numbers()["calls_read"] == 5
    assert counters.numbers()["calls_unknown"] == 1
