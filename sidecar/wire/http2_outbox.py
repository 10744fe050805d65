"""The sending half of a connection: frames ready for the socket, and fair turns for streams that
wait for windows.

Small answers go straight into the output. What does not fit the windows, the frame size or a full
socket is queued on its stream; `take` lets the waiting streams send one frame each in turn, so that
one large answer does not hold up the rest.
"""

from collections import deque
from collections.abc import Callable

from sidecar.wire.http2_frames import (
    DATA,
    DEFAULT_MAX_FRAME_BYTES,
    DEFAULT_WINDOW_BYTES,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADERS,
    frame,
)
from sidecar.wire.http2_headers import EMPTY_TABLE
from sidecar.wire.http2_limits import Counters
from sidecar.wire.http2_stream import BACKLOG_HIGH_BYTES, BACKLOG_LOW_BYTES, Backlog, Stream

_pack_header = FRAME_HEADER.pack


class Outbox:
    """Bytes on their way out.

    `on_output()` is called when output appears outside of `receive`, once until the next `take`.
    `on_sent(stream)` is called when END_STREAM of a stream has been written.
    """

    def __init__(
        self,
        on_output: Callable[[], None],
        on_sent: Callable[[Stream], None],
        max_turn_bytes: int,
        counters: Counters,
    ) -> None:
        self._on_output = on_output
        self._on_sent = on_sent
        self._max_turn_bytes = max_turn_bytes
        self._counters = counters
        self._parts: list[bytes] = []
        self._round: deque[Stream] = deque()  # streams with a backlog and an open window
        self.corked = False  # someone will call `take`
        self.writable = True  # False while the socket's buffer is full
        self.data_frames = 0
        self.queued_bytes = 0  # of all streams
        # What the peer has set.
        self.window = DEFAULT_WINDOW_BYTES
        self.initial_window = DEFAULT_WINDOW_BYTES
        self.max_frame_bytes = DEFAULT_MAX_FRAME_BYTES
        self.table_size_changed = False

    @property
    def has_more(self) -> bool:
        """Queued data could be sent by another `take`."""
        return bool(self._round) and self.window > 0 and self.writable

    def emit(self, data: bytes) -> None:
        self._parts.append(data)
        self._request_take()

    def headers(self, stream_id: int, block: bytes, flags: int = 0) -> None:
        """A header block of our own making: always shorter than the smallest allowed frame size."""
        if self.table_size_changed:
            self.table_size_changed = False
            block = EMPTY_TABLE + block
        self.emit(frame(HEADERS, END_HEADERS | flags, stream_id, block))

    def whole_answer(self, stream: Stream, head: bytes, body: bytes, tail: bytes) -> bool:
        """Headers, one DATA frame and trailers at once, where windows and socket allow; False:
        nothing was done.
        """
        size = len(body)
        if (
            size > stream.send_window
            or size > self.window
            or size > self.max_frame_bytes
            or not self.writable
            or self.table_size_changed
        ):
            return False
        self.window -= size
        self.data_frames += 1
        stream_id = stream.id
        self._parts += (
            _pack_header(0, len(head), HEADERS, END_HEADERS, stream_id),
            head,
            _pack_header(size >> 8, size & 0xFF, DATA, 0, stream_id),
            body,
            _pack_header(0, len(tail), HEADERS, END_HEADERS | END_STREAM, stream_id),
            tail,
        )
        if not self.corked:
            self._request_take()
        return True

    def queue(self, stream: Stream, data: bytes) -> int:
        """Queues body bytes and returns how many the stream has waiting now."""
        backlog = stream.backlog
        if backlog is None:
            backlog = stream.backlog = Backlog()
        backlog.push(data)
        self._count_queued(len(data))
        self._schedule(stream, backlog)
        return backlog.size_bytes

    def end(self, stream: Stream, block: bytes) -> None:
        """The trailers, after all that is queued."""
        backlog = stream.backlog
        if backlog is not None and backlog.size_bytes:
            backlog.end_block = block
            return
        self.headers(stream.id, block, END_STREAM)
        self._on_sent(stream)

    def discard(self, stream: Stream) -> None:
        """Forgets what is queued on a dead stream."""
        if stream.backlog is not None:
            self._count_queued(-stream.backlog.size_bytes)
            stream.backlog = None

    def window_opened(self, stream: Stream) -> None:
        """To be called when a stream's send window has grown."""
        if stream.backlog is not None:
            self._schedule(stream, stream.backlog)

    def take(self) -> tuple[bytes, list[Stream]]:
        """What to write now, and the streams whose users waited for room and have it again."""
        drained = self._let_streams_send() if self._round else []
        data = b"".join(self._parts)
        self._parts.clear()
        self.corked = False
        return data, drained

    def _count_queued(self, gained: int) -> None:
        self.queued_bytes += gained
        self._counters.queued_bytes += gained

    def _request_take(self) -> None:
        if not self.corked:
            self.corked = True
            self._on_output()

    def _schedule(self, stream: Stream, backlog: Backlog) -> None:
        if backlog.size_bytes and not backlog.scheduled and stream.send_window > 0:
            backlog.scheduled = True
            self._round.append(stream)
            self._request_take()

    def _let_streams_send(self) -> list[Stream]:
        drained: list[Stream] = []
        budget = self._max_turn_bytes
        waiting = self._round
        while waiting and self.window > 0 and budget > 0 and self.writable:
            stream = waiting.popleft()
            backlog = stream.backlog
            if backlog is None:  # reset meanwhile
                continue
            size = min(backlog.size_bytes, stream.send_window, self.window, self.max_frame_bytes)
            if size > 0:
                budget -= size
                self._send_frame(stream, backlog, size)
            if backlog.size_bytes and stream.send_window > 0:
                waiting.append(stream)
                continue
            backlog.scheduled = False
            if backlog.waiting and backlog.size_bytes <= BACKLOG_LOW_BYTES:
                backlog.waiting = False
                drained.append(stream)
        return drained

    def _send_frame(self, stream: Stream, backlog: Backlog, size: int) -> None:
        self.window -= size
        self._count_queued(-size)
        stream.send_window -= size
        self.data_frames += 1
        backlog.progressed = True
        self._parts.append(frame(DATA, 0, stream.id, backlog.pull(size)))
        if not backlog.size_bytes and backlog.end_block is not None:
            self.headers(stream.id, backlog.end_block, END_STREAM)
            self._on_sent(stream)


def must_wait(stream: Stream, queued_bytes: int) -> bool:
    """Whether a writer with this much queued must wait for stream_drained; remembers that it was
    told so.
    """
    if queued_bytes <= BACKLOG_HIGH_BYTES or stream.backlog is None:
        return False
    stream.backlog.waiting = True
    return True
