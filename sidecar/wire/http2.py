"""The receiving side of one HTTP/2 connection of a server (RFC 9113), sans-I/O: bytes in, calls to
the layer above.

Which frames may come next is one of three tables (see the end of the file): before the client's
SETTINGS, between frames, and inside a header block. What happens to streams is in http2_streams.py,
what is sent in http2_outbox.py.
"""

from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeAlias

from sidecar.wire import http2_frames as h2
from sidecar.wire.http2_frames import ConnectionFault, StreamFault
from sidecar.wire.http2_headers import HeaderBlocks, MalformedHeaders, Meaning, RequestHead
from sidecar.wire.http2_limits import Counters, Http2Limits
from sidecar.wire.http2_settings import greeting, read_settings
from sidecar.wire.http2_stream import Stream
from sidecar.wire.http2_streams import DRAIN_PING, Http2Streams

_unpack_header = h2.FRAME_HEADER.unpack_from


class Application(Protocol[Meaning]):
    """The layer above a connection."""

    def interpret(self, head: RequestHead) -> Meaning:
        """What a request's head asks for. Remembered for equal header blocks, so it must depend on
        `head` alone.
        """

    def open(self, stream: Stream, meaning: Meaning, ended: bool) -> None:
        """A request has begun; `ended`: it has no body. Sets `stream.user`, or answers at once."""


class _OpenBlock:
    """A header block whose end has not come."""

    __slots__ = ("data", "flags", "frames", "stream_id")

    def __init__(self, stream_id: int, flags: int, data: bytes) -> None:
        self.stream_id = stream_id
        self.flags = flags
        self.data = bytearray(data)
        self.frames = 0


