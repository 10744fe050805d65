"""One connection's gRPC calls: between the streams of HTTP/2 and the handlers of services."""

import logging
from collections.abc import Callable
from typing import Final

from sidecar.wire.grpc import GrpcLimits, GrpcRoutes, StreamHandler, StreamSink, UnaryHandler
from sidecar.wire.grpc_call import Http2Call
from sidecar.wire.grpc_codec import (
    CANCELLED,
    INTERNAL,
    PREFIX_BYTES,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    MessageFault,
    MessageReader,
)
from sidecar.wire.grpc_request import GrpcRequest, read_request
from sidecar.wire.http2 import Http2Connection
from sidecar.wire.http2_headers import RequestHead
from sidecar.wire.http2_limits import Counters
from sidecar.wire.http2_stream import Stream

logger: Final = logging.getLogger(__name__)


class GrpcConnection:
    """The gRPC server's side of one client. Bytes go through `http`: see Http2Connection."""

    def __init__(
        self,
        routes: GrpcRoutes,
        limits: GrpcLimits,
        counters: Counters,
        on_output: Callable[[], None],
        now_ns: int,
    ) -> None:
        self.limits = limits
        self.counters = counters
        self.peer: object = None  # of all its calls
        self.held_bytes = 0  # memory of the requests that are half received
        self._routes = routes
        self.http: Http2Connection[GrpcRequest] = Http2Connection(
            self, limits, counters, on_output, now_ns
        )

    def hold(self, gained: int) -> bool:
        """Accounts for memory of half received requests; False: there is too much of it."""
        self.held_bytes += gained
        self.counters.held_bytes += gained
        return (
            self.held_bytes <= self.limits.max_held_bytes
            and self.counters.held_bytes <= self.limits.max_door_held_bytes
        )

    def interpret(self, head: RequestHead) -> GrpcRequest:
        return read_request(head, self._routes)

    def open(self, stream: Stream, meaning: GrpcRequest, ended: bool) -> None:
        if meaning.unary is not None:
            stream.user = _UnaryCall(self, stream, meaning, meaning.unary)
        elif meaning.stream is not None:
            call = stream.user = _StreamCall(self, stream, meaning)
            call.begin(meaning.stream)
        else:
            self.http.end(stream, meaning.refusal)
        if ended:
            stream.user.receive_body(b"", True)


class _ServedCall(Http2Call):
    """A call with its receiving side."""

    __slots__ = ("_connection", "_encoding", "_reader")
    awaits_end = False

    def __init__(self, connection: GrpcConnection, stream: Stream, request: GrpcRequest) -> None:
        super().__init__(connection.http, stream, connection.counters, request)
        self.peer = connection.peer
        self._connection = connection
        self._encoding = request.encoding
        self._reader: MessageReader | None = None

    def receive_body(self, data: bytes, ended: bool) -> None:
        raise NotImplementedError

    def stream_died(self) -> None:
        if self.ended:
            return
        self._counters.calls_cancelled += 1
        self._release()
        if self.on_cancel is not None:
            self._guarded(self.on_cancel, self)

    def stream_drained(self) -> None:
        if self.on_writable is not None and not self.ended:
            self._guarded(self.on_writable, self)

    def _read(self, data: bytes) -> MessageReader | None:
        """Feeds the body's reader; None: the call has failed."""
        connection = self._connection
        reader = self._reader
        if reader is None:
            reader = self._reader = MessageReader(
                connection.limits.max_message_bytes, self._encoding
            )
        before = reader.held_bytes
        status, text = 0, ""
        try:
            reader.feed(data)
        except MessageFault as fault:
            # Not the fault itself: it would hold this frame, and what was inflated, in a cycle.
            status, text = fault.status, fault.text
        if not connection.hold(reader.held_bytes - before):
            status = RESOURCE_EXHAUSTED
            text = "too much is half sent; send fewer large messages at once"
        if not status:
            return reader
        self.fail(status, text)
        return None

    def _release(self) -> None:
        if self._reader is not None:
            self._connection.hold(-self._reader.held_bytes)
            self._reader = None

    def _guarded(self, act: Callable[..., None], *arguments: object) -> bool:
        """Calls into the service; True while the call goes on. Its bug ends its call only."""
        try:
            act(*arguments)
        except Exception:
            logger.exception("the handler of %s failed", self.method.decode("utf-8", "replace"))
            self._counters.handler_errors += 1
            self.fail(INTERNAL, "the service failed; its log tells why")
        return not self.ended


