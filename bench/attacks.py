"""A hostile client: what it says, and a connection that goes on saying it until it is closed.

The attacks on each door stand in attacks_http2.py and attacks_redis.py. The tests assert what
becomes of them; `python -m bench doors --under-attack` measures what other clients notice.
"""

import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

READ_BYTES = 1 << 18
KEPT_BYTES = 1 << 20  # of what the server says: the last words tell why it closed
KIB = 1024
# What one connection sends at most in one attempt; every attack is stopped, or harmless, before.
_MOST_BURSTS = 400

Burst = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What one hostile connection sends: `opening`, then `burst(0)`, `burst(1)` ...

    `frames` counts what a burst makes the server look at: frames, or commands. `reads`: whether the
    client takes what it is answered. `bursts`: after so many it has done its worst, and waits;
    `pace_s`: between two of them.
    """

    name: str
    burst: Burst
    frames: int
    opening: bytes = b""
    bursts: int = _MOST_BURSTS
    reads: bool = True
    pace_s: float = 0.0


@dataclass(slots=True)
class Fought:
    """What came of one connection."""

    closed: bool = False  # by the server
    frames: int = 0
    sent_bytes: int = 0
    heard_bytes: int = 0
    heard: bytes = b""  # the last KEPT_BYTES of it

    @property
    def work(self) -> int:
        """What the server had to look at: each frame, and each KiB."""
        return self.frames + self.sent_bytes // KIB


def always(burst: bytes) -> Burst:
    """The same in every burst."""
    return lambda number: burst


def connect(address: tuple[str, int] | str) -> socket.socket:
    """A connection to host and port, or to a Unix socket's path."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.connect(address)
    return sock


def fight(attack: Attack, sock: socket.socket, *, for_s: float, quiet_s: float = 1e9) -> Fought:
    """Attacks on this connection until it is closed, `for_s` have passed, or nothing has moved for
    `quiet_s`.
    """
    sock.setblocking(False)
    fought = Fought()
    unsent = memoryview(attack.opening)
    number = 0
    end = time.monotonic() + for_s
    next_s = 0.0
    moved, moved_s = 0, time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while not fought.closed and time.monotonic() < min(end, moved_s + quiet_s):
            if not unsent and number < attack.bursts and time.monotonic() >= next_s:
                next_s = time.monotonic() + attack.pace_s
                unsent = memoryview(attack.burst(number))
                number += 1
                fought.frames += attack.frames
            wanted = selectors.EVENT_READ if attack.reads or not unsent else 0
            wanted |= selectors.EVENT_WRITE if unsent else 0
            selector.modify(sock, wanted)
            ready = selector.select(0.02)
            unsent = _exchange(sock, fought, unsent, ready[0][1] if ready else 0, attack.reads)
            if fought.sent_bytes + fought.heard_bytes > moved:
                moved, moved_s = fought.sent_bytes + fought.heard_bytes, time.monotonic()
    return fought


def _exchange(
    sock: socket.socket, fought: Fought, unsent: memoryview, ready: int, reads: bool
) -> memoryview:
    """One write and one read, as far as the socket lets; what is left to send."""
    try:
        if ready & selectors.EVENT_WRITE and unsent:
            sent = sock.send(unsent)
            fought.sent_bytes += sent
            unsent = unsent[sent:]
        if ready & selectors.EVENT_READ and reads:
            _hear(fought, sock.recv(READ_BYTES))
    except BlockingIOError:
        pass
    except (ConnectionResetError, BrokenPipeError):
        _hear_the_rest(sock, fought)
    return unsent


def _hear(fought: Fought, data: bytes) -> None:
    fought.closed = not data
    fought.heard_bytes += len(data)
    fought.heard = (fought.heard + data)[-KEPT_BYTES:]


def _hear_the_rest(sock: socket.socket, fought: Fought) -> None:
    """Its last words may lie in our socket although it does not listen any more."""
    try:
        while not fought.closed:
            _hear(fought, sock.recv(READ_BYTES))
    except OSError:
        fought.closed = True
