"""The same commands to a real Valkey and to the door: the same bytes, in RESP2 and in RESP3.

Only commands that behave alike; where a sidecar differs on purpose the unit tests say how.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.conversation import Conversation
from tests.support.servers import Server
from tests.support.valkey_peer import Peer

LONG = b"x" * 200
ALIKE: tuple[tuple[bytes | str, ...], ...] = (
    # values
    ("GET", "nosuch"),
    ("SET", "k", "v"),
    ("get", "k"),
    ("GeT", "k"),
    ("SET", "bin", b"a\r\nb\x00\xff"),
    ("GET", "bin"),
    ("SET", "empty", ""),
    ("GET", "empty"),
    ("STRLEN", "empty"),
    ("STRLEN", "bin"),
    ("STRLEN", "nosuch"),
    ("MSET", "a", "1", "b", "2", "a", "3"),
    ("MGET", "a", "b", "nosuch", "a"),
    ("EXISTS", "a", "b", "nosuch", "a"),
    ("EXISTS", "nosuch"),
    ("TYPE", "a"),
    ("TYPE", "nosuch"),
    ("DEL", "a", "a", "nosuch"),
    ("DEL", "b"),
    ("UNLINK", "b", "k"),
    ("UNLINK", "b"),
    ("GET", "a"),
    # ranges
    ("SET", "s", "hello world"),
    *(
        ("GETRANGE", "s", start, end)
        for start in ("0", "-5", "4", "100", "-100", "-9223372036854775808")
        for end in ("0", "-1", "4", "-5", "100", "-100", "9223372036854775807")
    ),
    ("GETRANGE", "nosuch", "0", "-1"),
    ("GETRANGE", "s", "x", "1"),
    ("GETRANGE", "s", "1", "1.0"),
    ("GETRANGE", "s", "9223372036854775808", "1"),
    # expiries
    ("SET", "t", "v", "EX", "100"),
    ("TTL", "t"),
    ("SET", "t", "v", "px", "100000"),
    ("TTL", "t"),
    ("SET", "t", "v"),
    ("TTL", "t"),
    ("PTTL", "t"),
    ("TTL", "nosuch"),
    ("PTTL", "nosuch"),
    ("SET", "t", "v", "EXAT", "4000000000"),
    ("SET", "t", "v", "PXAT", "4000000000000"),
    ("SET", "t", "v", "PXAT", "1"),
    ("GET", "t"),
    ("SETEX", "t", "100", "v"),
    ("TTL", "t"),
    ("PSETEX", "t", "100000", "v"),
    ("TTL", "t"),
    ("SET", "t", "v", "EX", "0"),
    ("SET", "t", "v", "EX", "-1"),
    ("SET", "t", "v", "PXAT", "-1"),
    ("SET", "t", "v", "EX", "x"),
    ("SET", "t", "v", "EX", "+1"),
    ("SET", "t", "v", "EX", "01"),
    ("SET", "t", "v", "EX", " 1"),
    ("SET", "t", "v", "EX", "1.0"),
    ("SET", "t", "v", "EX", ""),
    ("SET", "t", "v", "EX", "9223372036854775807"),
    ("SET", "t", "v", "EX", "9223372036854775808"),
    ("SET", "t", "v", "PX", "9223372036854775807"),
    ("SET", "t", "v", "EXAT", "9223372036854776"),
    ("SETEX", "t", "0", "v"),
    ("SETEX", "t", "x", "v"),
    ("PSETEX", "t", "-5", "v"),
    ("GET", "t"),
    # syntax and arity
    ("SET", "t", "v", "EX"),
    ("SET", "t", "v", "EX", "1", "PX", "1"),
    ("SET", "t", "v", "FOO"),
    ("SET", "t", "v", "NX", "XX"),
    ("SET", "t", "v", "KEEPTTL", "EX", "1"),
    ("SET", "t", "v", "EX", "1", "KEEPTTL"),
    ("SET", "t", "v", "IFEQ", "1", "NX"),
    ("SET", "t", "v", "PERSIST"),
    ("SET", "t", "v", ""),
    *((name,) for name in ("GET", "SET", "MGET", "MSET", "DEL", "UNLINK", "EXISTS", "TTL", "TYPE")),
    *((name,) for name in ("ECHO", "SELECT", "AUTH", "CLIENT", "CONFIG", "SETEX", "GETRANGE")),
    ("GET", "a", "b"),
    ("set", "a"),
    ("MSET", "a"),
    ("MSET", "a", "1", "b"),
    ("INCR",),
    ("SETNX", "a"),
    ("EXPIRE", "a"),
    ("GETEX",),
    ("SCAN",),
    ("SCAN", "x"),
    ("SCAN", "-1"),
    ("SCAN", "0", "MATCH"),
    ("SCAN", "0", "FOO", "1"),
    ("SCAN", "0", "COUNT", "0"),
    ("SCAN", "0", "COUNT", "x"),
    ("SCAN", "0", "MATCH", "no such key"),
    ("SCAN", "0", "TYPE", "hash", "COUNT", "1000"),
    ("KEYS",),
    ("KEYS", "a", "b"),
    ("DBSIZE", "a"),
    # unknown
    ("FOO",),
    ("foo", "a", "b"),
    ("fo\r\no", "a\r\nb", b"c\x00d"),
    (b"\xff\xfe", b"\xff"),
    (LONG, LONG),
    ("nosuch", *["abcdefghij"] * 30),
    ("nosuch", b"y" * 127, "z"),
    ("nosuch", b"y" * 125, "z"),
    ("", ""),
    # the connection
    ("PING",),
    ("PING", "hello"),
    ("PING", "a", "b"),
    ("ECHO", "a\r\nb"),
    ("AUTH", "x"),
    ("AUTH", "default", "x"),
    ("AUTH", "a", "b", "c"),
    ("SELECT", "x"),
    ("SELECT", "-1"),
    ("SELECT", "99"),
    ("SELECT", "99999999999999999999"),
    ("SELECT", "1"),
    ("SELECT", "0"),
    ("HELLO", "4"),
    ("HELLO", "1"),
    ("HELLO", "x"),
    ("HELLO", "3", "foo"),
    ("HELLO", "3", "AUTH", "a"),
    ("HELLO", "3", "SETNAME"),
    ("HELLO", "3", "SETNAME", "a b"),
    ("CLIENT", "GETNAME"),
    ("CLIENT", "SETNAME", "a b"),
    ("CLIENT", "SETNAME", "me"),
    ("CLIENT", "GETNAME"),
    ("CLIENT", "SETNAME", ""),
    ("CLIENT", "GETNAME"),
    ("CLIENT", "SETNAME"),
    ("client", "setname", "a", "b"),
    ("CLIENT", "SETINFO", "lib-name", "x"),
    ("CLIENT", "SETINFO", "lib-ver", "1.0"),
    ("CLIENT", "SETINFO", "lib-foo", "x"),
    ("CLIENT", "SETINFO", "LIB-NAME", "a b"),
    ("CLIENT", "SETINFO", "lib-name"),
    ("CLIENT", "ID", "3"),
    ("CLIENT", "NO-EVICT", "on"),
    ("CLIENT", "NO-EVICT", "x"),
    ("CLIENT", "NO-TOUCH", "off"),
    ("CLIENT", "REPLY", "x"),
    ("CLIENT", "REPLY"),
    ("CLIENT", "nosuch"),
    ("CLIENT", "no\r\nsuch", "a"),
    ("CLIENT", LONG),
    # the server
    ("ROLE",),
    ("ROLE", "a"),
    ("TIME", "a"),
    ("CONFIG", "GET", "save", "appendonly"),
    ("CONFIG", "GET", "databases"),
    ("CONFIG", "GET", "APPENDONL?"),
    ("CONFIG", "GET", "maxmemory"),
    ("CONFIG", "GET", "nosuch"),
    ("CONFIG", "GET"),
    ("CONFIG", "nosuch"),
    ("INFO", "nosuch"),
    ("COMMAND", "COUNT", "a"),
    ("COMMAND", "GETKEYS", "get", "a"),
    ("COMMAND", "GETKEYS", "mset", "a", "1", "b", "2"),
    ("COMMAND", "GETKEYS", "del", "a", "b"),
    ("COMMAND", "GETKEYS", "nosuch", "a"),
    ("COMMAND", "GETKEYS", "ping"),
    ("COMMAND", "GETKEYS", "get"),
    ("COMMAND", "GETKEYS"),
    ("COMMAND", "INFO", "nosuch"),
    ("COMMAND", "DOCS", "nosuch"),
    ("COMMAND", "nosuch"),
    ("RESET",),
    ("PING",),
)
# Of a linearizable keyspace.
MODIFYING: tuple[tuple[bytes | str, ...], ...] = (
    *(("INCR", "n") for _ in range(3)),
    ("DECR", "n"),
    ("INCRBY", "n", "10"),
    ("DECRBY", "n", "-5"),
    ("INCRBY", "n", "x"),
    ("INCRBY", "n", "1.0"),
    ("DECRBY", "n", "-9223372036854775808"),
    ("SET", "big", "9223372036854775807"),
    ("INCR", "big"),
    ("DECRBY", "big", "9223372036854775807"),
    ("SET", "word", "word"),
    ("INCR", "word"),
    ("SET", "pad", " 1"),
    ("INCR", "pad"),
    ("SET", "zero", "01"),
    ("INCR", "zero"),
    ("SET", "minus", "-0"),
    ("INCR", "minus"),
    ("INCRBYFLOAT", "f", "10.5"),
    ("INCRBYFLOAT", "f", "0.1"),
    ("INCRBYFLOAT", "f", "-5"),
    ("INCRBYFLOAT", "f", "-5.6"),
    ("INCRBYFLOAT", "f", "5.0e3"),
    ("INCRBYFLOAT", "f", "1e-3"),
    ("INCRBYFLOAT", "f", "x"),
    ("INCRBYFLOAT", "f", ""),
    ("INCRBYFLOAT", "f", " 1"),
    ("INCRBYFLOAT", "f", "inf"),
    ("INCRBYFLOAT", "f", "nan"),
    ("INCRBYFLOAT", "word", "1"),
    ("INCRBYFLOAT", "f", ".5"),
    ("INCRBYFLOAT", "f", "+1"),
    ("APPEND", "a", "one"),
    ("APPEND", "a", b"\r\n"),
    ("APPEND", "a", ""),
    ("GET", "a"),
    ("SETRANGE", "r", "3", "abc"),
    ("SETRANGE", "r", "0", "x"),
    ("SETRANGE", "r", "10", ""),
    ("SETRANGE", "none", "10", ""),
    ("EXISTS", "none"),
    ("SETRANGE", "r", "-1", "x"),
    ("SETRANGE", "r", "x", "x"),
    ("SETRANGE", "r", "536870911", "xx"),
    ("GET", "r"),
    ("SETNX", "nx", "1"),
    ("SETNX", "nx", "2"),
    ("GET", "nx"),
    ("GETSET", "gs", "1"),
    ("GETSET", "gs", "2"),
    ("GETDEL", "gs"),
    ("GETDEL", "gs"),
    *(
        ("SET", key, "v", *options)
        for key in ("s1", "nx")
        for options in (
            ("XX",),
            ("NX",),
            ("NX",),
            ("XX", "GET"),
            ("NX", "GET"),
            ("GET",),
            ("GET", "EX", "100"),
            ("KEEPTTL",),
            ("XX", "KEEPTTL", "GET"),
            ("NX", "EX", "0"),
            ("XX", "EX", "x"),
        )
    ),
    ("TTL", "s1"),
    ("SET", "s1", "w", "XX"),
    ("TTL", "s1"),
    ("EXPIRE", "s1", "100"),
    ("TTL", "s1"),
    ("EXPIRE", "s1", "200", "NX"),
    ("EXPIRE", "s1", "200", "XX"),
    ("EXPIRE", "s1", "100", "GT"),
    ("EXPIRE", "s1", "300", "gt"),
    ("EXPIRE", "s1", "400", "LT"),
    ("EXPIRE", "s1", "50", "LT"),
    ("EXPIRE", "s1", "40", "XX", "LT"),
    ("EXPIRE", "s1", "1", "NX", "XX"),
    ("EXPIRE", "s1", "1", "GT", "LT"),
    ("EXPIRE", "s1", "1", "FOO"),
    ("EXPIRE", "s1", "x"),
    ("EXPIRE", "s1", "9223372036854775807"),
    ("EXPIRE", "s1", "-9223372036854775808"),
    ("PEXPIRE", "s1", "9223372036854775807"),
    ("TTL", "s1"),
    ("INCR", "s1"),
    ("APPEND", "s1", "x"),
    ("TTL", "s1"),
    ("PERSIST", "s1"),
    ("PERSIST", "s1"),
    ("TTL", "s1"),
    ("EXPIRE", "s1", "1", "GT"),
    ("EXPIRE", "s1", "1000", "LT"),
    ("PEXPIRE", "s1", "100000"),
    ("TTL", "s1"),
    ("EXPIREAT", "s1", "4000000000"),
    ("PEXPIREAT", "s1", "4000000000000"),
    ("GETEX", "s1"),
    ("GETEX", "s1", "EX", "100"),
    ("TTL", "s1"),
    ("GETEX", "s1", "PERSIST"),
    ("TTL", "s1"),
    ("GETEX", "s1", "EX", "0"),
    ("GETEX", "s1", "EX", "x"),
    ("GETEX", "s1", "FOO"),
    ("GETEX", "s1", "EX"),
    ("GETEX", "nosuch", "EX", "10"),
    ("GETEX", "s1", "PXAT", "1"),
    ("EXISTS", "s1"),
    ("SET", "e", "v"),
    ("EXPIRE", "e", "-1"),
    ("GET", "e"),
    ("SET", "e", "v"),
    ("EXPIREAT", "e", "1"),
    ("EXISTS", "e"),
    ("EXPIRE", "nosuch", "10"),
    ("PERSIST", "nosuch"),
)
BROKEN = (
    b"*1000000000000\r\n",
    b"*x\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$99999999999\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n$4\r\nPINGxx",
    b"POST / HTTP/1.1\r\n\r\n",
    b"*1\r\n$4\r\nPING\r\n*1\r\n$x\r\n*1\r\n$4\r\nPING\r\n",
    b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n",
    b"\r\n*0\r\n*-1\r\n*1\r\n$4\r\nQUIT\r\n",
)


@pytest.fixture
def peer(valkey: Server) -> Iterator[Peer]:
    connected = Peer(valkey)
    yield connected
    connected.close()


@pytest.mark.parametrize("version", [2, 3])
def test_every_reply_is_the_same_bytes(peer: Peer, version: int) -> None:
    talk = Conversation()
    talk.send("HELLO", str(version))
    peer.send("HELLO", str(version))
    differences = []
    for command in ALIKE:
        theirs, ours = peer.send(*command), talk.send(*command)
        if theirs != ours:
            differences.append((command, theirs, ours))
    assert differences == []


@pytest.mark.parametrize("version", [2, 3])
def test_what_reads_before_it_writes_replies_the_same_bytes(peer: Peer, version: int) -> None:
    talk = Conversation()
    talk.coordinator.linearizable = True
    talk.send("HELLO", str(version))
    peer.send("HELLO", str(version))
    differences = []
    for command in MODIFYING:
        theirs, ours = peer.send(*command), talk.send(*command)
        if theirs != ours:
            differences.append((command, theirs, ours))
    assert differences == []


@pytest.mark.parametrize("data", BROKEN)
def test_broken_streams_end_the_same(valkey: Server, data: bytes) -> None:
    peer = Peer(valkey)
    try:
        talk = Conversation()
        assert talk.send_bytes(data) == peer.until_closed(data)
        assert talk.session.finished
    finally:
        peer.close()


KEYS = st.sampled_from([b"a", b"b", b"{t}x", b"\x00", b"k\r\n"])
VALUES = st.one_of(st.binary(max_size=20), st.sampled_from([b"", b"12", b"\r\n"]))
NUMBERS = st.one_of(
    st.integers(-20, 20).map(lambda number: b"%d" % number), st.just(b"x"), st.just(b"99999999999")
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(b"GET"), KEYS),
        st.tuples(st.just(b"SET"), KEYS, VALUES),
        st.tuples(st.just(b"SET"), KEYS, VALUES, st.just(b"EX"), st.just(b"1000")),
        st.tuples(st.sampled_from([b"DEL", b"UNLINK", b"MGET", b"EXISTS"]), KEYS, KEYS),
        st.tuples(st.just(b"MSET"), KEYS, VALUES, KEYS, VALUES),
        st.tuples(st.sampled_from([b"STRLEN", b"TYPE", b"TTL", b"DEL"]), KEYS),
        st.tuples(st.just(b"GETRANGE"), KEYS, NUMBERS, NUMBERS),
        st.tuples(st.just(b"SETEX"), KEYS, NUMBERS, VALUES),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.slow
@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
def test_any_sequence_of_values_and_deletes_reads_the_same(
    peer: Peer, steps: list[tuple[bytes, ...]]
) -> None:
    peer.send("FLUSHALL")
    # Expiries of Valkey run by the real clock; ours stands still: both show the same seconds.
    talk = Conversation()
    for step in steps:
        assert talk.send(*step) == peer.send(*step), step
