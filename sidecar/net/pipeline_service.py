"""Pipeline of the gRPC door: numbered requests over one stream, answered as they are ready.

Each request goes to the handler of its method, through a call whose answer is one message of the
stream. How many are under way at once follows the size of the answers: those that a client does
not read yet are kept in memory, so what it sends on waits with it. What it had sent before it could
know that is kept here, and counted: a window full of tiny requests is many times as large.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.errors import DataError, Fault, Reason
from sidecar.net.grpc_errors import bad_request, fail_call, garbled
from sidecar.wire.grpc import Call, StreamSink, UnaryHandler
from sidecar.wire.varint import varint

FIRST_UNDER_WAY: Final = 64  # until the size of answers is known
MOST_UNDER_WAY: Final = 1024
LEAST_UNDER_WAY: Final = 2
UNDER_WAY_BYTES: Final = 4 << 20  # of answers, going by the sizes just seen
WAITING_OVERHEAD_BYTES: Final = 56  # a bytes object and its place in a queue

_NUMBERS: Final = {field.name: field.number for field in pb.PipelineResponse.DESCRIPTOR.fields}
_MESSAGE: Final = 2  # the wire type of what has a length


class PipelineCalls:
    """A StreamHandler. `handlers`: of the unary methods, by field of PipelineRequest."""

    def __init__(
        self, handlers: Mapping[str, UnaryHandler], monotonic: Callable[[], float]
    ) -> None:
        self.handlers = handlers
        self.monotonic = monotonic

    def start(self, call: Call) -> StreamSink:
        """A stream begins."""
        return _Pipeline(self, call)


class _Pipeline:
    """One stream. It ends when the client has sent its last request and all are answered."""

    def __init__(self, calls: PipelineCalls, call: Call) -> None:
        self.call = call
        self._calls = calls
        self._waiting: deque[bytes] = deque()  # at most what a window holds
        self._waiting_bytes = 0  # their memory
        self._kept_bytes = 0  # what the call knows of that
        self._too_much = False  # they were let go: the call fails once what is under way has ended
        self._under_way = 0
        self._limit = FIRST_UNDER_WAY
        self._answer_bytes = UNDER_WAY_BYTES / FIRST_UNDER_WAY
        self._full = False  # the client does not read
        self._last_received = False
        self._starting = False
        self._paused = False
        given = call.timeout_ns
        self._ends_at = calls.monotonic() + given / 1e9 if given is not None else None
        call.on_writable = self._on_writable

    # --- StreamSink

    def message(self, message: bytes) -> None:
        if not self._too_much:
            self._waiting.append(message)
            self._waiting_bytes += len(message) + WAITING_OVERHEAD_BYTES
            self._go_on()

    def half_closed(self) -> None:
        self._last_received = True
        self._go_on()

    def cancelled(self) -> None:
        # What is under way can not be called back: the call keeps its place until it has ended.
        self._forget_waiting()
        self._last_received = True
        self._go_on()

    # --- what the items call

    def timeout_ns(self) -> int | None:
        """What is left of the stream's deadline."""
        if self._ends_at is None:
            return None
        return max(0, round((self._ends_at - self._calls.monotonic()) * 1e9))

    def answered(self, message: bytes) -> None:
        """One request has ended."""
        self._under_way -= 1
        size = len(message)
        self._answer_bytes = max(size, 0.9 * self._answer_bytes + 0.1 * size)
        fitting = int(UNDER_WAY_BYTES / (self._answer_bytes + 1))
        self._limit = max(LEAST_UNDER_WAY, min(MOST_UNDER_WAY, fitting))
        if not self.call.cancelled and not self.call.send(message):
            self._full = True
        self._go_on()

    # --- flow

    def _on_writable(self, _call: Call) -> None:
        self._full = False
        self._go_on()

    def _go_on(self) -> None:
        if self._starting:
            return  # a request that is answered at once
        self._starting = True
        while self._waiting and not self._full and self._under_way < self._limit:
            message = self._waiting.popleft()
            self._waiting_bytes -= len(message) + WAITING_OVERHEAD_BYTES
            self._begin(message)
        self._starting = False
        if self._waiting_bytes != self._kept_bytes:
            self._account()
        self._regulate()
        if self._last_received and not self._waiting and not self._under_way:
            self._end()

    def _account(self) -> None:
        self._kept_bytes = self._waiting_bytes
        if not self.call.keep(self._kept_bytes):
            self._forget_waiting()
            self._too_much = self._last_received = True

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = self._kept_bytes = 0
        self.call.keep(0)

    def _end(self) -> None:
        if self._too_much:
            fail_call(self.call, _too_much_waits())
        else:
            self.call.finish()

    def _regulate(self) -> None:
        stopped = bool(self._waiting) or self._too_much
        if stopped != self._paused and not self.call.cancelled:
            self._paused = stopped
            if stopped:
                self.call.pause()
            else:
                self.call.resume()

    def _begin(self, message: bytes) -> None:
        self._under_way += 1
        try:
            request = pb.PipelineRequest.FromString(message)
        except DecodeError:
            garbled(_Item(self, 0, "error"), "PipelineRequest")
            return
        name = request.WhichOneof("request")
        item = _Item(self, request.id, name or "error")
        handler = self._calls.handlers.get(name or "")
        if name is None or handler is None:
            bad_request(item, "request", "it names no request that this sidecar knows")
        else:
            handler(item, getattr(request, name).SerializeToString())


class _Item(Call):
    """One request of a stream as a call: its answer goes into a message with its number."""

    __slots__ = ("_field", "_id", "_pipeline")

    def __init__(self, pipeline: _Pipeline, number: int, field: str) -> None:
        call = pipeline.call
        super().__init__(
            method=call.method, metadata=call.metadata, timeout_ns=pipeline.timeout_ns()
        )
        self.peer = call.peer
        self._pipeline = pipeline
        self._id = number
        self._field = field

    @property
    def cancelled(self) -> bool:
        return self._pipeline.call.cancelled

    def respond(self, message: bytes) -> None:
        self._end(self._field, message)

    def finish(self, status: int = 0, message: str = "", details: bytes = b"") -> None:
        self._end("error", details or Status(code=status, message=message).SerializeToString())

    def _end(self, field: str, message: bytes) -> None:
        if self.ended:
            return
        self.ended = True
        self._pipeline.answered(encode_answer(self._id, field, message))


def _too_much_waits() -> DataError:
    return DataError(
        Reason.OVERLOADED,
        Fault.OVERLOADED,
        "too many requests of this client's pipelines wait until answers are read; those without an"
        " answer were not begun. Read while you send, and use fewer streams",
    )


def encode_answer(number: int, field: str, message: bytes) -> bytes:
    """A PipelineResponse around a message that is encoded already."""
    head = b"\x08" + varint(number) if number else b""
    return b"%b%b%b%b" % (
        head,
        varint(_NUMBERS[field] << 3 | _MESSAGE),
        varint(len(message)),
        message,
    )
