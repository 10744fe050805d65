"""One HTTP/2 stream: whose half is closed, its two windows, and what waits to be sent on it."""

from collections import deque
from typing import Final, Protocol

# A writer is asked to wait above the first mark and called back below the second.
BACKLOG_HIGH_BYTES: Final = 64 * 1024
BACKLOG_LOW_BYTES: Final = 16 * 1024


class StreamUser(Protocol):
    """The layer above, seen from one stream. It may answer from within these calls."""

    # Nothing can be done before the request has ended, so its end is waited for no longer than
    # request_timeout_ns.
    awaits_end: bool

    def receive_body(self, data: bytes, ended: bool) -> None:
        """Bytes of the request's body, without padding; `ended`: nothing follows. May be empty."""

    def stream_died(self) -> None:
        """The stream is dead (reset by either side, or the connection is lost). Called at most
        once.

        The stream keeps its slot until the user ends or releases it.
        """

    def stream_drained(self) -> None:
        """The backlog has drained after `send` had said False."""


class Backlog:
    """What is queued on a stream behind a window or a slow socket."""

    __slots__ = (
        "chunks",
        "end_block",
        "progressed",
        "scheduled",
        "size_bytes",
        "stuck_since_ns",
        "waiting",
    )

    def __init__(self) -> None:
        self.chunks: deque[memoryview] = deque()
        self.size_bytes = 0
        self.end_block: bytes | None = None  # the trailers, once the user has ended the stream
        self.scheduled = False  # stands in the outbox's round
        self.waiting = False  # the user was told to wait for stream_drained
        self.progressed = True  # something was sent since the last sweep
        self.stuck_since_ns = 0

    def push(self, data: bytes) -> None:
        if data:
            self.chunks.append(memoryview(data))
            self.size_bytes += len(data)

    def pull(self, size: int) -> bytes:
        """The next `size` bytes; the caller knows that there are as many."""
        self.size_bytes -= size
        parts: list[memoryview] = []
        while size:
            chunk = self.chunks[0]
            if len(chunk) > size:
                parts.append(chunk[:size])
                self.chunks[0] = chunk[size:]
                break
            parts.append(self.chunks.popleft())
            size -= len(chunk)
        return b"".join(parts)


class Stream:
    """A request in progress. It leaves the connection's table when its work has ended and its
    answer is out.
    """

    __slots__ = (
        "backlog",
        "credit_held",
        "expected_bytes",
        "id",
        "opened_ns",
        "receive_window",
        "remote_closed",
        "reset",
        "send_window",
        "user",
        "work_ended",
    )

    def __init__(
        self, stream_id: int, receive_window: int, send_window: int, opened_ns: int
    ) -> None:
        self.id = stream_id
        self.user: StreamUser = IGNORES
        self.remote_closed = False  # the client has sent END_STREAM
        self.reset = False  # dead: nothing more is sent, what comes is discarded
        self.work_ended = False  # the user has given its last byte, or has released the stream
        self.receive_window = receive_window
        self.send_window = send_window  # negative after the client has shrunk its setting
        self.expected_bytes = -1  # what content-length still promises; -1: it promised nothing
        self.credit_held = False  # the user wants no more for now: the window is not refilled
        self.opened_ns = opened_ns
        self.backlog: Backlog | None = None


class _Ignores:
    """The user of a stream that was answered before any user came to be."""

    awaits_end = False

    def receive_body(self, data: bytes, ended: bool) -> None:
        pass

    def stream_died(self) -> None:
        pass

    def stream_drained(self) -> None:
        pass


IGNORES: Final[StreamUser] = _Ignores()
