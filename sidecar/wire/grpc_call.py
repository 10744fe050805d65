"""A call on a stream of HTTP/2: the sending side."""

from sidecar.wire.grpc import Call
from sidecar.wire.grpc_codec import ANSWER_HEAD, OK_TRAILERS, PREFIX, status_trailers
from sidecar.wire.grpc_request import GrpcRequest
from sidecar.wire.http2_limits import Counters
from sidecar.wire.http2_stream import Stream
from sidecar.wire.http2_streams import Http2Streams


class Http2Call(Call):
    """What a service says becomes frames of its stream."""

    __slots__ = ("_answering", "_counters", "_http", "_stream")

    def __init__(
        self,
        http: Http2Streams,
        stream: Stream,
        counters: Counters,
        request: GrpcRequest,
    ) -> None:
        # As Call does it; calling it by keywords would be a tenth of what the engine takes.
        self.ended = False
        self.method = request.method
        self.metadata = request.metadata
        self.timeout_ns = request.timeout_ns
        self.tag = self.peer = self.on_cancel = self.on_writable = None
        self._http = http
        self._stream = stream
        self._counters = counters
        self._answering = False  # the answer's headers are out
        counters.calls_started += 1

    @property
    def cancelled(self) -> bool:
        return self._stream.reset

    def respond(self, message: bytes) -> None:
        if self.ended:
            return
        if self._answering:
            self.send(message)
            self.finish()
            return
        counters = self._counters
        counters.messages_sent += 1
        counters.calls_ended += 1
        self.ended = True
        self._http.answer(
            self._stream, ANSWER_HEAD, PREFIX.pack(0, len(message)) + message, OK_TRAILERS
        )
        self._release()

    def send(self, message: bytes) -> bool:
        if self.ended:
            return False
        self._counters.messages_sent += 1
        if not self._answering:
            self._answering = True
            self._http.start(self._stream, ANSWER_HEAD)
        return self._http.send(self._stream, PREFIX.pack(0, len(message)) + message)

    def finish(self, status: int = 0, message: str = "", details: bytes = b"") -> None:
        if self.ended:
            return
        self.ended = True
        self._counters.calls_ended += 1
        self._counters.calls_failed += status != 0
        block = status_trailers(status, message, details)
        self._http.end(self._stream, block if self._answering else ANSWER_HEAD + block)
        self._release()

    def pause(self) -> None:
        self._http.hold_credit(self._stream, True)

    def resume(self) -> None:
        self._http.hold_credit(self._stream, False)

    def _release(self) -> None:
        """The service has ended the call: what the request's body holds is given up."""