class Http2Connection(Http2Streams, Generic[Meaning]):
    """One client. `finished` turns True when all is said: write what `take_output` gives, then
    close.

    `on_output()` is called when output appears outside of `receive`, at most once between two calls
    of `take_output`.
    """

    def __init__(
        self,
        application: Application[Meaning],
        limits: Http2Limits,
        counters: Counters,
        on_output: Callable[[], None],
        now_ns: int,
    ) -> None:
        super().__init__(limits, counters, on_output, now_ns)
        self._application = application
        self._headers = HeaderBlocks(application.interpret, limits.max_header_list_bytes)
        self._accepts: _FrameTable = _SETTINGS_ONLY
        self._preface_seen = False
        self._tail = b""
        self._open_block: _OpenBlock | None = None
        self._window = max(limits.connection_window_bytes, h2.DEFAULT_WINDOW_BYTES)
        self._window_full = self._window
        self._window_low = self._window // 2
        self._stream_window_low = limits.stream_window_bytes // 2
        self.out.emit(greeting(limits))

    def receive(self, data: bytes, now_ns: int) -> None:
        """Bytes from the client, split anywhere. Call `take_output` afterwards."""
        if self.finished:
            return
        self.out.corked = True
        self._now_ns = now_ns
        self._counters.bytes_received += len(data)
        if self._tail:
            data = self._tail + data
        try:
            used = self._read_frames(data, 0 if self._preface_seen else self._read_preface(data))
        except ConnectionFault as fault:
            self._tail = b""
            self.terminate(fault.code, fault.text)
            return
        self._tail = data[used:]
        if not self._tail and self._open_block is None and self._preface_seen:
            self._partial_since_ns = 0
        elif used or not self._partial_since_ns:
            self._partial_since_ns = now_ns

    def _partial_timeout_ns(self) -> int:
        limits = self._limits
        return limits.partial_timeout_ns if self._preface_seen else limits.preface_timeout_ns

    def _read_preface(self, data: bytes) -> int:
        preface = h2.PREFACE
        if not preface.startswith(data[: len(preface)]):
            raise ConnectionFault(
                h2.PROTOCOL_ERROR, "this is an HTTP/2 port; the connection preface is missing"
            )
        self._preface_seen = len(data) >= len(preface)
        return len(preface) if self._preface_seen else 0

    def _read_frames(self, data: bytes, position: int) -> int:
        """Acts on every whole frame; returns how many bytes they took."""
        available = len(data)
        if not self._preface_seen:
            return 0
        while available - position >= 9 and not self.finished:
            high, low, kind, flags, stream_id = _unpack_header(data, position)
            size = high << 8 | low
            if size > h2.DEFAULT_MAX_FRAME_BYTES:
                raise ConnectionFault(h2.FRAME_SIZE_ERROR, f"a frame of {size} bytes, over 16384")
            start = position + 9
            position = start + size
            if position > available:
                return start - 9
            try:
                act = self._accepts[min(kind, 10)]
                act(self, flags, stream_id & 0x7FFFFFFF, data[start:position])
            except StreamFault as fault:
                self._on_stream_fault(fault)
        return position

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)  # padding counts
        self._window -= size
        if self._window < self._window_low:
            self._refill_connection()
        stream = self.streams.get(stream_id)
        if stream is None or stream.reset or stream.remote_closed:
            self._on_late_frame(stream_id, stream)
            return
        if flags & h2.PADDED:
            payload = h2.strip_padding(flags & h2.PADDED, payload)
        ended = flags & h2.END_STREAM != 0
        stream.remote_closed = ended
        stream.receive_window -= size
        if stream.receive_window < self._stream_window_low:
            self._refill(stream)
        if not payload and not ended:
            self._spend_control()
        if stream.expected_bytes >= 0:
            _count_length(stream, len(payload), ended)
        stream.user.receive_body(payload, ended)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & (h2.PADDED | h2.HAS_PRIORITY):
            payload = h2.strip_padding(flags, payload)
        if flags & h2.END_HEADERS:
            self._on_header_block(stream_id, payload, flags & h2.END_STREAM != 0)
        else:
            self._open_block = _OpenBlock(stream_id, flags, payload)
            self._accepts = _CONTINUATION_ONLY

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._open_block
        if block is None or block.stream_id != stream_id:
            raise ConnectionFault(
                h2.PROTOCOL_ERROR, "CONTINUATION without a header block of its stream"
            )
        block.frames += 1
        block.data += payload
        limits = self._limits
        if (
            block.frames > limits.max_continuations
            or len(block.data) > limits.max_header_block_bytes
        ):
            raise ConnectionFault(
                h2.ENHANCE_YOUR_CALM,
                "a header block in too many pieces, or too large",
            )
        if flags & h2.END_HEADERS:
            self._open_block = None
            self._accepts = _ANY_FRAME
            self._on_header_block(stream_id, bytes(block.data), block.flags & h2.END_STREAM != 0)

    def _on_header_block(self, stream_id: int, block: bytes, ended: bool) -> None:
        if stream_id <= self._last_id:
            self._on_trailers(stream_id, block, ended)
            return
        if not stream_id & 1:
            raise ConnectionFault(
                h2.PROTOCOL_ERROR, f"a client opened stream {stream_id}; its ids are odd"
            )
        self._last_id = stream_id
        try:
            # Decoded even where it is refused: the table is the connection's.
            meaning, expected = self._headers.request(block)
        except MalformedHeaders as fault:
            raise StreamFault(stream_id, h2.PROTOCOL_ERROR, str(fault)) from fault
        if stream_id > self._refuse_above or self._is_full():
            raise StreamFault(stream_id, h2.REFUSED_STREAM, "draining, or too much at work")
        if ended and expected > 0:
            raise StreamFault(stream_id, h2.PROTOCOL_ERROR, "content-length without a body")
        stream = Stream(
            stream_id, self._limits.stream_window_bytes, self.out.initial_window, self._now_ns
        )
        stream.expected_bytes = expected
        stream.remote_closed = ended
        self.streams[stream_id] = stream
        self._application.open(stream, meaning, ended)

    def _is_full(self) -> bool:
        limits = self._limits
        return (
            len(self.streams) >= limits.max_concurrent_streams
            or self.out.queued_bytes > limits.max_connection_queued_bytes
            or (
                self.out.queued_bytes > 0
                and self._counters.queued_bytes > limits.max_door_queued_bytes
            )
        )

    def _on_trailers(self, stream_id: int, block: bytes, ended: bool) -> None:
        stream = self.streams.get(stream_id)
        wrong = "" if ended else "a second header block that does not end the stream"
        try:
            self._headers.trailers(block)
        except MalformedHeaders as fault:
            wrong = str(fault)
        if stream is None or stream.reset or stream.remote_closed:
            self._on_late_frame(stream_id, stream)
            return
        if wrong:
            raise StreamFault(stream_id, h2.PROTOCOL_ERROR, wrong)
        stream.remote_closed = True
        if stream.expected_bytes >= 0:
            _count_length(stream, 0, ended)
        stream.user.receive_body(b"", True)

    def _on_late_frame(self, stream_id: int, stream: Stream | None) -> None:
        """DATA or HEADERS where no more may come. After our own RST_STREAM they are discarded: the
        client could not know.
        """
        if stream_id == 0 or stream_id > self._last_id:
            raise ConnectionFault(
                h2.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which was never opened"
            )
        if stream_id in self._reset_by_us:
            self._spend_control()
        elif stream is not None and not stream.reset:
            raise StreamFault(stream_id, h2.STREAM_CLOSED, "a frame after END_STREAM")
        else:
            raise ConnectionFault(
                h2.STREAM_CLOSED, f"a frame on stream {stream_id}, which is closed"
            )

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes")
        self._spend_control()

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        if stream_id == 0 or stream_id > self._last_id:
            raise ConnectionFault(
                h2.PROTOCOL_ERROR, f"RST_STREAM on stream {stream_id}, which was never opened"
            )
        self._counters.resets_received += 1
        self._spend_reset()
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.remote_closed = True
            self._cancel(stream)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, f"SETTINGS on stream {stream_id}")
        self._spend_control()
        if flags & h2.ACK:
            if payload:
                raise ConnectionFault(h2.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            return
        for name, value in read_settings(payload):
            if name == h2.SETTINGS_INITIAL_WINDOW_SIZE:
                self._shift_send_windows(value)
            elif name == h2.SETTINGS_MAX_FRAME_SIZE:
                self.out.max_frame_bytes = value
            elif name == h2.SETTINGS_HEADER_TABLE_SIZE:
                self.out.table_size_changed = True
        self.out.emit(h2.SETTINGS_ACK)

    def _on_first_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & h2.ACK:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "the first frame is a SETTINGS ACK")
        self._accepts = _ANY_FRAME
        self._on_settings(flags, stream_id, payload)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, f"PING on stream {stream_id}")
        if len(payload) != 8:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        if not flags & h2.ACK:
            self._spend_ping()
            self.out.emit(h2.ping_frame(payload, h2.ACK))
            return
        self._spend_control()
        if self.draining and payload == DRAIN_PING:
            self._end_drain()

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, f"GOAWAY on stream {stream_id}")
        if len(payload) < 8:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "GOAWAY is under 8 bytes")
        self._spend_control()  # we open no streams, so there is nothing to stop

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        self._spend_control()
        increment = h2.UINT32.unpack(payload)[0] & h2.LARGEST_WINDOW_BYTES
        if stream_id == 0:
            self.out.window += increment
            if not increment or self.out.window > h2.LARGEST_WINDOW_BYTES:
                code = h2.FLOW_CONTROL_ERROR if increment else h2.PROTOCOL_ERROR
                raise ConnectionFault(code, "WINDOW_UPDATE by 0, or beyond 2^31-1")
            return
        if stream_id > self._last_id:
            raise ConnectionFault(
                h2.PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {stream_id}, which was never opened"
            )
        stream = self.streams.get(stream_id)
        if stream is None or stream.reset:
            return
        stream.send_window += increment
        if not increment or stream.send_window > h2.LARGEST_WINDOW_BYTES:
            code = h2.FLOW_CONTROL_ERROR if increment else h2.PROTOCOL_ERROR
            raise StreamFault(stream_id, code, "WINDOW_UPDATE by 0, or beyond 2^31-1")
        self.out.window_opened(stream)

    def _on_unknown(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._spend_control()

    def _on_forbidden(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(h2.PROTOCOL_ERROR, "a frame that may not come here")

    def _refill_connection(self) -> None:
        if self._window < 0:
            raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
        self.out.emit(h2.window_update_frame(0, self._window_full - self._window))
        self._window = self._window_full


def _count_length(stream: Stream, size: int, ended: bool) -> None:
    stream.expected_bytes -= size
    if stream.expected_bytes < 0 or (ended and stream.expected_bytes):
        raise StreamFault(
            stream.id, h2.PROTOCOL_ERROR, "the body is not as long as content-length says"
        )


# What is done with a frame, by its type; the eleventh entry is for types that RFC 9113 does not
# know.
_FrameTable: TypeAlias = tuple[Callable[[Http2Connection[Any], int, int, bytes], None], ...]

_ANY_FRAME: Final[_FrameTable] = (
    Http2Connection._on_data,
    Http2Connection._on_headers,
    Http2Connection._on_priority,
    Http2Connection._on_rst_stream,
    Http2Connection._on_settings,
    Http2Connection._on_forbidden,  # PUSH_PROMISE: clients do not push
    Http2Connection._on_ping,
    Http2Connection._on_goaway,
    Http2Connection._on_window_update,
    Http2Connection._on_forbidden,  # CONTINUATION outside of a header block
    Http2Connection._on_unknown,
)
_SETTINGS_ONLY: Final[_FrameTable] = tuple(
    Http2Connection._on_first_settings if kind == h2.SETTINGS else Http2Connection._on_forbidden
    for kind in range(11)
)
_CONTINUATION_ONLY: Final[_FrameTable] = tuple(
    Http2Connection._on_continuation if kind == h2.CONTINUATION else Http2Connection._on_forbidden
    for kind in range(11)
)
