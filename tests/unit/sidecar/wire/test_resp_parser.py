"""The request parser: equal whatever the chunks, and unimpressed by what a peer declares."""

import itertools
import time
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.wire.resp_parser import RequestParser
from tests.support.conversation import packed

ARGUMENT = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\r\n", b"$3\r\nGET", b"*1\r\n", b"a" * 1023, b"b" * 1024, b"c" * 5000]),
)
COMMANDS = st.lists(st.lists(ARGUMENT, min_size=1, max_size=6), max_size=8)
# Pieces that meet in hostile ways, besides plain noise.
HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"*1\r\n", b"*2\r\n", b"*0\r\n", b"*-1\r\n", b"*9999999\r\n", b"*01\r\n",
                b"$4\r\nPING\r\n", b"$0\r\n\r\n", b"$-1\r\n", b"$5\r\nhello", b"$3\r\nab\r\n\r\n",
                b"GET / HTTP/1.1\r\n", b"PING\r\n", b"POST ", b"DEL", b'"x\r\n', b"+OK\r\n",
                b"*", b"$", b"\r", b"\n", b"\r\n", b":1\r\n",
            ]
        ),
        st.binary(max_size=12),
    ),
    max_size=8,
).map(b"".join)  # fmt: skip
CUTS = st.lists(st.integers(min_value=0, max_value=400), max_size=12)


def chunks(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def parse(parser: RequestParser, pieces: Iterable[bytes]) -> tuple[list[list[bytes]], str | None]:
    commands: list[list[bytes]] = []
    for piece in pieces:
        commands += parser.feed(piece)
    return commands, parser.error


@given(COMMANDS, CUTS)
def test_commands_arrive_as_sent_however_they_are_cut(
    commands: list[list[bytes]], cuts: list[int]
) -> None:
    data = b"".join(packed(*command) for command in commands)
    assert parse(RequestParser(), chunks(data, cuts)) == (commands, None)


@given(COMMANDS)
def test_commands_arrive_as_sent_byte_by_byte(commands: list[list[bytes]]) -> None:
    data = b"".join(packed(*command) for command in commands)[:2000]
    parser = RequestParser()
    by_bytes = parse(parser, (data[at : at + 1] for at in range(len(data))))
    assert by_bytes == parse(RequestParser(), [data])


ALIKE = st.integers(1, 3).flatmap(
    lambda size: st.lists(st.lists(ARGUMENT, min_size=size, max_size=size), min_size=4, max_size=9)
)


@given(ALIKE, st.binary(max_size=3), st.integers(0, 300), CUTS)
@example([[b"GET", b"k"]] * 4, b"", 0, [])
@example([[b"GET", b"k"]] * 4, b"*", 28, [])
@example([[b"GET", b"k\r\n"]] * 4, b"9", 14, [])
def test_commands_that_are_alike_and_what_is_wrong_in_one_of_them(
    commands: list[list[bytes]], wrong: bytes, place: int, cuts: list[int]
) -> None:
    data = b"".join(packed(*command) for command in commands)
    assert parse(RequestParser(), [data, data[:-3]]) == (commands + commands[:-1], None)
    data = data[:place] + wrong + data[place + len(wrong) :]
    whole = parse(RequestParser(max_args=2), [data])
    assert parse(RequestParser(max_args=2), chunks(data, cuts)) == whole
    assert parse(RequestParser(max_args=2), [data[:1], data[1:]]) == whole


@given(HOSTILE, CUTS, st.booleans())
@example(b"GET / HTTP/1.1\r\n", [1], False)
@example(b"GET / HTTP/1.1\r\n", [5], True)
@example(b"*1\r\n$4\r\nPING\r\nDEL", [15], False)
def test_anything_ends_the_same_however_it_is_cut(
    data: bytes, cuts: list[int], inline: bool
) -> None:
    whole = parse(RequestParser(max_args=100, inline=inline), [data])
    assert parse(RequestParser(max_args=100, inline=inline), chunks(data, cuts)) == whole


@given(HOSTILE, CUTS)
def test_small_limits_hold_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    def small() -> RequestParser:
        return RequestParser(max_args=2, max_bulk_bytes=4, max_query_bytes=200)

    whole = parse(small(), [data])
    assert parse(small(), chunks(data, cuts)) == whole
    assert all(len(command) <= 2 for command in whole[0])
    assert all(len(arg) <= 4 for command in whole[0] for arg in command)


def test_limits_hold_for_commands_that_arrive_whole() -> None:
    many = RequestParser(max_args=2)
    assert many.feed(packed("a", "b") + packed("a", "b", "c")) == [[b"a", b"b"]]
    assert many.error == "Protocol error: invalid multibulk length"
    large = RequestParser(max_bulk_bytes=4)
    assert large.feed(packed("four") + packed("fiver")) == [[b"four"]]
    assert large.error == "Protocol error: invalid bulk length"


def test_commands_before_a_bad_one_are_given() -> None:
    parser = RequestParser()
    commands = parser.feed(packed("PING") + packed("GET", "a\r\nb") + b"*x\r\n" + packed("PING"))
    assert commands == [[b"PING"], [b"GET", b"a\r\nb"]]
    assert parser.error == "Protocol error: invalid multibulk length"


def test_nothing_is_parsed_after_an_error() -> None:
    parser = RequestParser()
    parser.feed(b"*x\r\n")
    assert parser.feed(packed("PING")) == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"*1000000000\r\n", "invalid multibulk length"),
        (b"*32769\r\n", "invalid multibulk length"),
        (b"*1_0\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$16777217\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999999999999999\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n+PING\r\n", "expected '$', got '+'"),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", "expected '$', got '*'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1" + b"0" * 100, "too big mbulk count string"),
        (b"*1\r\n$1" + b"0" * 100, "too big bulk count string"),
        (b"*1\r\n$4\r\nPINGxx", "invalid CRLF in request"),
        (b"PING\r\n", "inline commands are off; send commands as arrays of bulk strings"),
        (b"\x00", "inline commands are off; send commands as arrays of bulk strings"),
    ],
)
def test_bad_requests_are_named(data: bytes, problem: str) -> None:
    parser = RequestParser()
    assert parser.feed(data) == []
    assert parser.error == f"Protocol error: {problem}"


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"Host: a\r\n", b"PRI * HTTP/2.0\r\n\r\n"],
)
@pytest.mark.parametrize("inline", [False, True])
def test_http_is_hung_up_on_without_a_word(data: bytes, inline: bool) -> None:
    parser = RequestParser(inline=inline)
    assert parser.feed(data) == []
    assert parser.error == ""


