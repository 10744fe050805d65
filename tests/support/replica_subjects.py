"""Replicas under test, all asked in the same way: the fake, and real servers with the scripts."""

import socket
import time
from collections.abc import Sequence
from typing import Protocol

from hiredis import Reader

from replicas.commands import pack_command
from replicas.fake import FakeReplica
from replicas.scripts import SCRIPTS
from tests.support.servers import Server

TIMEOUT_S = 10.0


class Subject(Protocol):
    """Something that behaves as a replica."""

    def execute(self, command: bytes) -> object:
        """The reply to one command."""

    def now_ms(self) -> int:
        """Its clock."""

    def fields(self, key: bytes) -> dict[bytes, bytes]:
        """A whole hash."""

    def log(self, key: bytes) -> list[bytes]:
        """The entries of a change log, oldest first."""

    def poke(self, key: bytes, field: bytes, value: bytes) -> None:
        """Set a field behind the scripts' back."""

    def clear(self) -> None:
        """Forget everything."""


class FakeSubject:
    """The fake, at a time that the test sets."""

    def __init__(self, at_ms: int) -> None:
        self.replica = FakeReplica(bytes(20))
        self.at_ms = at_ms

    def execute(self, command: bytes) -> object:
        return self.replica.execute(command, self.at_ms)

    def now_ms(self) -> int:
        return self.at_ms

    def fields(self, key: bytes) -> dict[bytes, bytes]:
        return dict(self.replica.state.hashes.get(key, {}))

    def log(self, key: bytes) -> list[bytes]:
        return list(self.replica.state.logs.get(key, []))

    def poke(self, key: bytes, field: bytes, value: bytes) -> None:
        self.replica.state.hashes.setdefault(key, {})[field] = value

    def clear(self) -> None:
        self.replica.restart_empty(bytes(20))


class ServerSubject:
    """A real server, asked over a blocking socket."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = Reader()
        for script in SCRIPTS.values():
            assert self.call(b"SCRIPT", b"LOAD", script.source) == script.sha

    def execute(self, command: bytes) -> object:
        return self.execute_all([command])[0]

    def execute_all(self, commands: Sequence[bytes]) -> list[object]:
        """The replies to commands that are sent together."""
        self._socket.sendall(b"".join(commands))
        replies: list[object] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is not False:
                replies.append(reply)
                continue
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(data)
        return replies

    def call(self, *arguments: bytes) -> object:
        return self.execute(pack_command(*arguments))

    def now_ms(self) -> int:
        return int(time.time() * 1000)

    def fields(self, key: bytes) -> dict[bytes, bytes]:
        flat = self.call(b"HGETALL", key)
        assert isinstance(flat, list)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def log(self, key: bytes) -> list[bytes]:
        entries = self.call(b"XRANGE", key, b"-", b"+")
        assert isinstance(entries, list)
        return [fields[1] for _, fields in entries]

    def poke(self, key: bytes, field: bytes, value: bytes) -> None:
        self.call(b"HSET", key, field, value)

    def clear(self) -> None:
        self.call(b"FLUSHALL")

    def close(self) -> None:
        self._socket.close()
