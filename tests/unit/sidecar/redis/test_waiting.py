"""A write waits for the reads of its key that stand before it on its connection."""

import pytest

from tests.support.conversation import Conversation, packed

Words = tuple[str, ...]
READS: list[Words] = [
    ("GET", "k"),
    ("STRLEN", "k"),
    ("PTTL", "k"),
    ("GETEX", "k"),
    ("MGET", "other", "k"),
    ("EXISTS", "k"),
]
WRITES: list[Words] = [
    ("SET", "k", "w"),
    ("sEt", "k", "w"),
    ("SETEX", "k", "10", "w"),
    ("MSET", "x", "w", "k", "w"),
    ("DEL", "x", "k"),
    ("INCR", "k"),
    ("EXPIRE", "k", "10"),
]


@pytest.fixture(params=[False, True], ids=["one by one", "in batches"])
def talk(request: pytest.FixtureRequest) -> Conversation:
    """Answers are held; `k` is 5."""
    talk = Conversation()
    talk.coordinator.linearizable = True
    talk.send("SET", "k", "5")
    talk.coordinator.in_batches = request.param
    talk.coordinator.hold()
    return talk


def begun(talk: Conversation) -> int:
    """Operations that the coordinator was asked for and has not answered."""
    return len(talk.coordinator.held or [])


def alone(*command: str) -> int:
    """Operations of a command."""
    other = Conversation()
    other.coordinator.linearizable = True
    other.coordinator.hold()
    other.send(*command)
    return begun(other)


@pytest.mark.parametrize("write", WRITES, ids=" ".join)
@pytest.mark.parametrize("read", READS, ids=" ".join)
def test_a_write_begins_when_what_was_read_is_answered(
    talk: Conversation, read: Words, write: Words
) -> None:
    answers = [Conversation(), Conversation()]
    for one in answers:
        one.coordinator.linearizable = True
        one.send("SET", "k", "5")
    expected = b"".join(answers[0].send(*command) for command in (read, write, ("PING",)))
    assert talk.send_bytes(packed(*read) + packed(*write) + packed("PING")) == b""
    assert begun(talk) == alone(*read)
    talk.coordinator.release(*range(begun(talk)))
    first = talk.take()
    assert begun(talk) == alone(*write)
    talk.coordinator.release()
    assert first + talk.take() == expected


@pytest.mark.parametrize("next_command", [("GET", "key99"), ("SET", "key99", "new")])
def test_what_follows_many_keys_waits_until_they_are_all_done(
    talk: Conversation, next_command: Words
) -> None:
    many = [word for at in range(100) for word in (f"key{at}", "old")]
    talk.send_bytes(packed("MSET", *many) + packed(*next_command))
    first = begun(talk)
    assert first < 100
    talk.coordinator.release(*range(first))
    talk.coordinator.release()
    told = talk.take()
    talk.coordinator.release()
    value = b"$3\r\nold\r\n" if next_command[0] == "GET" else b"+OK\r\n"
    assert told + talk.take() == b"+OK\r\n" + value
    now = b"$3\r\nold\r\n" if next_command[0] == "GET" else b"$3\r\nnew\r\n"
    assert talk.send("GET", "key99") == now


def test_a_write_that_comes_later_waits_too(talk: Conversation) -> None:
    talk.send("GET", "k")
    talk.send("SET", "k", "w")
    talk.send("GET", "k")
    assert begun(talk) == 1
    talk.coordinator.release()
    assert talk.take() == b"$1\r\n5\r\n+OK\r\n$1\r\nw\r\n"


@pytest.mark.parametrize("commands", [[("GET", "k"), ("SET", "x", "w")], [("SET", "k", "w")] * 2])
def test_nothing_else_waits(talk: Conversation, commands: list[Words]) -> None:
    talk.send_bytes(b"".join(packed(*command) for command in commands) + packed("GET", "k"))
    assert begun(talk) == len(commands) + 1


def test_a_read_that_was_answered_is_not_waited_for(talk: Conversation) -> None:
    talk.send_bytes(packed("STRLEN", "x") + packed("STRLEN", "k"))
    talk.coordinator.release(1)
    talk.send("SET", "k", "w")
    assert begun(talk) == 2


def test_of_several_reads_the_last_is_waited_for(talk: Conversation) -> None:
    talk.send_bytes(packed("STRLEN", "k") * 2 + packed("SET", "k", ""))
    talk.coordinator.release(1)
    talk.take()
    assert begun(talk) == 1
    talk.coordinator.release()
    assert talk.take() == b":1\r\n:1\r\n+OK\r\n"


def test_a_batch_that_was_dissolved_is_waited_for() -> None:
    talk = Conversation()
    talk.send("SET", "k", "5")
    talk.coordinator.in_batches = True
    talk.coordinator.hold()
    talk.send_bytes(packed("GET", "k") + packed("GET", "x") + packed("DEL", "k"))
    (batch,) = talk.coordinator.batches
    talk.coordinator.held = []  # its own answer is not coming
    talk.coordinator.dissolve(batch)
    assert begun(talk) == 2
    talk.coordinator.release()
    assert talk.take() == b"$1\r\n5\r\n$-1\r\n:1\r\n"


def test_a_broken_stream_and_a_goodbye_wait_their_turn(talk: Conversation) -> None:
    talk.send_bytes(packed("GET", "k") + packed("DEL", "k") + b"*1\r\n$x\r\n")
    assert not talk.session.closing
    talk.coordinator.release()
    answered = talk.take()
    assert answered == b"$1\r\n5\r\n:1\r\n-ERR Protocol error: invalid bulk length\r\n"
    assert talk.session.finished


def test_keys_that_were_read_are_not_kept_for_ever(talk: Conversation) -> None:
    talk.send("STRLEN", "k")
    for number in range(25):
        talk.send("MGET", *(f"{number}:{at}" for at in range(300)))
        while begun(talk) > 1:  # never is all answered
            talk.coordinator.release(*range(1, begun(talk)))
    assert len(talk.session.reading) < 5000
    talk.send("SET", "k", "w")
    assert begun(talk) == 1
