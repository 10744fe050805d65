"""One pipelined connection to a replica server: commands in, replies to their sinks, in order.

RESP2 throughout: its replies parse to the same values as RESP3's, it needs no HELLO, and every
server speaks it. Nothing is retried here: a lost connection is told to every sink that waits.

One connection with 64 reads in flight carries 370 to 550 thousand reads a second, where
redis-benchmark reaches 340 to 890 with the same pipeline in the same run; 0.8 us of CPU a read.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from hiredis import ProtocolError, Reader, ReplyError

from replicas.commands import TIME
from replicas.errors import LinkFull, LinkLost, NotAReplicaServer, Unreachable
from replicas.handshake import ServerIdentity, first_questions, identify, parse_time_ms

# So many commands leave at once, before the turn of the loop ends: the server works on them while
# we take in what else has come. Pipelines of GETs get through a tenth faster; less is dearer.
EARLY_COMMANDS = 64
MAX_IN_FLIGHT = 16_384
MAX_BUFFER_BYTES = 16 << 20


class ReplySink(Protocol):
    """Who waits for a reply. For each command sent, exactly one of the two is called, once."""

    def on_reply(self, slot: int, reply: object, link: "Link") -> None:
        """The reply: bytes, int, None, list, or hiredis.ReplyError as a value."""

    def on_lost(self, slot: int, sent: bool, link: "Link") -> None:
        """The link closed first. `sent` is False only if no byte of the command left."""


class Link(asyncio.Protocol):
    """A connection to one life of a replica server. Made by `open_link`.

    Commands of one loop turn leave in few `transport.write`s, mostly one. Not more than
    `max_in_flight` commands await replies and about `max_buffer_bytes` await being written: above
    that, send() refuses.
    """

    __slots__ = (
        "_batches",
        "_buffer_bytes",
        "_corked",
        "_full",
        "_loop",
        "_max_buffer_bytes",
        "_max_in_flight",
        "_paused",
        "_reader",
        "_replied",
        "_sent",
        "_transport",
        "_waiting",
        "address",
        "closed",
        "identity",
        "on_closed",
        "reason",
    )

    def __init__(
        self,
        address: str,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_buffer_bytes: int = MAX_BUFFER_BYTES,
    ) -> None:
        self.address = address
        self.identity: ServerIdentity  # set once the first questions are answered
        self.closed = False
        self.reason = ""  # why it closed
        self.on_closed: Callable[[Link], None] | None = None  # called once, after the sinks
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = Reader()
        self._max_in_flight = max_in_flight
        self._max_buffer_bytes = max_buffer_bytes
        self._paused = False  # the transport's buffer is above its bound
        self._full = True  # nothing more is taken: not connected, closed, paused or corked full
        self._waiting: deque[tuple[ReplySink, int]] = deque()
        self._corked: list[bytes] = []  # commands of this loop turn: the last ones of _waiting
        self._buffer_bytes = 0  # in _corked
        # When what was written: (commands written in all until then, loop time). Commands are
        # not stamped one by one: 64 in flight would read the clock 64 times as often.
        self._batches: deque[tuple[int, float]] = deque()
        self._sent = 0
        self._replied = 0

    # --- for those who ask

    def send(self, command: bytes, sink: ReplySink, slot: int) -> bool:
        """Queue one complete command; its reply goes to `sink` with `slot`.

        False when the link is closed or at a bound: nothing was sent and the sink is not called.
        """
        waiting = self._waiting
        if self._full or len(waiting) >= self._max_in_flight:
            return False
        corked = self._corked
        if not corked:
            self._loop.call_soon(self._flush)
        corked.append(command)
        waiting.append((sink, slot))
        self._buffer_bytes += len(command)
        if self._buffer_bytes >= self._max_buffer_bytes:
            self._full = True
        elif len(corked) >= EARLY_COMMANDS:
            self._flush()
        return True

    @property
    def in_flight(self) -> int:
        """Commands that await their replies."""
        return len(self._waiting)

    @property
    def oldest_sent_at(self) -> float:
        """Loop time at which the oldest unanswered command was written; infinity if there is none.

        A replica that is frozen keeps its TCP connection: this is how it shows.
        """
        return self._batches[0][1] if self._batches else math.inf

    def close(self, reason: str = "closed by us") -> None:
        """Drop the connection now; sinks that wait are told in the next loop turn."""
        if not self.closed:
            self.closed = self._full = True
            self.reason = reason
            if self._transport is not None:
                self._transport.abort()

    # --- for the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = stream = cast(asyncio.Transport, transport)
        stream.set_write_buffer_limits(high=self._max_buffer_bytes)
        self._full = False

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol: hands every complete reply to the sink that waits for it."""
        replies = self._reader
        waiting = self._waiting
        count = 0
        try:
            replies.feed(data)
            while (reply := replies.gets()) is not False and not self.closed:
                if not waiting:
                    self.close("the server sent a reply that nothing asked for")
                    return
                sink, slot = waiting.popleft()
                count += 1
                sink.on_reply(slot, reply, self)
                if reply.__class__ is ReplyError and str(reply).startswith("NOSCRIPT"):
                    # Scripts are loaded on connecting: who has forgotten them has lived another
                    # life since, whatever the connection says.
                    self.close("the server has forgotten its scripts")
        except ProtocolError as error:
            self.close(f"the server does not speak the Redis protocol: {error}")
        self._count_replies(count)

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol: the server reads more slowly than it is written to."""
        self._paused = self._full = True

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._paused = False
        self._full = self.closed or self._buffer_bytes >= self._max_buffer_bytes

    def eof_received(self) -> None:
        """Part of asyncio.Protocol: the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol: tells every sink that waits, then `on_closed`."""
        if not self.closed:
            self.reason = f"the connection broke: {exc}" if exc else "the server closed it"
        self.closed = self._full = True
        self._batches.clear()
        corked = len(self._corked)
        self._corked.clear()
        waiting = self._waiting
        while waiting:
            sink, slot = waiting.popleft()
            sink.on_lost(slot, len(waiting) >= corked, self)
        if self.on_closed is not None:
            self.on_closed(self)

    def _flush(self) -> None:
        transport, corked = self._transport, self._corked
        if not corked or self.closed or transport is None or transport.is_closing():
            return
        self._sent += len(corked)
        self._batches.append((self._sent, self._loop.time()))
        self._buffer_bytes = 0
        self._full = self._paused
        transport.write(b"".join(corked))
        corked.clear()

    def _count_replies(self, count: int) -> None:
        self._replied = replied = self._replied + count
        batches = self._batches
        while batches and batches[0][0] <= replied:
            batches.popleft()


async def open_link(
    host: str,
    port: int,
    *,
    timeout_s: float,
    password: str | None = None,
    max_in_flight: int = MAX_IN_FLIGHT,
    max_buffer_bytes: int = MAX_BUFFER_BYTES,
) -> Link:
    """Connect, check who answers, and load the scripts, all within `timeout_s`.

    Raises a ReplicaError: Unreachable and Loading are worth another attempt, the others are not
    until somebody changed something.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    loop = asyncio.get_running_loop()

    def make() -> Link:
        return Link(address, max_in_flight=max_in_flight, max_buffer_bytes=max_buffer_bytes)

    link: Link | None = None
    try:
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(make, host, port)
            link.identity = await _ask_identity(link, password)
            opened, link = link, None
            return opened
    except TimeoutError:
        problem = f"it did not answer within {timeout_s:g} s"
    except OSError as error:
        problem = f"no connection: {error.strerror or error}"
    finally:
        if link is not None:
            link.close()
    raise Unreachable(address, problem, "Check that the server runs and can be reached from here")


