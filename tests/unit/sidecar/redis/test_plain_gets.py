"""Plain GETs take a shorter way, alone together with those of others, and nobody can tell."""

import pytest

from buckets.bucket_map import Consistency
from sidecar.redis.session import Session
from tests.support.conversation import Conversation, packed

GET_A, GET_B, GET_C = (packed("GET", key) for key in "abc")


@pytest.fixture
def talk() -> Conversation:
    """Keys a, b, c hold A, B, C."""
    made = Conversation()
    for key in "abc":
        made.send("SET", key, key.upper())
    made.coordinator.in_batches = True
    return made


@pytest.fixture
def others(talk: Conversation) -> list[Session]:
    return [talk.another() for _ in range(3)]


def keys_read(talk: Conversation) -> list[list[bytes]]:
    return [batch.keys for batch in talk.coordinator.batches]


def test_those_of_one_turn_are_read_together_and_answered_each(
    talk: Conversation, others: list[Session]
) -> None:
    for session, data in zip(others, (GET_A, packed("get", "nosuch"), GET_C), strict=True):
        talk.feed(data, session)
    assert keys_read(talk) == []
    talk.end_turn()
    assert keys_read(talk) == [[b"a", b"nosuch", b"c"]]
    answers = [session.take_output() for session in others]
    assert answers == [b"$1\r\nA\r\n", b"$-1\r\n", b"$1\r\nC\r\n"]
    assert talk.door.counters.numbers()["calls_read"] == 3
    assert not any(session.pending for session in others)
    assert not any(session.reading for session in others)


def test_those_of_the_next_turn_are_read_by_themselves(
    talk: Conversation, others: list[Session]
) -> None:
    for session in others:
        talk.feed(GET_B, session)
        talk.end_turn()
    assert keys_read(talk) == [[b"b"]] * 3


def test_keyspaces_and_levels_are_kept_apart(talk: Conversation, others: list[Session]) -> None:
    others[1].level = Consistency.ONE
    others[2].select(1)
    for session in others:
        talk.feed(GET_A, session)
    talk.end_turn()
    batches = talk.coordinator.batches
    assert [(batch.keyspace, batch.level) for batch in batches] == [
        ("default", Consistency.QUORUM),
        ("default", Consistency.ONE),
        ("other", Consistency.QUORUM),
    ]
    assert [session.take_output() for session in others][1:] == [b"$1\r\nA\r\n", b"$-1\r\n"]


@pytest.mark.parametrize(
    "data",
    [
        packed("GET"),
        GET_A + packed("PING"),
        GET_A * 2 + b"*",
        packed("GET", "a", "b"),
        packed("MGET", "a"),
        GET_A[:-1],
        b"x",
    ],
)
def test_anything_but_whole_gets_is_for_the_session(talk: Conversation, data: bytes) -> None:
    assert not talk.plain_gets.take(talk.session, data, talk.now)
    assert not talk.session.pending


def test_a_get_in_pieces_is_for_the_session(talk: Conversation) -> None:
    talk.feed(GET_A[:5])
    assert not talk.plain_gets.take(talk.session, GET_A[5:], talk.now)
    assert talk.send_bytes(GET_A[5:]) == b"$1\r\nA\r\n"


@pytest.mark.parametrize(
    "settings",
    [("CLIENT", "REPLY", "SKIP"), ("DABBA.SESSION", "START"), ("QUIT",)],
    ids=["muted", "in a session", "leaving"],
)
def test_who_is_not_plain_is_for_the_session(talk: Conversation, settings: tuple[str, ...]) -> None:
    talk.send(*settings)
    assert not talk.plain_gets.take(talk.session, GET_A, talk.now)


