"""The gRPC door on grpcio's own server: the same handlers, behind the library that everyone knows.

For whoever prefers it, and as the oracle of our own engine. It costs many times as much for
each call. It binds by itself, so it takes addresses instead of sockets.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import grpc

from sidecar.net.grpc_errors import Refusing
from sidecar.net.peers import grpcio_peer_of
from sidecar.net.tls import HANDSHAKE_TIMEOUT_S, PemFiles, Tls
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes, StreamHandler, StreamSink, UnaryHandler
from sidecar.wire.grpc_codec import MAX_STATUS_DETAILS_BYTES, MAX_STATUS_MESSAGE_BYTES
from sidecar.wire.http2_limits import Counters

INTERNAL: Final = 13
NOT_OF_SOCKET: Final = 0o117  # its mode is 0660
HIGH_BYTES: Final = 256 * 1024  # unsent answers of a stream above which its service has to wait

logger: Final = logging.getLogger(__name__)

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioDoor:
    """Serves `routes` on grpc.aio. `tls` keeps its certificates fresh; None: in the clear."""

    def __init__(self, routes: GrpcRoutes, limits: GrpcLimits, tls: Tls | None = None) -> None:
        self.routes = routes
        self.limits = limits
        self.tls = tls
        self.asks_who = False  # whether calls need to know who is at the other end
        self.counters = Counters()
        self.connections = 0  # not known: the library does not tell
        self._server: grpc.aio.Server | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def active_calls(self) -> int:
        """Calls whose work has not ended."""
        return self.counters.calls_started - self.counters.calls_ended

    async def listen(self, address: str, socket_path: str = "") -> None:
        """Bind host:port, and a Unix socket if a path is given. RuntimeError: one is taken."""
        self._server = server = grpc.aio.server(options=_options(self.limits))
        server.add_generic_rpc_handlers(_handlers(self))
        if self.tls is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, _credentials(self.tls))
        if socket_path:
            # Nobody may connect before the mode is set, so it is there from the beginning.
            mask = os.umask(NOT_OF_SOCKET)
            try:
                server.add_insecure_port(f"unix:{socket_path}")
            finally:
                os.umask(mask)
        await server.start()

    def drain(self, grace_s: float | None = None) -> None:
        """Take no new call; those at work have `grace_s` to end (None: as long as they need)."""
        if self._server is not None and self._closing is None:
            self._closing = asyncio.create_task(self._server.stop(grace_s), name="grpcio-stop")

    def close(self) -> None:
        """End what is left at once."""
        if self._server is not None:
            self._closing = asyncio.create_task(self._server.stop(0), name="grpcio-stop")

    async def wait_closed(self) -> None:
        """Returns when no call is left; bound it with a timeout, then `close`."""
        if self._closing is not None:
            await asyncio.shield(self._closing)


def _options(limits: GrpcLimits) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.so_reuseport", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000 // limits.ping_per_s),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server_handshake_timeout_ms", round(HANDSHAKE_TIMEOUT_S * 1000)),
    ]
    if limits.max_connection_age_ns:
        options += [
            ("grpc.max_connection_age_ms", limits.max_connection_age_ns // 1_000_000),
            ("grpc.max_connection_age_grace_ms", limits.connection_grace_ns // 1_000_000),
        ]
    return options


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Those of now; each handshake asks whether there are others by now."""
    handed = tls.made.pem

    def fetch() -> grpc.ServerCertificateConfiguration | None:  # in a thread of grpcio
        nonlocal handed
        latest = tls.made.pem
        if latest is handed:
            return None
        handed = latest
        return _certificates(latest)

    return grpc.dynamic_ssl_server_credentials(
        _certificates(handed),
        fetch,  # type: ignore[arg-type]  # None says: as before
        require_client_authentication=handed.client_ca is not None,
    )


def _certificates(pem: PemFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pem.key, pem.certificate)], root_certificates=pem.client_ca
    )


def _handlers(door: GrpcioDoor) -> tuple[grpc.GenericRpcHandler, ...]:
    """Our routes as grpcio takes them: by service and method, messages as bytes."""
    services: dict[str, dict[str, Any]] = {}
    for path, unary in door.routes.unary.items():
        _, service, method = path.decode().split("/")
        answering: Any = grpc.unary_unary_rpc_method_handler(_unary(door, path, unary))
        services.setdefault(service, {})[method] = answering
    for path, stream in door.routes.stream.items():
        _, service, method = path.decode().split("/")
        streaming: Any = grpc.stream_stream_rpc_method_handler(_stream(door, path, stream))
        services.setdefault(service, {})[method] = streaming
    return tuple(grpc.method_handlers_generic_handler(*service) for service in services.items())


def _unary(door: GrpcioDoor, path: bytes, handler: UnaryHandler) -> Callable[..., Any]:
    async def serve(message: bytes, context: Any) -> bytes:
        call = _GrpcioCall(door.counters, path, context)
        door.counters.messages_received += 1
        why = _admit(door, call)
        try:
            call.guarded(Refusing(why).refuse if why else handler, call, message)
            await call.over.wait()
        except asyncio.CancelledError:
            call.leave()
            raise
        await call.raise_status()
        return call.unsent.popleft() if call.unsent else b""

    return serve