async def ask(link: Link, commands: list[bytes]) -> list[object]:
    """Send commands together and wait for all their replies; server errors are among them.

    For handshakes and jobs: it costs a future. Raises LinkFull or LinkLost.
    """
    answers = _Answers(len(commands))
    for slot, command in enumerate(commands):
        if link.closed:
            raise _lost(link)
        if not link.send(command, answers, slot):
            answers.abandoned = True
            raise LinkFull(link.address, "too much waits to be sent to it", "Send less at a time")
    return await answers.done


class _Answers:
    """The sink of one `ask`."""

    __slots__ = ("_missing", "_replies", "abandoned", "done")

    def __init__(self, count: int) -> None:
        self._replies: list[object] = [None] * count
        self._missing = count
        self.abandoned = False
        self.done: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
        if not count:
            self.done.set_result([])

    def on_reply(self, slot: int, reply: object, link: Link) -> None:
        self._replies[slot] = reply
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(self._replies)

    def on_lost(self, slot: int, sent: bool, link: Link) -> None:
        if not self.done.done() and not self.abandoned:
            self.done.set_exception(_lost(link))


def _lost(link: Link) -> LinkLost:
    return LinkLost(link.address, link.reason, "What was asked may have been done: ask again")


async def _ask_identity(link: Link, password: str | None) -> ServerIdentity:
    try:
        replies = await ask(link, first_questions(password))
        # By itself, so that the round trip is short: half of it is the error of the offset.
        asked_at = time.time()
        [time_reply] = await ask(link, [TIME])
        middle_ms = (asked_at + time.time()) * 500
    except LinkLost as lost:
        if "does not speak" in lost.problem:
            raise NotAReplicaServer(link.address, lost.problem, "Check host and port") from None
        raise Unreachable(link.address, lost.problem, "It is tried again") from None
    offset_ms = parse_time_ms(link.address, time_reply) - round(middle_ms)
    return identify(
        link.address, replies, clock_offset_ms=offset_ms, authenticated=password is not None
    )
