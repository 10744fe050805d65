"""Commands in all combinations of their options, pipelines and lines of words, to a real Valkey and
to the door: the same bytes, in RESP2 and in RESP3."""

import itertools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sidecar.redis.limits import RespLimits
from tests.support.conversation import Clock, Conversation, packed
from tests.support.redis_cases import LINEARIZABLE, TUNABLE
from tests.support.servers import Server
from tests.support.valkey_peer import Command, Peer

pytestmark = pytest.mark.slow

Cases = Callable[[], Iterator[Command]]
# Valkey's clock goes on between two commands; ours stands still.
PASSED_S = 30
PER_S = {"TTL": 1, "PTTL": 1000}


def conversation(*, linearizable: bool = False, inline: bool = False) -> Conversation:
    limits = replace(RespLimits(), inline_commands=inline)
    talk = Conversation(limits, Clock(time.time_ns() // 1_000_000))
    talk.coordinator.linearizable = linearizable
    return talk


def same(command: Command, theirs: bytes, ours: bytes) -> bool:
    unit = PER_S.get(str(command[0]).upper())
    if unit is None or theirs[:2] == b":-" or not (theirs[:1] == ours[:1] == b":"):
        return theirs == ours
    return 0 <= int(ours[1:]) - int(theirs[1:]) <= PASSED_S * unit


def differences(server: Server, talk: Conversation, cases: Cases, version: int) -> list[object]:
    commands: list[Command] = [("HELLO", str(version)), ("FLUSHALL",), *cases()]
    with closing(Peer(server)) as peer:
        theirs = peer.send_all(commands)
    ours = [talk.send(*command) for command in commands]
    return [
        (commands[max(2, at - 3) : at + 1], theirs[at], ours[at])
        for at in range(2, len(commands))
        if not same(commands[at], theirs[at], ours[at])
    ]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("cases", TUNABLE, ids=lambda cases: cases.__name__)
def test_a_tunable_keyspace_replies_as_valkey(valkey: Server, cases: Cases, version: int) -> None:
    assert differences(valkey, conversation(), cases, version) == []


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("cases", LINEARIZABLE, ids=lambda cases: cases.__name__)
def test_a_linearizable_keyspace_replies_as_valkey(
    valkey: Server, cases: Cases, version: int
) -> None:
    assert differences(valkey, conversation(linearizable=True), cases, version) == []


# Whole connections -------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "{t}x", "c" * 40])
COMMANDS = st.one_of(
    st.tuples(st.sampled_from(["GET", "INCR", "STRLEN", "TYPE", "PTTL", "GETDEL"]), KEYS),
    st.tuples(st.sampled_from(["SET", "APPEND", "SETNX", "INCRBY"]), KEYS, st.sampled_from("1x")),
    st.tuples(st.just("MSET"), KEYS, st.just("7"), KEYS, st.just("8")),
    st.tuples(st.sampled_from(["DEL", "MGET", "EXISTS", "UNLINK"]), KEYS, KEYS),
    st.tuples(st.sampled_from(["GET", "FOO", "SET", "PING", "QUIT", "MSET", "EXPIRE"])),
    st.tuples(st.just("CLIENT"), st.just("REPLY"), st.sampled_from(["ON", "off", "SKIP", "no"])),
    st.tuples(st.just("HELLO"), st.sampled_from(["4", "x"])),
    st.tuples(st.just("SET"), KEYS, st.just("v"), st.sampled_from(["NX", "EX", "FOO", "GET"])),
    st.just(("RESET",)),
)
EXAMPLES = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def ended_alike(server: Server, talk: Conversation, data: bytes, cuts: list[int]) -> None:
    """The same connection to both, to its end; to ours in pieces."""
    flushed, whole = packed("FLUSHALL"), data + packed("CLIENT", "REPLY", "ON") + packed("QUIT")
    with closing(Peer(server)) as peer:
        theirs = peer.until_closed(flushed + whole)
    assert theirs.startswith(b"+OK\r\n")
    places = sorted({0, len(whole), *(cut % len(whole) for cut in cuts)})
    ours = b"".join(talk.send_bytes(whole[start:end]) for start, end in itertools.pairwise(places))
    assert ours == theirs[5:]
    assert talk.session.finished


@EXAMPLES
@given(commands=st.lists(COMMANDS, max_size=25), cuts=st.lists(st.integers(0, 2000), max_size=5))
def test_pipelines_with_errors_and_silences_reply_as_valkey(
    valkey: Server, commands: list[tuple[str, ...]], cuts: list[int]
) -> None:
    data = b"".join(packed(*command) for command in commands)
    ended_alike(valkey, conversation(linearizable=True), data, cuts)


WORDS = st.one_of(
    st.sampled_from(["SET", "get", "a", "b", "ECHO", "PING", '"a b"', "'c d'", '"\\x41\\n"']),
    st.sampled_from(['"', "'", "\\", '"a"b', "''", '""', '"\\', "'\\'", "\t", "é"]),
)
LINES = st.lists(st.lists(WORDS, max_size=5).map(" ".join), max_size=6)


@EXAMPLES
@given(lines=LINES, end=st.sampled_from(["\r\n", "\n"]), cuts=st.lists(st.integers(0, 200)))
def test_lines_of_words_reply_as_redis(
    redis_server: Server, lines: list[str], end: str, cuts: list[int]
) -> None:
    # Valkey takes quotes in the middle of words as well. No key may be empty with us.
    assume(not any(re.match(r"(?i)\s*(get|set)\s+(''|\"\")(\s|$)", line) for line in lines))
    data = "".join(line + end for line in lines).encode()
    ended_alike(redis_server, conversation(inline=True), data, cuts)