def test_empty_lines_and_empty_arrays_are_skipped() -> None:
    # redis-cli --pipe ends its input with an empty line before its last command.
    parser = RequestParser()
    data = b"\r\n*0\r\n*-1\r\n\n" + packed("PING")
    assert parse(parser, [data]) == ([[b"PING"]], None)


def test_a_command_larger_than_the_query_bound_is_refused_before_it_is_kept() -> None:
    parser = RequestParser(max_query_bytes=10_000, max_bulk_bytes=8000)
    parser.feed(b"*3\r\n$3\r\nSET\r\n$6000\r\n" + b"v" * 6000 + b"\r\n$6000\r\n")
    assert parser.error is not None
    assert "a command may take 10000 bytes" in parser.error
    assert parser.held_bytes == 0


def test_declared_lengths_take_no_memory() -> None:
    tracemalloc.start()
    try:
        parsers = [RequestParser() for _ in range(50)]
        before = tracemalloc.get_traced_memory()[0]
        for parser in parsers:
            parser.feed(b"*32768\r\n$3\r\nGET\r\n$16000000\r\n")
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert all(parser.error is None for parser in parsers)
    assert peak < 50 * 4096


def test_what_is_held_is_counted_and_let_go() -> None:
    parser = RequestParser()
    whole = packed("SET", "k", b"v" * 1000)
    parser.feed(whole[:-1])
    assert parser.in_command
    assert parser.held_bytes > 1000
    assert parser.feed(whole[-1:]) == [[b"SET", b"k", b"v" * 1000]]
    assert parser.held_bytes == 0
    assert not parser.in_command


@pytest.mark.slow
def test_a_command_that_dribbles_in_costs_time_in_proportion() -> None:
    # Looking again at everything with each piece would take minutes.
    command = [b"MGET", *(b"key:%d" % at for at in range(30_000))]
    data = packed(*command)
    parser = RequestParser()
    began = time.process_time()
    commands = parse(parser, (data[at : at + 7] for at in range(0, len(data), 7)))[0]
    assert commands == [command]
    assert time.process_time() - began < 5


