"""The gRPC server as services see it: calls, handlers, routes and limits. Event loop thread only.

Nothing here waits. A handler gets a call and its message, and answers at once or later through the
call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mypy_extensions import mypyc_attr

from sidecar.wire.http2_limits import MIB, Http2Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcLimits(Http2Limits):
    """Bounds of one connection of a gRPC door, and of the door."""

    max_message_bytes: int = 4 * MIB
    # Memory for requests whose end has not come: of one connection, and of the whole door.
    max_held_bytes: int = 64 * MIB
    max_door_held_bytes: int = 256 * MIB
    max_connections: int = 1_000


@mypyc_attr(allow_interpreted_subclasses=True)
class Call:
    """One request, as its service sees it. The first ending (`respond`, `fail` or `finish`) counts;
    later ones, and all on a dead call, do nothing.

    A cancelled call must still be ended by its service: until then it keeps its place among the
    connection's streams.
    """

    __slots__ = (
        "ended",
        "metadata",
        "method",
        "on_cancel",
        "on_writable",
        "peer",
        "tag",
        "timeout_ns",
    )

    def __init__(
        self,
        *,
        method: bytes,
        metadata: tuple[tuple[bytes, bytes], ...],
        timeout_ns: int | None,
    ) -> None:
        self.ended = False  # the service has ended the call
        self.method = method  # b"/package.Service/Method"
        # Lower-case names; the values of names ending in -bin are decoded. Fields that belong to
        # HTTP/2 and to gRPC itself are left out.
        self.metadata = metadata
        # How long the client waits, counted from the beginning; the service keeps the deadline.
        self.timeout_ns = timeout_ns
        self.tag: object = None  # free for the service
        self.peer: object = None  # who is at the other end, if the door was told to find out
        # The client has gone: called once. The service still ends the call.
        self.on_cancel: Callable[[Call], None] | None = None
        # There is room again, after `send` had said False.
        self.on_writable: Callable[[Call], None] | None = None

    @property
    def cancelled(self) -> bool:
        """The client has gone: nothing more will reach it."""
        raise NotImplementedError

    def respond(self, message: bytes) -> None:
        """The one message of a unary answer, or the last one of a stream; status OK."""
        raise NotImplementedError

    def fail(self, status: int, message: str, details: bytes = b"") -> None:
        """Ends the call with an error. `details`: a serialized google.rpc.Status, left out beyond
        3,000 bytes.
        """
        self.finish(status, message, details)

    def send(self, message: bytes) -> bool:
        """One message of a streaming answer. It is always taken; False asks to wait for
        `on_writable` with the next.
        """
        raise NotImplementedError

    def finish(self, status: int = 0, message: str = "", details: bytes = b"") -> None:
        """Ends a streaming answer, after all that was sent."""
        raise NotImplementedError

    def keep(self, size: int) -> bool:
        """The service keeps `size` bytes in all of what the client has sent on this call. False:
        they are too many, and it has to let go of them. They count until the call has ended.
        """
        raise NotImplementedError

    def pause(self) -> None:
        """Asks the client to stop sending; what a window holds (256 KiB) may still come."""
        raise NotImplementedError

    def resume(self) -> None:
        """Lets the client send again."""
        raise NotImplementedError


UnaryHandler = Callable[[Call, bytes], None]
"""Called with the request's message once the request is complete; answers with `respond` or `fail`,
now or later.
"""


class StreamSink(Protocol):
    """Where a service takes in the messages of one streaming call."""

    def message(self, message: bytes) -> None: ...

    def half_closed(self) -> None:
        """The client has sent its last message; the call goes on until the service ends it."""

    def cancelled(self) -> None:
        """The client has gone. The service still ends the call."""


class StreamHandler(Protocol):
    """A method with a stream of requests, of responses, or of both."""

    def start(self, call: Call) -> StreamSink: ...


@dataclass(frozen=True, slots=True)
class GrpcRoutes:
    """Handlers by full path (b"/package.Service/Method")."""

    unary: Mapping[bytes, UnaryHandler] = field(default_factory=dict)
    stream: Mapping[bytes, StreamHandler] = field(default_factory=dict)

    def __or__(self, other: "GrpcRoutes") -> "GrpcRoutes":
        """The routes of both; a path in both is an error."""
        paths = [*self.unary, *self.stream, *other.unary, *other.stream]
        if twice := {path for path in paths if paths.count(path) > 1}:
            raise ValueError(f"more than one handler for {sorted(twice)}")
        return GrpcRoutes({**self.unary, **other.unary}, {**self.stream, **other.stream})
