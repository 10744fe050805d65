"""A real server, asked over a socket of the test's own: what it answers, to the byte."""

import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from tests.support.conversation import packed

Command = tuple[bytes | str, ...]
_END = b"the end"
_MARK = b"$%d\r\n%b\r\n" % (len(_END), _END)
_AT_ONCE = 200


class Listening(Protocol):
    """A server, or only its address."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class Address(NamedTuple):
    """Of whoever listens there."""

    host: str
    port: int


class Peer:
    """Each answer is complete: an ECHO marks its end."""

    def __init__(self, server: Listening) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout=10)

    def send(self, *args: bytes | str) -> bytes:
        """The answer to one command."""
        return self.send_all([args])[0]

    def send_all(self, commands: Sequence[Command]) -> list[bytes]:
        """The answer to each of them; none may hold the words of the mark."""
        answers: list[bytes] = []
        for first in range(0, len(commands), _AT_ONCE):
            answers += self._ask(commands[first : first + _AT_ONCE])
        return answers

    def until_closed(self, data: bytes) -> bytes:
        """Everything that is answered to `data` before the server closes the connection."""
        self._socket.sendall(data)
        answer = b""
        while True:
            try:
                part = self._socket.recv(65536)
            except ConnectionResetError:  # it closed with our bytes unread
                return answer
            if not part:
                return answer
            answer += part

    def close(self) -> None:
        self._socket.close()

    def _ask(self, commands: Sequence[Command]) -> list[bytes]:
        marked: Iterable[bytes] = (packed(*command) + packed("ECHO", _END) for command in commands)
        self._socket.sendall(b"".join(marked))
        data = bytearray()
        while not data.endswith(_MARK) or data.count(_MARK) < len(commands):
            part = self._socket.recv(262_144)
            if not part:
                raise ConnectionError("the server closed the connection")
            data += part
        return bytes(data).split(_MARK)[:-1]