@pytest.mark.slow
def test_a_chunk_full_of_odd_commands_costs_time_in_proportion() -> None:
    # Each value holds a CRLF, so that none goes the fast way: the chunk must not be split for each.
    command = packed("SET", "k", "\r\n")
    parser = RequestParser()
    began = time.process_time()
    commands = parser.feed(command * 8000)
    assert commands == [[b"SET", b"k", b"\r\n"]] * 8000
    assert time.process_time() - began < 5


LONE = packed("GET", "key")


@pytest.mark.parametrize(
    "data", [LONE, packed("get", "k"), packed("GET", b"a\r\nb"), packed("GET", b"x" * 1023)]
)
def test_a_lone_get_is_known_at_sight(data: bytes) -> None:
    parser = RequestParser()
    key = parser.lone_get(data)
    assert key is not None
    assert parser.feed(data) == [[data[8:11], key]]


@pytest.mark.parametrize(
    "data",
    [
        LONE * 2,
        LONE[:-1],
        LONE + b"*",
        packed("GET"),
        packed("GET", ""),
        packed("GET", "a", "b"),
        packed("Get", "a"),
        packed("SET", "a"),
        b"*2\r\n$3\r\nGET\r\n$4\r\nkey\r\n",
        b"*2\r\n$3\r\nGET\r\n$2\r\nkey\r\n",
        b"*2\r\n$3\r\nGET\r\n$03\r\nkey\r\n",
        b"*2\r\n$3\r\nGET\r\n$3\r\nkey\n\r",
        b"*2\r\n$3\r\nGET\r\n",
        b"*2\r\n$3\r\nGET\r\n$3",
        b"",
        packed("GET", b"x" * 1024),
    ],
)
def test_what_is_no_lone_get_is_left_to_feed(data: bytes) -> None:
    assert RequestParser().lone_get(data) is None


def test_a_lone_get_above_the_limits_or_inside_of_something_is_left_to_feed() -> None:
    assert RequestParser(max_bulk_bytes=8).lone_get(packed("GET", "123456789")) is None
    begun = RequestParser()
    begun.feed(b"*2\r\n$3\r\nSET\r\n$27\r\n")
    assert begun.lone_get(LONE) is None
    over = RequestParser()
    over.feed(b"nonsense\r\n")
    assert over.error
    assert over.lone_get(LONE) is None


@given(st.binary(max_size=20), st.binary(max_size=6))
def test_a_lone_get_means_what_feed_makes_of_it(key: bytes, noise: bytes) -> None:
    for data in (packed("GET", key), packed("GET", key) + noise, packed("GET", key)[: -len(noise)]):
        known = RequestParser().lone_get(data)
        parser = RequestParser()
        assert known is None or (parser.feed(data), parser.in_command) == ([[b"GET", known]], False)


def test_gets_are_known_at_sight() -> None:
    keys = [b"a", b"bc", b"a" * 1023]
    assert RequestParser().gets(b"".join(packed("GET", key) for key in keys)) == keys


@pytest.mark.parametrize(
    "data",
    [
        LONE + packed("get", "key"),
        LONE + packed("SET", "key"),
        LONE + packed("GET", "a", "b"),
        LONE + packed("GET", b"a\r\nb"),
        LONE + packed("GET", b"a" * 1024),
        LONE + LONE[:-1],
        LONE + LONE[:-2],
        LONE + b"*",
        LONE + LONE.replace(b"$3\r\nkey", b"$2\r\nkey"),
        LONE + b"\r\n",
        b"",
    ],
)
def test_what_is_not_all_gets_is_left_to_feed(data: bytes) -> None:
    assert RequestParser().gets(data) is None


@given(st.lists(st.binary(max_size=9), max_size=4), st.binary(max_size=6), st.integers(0, 4))
def test_gets_mean_what_feed_makes_of_them(keys: list[bytes], noise: bytes, cut: int) -> None:
    data = b"".join(packed("GET", key) for key in keys)
    for sent in (data, data + noise, data[: len(data) - cut]):
        known = RequestParser().gets(sent)
        parser = RequestParser()
        if known is not None:
            assert parser.feed(sent) == [[b"GET", key] for key in known]
            assert not parser.in_command
