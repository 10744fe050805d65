"""More processes behind the same doors: `workers: N`.

The first process serves like the others and looks after them: it starts each with a socket pair,
feeds it the map, collects its counts every half second, and starts it again when it dies. A worker
ends when the first process does. Processes are started afresh, never forked: gRPC does not survive
a fork.
"""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable

import msgspec
import structlog

from buckets.errors import CodecError
from sidecar.config import SidecarConfig
from sidecar.stats import WorkerStats

log = structlog.get_logger()

RESTART_DELAY_S = 0.5  # doubled while it dies young
MOST_RESTART_DELAY_S = 4.0
YOUNG_S = 10.0
FRAME_LIMIT = 1 << 28
STATS = b"s"
ENTRY = b"e"
MAP = b"m"
DRAIN = b"d"
REPAIRED = b"r"


class Repaired(msgspec.Struct, frozen=True):
    """A repair that began at `begun_ms` (Unix milliseconds) made a bucket's owners equal.

    Bucket -1 of no keyspace: all of them.
    """

    keyspace: str
    bucket: int
    begun_ms: int


class WorkerOrder(msgspec.Struct, frozen=True):
    """What a worker is started with, as JSON on its command line."""

    config: SidecarConfig
    index: int
    channel: int  # file descriptor of its end of the pair
    grpc: str
    redis: str
    grpc_unix: int = -1
    redis_unix: int = -1


async def read_frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """One frame (kind, body) of the channel; None at its end."""
    try:
        head = await reader.readexactly(5)
        length = int.from_bytes(head[1:], "big")
        if length > FRAME_LIMIT:
            return None
        return head[:1], await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def frame(kind: bytes, body: bytes) -> bytes:
    """A frame's bytes."""
    return kind + len(body).to_bytes(4, "big") + body


class Worker:
    """One further process, kept alive."""

    def __init__(self, order: WorkerOrder, learn: Callable[[bytes], object]) -> None:
        self._order = order
        self._learn = learn
        self._saved_map = b""
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self.stats: WorkerStats | None = None

    def start(self) -> None:
        """Start the process, and again whenever it dies."""
        self._keeper = asyncio.create_task(self._keep(), name=f"worker-{self._order.index}")

    def adopt(self, saved_map: bytes) -> None:
        """Have it route by this map (SavedMap bytes)."""
        self._saved_map = saved_map
        if self._writer is not None:
            self._writer.write(frame(MAP, saved_map))

    def repaired(self, bucket: Repaired) -> None:
        """Have it drop the mark of a bucket."""
        if self._writer is not None:
            self._writer.write(frame(REPAIRED, msgspec.json.encode(bucket)))

    async def stop(self) -> None:
        """Have it drain and end; bounded by its own drain timeout."""
        self._stopping = True
        if self._keeper is None:
            return
        if self._writer is not None:
            self._writer.write(frame(DRAIN, b""))
            await asyncio.wait({self._keeper}, timeout=self._drain_s())
        self._keeper.cancel()  # without a writer there is no process: it waits to start one
        await asyncio.wait({self._keeper})

    def _drain_s(self) -> float:
        return self._order.config.drain_timeout_ms / 1000 + 2

    async def _keep(self) -> None:
        delay_s = RESTART_DELAY_S
        while True:
            started = time.monotonic()
            try:
                status: int | str = await self._run_once()
            except (OSError, msgspec.MsgspecError) as error:
                status = str(error)
            self._writer = None
            self.stats = None
            if status == 0 or self._stopping:
                return
            log.error("worker died; starting it again", worker=self._order.index, status=status)
            await asyncio.sleep(delay_s)
            young = time.monotonic() - started < YOUNG_S
            delay_s = min(2 * delay_s, MOST_RESTART_DELAY_S) if young else RESTART_DELAY_S

    async def _run_once(self) -> int:
        ours, theirs = socket.socketpair()
        order = msgspec.structs.replace(self._order, channel=theirs.fileno())
        inherited = [fd for fd in (order.channel, order.grpc_unix, order.redis_unix) if fd >= 0]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the folder it is started from has no say in what it imports
            "-m",
            "sidecar.worker",
            msgspec.json.encode(order).decode(),
            pass_fds=inherited,
            env=dict(os.environ),  # uvloop takes nothing but a dict
        )
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        if self._saved_map:
            self._writer.write(frame(MAP, self._saved_map))
        try:
            await self._listen(reader)
            return await process.wait()
        finally:
            self._writer.close()
            if process.returncode is None:
                process.kill()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (received := await read_frame(reader)) is not None:
            kind, body = received
            if kind == STATS:
                self.stats = msgspec.json.decode(body, type=WorkerStats)
            elif kind == ENTRY:
                self._hear(body)

    def _hear(self, entry: bytes) -> None:
        try:
            self._learn(entry)
        except CodecError as error:
            log.error("worker sent a map entry that is damaged", why=str(error))