def _stream(door: GrpcioDoor, path: bytes, handler: StreamHandler) -> Callable[..., Any]:
    async def serve(_requests: Any, context: Any) -> None:
        call = _GrpcioCall(door.counters, path, context)
        sinks: list[StreamSink] = []
        why = _admit(door, call)
        starting = Refusing(why) if why else handler
        call.guarded(lambda: sinks.append(starting.start(call)))
        reading = asyncio.create_task(_read(call, sinks[0])) if sinks else None
        try:
            await call.write_all()
        except asyncio.CancelledError:
            call.leave()
            if sinks and not call.ended:
                sinks[0].cancelled()
            raise
        finally:
            if reading is not None:
                reading.cancel()
        await call.raise_status()

    return serve


def _admit(door: GrpcioDoor, call: "_GrpcioCall") -> str:
    """Find out who calls; why the client may not come in, or empty."""
    tls = door.tls
    if tls is None or not (door.asks_who or tls.identities):
        return ""
    if call.context.peer().startswith("unix:"):  # in the clear: nobody brings a certificate
        return ""
    peer = grpcio_peer_of(call.context)
    call.peer = peer
    return tls.refusal_of(peer.identities)


async def _read(call: "_GrpcioCall", sink: StreamSink) -> None:
    while not call.ended:
        await call.reading.wait()
        message = await call.context.read()
        if message is grpc.aio.EOF:
            call.guarded(sink.half_closed)
            return
        call.counters.messages_received += 1
        call.guarded(sink.message, message)


class _GrpcioCall(Call):
    """A call whose answers wait in a queue until grpcio takes them."""

    __slots__ = (
        "_more",
        "_said_full",
        "_unsent_bytes",
        "context",
        "counters",
        "dead",
        "over",
        "reading",
        "status",
        "unsent",
    )  # fmt: skip

    def __init__(self, counters: Counters, method: bytes, context: Any) -> None:
        remaining_s = context.time_remaining()
        super().__init__(
            method=method,
            metadata=_metadata(context),
            timeout_ns=None if remaining_s is None else max(0, round(remaining_s * 1e9)),
        )
        self.context = context
        self.counters = counters
        self.dead = False
        self.over = asyncio.Event()  # the service has ended the call
        self.reading = asyncio.Event()
        self.reading.set()
        self.status: tuple[int, str, bytes] = (0, "", b"")
        self.unsent: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._said_full = False
        self._unsent_bytes = 0
        counters.calls_started += 1

    @property
    def cancelled(self) -> bool:
        return self.dead

    def respond(self, message: bytes) -> None:
        if not self.ended:
            self.send(message)
            self.finish()

    def send(self, message: bytes) -> bool:
        if self.ended or self.dead:
            return False
        self.counters.messages_sent += 1
        self.unsent.append(message)
        self._unsent_bytes += len(message)
        self._more.set()
        self._said_full = self._unsent_bytes > HIGH_BYTES
        return not self._said_full

    def finish(self, status: int = 0, message: str = "", details: bytes = b"") -> None:
        if self.ended:
            return
        self.ended = True
        self.counters.calls_ended += 1
        self.counters.calls_failed += status != 0
        self.status = (status, message, details)
        self.over.set()
        self._more.set()

    def keep(self, size: int) -> bool:
        return True  # read message by message: little comes after `pause`

    def pause(self) -> None:
        self.reading.clear()

    def resume(self) -> None:
        self.reading.set()

    # --- what the engine calls

    def guarded(self, act: Callable[..., None], *arguments: object) -> None:
        """Calls into the service. Its bug ends its call only."""
        try:
            act(*arguments)
        except Exception:
            logger.exception("the handler of %s failed", self.method.decode("utf-8", "replace"))
            self.counters.handler_errors += 1
            self.fail(INTERNAL, "the service failed; its log tells why")

    def leave(self) -> None:
        """The client has gone."""
        if self.dead or self.ended:
            return
        self.dead = True
        self.counters.calls_cancelled += 1
        if self.on_cancel is not None:
            self.guarded(self.on_cancel, self)

    async def write_all(self) -> None:
        """Until the service has ended the stream and all is written."""
        while not self.ended or self.unsent:
            await self._more.wait()
            self._more.clear()
            while self.unsent:
                message = self.unsent.popleft()
                await self.context.write(message)
                self._unsent_bytes -= len(message)
                self._tell_writable()

    def _tell_writable(self) -> None:
        room = self._said_full and not self.unsent
        if room and self.on_writable is not None and not self.ended:
            self._said_full = False
            self.guarded(self.on_writable, self)

    async def raise_status(self) -> None:
        """End the call with the service's status, unless it is OK."""
        status, message, details = self.status
        if not status:
            return
        trailers: tuple[tuple[str, bytes], ...] = ()
        if details and len(details) <= MAX_STATUS_DETAILS_BYTES:
            trailers = (("grpc-status-details-bin", details),)
        text = message[:MAX_STATUS_MESSAGE_BYTES]
        await self.context.abort(_CODES[status], text, trailing_metadata=trailers)


def _metadata(context: Any) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata() or ()
    )
