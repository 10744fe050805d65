"""Commands in all their combinations: options, amounts, numbers, ranges. For a comparison with a
real server, so what differs on purpose is not among them: docs/redis-commands.md lists that.

Each generator gives commands in order; what a command left shows in those that follow it.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, permutations, product

from sidecar.redis.table import command_table
from tests.support.valkey_peer import Command

Words = tuple[str, ...]
MOST_INT, LEAST_INT = "9223372036854775807", "-9223372036854775808"
INTEGERS = (
    *("0", "1", "-1", MOST_INT, LEAST_INT, "9223372036854775808", "-9223372036854775809"),
    *("01", "+1", " 1", "1 ", "", "x", "1.0", "-0", "1e3", "92233720368547758070"),
)
# As seconds and as milliseconds, from now and from 1970, each is far from now.
AMOUNTS = (
    *("1000000", "4000000000", "0", "-1", "-5", LEAST_INT, MOST_INT, "9223372036854775808"),
    *("x", "", "1.5", "01", " 1"),
)
FLOATS = (
    *("0", "1", "-1", "0.1", "3.0", "1e3", "1e-3", "1e17", "123456789012345678", "-0", "-0.0"),
    *("0.00000000000000001", "1e-18", ".5", "5.", "+1", " 1", "1 ", "", "x", "inf", "-inf"),
    *("nan", "1e400", "1e5000", "1e-4940", "1_0", "1e", "e1", "--1", "1d", "INF", MOST_INT),
)
STATES: tuple[tuple[Command, ...], ...] = (
    (),
    (("SET", "k", "v"),),
    (("SET", "k", "v", "EXAT", "5000000000"),),
)
# About the connection and the server: other generators and other tests go through these.
_OWN_WORDS = frozenset(("quit", "reset", "hello", "client", "command", "config", "info", "keys"))
_CHANGING = frozenset(("auth", "select", "scan", "dbsize", "time"))


def some_of(options: Sequence[Words], most: int) -> Iterator[Words]:
    """Up to `most` of the options in every order, as one run of words."""
    for count in range(most + 1):
        for chosen in permutations(options, count):
            yield tuple(chain(*chosen))


def on_each_state(commands: Iterable[Command]) -> Iterator[Command]:
    """Each command on a key that is absent, that stays, that expires; and what is there then."""
    for command, state in product(list(commands), STATES):
        yield ("DEL", "k")
        yield from state
        yield command
        yield ("GET", "k")
        yield ("TTL", "k")


def arity() -> Iterator[Command]:
    """Every command with no argument to six."""
    for name in command_table():
        if name not in _OWN_WORDS | _CHANGING and not name.startswith("dabba."):
            yield from ((name, *["1"] * count) for count in range(7))


def set_options() -> Iterator[Command]:
    words: tuple[Words, ...] = (
        *(("EX", "1000000"), ("px", "4000000000"), ("EXAT", "4000000000")),
        *(("PXAT", "4000000000000"), ("EX",), ("FOO",), ("NX",), ("xx",), ("GET",)),
        *(("KEEPTTL",), ("IFEQ", "v")),
    )
    yield from on_each_state(("SET", "k", "w", *options) for options in some_of(words, 2))
    yield from (("SET", "k", "w", *options) for options in some_of(words, 3))


def plain_set_options() -> Iterator[Command]:
    """Without those that read first."""
    words = (("EX", "1000000"), ("px", "4000000000"), ("EXAT", "4000000000"), ("FOO",), ("PXAT",))
    yield from on_each_state(("SET", "k", "w", *options) for options in some_of(words, 3))


def amounts() -> Iterator[Command]:
    for option, amount in product(("EX", "PX", "EXAT", "PXAT"), AMOUNTS):
        if (option, amount) != ("PXAT", MOST_INT):
            yield from on_each_state([("SET", "k", "w", option, amount)])
    for name, amount in product(("SETEX", "PSETEX"), AMOUNTS):
        yield from on_each_state([(name, "k", amount, "w")])


def expiries() -> Iterator[Command]:
    conditions = list(some_of((("NX",), ("xx",), ("GT",), ("LT",), ("FOO",)), 2))
    for name in ("EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"):
        for amount in AMOUNTS:
            if (name, amount) != ("PEXPIREAT", MOST_INT):
                yield from on_each_state([(name, "k", amount)])
        for amount, chosen in product(("1000000", "4000000000", "-1"), conditions):
            yield from on_each_state([(name, "k", amount, *chosen)])
    yield from on_each_state([("PERSIST", "k"), ("PERSIST", "nosuch"), ("EXPIRETIME", "k")])
    for at_ms in ("4000000000499", "4000000000500"):
        yield ("SET", "k", "v", "PXAT", at_ms)
        yield from ((name, "k") for name in ("EXPIRETIME", "PEXPIRETIME", "TTL"))


def getex_options() -> Iterator[Command]:
    words: tuple[Words, ...] = (
        *(("EX", "1000000"), ("px", "4000000000"), ("EXAT", "4000000000"), ("PXAT", "1")),
        *(("PERSIST",), ("persist",), ("FOO",), ("EX",), ("EX", "0"), ("PX", "x")),
    )
    yield from on_each_state(("GETEX", "k", *options) for options in some_of(words, 2))


def integers() -> Iterator[Command]:
    for value in INTEGERS:
        for name in ("INCR", "DECR"):
            yield from (("SET", "n", value), (name, "n"), ("GET", "n"))
        for name, by in product(("INCRBY", "DECRBY"), INTEGERS):
            yield from (("SET", "n", value), (name, "n", by), ("GET", "n"))


def floats() -> Iterator[Command]:
    for value, by in product(FLOATS, FLOATS):
        yield from (("SET", "f", value), ("INCRBYFLOAT", "f", by), ("GET", "f"))


def ranges() -> Iterator[Command]:
    places = ("5", "-5", "100", "-100", *INTEGERS)
    for value in ("", "a", "hello world"):
        yield ("SET", "s", value)
        yield from (("GETRANGE", "s", start, end) for start, end in product(places, places))


def parts() -> Iterator[Command]:
    offsets = [at for at in ("5", "100", "536870912", *INTEGERS) if at != MOST_INT]
    for offset, part in product(offsets, ("", "x", "xyz")):
        for before in ((("DEL", "s"),), (("SET", "s", "hello world"),)):
            yield from (*before, ("SETRANGE", "s", offset, part), ("GET", "s"), ("EXISTS", "s"))


def keys_and_values() -> Iterator[Command]:
    keys = (b"k", b"\0", b"a\r\nb", b"\xff\xfe", b"k" * 1024, b"{", b"{}", b"{a}b")
    for key, value in product(keys, (b"", b"\0", b"\r\n", b"$-1\r\n", b"v" * 100_000)):
        yield ("SET", key, value)
        yield from ((name, key) for name in ("GET", "STRLEN", "TYPE", "TTL", "PTTL"))
        yield from ((name, key, "nosuch", key) for name in ("MGET", "EXISTS", "DEL", "UNLINK"))
        yield ("MSET", key, value, "other", value, key, "last")
        yield ("MGET", "other", key)


def scans() -> Iterator[Command]:
    yield from (("DEL", key) for key in ("k", "s", "n", "f", "other", "1"))
    words: tuple[Words, ...] = (
        *(("MATCH", "nosuch*"), ("COUNT", "1000"), ("TYPE", "hash"), ("TYPE", "foo")),
        *(("COUNT", "0"), ("COUNT", "-1"), ("COUNT", "x"), ("COUNT", ""), ("MATCH",)),
        *(("NOVALUES",), ("FOO", "x"), ("count", "99999999999999999999")),
    )
    nobody = ("MATCH", "no such key")
    yield from (("SCAN", "0", *nobody, *options) for options in some_of(words, 2))
    yield from (("SCAN", cursor, *nobody) for cursor in ("", "x", "-1x", "1 ", "0 ", "1.0", "1e3"))


def connections() -> Iterator[Command]:
    for version in ("2", "3", "0", "1", "4", "x", "", "-1", "3.0", "99999999999999999999"):
        for options in (("FOO",), ("SETNAME",), ("SETNAME", "a b"), ("AUTH", "a"), ("AUTH",)):
            yield ("HELLO", version, *options)
    arguments: tuple[Words, ...] = (
        *((), ("a",), ("a", "b"), ("a", "b", "c"), ("TYPE", "foo"), ("TYPE", "master")),
        *(("lib-name", "x"), ("LIB-VER", "1"), ("lib-name", ""), ("lib-name", "a\nb"), ("é",)),
        *(("",), ("ID", "x"), ("ID",), ("ID", "999999"), ("x", "y")),
    )
    names = ("SETNAME", "GETNAME", "SETINFO", "NO-EVICT", "NO-TOUCH", "REPLY", "nosuch", "")
    yield from (("CLIENT", name, *more) for name, more in product(names, arguments))
    yield from (("CLIENT", "LIST", *more) for more in arguments[1:6] + arguments[-4:])
    yield from (("CLIENT", "ID", *more) for more in arguments[1:])
    yield ("CLIENT", "GETNAME")
    for number in ("x", "", "-1", "16", "2147483647", "2147483648", "-2147483649", "01", "1.0"):
        yield ("SELECT", number)
    yield from (("AUTH", *more) for more in ((), ("x",), ("a", "b", "c"), ("", "", "", "")))


def servers() -> Iterator[Command]:
    arguments: tuple[Words, ...] = (
        *(("COUNT", "x"), ("LIST", "x", "y"), ("GET",), ("GET", "nosuch", "nosuch too")),
        *(("GETKEYS",), ("GETKEYS", "SET", "a"), ("GETKEYS", "SET"), ("GETKEYS", "PING")),
        *(("GETKEYS", "MGET", "a", "b"), ("GETKEYS", "mset", "a", "1", "b", "2"), ("x",)),
        *(("INFO", "nosuch", "nosuch too"), ("DOCS", "nosuch"), ("GET", "save"), ("SET", "a")),
    )
    yield from ((name, *more) for name, more in product(("COMMAND", "CONFIG"), arguments))
    for name in ("PING", "ECHO", "ROLE", "TIME", "DBSIZE"):
        yield from ((name, *more) for more in arguments if name != "DBSIZE" or more)
    yield ("INFO", "nosuch")


TUNABLE = (*(plain_set_options, amounts, ranges, keys_and_values, scans, connections, servers),)
LINEARIZABLE = (*TUNABLE, arity, set_options, expiries, getex_options, integers, floats, parts)
