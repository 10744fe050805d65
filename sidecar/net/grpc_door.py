"""The gRPC door: an asyncio protocol of a few lines around each sans-I/O connection.

door = GrpcDoor(routes, GrpcLimits(), time.monotonic_ns)
server = await loop.create_server(door, "127.0.0.1", port)       # or create_unix_server
...
server.close()
door.drain()
await door.wait_closed()
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

from sidecar.net.grpc_errors import refusing_routes
from sidecar.wire.grpc import GrpcLimits, GrpcRoutes
from sidecar.wire.grpc_server import GrpcConnection
from sidecar.wire.http2_limits import Counters

SWEEP_S: Final = 1.0
SWEEPS_TO_CLOSE: Final = 10
WRITE_HIGH_BYTES: Final = 512 * 1024
# What one client may take of one turn of the loop, looked at after each slice of its bytes. Slices
# become smaller where bytes are dear: 16 KiB may be eight requests of 400 fields, 2 ms each.
LONG_TURN_NS: Final = 2_000_000
LEAST_SLICE_BYTES, FIRST_SLICE_BYTES, MOST_SLICE_BYTES = 1024, 4 * 1024, 16 * 1024


class GrpcDoor:
    """A protocol factory that knows its connections. `clock` gives monotonic nanoseconds."""

    def __init__(self, routes: GrpcRoutes, limits: GrpcLimits, clock: Callable[[], int]) -> None:
        self.routes = routes
        self.limits = limits
        self.clock = clock
        self.counters = Counters()
        # Why the client of a connection may not come in; empty: it may.
        self.refusal: Callable[[asyncio.BaseTransport], str] = _nothing_against
        self.peer_of: Callable[[asyncio.BaseTransport], object] = _not_asked
        self.draining = False
        self._connections: set[_DoorConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._all_closed: asyncio.Event | None = None

    def __call__(self) -> asyncio.Protocol:
        return _DoorConnection(self)

    @property
    def active_calls(self) -> int:
        """Calls whose work has not ended, cancelled ones too."""
        return self.counters.calls_started - self.counters.calls_ended

    @property
    def connections(self) -> int:
        return len(self._connections)

    def drain(self) -> None:
        """Asks clients to leave, serves what was begun, then closes. Close the listener first."""
        self.draining = True
        for connection in list(self._connections):
            connection.drain()

    def close(self) -> None:
        """Closes every connection at once; calls at work are cancelled."""
        for connection in list(self._connections):
            connection.abort()

    async def wait_closed(self) -> None:
        """Returns when no connection is left; bound it with a timeout, then `close`."""
        if self._connections:
            self._all_closed = self._all_closed or asyncio.Event()
            await self._all_closed.wait()

    def _admit(self, connection: "_DoorConnection") -> bool:
        if len(self._connections) >= self.limits.max_connections:
            self.counters.connections_shed += 1
            return False
        self._connections.add(connection)
        self.counters.connections_opened += 1
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_all)
        return True

    def _dismiss(self, connection: "_DoorConnection") -> None:
        self._connections.discard(connection)
        self.counters.connections_closed += 1
        if self._connections:
            return
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._all_closed is not None:
            self._all_closed.set()
            self._all_closed = None

    def _sweep_all(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_all)
        now_ns = self.clock()
        for connection in list(self._connections):
            connection.sweep(now_ns)


class _DoorConnection(asyncio.Protocol):
    """One client's socket: one write per turn of the loop, whoever asked for it."""

    def __init__(self, door: GrpcDoor) -> None:
        self._door = door
        self._clock = door.clock
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._grpc: GrpcConnection | None = None
        self._sweeps_since_finished = 0
        self._unread = b""  # received, for the next turn of the loop
        self._slice_bytes = FIRST_SLICE_BYTES

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        socket = cast(asyncio.Transport, transport)  # uvloop's do not inherit from asyncio's
        if not self._door._admit(self):
            socket.abort()
            return
        self._transport = socket
        socket.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        door = self._door
        why = door.refusal(socket)
        routes = refusing_routes(door.routes, why) if why else door.routes
        self._grpc = GrpcConnection(
            routes, door.limits, door.counters, self._flush_soon, self._clock()
        )
        self._grpc.peer = door.peer_of(socket)
        self._http = self._grpc.http
        if door.draining:
            self._http.drain(self._clock())

    def data_received(self, data: bytes) -> None:
        if len(data) > self._slice_bytes or self._unread:
            self._read_slices(self._unread + data)
            return
        clock = self._clock
        began_ns = clock()
        self._http.receive(data, began_ns)
        self._flush()
        took_ns = clock() - began_ns
        if took_ns > LONG_TURN_NS:
            self._fit_slices(took_ns)
            self._rest()

    def _read_slices(self, data: bytes) -> None:
        """Reads as much of it as one turn of the loop has time for."""
        clock = self._clock
        began_ns = now_ns = clock()
        at = 0
        while at < len(data) and now_ns - began_ns <= LONG_TURN_NS:
            before_ns, end = now_ns, at + self._slice_bytes
            self._http.receive(data[at:end], before_ns)
            at = end
            now_ns = clock()
            self._fit_slices(now_ns - before_ns)
        self._unread = data[at:]
        self._flush()
        if now_ns - began_ns > LONG_TURN_NS:
            self._rest()

    def _fit_slices(self, took_ns: int) -> None:
        """The last one took so long."""
        if took_ns > LONG_TURN_NS // 2:
            self._slice_bytes = max(LEAST_SLICE_BYTES, self._slice_bytes // 2)
        elif took_ns < LONG_TURN_NS // 8:
            self._slice_bytes = min(MOST_SLICE_BYTES, self._slice_bytes * 2)

    def _rest(self) -> None:
        """Others first: the loop reads one socket while there is anything in it, 8 MB a turn, and a
        client whose bytes are dear to read would be the only one that is served.
        """
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or not self._http.out.writable:
            return
        transport.resume_reading()
        if self._unread:
            data, self._unread = self._unread, b""
            self._read_slices(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._grpc is None:
            return
        self._transport = None
        self._http.lost()
        self._door._dismiss(self)

    def pause_writing(self) -> None:
        # A client that does not read its answers is not read either: what it can make us keep is
        # bounded.
        self._http.out.writable = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._http.out.writable = True
        if self._transport is not None and not self._transport.is_closing():
            self._read_on()
            self._flush_soon()

    # What the door calls.

    def drain(self) -> None:
        self._http.drain(self._clock())

    def sweep(self, now_ns: int) -> None:
        if self._http.finished:
            self._sweeps_since_finished += 1
            if self._sweeps_since_finished > SWEEPS_TO_CLOSE:
                self.abort()  # what is left to write will not be read
                return
        else:
            self._http.sweep(now_ns)
        self._flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Output.

    def _flush_soon(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        transport = self._transport
        if transport is None:
            return
        data = self._http.take_output()
        if data:
            transport.write(data)
        if self._http.finished:
            transport.close()
        elif self._http.out.has_more:
            self._flush_soon()


def _not_asked(_transport: asyncio.BaseTransport) -> None:
    """Without rights it does not matter who calls."""


def _nothing_against(_transport: asyncio.BaseTransport) -> str:
    return ""