def test_who_waits_for_something_is_for_the_session(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.send_bytes(GET_A)
    assert not talk.plain_gets.take(talk.session, GET_B, talk.now)


def test_without_a_map_it_is_read_by_itself(talk: Conversation) -> None:
    talk.coordinator.has_map = False
    early = talk.another()
    talk.feed(GET_A, early)
    talk.end_turn()
    assert early.take_output().startswith(b"-")


def test_what_a_batch_may_not_do_is_read_by_itself(
    talk: Conversation, others: list[Session]
) -> None:
    talk.coordinator.in_batches = False
    for session in others:
        talk.feed(GET_A, session)
    talk.end_turn()
    assert [session.take_output() for session in others] == [b"$1\r\nA\r\n"] * 3


def test_when_its_batch_dissolves_each_is_answered(
    talk: Conversation, others: list[Session]
) -> None:
    talk.coordinator.hold()
    for session, data in zip(others, (GET_A, GET_B, GET_C), strict=True):
        talk.feed(data, session)
    talk.end_turn()
    talk.feed(packed("PING"), others[0])
    talk.coordinator.hold()  # the batch's own answer never comes
    talk.coordinator.dissolve(talk.coordinator.batches[0])
    talk.coordinator.release()
    answers = [session.take_output() for session in others]
    assert answers == [b"$1\r\nA\r\n+PONG\r\n", b"$1\r\nB\r\n", b"$1\r\nC\r\n"]


def test_what_follows_keeps_its_place(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.feed(GET_A)
    talk.feed(packed("PING") + GET_B)
    talk.end_turn()
    assert talk.take() == b""
    talk.coordinator.release()
    assert talk.take() == b"$1\r\nA\r\n+PONG\r\n$1\r\nB\r\n"


def test_a_write_of_its_key_waits_for_it(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.feed(GET_A)
    talk.feed(packed("SET", "a", "new") + GET_A)
    talk.end_turn()
    assert len(talk.session.pending) == 1  # the write has not begun
    talk.coordinator.release()
    assert talk.take() == b"$1\r\nA\r\n+OK\r\n$3\r\nnew\r\n"


def test_a_write_of_its_key_waits_for_it_when_its_batch_dissolves(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.feed(GET_A)
    talk.feed(packed("SET", "a", "new"))
    talk.end_turn()
    talk.coordinator.hold()  # the batch's own answer never comes
    talk.coordinator.dissolve(talk.coordinator.batches[0])
    assert talk.session.backlog
    talk.coordinator.release()
    assert talk.take().startswith(b"$1\r\nA\r\n")


def test_the_others_are_answered_when_one_is_gone(
    talk: Conversation, others: list[Session]
) -> None:
    talk.coordinator.hold()
    for session in others:
        talk.feed(GET_A, session)
    talk.end_turn()
    others[1].forget()
    talk.coordinator.release()
    assert [session.take_output() for session in others] == [
        b"$1\r\nA\r\n",
        b"",
        b"$1\r\nA\r\n",
    ]


@pytest.mark.parametrize("in_batches", [True, False])
def test_who_is_gone_before_the_turn_ends_is_not_read_for(
    talk: Conversation, in_batches: bool
) -> None:
    talk.coordinator.in_batches = in_batches
    talk.feed(GET_A)
    talk.session.forget()
    talk.end_turn()
    assert talk.session.take_output() == b""


def test_a_pipeline_of_gets_is_a_batch(talk: Conversation) -> None:
    assert talk.plain_gets.take(talk.session, GET_A + packed("GET", "no") + GET_C, talk.now)
    assert keys_read(talk) == [[b"a", b"no", b"c"]]
    assert talk.take() == b"$1\r\nA\r\n$-1\r\n$1\r\nC\r\n"
    assert talk.door.counters.numbers()["calls_read"] == 3
    assert talk.session.last_command == b"GET"


def test_a_pipeline_with_a_key_that_is_no_key_is_answered_in_order(talk: Conversation) -> None:
    replies = talk.send_bytes(GET_A + packed("GET", "") + GET_B)
    assert replies.startswith(b"$1\r\nA\r\n-ERR ")
    assert replies.endswith(b"$1\r\nB\r\n")


def test_a_pipeline_that_may_not_be_under_way_at_once_is_for_the_session(
    talk: Conversation,
) -> None:
    room = talk.session.in_flight_limit
    assert not talk.plain_gets.take(talk.session, GET_A * (room + 1), talk.now)
    assert talk.plain_gets.take(talk.session, GET_A * room, talk.now)


def test_what_stands_before_hello_is_answered_in_the_old_version(talk: Conversation) -> None:
    talk.coordinator.hold()
    talk.feed(packed("GET", "nosuch"))
    talk.feed(packed("HELLO", "3") + packed("GET", "nosuch") + packed("CLIENT", "GETNAME"))
    talk.end_turn()
    assert talk.take() == b""
    talk.coordinator.release()
    before, hello, after = talk.take().partition(b"%7\r\n$6\r\nserver")
    assert (before, bool(hello)) == (b"$-1\r\n", True)
    talk.coordinator.release()
    assert (after + talk.take()).endswith(b"*0\r\n_\r\n_\r\n")


def test_a_large_pipeline_is_for_the_session_which_takes_it_in_slices(talk: Conversation) -> None:
    assert not talk.plain_gets.take(talk.session, packed("GET", "a" * 1000) * 9, talk.now)
