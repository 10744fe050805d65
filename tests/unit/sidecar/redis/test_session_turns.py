"""One connection takes so much of a turn of the loop; the rest of what it sent waits, in order."""

from dataclasses import replace

import pytest

from sidecar.redis.gather import Gather
from sidecar.redis.limits import RespLimits
from sidecar.redis.session import LONG_TURN_S, Session
from sidecar.redis.slices import SLICE_BYTES
from tests.support.conversation import Conversation, Stopwatch, packed

PONG = b"+PONG\r\n"
THREE_COMMANDS = LONG_TURN_S / 2.5  # a command: so that a turn ends with the third


def slow(limits: RespLimits | None = None, look_s: float = THREE_COMMANDS) -> Conversation:
    """A conversation whose commands take long."""
    return Conversation(limits or RespLimits(), stopwatch=Stopwatch(look_s))


def numbered(count: int) -> bytes:
    return b"".join(packed("ECHO", b"%d" % at) for at in range(count))


def echoes(count: int) -> bytes:
    return b"".join(b"$%d\r\n%d\r\n" % (len(str(at)), at) for at in range(count))


def turn(talk: Conversation, session: Session | None = None) -> bytes:
    """One more turn of the loop: what it gives to send."""
    session = session or talk.session
    session.advance(talk.now)
    return session.take_output()


def test_a_turn_ends_when_its_time_is_over_and_another_is_asked_for() -> None:
    talk = slow()
    talk.feed(packed("PING") * 8)
    assert talk.session.take_output() == PONG * 3
    assert talk.session.blocked
    woken = talk.woken
    assert turn(talk) == PONG * 3
    assert talk.woken == woken + 1
    assert turn(talk) == PONG * 2
    assert not talk.session.blocked


def test_what_is_cut_into_turns_is_answered_whole_and_in_order() -> None:
    talk = slow(look_s=LONG_TURN_S / 40)
    assert talk.send_bytes(numbered(5_000)) == echoes(5_000)
    assert not talk.session.blocked


def test_another_connection_is_served_between_two_turns() -> None:
    talk = slow()
    other = talk.another()
    talk.feed(packed("PING") * 500)
    talk.session.take_output()
    talk.feed(packed("PING"), other)
    assert other.take_output() == PONG
    assert sum(talk.door.counters.calls) == 4


def test_bytes_are_parsed_as_far_as_a_turn_reaches() -> None:
    talk = slow(look_s=LONG_TURN_S)
    talk.feed(b"*32768\r\n" + b"$1\r\nx\r\n" * 10_000)
    assert sum(map(len, talk.session.unread)) > 70_000 - 2 * SLICE_BYTES
    assert talk.session.blocked
    assert talk.session.dirty, "nobody would come back"
    before = len(talk.session.unread)
    turn(talk)
    assert 0 < len(talk.session.unread) < before


