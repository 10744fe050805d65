"""A small blocking client of the Redis protocol: loads the keys, and compares what is answered.

It sends nothing that was not asked for: twemproxy closes a connection that says HELLO or SELECT.
"""

import random
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis

from bench.doors_programs import BenchFailed

VALUE_BYTES = 64
_AT_ONCE = 500
_TIMEOUT_S = 20.0
_READ_BYTES = 1 << 18


def key_of(number: int) -> bytes:
    """As redis-benchmark makes of key:__rand_int__."""
    return b"key:%012d" % number


def value_of(number: int) -> bytes:
    """VALUE_BYTES that no other key has."""
    return (b"value of %d " % number).ljust(VALUE_BYTES, b".")


class Conversation:
    """One connection; commands go out together, replies come back in their order."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = hiredis.Reader()

    def ask(self, commands: Sequence[Any]) -> list[Any]:
        """One reply for each command, a tuple of bytes. Raises OSError."""
        self._connection.sendall(b"".join(hiredis.pack_command(command) for command in commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is not False:
                replies.append(reply)
                continue
            received = self._connection.recv(_READ_BYTES)
            if not received:
                raise ConnectionError("the connection was closed before all replies had come")
            self._reader.feed(received)
        return replies


@contextmanager
def conversation(port: int, database: int = 0) -> Iterator[Conversation]:
    """A connection to loopback; SELECTs a database other than 0."""
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as connection:
        talk = Conversation(connection)
        if database and talk.ask([(b"SELECT", b"%d" % database)]) != [b"OK"]:
            raise BenchFailed(f"database {database} can not be selected on port {port}")
        yield talk


def answers(port: int, database: int = 0) -> Callable[[], bool]:
    """Whether the server on this port answers a GET without an error."""

    def asked() -> bool:
        with conversation(port, database) as talk:
            return not isinstance(talk.ask([(b"GET", key_of(0))])[0], hiredis.ReplyError)

    return asked


def load_keys(port: int, database: int, keys: int) -> None:
    """Writes all keys."""
    with conversation(port, database) as talk:
        for first in range(0, keys, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, keys))
            replies = talk.ask([(b"SET", key_of(n), value_of(n)) for n in numbers])
            refused = [reply for reply in replies if reply != b"OK"]
            if refused:
                raise BenchFailed(f"loading: a SET on port {port} was answered {refused[0]!r}")


def check_keys(port: int, database: int, keys: int, sample: int) -> None:
    """Compares the values of randomly chosen keys. Raises BenchFailed when one is wrong."""
    with conversation(port, database) as talk:
        for first in range(0, sample, _AT_ONCE):
            numbers = [random.randrange(keys) for _ in range(min(_AT_ONCE, sample - first))]
            replies = talk.ask([(b"GET", key_of(number)) for number in numbers])
            for number, reply in zip(numbers, replies, strict=True):
                if reply != value_of(number):
                    raise BenchFailed(f"port {port}: {key_of(number)!r} was answered {reply!r}")
