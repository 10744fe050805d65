"""GETs that stand side by side are read as one batch, and nobody can tell."""

from dataclasses import replace

import pytest

from buckets.bucket_map import Consistency
from sidecar.errors import DataError, Fault, Reason
from sidecar.redis.limits import RespLimits
from tests.support.conversation import Conversation, packed
from tests.support.memory_coordinator import MemoryCoordinator


def batching(limits: RespLimits | None = None) -> Conversation:
    """Keys a, b, c hold A, B, C."""
    talk = Conversation(limits or RespLimits())
    for key in "abc":
        talk.send("SET", key, key.upper())
    talk.coordinator.in_batches = True
    return talk


@pytest.fixture
def talk() -> Conversation:
    return batching()


def keys_read(coordinator: MemoryCoordinator) -> list[list[bytes]]:
    return [batch.keys for batch in coordinator.batches]


def test_neighbours_are_read_together_and_others_end_the_batch(talk: Conversation) -> None:
    asked = packed("GET", "a") + packed("get", "nosuch") + packed("PING") + packed("GET", "b")
    assert talk.send_bytes(asked) == b"$1\r\nA\r\n$-1\r\n+PONG\r\n$1\r\nB\r\n"
    assert keys_read(talk.coordinator) == [[b"a", b"nosuch"], [b"b"]]
    assert talk.door.counters.numbers()["calls_read"] == 3


def test_what_is_no_get_of_one_key_is_refused_in_its_place(talk: Conversation) -> None:
    asked = packed("GET", "a") + packed("GET") + packed("GET", "b", "c") + packed("nosuch")
    replies = talk.send_bytes(asked + packed("GET", "c")).split(b"\r\n")
    assert [reply[:20] for reply in replies[:-1]] == [
        b"$1",
        b"A",
        b"-ERR wrong number of",
        b"-ERR wrong number of",
        b"-ERR unknown command",
        b"$1",
        b"C",
    ]


def test_absent_is_null_in_the_third_version(talk: Conversation) -> None:
    talk.send("HELLO", "3")
    assert talk.send_bytes(packed("GET", "nosuch") * 2) == b"_\r\n_\r\n"


def test_batches_keep_the_order_of_commands_whatever_the_order_of_answers(
    talk: Conversation,
) -> None:
    talk.coordinator.hold()
    two = packed("GET", "a") + packed("GET", "b")
    assert talk.send_bytes(two + packed("STRLEN", "a") + packed("GET", "c")) == b""
    talk.coordinator.release(2)
    assert talk.take() == b""
    talk.coordinator.release(0)
    assert talk.take() == b"$1\r\nA\r\n$1\r\nB\r\n"
    talk.coordinator.release()
    assert talk.take() == b":1\r\n$1\r\nC\r\n"


def test_a_batch_that_falls_apart_is_answered_key_by_key_in_its_place(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.send_bytes(packed("GET", "a"))
    talk.send_bytes(packed("GET", "a") + packed("GET", "b"))
    talk.send_bytes(packed("GET", "c"))
    talk.coordinator.dissolve(talk.coordinator.batches[1])
    talk.coordinator.release(0, 2, 4)  # the first, the third, and b
    assert talk.take() == b"$1\r\nA\r\n"
    talk.coordinator.release(1)  # a
    assert talk.take() == b"$1\r\nA\r\n$1\r\nB\r\n$1\r\nC\r\n"


def test_a_part_that_fails_fails_alone(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.send_bytes(packed("GET", "a") + packed("GET", "b"))
    why = DataError(Reason.TIMEOUT, Fault.TIMEOUT, "too late")
    talk.coordinator.failures[b"a"] = why
    talk.coordinator.dissolve(talk.coordinator.batches[0])
    talk.coordinator.release(1, 2)
    replies = talk.take()
    assert replies.startswith(b"-TIMEOUT")
    assert replies.endswith(b"$1\r\nB\r\n")


def test_what_can_not_be_begun_as_one_is_read_key_by_key(talk: Conversation) -> None:
    long = "k" * 2000
    replies = talk.send_bytes(packed("GET", "a") + packed("GET", long) + packed("GET", "b"))
    assert replies.startswith(b"$1\r\nA\r\n-")
    assert replies.endswith(b"$1\r\nB\r\n")
    assert not talk.coordinator.batches


def test_muted_reads_are_no_batch(talk: Conversation) -> None:
    talk.send("CLIENT", "REPLY", "OFF")
    assert talk.send_bytes(packed("GET", "a") * 3) == b""
    assert not talk.coordinator.batches


def test_keys_of_a_batch_count_as_under_way() -> None:
    talk = batching(replace(RespLimits(), in_flight=4))
    talk.send_bytes(packed("PING") * 2)
    talk.coordinator.hold()
    talk.session.feed(packed("GET", "a") * 10, talk.now)
    assert keys_read(talk.coordinator) == [[b"a"] * 4]
    assert talk.session.blocked
    talk.coordinator.release()
    assert talk.take() == b"$1\r\nA\r\n" * 10
    assert not talk.session.blocked


def test_replies_of_a_batch_are_measured_one_by_one(talk: Conversation) -> None:
    talk.send("SET", "big", b"v" * 20_000)
    talk.send_bytes(packed("GET", "big") * 20)
    several = talk.session.in_flight_limit
    assert 50 < several < 200


def test_the_level_and_deadline_of_the_session_are_those_of_the_batch(talk: Conversation) -> None:
    talk.send("DABBA.CONSISTENCY", "one")
    talk.send("GET", "a")
    [batch] = talk.coordinator.batches
    assert batch.level == Consistency.ONE
    assert batch.deadline == talk.now + talk.coordinator.default_timeout_ms / 1000


def test_an_answer_after_the_connection_is_gone_goes_nowhere(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.send_bytes(packed("GET", "a") + packed("GET", "b"))
    talk.send_bytes(packed("GET", "c"))
    talk.session.forget()
    talk.coordinator.dissolve(talk.coordinator.batches[1])
    talk.coordinator.release()
    assert talk.take() == b""
    assert talk.session.finished