def test_a_plain_get_waits_behind_bytes_that_are_not_parsed() -> None:
    talk = slow(look_s=LONG_TURN_S)
    talk.coordinator.in_batches = True
    two_slices_of_nothing = b"*0\r\n" * (2 * SLICE_BYTES // 4)
    talk.feed(two_slices_of_nothing + numbered(1))
    assert talk.session.unread
    assert not talk.session.backlog
    assert not talk.session.pending
    assert not talk.plain_gets.take(talk.session, packed("GET", "a"), talk.now)


def test_reads_by_themselves_are_cut_too() -> None:
    talk = slow()
    for at in range(20):
        talk.send("SET", f"k{at}", str(at))
    talk.feed(b"".join(packed("GET", f"k{at}") for at in range(20)) + packed("PING"))
    taken = talk.session.take_output()
    assert taken == echoes(3)
    while talk.session.blocked:
        taken += turn(talk)
    assert taken == echoes(20) + PONG


def test_a_pipeline_of_plain_reads_is_cut_too() -> None:
    talk = slow()
    for at in range(10):
        talk.send("SET", f"k{at}", str(at))
    talk.feed(b"".join(packed("GET", f"k{at}") for at in range(10)))
    assert talk.session.take_output() == echoes(3)
    assert talk.take() == echoes(10)[len(echoes(3)) :]


def test_reads_cut_off_before_a_write_stay_before_it() -> None:
    talk = slow()
    talk.send("SET", "a", "old")
    asked = packed("GET", "a") * 5 + packed("SET", "a", "new") + packed("GET", "a")
    assert talk.send_bytes(asked) == b"$3\r\nold\r\n" * 5 + b"+OK\r\n" + b"$3\r\nnew\r\n"


def test_what_waited_has_its_deadline_from_when_it_is_dispatched() -> None:
    talk = slow()
    talk.coordinator.hold()
    talk.feed(packed("STRLEN", "a") * 6)
    talk.now += 50
    talk.session.advance(talk.now)
    deadlines = [op.deadline for op in talk.session.pending]  # type: ignore[union-attr]
    assert [late - deadlines[0] for late in deadlines] == [0, 0, 0, 50, 50, 50]


def test_replies_of_slices_count_as_under_way() -> None:
    talk = Conversation(replace(RespLimits(), in_flight=4))
    large = packed("ECHO", b"e" * (SLICE_BYTES - 100))
    talk.feed(large * 20)
    assert talk.session.take_output().count(b"$") == 4
    assert talk.session.blocked
    assert talk.take().count(b"$") == 16


def test_nothing_is_parsed_while_the_client_does_not_read() -> None:
    talk = slow()
    talk.feed(numbered(5_000))
    talk.session.output_paused = True
    left = len(talk.session.unread)
    turn(talk)
    assert len(talk.session.unread) == left
    assert not talk.session.dirty
    talk.session.output_paused = False
    assert talk.take().endswith(echoes(5_000)[-100:])


def test_after_quit_nothing_that_waited_is_run() -> None:
    talk = slow()
    after = packed("SET", "a", "1") * 2_000
    assert talk.send_bytes(packed("PING") * 5 + packed("QUIT") + after) == PONG * 5 + b"+OK\r\n"
    assert talk.session.finished
    talk.session = talk.another()
    assert talk.send("GET", "a") == b"$-1\r\n"


def test_a_protocol_error_waits_for_what_stands_before_it_and_ends_the_rest() -> None:
    talk = slow()
    data = numbered(1_000) + b"*x\r\n" + numbered(5_000)
    error = b"-ERR Protocol error: invalid multibulk length\r\n"
    assert talk.send_bytes(data) == echoes(1_000) + error
    assert talk.session.finished
    assert talk.door.counters.closed_protocol == 1


def test_what_came_before_the_end_is_answered() -> None:
    talk = slow()
    talk.feed(numbered(2_000))
    talk.session.closing = True  # EOF, or a drain
    taken = talk.session.take_output()
    assert not talk.session.finished
    while talk.session.blocked:
        taken += turn(talk)
    assert taken == echoes(2_000)
    assert talk.session.finished


def test_bytes_that_are_not_parsed_keep_a_connection_that_ends() -> None:
    talk = slow(look_s=LONG_TURN_S)
    talk.feed(b"*10000\r\n" + b"$1\r\nx\r\n" * 10_000)
    talk.session.closing = True
    taken = b""
    while talk.session.unread:
        assert not talk.session.finished
        taken = turn(talk)
    assert taken.startswith(b"-ERR unknown command 'x'")
    assert talk.session.finished


def test_a_protocol_error_after_the_end_leaves_nothing_to_wait_for() -> None:
    talk = slow()
    talk.feed(numbered(1_000) + b"*x\r\n" + numbered(2_000))
    talk.session.closing = True
    assert talk.take().endswith(echoes(1_000)[-50:])
    assert talk.session.finished


@pytest.mark.parametrize("silence", ["OFF", "SKIP"])
def test_replies_are_muted_over_turns(silence: str) -> None:
    talk = slow()
    talk.send("CLIENT", "REPLY", "OFF")
    data = packed("PING") * 7 + packed("CLIENT", "REPLY", "ON") + packed("PING") * 4
    if silence == "SKIP":
        data += packed("CLIENT", "REPLY", "SKIP") + packed("PING") + packed("ECHO", "x")
    expected = b"+OK\r\n" + PONG * 4 + (b"$1\r\nx\r\n" if silence == "SKIP" else b"")
    assert talk.send_bytes(data) == expected


def test_muted_commands_go_on_in_the_next_turn() -> None:
    talk = slow()
    talk.send("CLIENT", "REPLY", "OFF")
    talk.feed(packed("PING") * 8)
    assert talk.session.backlog
    assert talk.session.dirty, "nobody would come back"


def test_a_client_that_is_gone_is_not_worked_for() -> None:
    talk = slow()
    talk.feed(packed("SET", "a", "1") * 3 + packed("SET", "a", "2") * 2_000)
    talk.session.forget()
    assert not talk.session.blocked
    turn(talk)
    talk.session = talk.another()
    assert talk.send("GET", "a") == b"$1\r\n1\r\n"


def test_what_a_client_left_under_way_is_counted_until_it_has_ended() -> None:
    talk = Conversation()
    talk.send("SET", "k0", "v" * 1_000)
    together = talk.coordinator.together
    talk.coordinator.hold()
    talk.feed(packed("MGET", *(b"k%d" % at for at in range(100))))
    talk.coordinator.release(0)
    assert (together.under_way, together.held_bytes) == (63, 1_000)
    gather = talk.session.pending[0]
    talk.session.forget()
    assert (together.under_way, together.held_bytes) == (63, 0)
    talk.coordinator.release()
    assert (together.under_way, together.held_bytes) == (0, 0)
    assert isinstance(gather, Gather)
    assert not gather.half_begun, "what was not begun never is"


def test_operations_on_many_keys_are_made_when_they_begin() -> None:
    talk = Conversation()
    talk.coordinator.hold()
    keys = [b"k%d" % at for at in range(1_000)]
    for command in (packed("MGET", *keys), packed("DEL", *keys)):
        talk.session = talk.another()
        talk.feed(command)
        gather = talk.session.pending[0]
        assert isinstance(gather, Gather)
        assert gather.count == 1_000
        assert len(gather.ops) == 64


@pytest.mark.parametrize("wrong", [b"", b"k" * 2_000], ids=["empty", "too long"])
@pytest.mark.parametrize("place", [0, 7, 99])
def test_one_wrong_key_among_many_is_found_before_any_is_read(wrong: bytes, place: int) -> None:
    talk = Conversation()
    talk.coordinator.hold()
    keys = [b"k%d" % at for at in range(100)]
    keys[place] = wrong
    assert talk.send("MGET", *keys).startswith(b"-ERR a key has 1 to 1024 bytes")
    assert talk.coordinator.held == []