class _UnaryCall(_ServedCall):
    """One message in."""

    __slots__ = ("_handler",)
    awaits_end = True

    def __init__(
        self,
        connection: GrpcConnection,
        stream: Stream,
        request: GrpcRequest,
        handler: UnaryHandler,
    ) -> None:
        super().__init__(connection, stream, request)
        self._handler: UnaryHandler | None = handler  # None: it has the call

    def receive_body(self, data: bytes, ended: bool) -> None:
        if self.ended:
            return
        size = len(data) - PREFIX_BYTES
        # Nearly always the whole body is one frame with one plain message: no reader is needed for
        # it.
        if (
            ended
            and self._reader is None
            and size >= 0
            and data[0] == 0
            and int.from_bytes(data[1:5], "big") == size
            and size <= self._connection.limits.max_message_bytes
        ):
            self._hand_over(data[PREFIX_BYTES:])
            return
        reader = self._read(data)
        if reader is None:
            return
        if len(reader.messages) > 1 or (reader.messages and not reader.is_between_messages):
            self.fail(UNIMPLEMENTED, "more than one message for a method that takes one")
        elif ended and not reader.is_between_messages:
            self.fail(INTERNAL, "the request ended in the middle of a message")
        elif ended and not reader.messages:
            self.fail(INTERNAL, "the request ended without a message")
        elif ended:
            message = reader.messages[0]
            self._release()
            self._hand_over(message)

    def _hand_over(self, message: bytes) -> None:
        self._counters.messages_received += 1
        handler, self._handler = self._handler, None
        if handler is not None:
            self._guarded(handler, self, message)

    def stream_died(self) -> None:
        super().stream_died()
        if self._handler is not None:
            self.finish(CANCELLED)  # no service knows of this call, so none will end it


class _StreamCall(_ServedCall):
    """Any number of messages in, any number out."""

    __slots__ = ("_kept_bytes", "_sink")

    def __init__(self, connection: GrpcConnection, stream: Stream, request: GrpcRequest) -> None:
        super().__init__(connection, stream, request)
        self._sink: StreamSink | None = None
        self._kept_bytes = 0  # by the service

    def begin(self, handler: StreamHandler) -> None:
        """Apart from the constructor: the stream must know its user before a service acts."""
        self._guarded(self._begin, handler)

    def _begin(self, handler: StreamHandler) -> None:
        self._sink = handler.start(self)

    def receive_body(self, data: bytes, ended: bool) -> None:
        sink = self._sink
        if self.ended or sink is None:
            return
        reader = self._read(data)
        if reader is None:
            return
        before = reader.held_bytes
        messages = reader.take()
        self._connection.hold(reader.held_bytes - before)
        for message in messages:
            self._counters.messages_received += 1
            if not self._guarded(sink.message, message):
                return
        if ended and not reader.is_between_messages:
            self.fail(INTERNAL, "the request ended in the middle of a message")
        elif ended:
            self._guarded(sink.half_closed)

    def keep(self, size: int) -> bool:
        if self.ended or self.cancelled:
            return True
        gained, self._kept_bytes = size - self._kept_bytes, size
        return self._connection.hold(gained) or gained <= 0

    def _release(self) -> None:
        super()._release()
        if self._kept_bytes:
            self._connection.hold(-self._kept_bytes)
            self._kept_bytes = 0

    def stream_died(self) -> None:
        ended_before = self.ended
        super().stream_died()
        if self._sink is not None and not ended_before:
            self._guarded(self._sink.cancelled)
