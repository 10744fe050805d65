"""The Redis door's shell: sockets around `sidecar/redis`. TCP and Unix sockets, limits, drain.

Replies are corked: whatever becomes due for a connection in one turn of the loop, whoever caused
it, is one `transport.write`, made by one callback for all connections.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from sidecar.net.peers import peer_of
from sidecar.net.tls import HANDSHAKE_TIMEOUT_S
from sidecar.redis import replies
from sidecar.redis.backend import Backend, WallClock
from sidecar.redis.counters import RespCounters
from sidecar.redis.limits import RespLimits
from sidecar.redis.permits import is_nobody, is_stranger
from sidecar.redis.plain_gets import PlainGets
from sidecar.redis.session import LARGE_REPLY_BYTES, LONG_TURN_S, Door, Session
from sidecar.redis.table import command_table
from sidecar.rights import STRANGER, Rights
from sidecar.wire import resp_reply as resp

_BACKLOG = 1024  # connections that the kernel holds for us
_SWEEP_S = 1.0
_LEAST_TURN_S = 0.0002  # of one client; below that more is spent on taking turns


def wall_clock_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class RespConnection(asyncio.Protocol):
    """One client's socket. What its bytes mean is the session's affair."""

    __slots__ = (
        "_door", "_now", "nobody_since", "paused_since", "reading_paused", "session", "transport"
    )  # fmt: skip

    def __init__(self, door: "RespDoor") -> None:
        self._door = door
        self._now = door.now
        self.session: Session | None = None
        self.transport: asyncio.Transport | None = None
        self.reading_paused = False
        self.paused_since = (
            0.0  # loop time at which the client's replies began to pile up; 0: they do not
        )
        self.nobody_since = 0.0  # loop time since which AUTH is waited for; 0: it is not

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have all its methods and are no subclass of it.
        self.transport = cast(asyncio.Transport, transport)
        self.session = self._door.admit(self, self.transport)

    def data_received(self, data: bytes) -> None:
        session = self.session
        if session is None:
            return
        now = self._now()
        if self._door.plain_gets.take(session, data, now):
            return
        session.feed(data, now)
        if session.backlog or session.unread or session.held_bytes or session.parser.in_command:
            self._door.received_part(self, session)

    def eof_received(self) -> bool:
        """The client sends no more, but may wait for its answers."""
        session = self.session
        if session is None:
            return False
        session.closing = True
        self._door.wake(session)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        session = self.session
        if session is not None:
            self._door.forget(session)
            self.session = None
        self.transport = None

    def pause_writing(self) -> None:
        session = self.session
        if session is not None and is_stranger(session):
            self._door.cut_off(self)
        elif session is not None:
            session.output_paused = True
            self.paused_since = self._door.now()
            self._door.regulate(self, session)
            self._door.piles_up(self)

    def resume_writing(self) -> None:
        session = self.session
        if session is not None:
            session.output_paused = False
            self.paused_since = 0.0
            self._door.is_read(self)
            self._door.wake(session)


class RespDoor:
    """Listens for Redis clients and answers them from `coordinator`.

    `clock` gives Unix milliseconds (for expiries); deadlines are loop time; `stopwatch` gives
    seconds that pass within a turn of the loop.
    """

    def __init__(
        self,
        coordinator: Backend,
        limits: RespLimits | None = None,
        clock: WallClock = wall_clock_ms,
        rights: Rights | None = None,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.limits = limits if limits is not None else RespLimits()
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._door = Door(
            coordinator,
            command_table(),
            limits=self.limits,
            wall_ms=clock,
            wake=self.wake,
            monotonic=self.now,
            rights=rights,
            stopwatch=stopwatch,
        )
        self._door.permits.settled = self._bound
        self.plain_gets = PlainGets(self._door, self._loop.call_soon, self._answer)
        self._door.info["process_id"] = str(os.getpid())
        self._servers: list[asyncio.Server] = []
        # Why the client of a connection may not come in; empty: it may.
        self.refusal: Callable[[asyncio.BaseTransport], str] = lambda _transport: ""
        self._dirty: list[Session] = []
        self._went_on = 0  # connections that worked off what had waited, in this turn
        self._paused: set[RespConnection] = set()  # who does not read fast enough
        self._sweep: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def counters(self) -> RespCounters:
        """Totals since the start."""
        return self._door.counters

    def use_rights(self, rights: Rights) -> None:
        """Judge by new rights what comes from now on, over open connections too."""
        permits = self._door.permits
        permits.rights = rights
        for session in list(self._door.sessions.values()):
            permits.recognize(session)
            permits.settle(session)

    @property
    def connections(self) -> int:
        """Clients connected now."""
        return len(self._door.sessions)

    @property
    def held_bytes(self) -> int:
        """Memory taken by commands that have not arrived whole."""
        return self._door.held_bytes

    # Listening ---------------------------------------------------------------------------------

    async def listen_tcp(
        self, host: str, port: int, *, reuse_port: bool = False
    ) -> tuple[str, int]:
        """Accept TCP clients; port 0: a free one. Returns the address bound. Raises OSError."""
        server = await self._loop.create_server(
            self._connection, host, port, reuse_port=reuse_port or None, backlog=_BACKLOG
        )
        bound = _sockets(server)[0].getsockname()
        self._started(server)
        return bound[0], bound[1]

    async def listen_unix(self, path: str | Path, *, mode: int = 0o660) -> None:
        """Accept clients on a Unix socket, whose file gets `mode`. Raises OSError."""
        # Bound here and not by the loop, so that nobody can connect before the mode is set.
        sock = bind_unix(path, mode=mode)
        await self.listen_socket(sock)

    async def listen_socket(
        self, sock: socket.socket, *, tls: ssl.SSLContext | None = None
    ) -> asyncio.Server:
        """Accept clients on a socket that is bound already: inherited from the parent process."""
        if sock.family == socket.AF_UNIX:
            server = await self._loop.create_unix_server(
                self._connection, sock=sock, backlog=_BACKLOG
            )
        else:
            server = await self._loop.create_server(
                self._connection,
                sock=sock,
                backlog=_BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls is not None else None,
            )
        self._started(server)
        return server

    def _started(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        for sock in _sockets(server):
            if sock.family != socket.AF_UNIX:
                self._door.info.setdefault("tcp_port", str(sock.getsockname()[1]))
        if self._sweep is None:
            self._sweep = self._loop.call_later(_SWEEP_S, self._sweep_connections)

    def _connection(self) -> RespConnection:
        return RespConnection(self)

    # Connections -------------------------------------------------------------------------------

    def admit(self, connection: RespConnection, transport: asyncio.Transport) -> Session | None:
        """A new client, or None when it was turned away."""
        door = self._door
        if door.draining or len(door.sessions) >= self.limits.connections:
            door.counters.connections_rejected += 1
            transport.write(replies.TOO_MANY_CLIENTS)
            transport.close()
            return None
        why = self.refusal(transport)
        if why:
            door.counters.connections_rejected += 1
            transport.write(resp.error(f"NOPERM {why}"))
            transport.close()
            return None
        door.counters.connections_accepted += 1
        address = _shown(transport.get_extra_info("peername"))
        local = _shown(transport.get_extra_info("sockname"))
        peer = peer_of(transport) if door.permits.rights is not None else STRANGER
        session = Session(door, self.now(), address or local, local, peer=peer)
        session.shell = connection
        self._bound(session)
        door.sessions[session.id] = session
        self._empty.clear()
        return session

    def _bound(self, session: Session) -> None:
        """Let so much be unsent as befits who the client is, and who is nobody stay so long."""
        connection = session.shell
        if connection is not None and connection.transport is not None:
            high = self.limits.stranger_output_bytes
            if not is_stranger(session):
                high = self.limits.output_soft_bytes
            connection.transport.set_write_buffer_limits(high=high)
            since = connection.nobody_since or self.now()
            connection.nobody_since = since if is_nobody(session) else 0.0

    def forget(self, session: Session) -> None:
        """The client is gone."""
        door = self._door
        door.held_bytes -= session.held_bytes
        door.sessions.pop(session.id, None)
        door.permits.forget(session)
        self.is_read(session.shell)
        session.forget()
        session.shell = None
        if not door.sessions:
            self._empty.set()

    def received_part(self, connection: RespConnection, session: Session) -> None:
        """A command has not arrived whole, or did so only now; or there is more than can run."""
        held = session.parser.held_bytes
        if held or session.held_bytes:
            self._hold(connection, session, held, self.now())
        if session.blocked:
            self.regulate(connection, session)

    def wake(self, session: Session) -> None:
        """`session` has something to send, or room for more: see to it at the end of this turn."""
        self._dirty.append(session)
        if len(self._dirty) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        counters = self._door.counters
        for session in dirty:
            connection = session.shell
            if connection is None:
                continue
            data = session.take_output()
            if data:
                counters.bytes_out += len(data)
                connection.transport.write(data)
            if session.backlog or session.closing or connection.reading_paused:
                self._after_flush(connection, session)
        if self._went_on or self._door.turn_s < LONG_TURN_S:
            self._share_turns()

    def _share_turns(self) -> None:
        """Many floods at once are to take no more of a turn than one, as far as that goes."""
        self._door.turn_s = max(_LEAST_TURN_S, LONG_TURN_S / max(1, self._went_on))
        self._went_on = 0

    def _answer(self, session: Session, reply: bytes) -> None:
        """Send the only reply that `session` owes its client. What it was sent before has left: the
        request to a replica did not go out earlier.
        """
        connection = session.shell
        if session.closing or len(reply) > LARGE_REPLY_BYTES:
            session.out.append(reply)
            session.mark_dirty()
            return
        self._door.counters.bytes_out += len(reply)
        connection.transport.write(reply)

    def _after_flush(self, connection: RespConnection, session: Session) -> None:
        """The uncommon end of a flush: go on with what waited, or say goodbye."""
        transport = connection.transport
        if transport is None:
            return
        if transport.get_write_buffer_size() > self.limits.output_hard_bytes:
            self.cut_off(connection)
            return
        if session.backlog or session.unread:
            self._went_on += 1
            session.advance(self.now())
            self.received_part(connection, session)
        if session.finished:
            # What is unsent now has as long as any slow reader; then the sweep cuts it off.
            connection.paused_since = connection.paused_since or self.now()
            transport.close()
            return
        self.regulate(connection, session)

    def regulate(self, connection: RespConnection, session: Session) -> None:
        """Read from the client exactly while there is room for what it sends."""
        transport = connection.transport
        if transport is None or transport.is_closing():
            return
        blocked = session.blocked or session.closing
        if blocked and not connection.reading_paused:
            connection.reading_paused = True
            self._door.counters.pauses += 1
            transport.pause_reading()
        elif connection.reading_paused and not blocked:
            connection.reading_paused = False
            transport.resume_reading()

    def piles_up(self, connection: RespConnection) -> None:
        """Its replies do. Where those of all clients do so beyond the bound, it goes."""
        self._paused.add(connection)
        unsent = sum(
            paused.transport.get_write_buffer_size()
            for paused in self._paused
            if paused.transport is not None
        )
        if unsent > self.limits.door_output_bytes:
            self.cut_off(connection)

    def cut_off(self, connection: RespConnection) -> None:
        """It does not read what it asked for."""
        if connection.transport is not None:
            self.counters.closed_output += 1
            connection.transport.abort()

    def is_read(self, connection: RespConnection) -> None:
        """Its replies do not pile up any more."""
        self._paused.discard(connection)

    def _hold(self, connection: RespConnection, session: Session, held: int, now: float) -> None:
        """Account for a command that has not arrived whole."""
        door = self._door
        if not session.held_bytes:
            session.held_since = now
        door.held_bytes += held - session.held_bytes
        session.held_bytes = held
        if door.held_bytes > self.limits.door_query_bytes and connection.transport is not None:
            door.counters.closed_query += 1
            # Given back at once: the loop reports the loss later, and others are judged before.
            door.held_bytes -= held
            session.held_bytes = 0
            session.closing = True
            connection.transport.abort()

    def _sweep_connections(self) -> None:
        """Once a second: close who does not read what it asked for, or end what it began."""
        now = self.now()
        limits, counters = self.limits, self._door.counters
        for session in list(self._door.sessions.values()):
            connection = session.shell
            if connection is None or connection.transport is None:
                continue
            if (
                connection.paused_since
                and (now - connection.paused_since) * 1000 > limits.stalled_reader_ms
            ):
                counters.closed_stalled += 1
                connection.transport.abort()
            elif session.held_bytes and (now - session.held_since) * 1000 > limits.half_command_ms:
                counters.closed_half_commands += 1
                connection.transport.abort()
            elif (
                connection.nobody_since
                and (now - connection.nobody_since) * 1000 > limits.auth_timeout_ms
            ):
                self._turn_out(connection, session)
        self._sweep = self._loop.call_later(_SWEEP_S, self._sweep_connections)

    def _turn_out(self, connection: RespConnection, session: Session) -> None:
        """It has had the time to say who it is."""
        if session.closing:  # it was told so a sweep ago, and does not take it
            if connection.transport is not None:
                connection.transport.abort()
            return
        self._door.counters.closed_unauthenticated += 1
        session.backlog.clear()
        session.unread.clear()
        session.muted = 0
        session.fail(replies.too_late(self.limits.auth_timeout_ms))
        session.closing = True
        session.mark_dirty()

    # The end -----------------------------------------------------------------------------------

    async def drain(self, timeout_s: float = 10.0) -> None:
        """Accept nobody more, answer what has been received, then close; what is not done after
        `timeout_s` is cut off."""
        self._door.draining = True
        self._close_servers()
        for session in list(self._door.sessions.values()):
            session.closing = True
            self.wake(session)
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            pass
        await self.close()

    async def close(self) -> None:
        """Close everything now."""
        self._close_servers()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for session in list(self._door.sessions.values()):
            if session.shell is not None and session.shell.transport is not None:
                session.shell.transport.abort()
        if self._door.sessions:
            await self._empty.wait()

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()


def _sockets(server: Any) -> list[socket.socket]:
    """Of a listening server: asyncio has them in a tuple, uvloop in a list."""
    return list(server.sockets)


def bind_unix(path: str | Path, *, mode: int = 0o660) -> socket.socket:
    """A bound Unix socket with a file of `mode`. A file that a dead process left is replaced; one
    that somebody listens on is an OSError (EADDRINUSE)."""
    name = str(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead(name)
        # Nobody can connect until the loop listens, so the mode is in time.
        sock.bind(name)
        Path(name).chmod(mode)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_dead(name: str) -> None:
    """Remove the socket file at `name` if nobody listens on it."""
    if not Path(name).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            Path(name).unlink(missing_ok=True)
        except FileNotFoundError:
            pass


def _shown(address: object) -> str:
    if isinstance(address, tuple):
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return address if isinstance(address, str) else ""
