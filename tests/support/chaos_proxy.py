"""A TCP proxy between clients and one server that delays, chokes, cuts off and resets.

It serves in a thread of its own. Each client process may have a road of its own through it, so one
of two sidecars can be cut off; all others take the common road. What a road does may change at any
time, for connections that are open too.

A cut is as in a network that drops packets: connections stay open, new ones are taken, nothing
arrives, and what was sent into the cut arrives when it is mended, unless it was reset.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.support.local_cluster import LocalCluster
from tests.support.servers import free_port

HOST = "127.0.0.1"
CHUNK_BYTES = 1 << 16
QUEUED_CHUNKS = 64  # bounds what a slow road keeps
_POLL_S = 0.005


@dataclass
class Way:
    """One direction. `bytes_per_s` None: without a bound."""

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    cut: bool = False


@dataclass
class Road:
    """Both directions, as seen from the client."""

    there: Way = field(default_factory=Way)
    back: Way = field(default_factory=Way)

    def cut(self, *, there: bool = True, back: bool = True) -> None:
        """Nothing passes in these directions any more."""
        self.there.cut, self.back.cut = there, back

    def slow(self, *, delay_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        """Half of the delay each way; the bound holds each way."""
        for way in (self.there, self.back):
            way.delay_s, way.bytes_per_s = delay_s / 2, bytes_per_s

    def mend(self) -> None:
        """As if nothing had been."""
        for way in (self.there, self.back):
            way.delay_s, way.bytes_per_s, way.cut = 0.0, None, False


class ChaosProxy:
    """In front of the server at `upstream`, a port; listens on `port` of loopback."""

    def __init__(self, port: int, upstream: int) -> None:
        self.port = port
        self.upstream = upstream
        self.common = Road()
        self._roads: dict[int, Road] = {}
        self._open: dict[asyncio.Task[None], Road] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(self._listen)

    def road_of(self, pid: int) -> Road:
        """The road of connections that the process opens from now on (see `reset`)."""
        return self._roads.setdefault(pid, Road())

    def reset(self) -> None:
        """Ends every connection, at both ends; what was under way is lost."""

        async def end() -> None:
            for task in self._open:
                task.cancel()

        self._do(end)

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

        self._do(end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Callable[[], object]) -> "asyncio.Server":
        future: Future[asyncio.Server] = asyncio.run_coroutine_threadsafe(work(), self._loop)  # type: ignore[arg-type]
        return future.result(10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, HOST, self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = road = self._road_from(writer.get_extra_info("peername")[1])
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self.upstream)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, far_writer, road.there))
                group.create_task(_carry(far_reader, writer, road.back))
        except (OSError, BaseExceptionGroup):
            pass  # either end went
        except asyncio.CancelledError:
            for each in writers:
                _reset_at_close(each)
        finally:
            del self._open[task]
            for each in writers:
                each.transport.abort()

    def _road_from(self, client_port: int) -> Road:
        if not self._roads:
            return self.common
        inode = _inode_of(client_port, self.port)
        found = (road for pid, road in self._roads.items() if _holds(pid, f"socket:[{inode}]"))
        return next(found, self.common)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
    """Until the sender has ended and all of it has arrived; raises OSError at the end."""
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
    async with asyncio.TaskGroup() as group:
        group.create_task(_deliver(queue, writer, way))
        while chunk := await reader.read(CHUNK_BYTES):
            await queue.put((time.monotonic() + way.delay_s, chunk))
        await queue.put((time.monotonic() + way.delay_s, b""))


async def _deliver(
    queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter, way: Way
) -> None:
    while True:
        due, chunk = await queue.get()
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        while way.cut:
            await asyncio.sleep(_POLL_S)
        if not chunk:
            raise ConnectionResetError("the sender has ended")
        while chunk:
            rate = way.bytes_per_s
            part = chunk if rate is None else chunk[: max(1, int(rate / 10))]
            chunk = chunk[len(part) :]
            if rate is not None:
                await asyncio.sleep(len(part) / rate)
            writer.write(part)
            await writer.drain()


def _reset_at_close(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )


def _inode_of(client_port: int, server_port: int) -> str:
    """Of the client's socket."""
    local, remote = (f"0100007F:{port:04X}" for port in (client_port, server_port))
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1:3] == [local, remote]:
            return fields[9]
    return ""


def _holds(pid: int, what: str) -> bool:
    """Whether the process has this open."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()) == what:
                    return True
    return False


@contextmanager
def behind_proxies(cluster: LocalCluster) -> Iterator[dict[str, ChaosProxy]]:
    """A proxy at every node's address, by node. The node itself moves to another port, alive.

    `address` of its part is where it can be reached without the proxy, from then on.
    """
    proxies: dict[str, ChaosProxy] = {}
    try:
        for part in cluster.nodes:
            port, behind = int(part.address.rpartition(":")[2]), free_port()
            with redis.Redis(port=port) as node:
                node.config_set("port", behind)
                proxies[part.name] = ChaosProxy(port, behind)
                node.client_kill_filter(_type="normal", skipme=True)
            part.command += ["--port", str(behind)]
            part.address = f"{HOST}:{behind}"
        yield proxies
    finally:
        for proxy in proxies.values():
            proxy.close()
