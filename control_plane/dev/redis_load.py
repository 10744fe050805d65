"""The Redis half of the loader: verifies records in pipelines, reads them one by one."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import cast

import hiredis

from control_plane.dev.cities import Popularity, Record
from control_plane.dev.load_tally import OnProgress, Patience, Tally

_PIPELINE = 256
_CONNECTIONS = 4
_PAUSE_AFTER_FAILURE_S = 0.05
_PIPELINE_TIMEOUT_S = 15.0
_READ_TIMEOUT_S = 5.0


class RedisFailed(Exception):
    """The Redis door closed a connection, refused a command, or did not answer in time."""


class RedisConnection(asyncio.Protocol):
    """One connection that sends a pipeline and waits for all its replies."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._replies: list[object] = []
        self._wanted = 0
        self._answered: asyncio.Future[None] | None = None
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's: asking isinstance would miss them.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._replies.append(reply)
        answered = self._answered
        if answered is not None and len(self._replies) >= self._wanted and not answered.done():
            answered.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(RedisFailed("the Redis door closed the connection"))

    async def ask(self, commands: Sequence[bytes], timeout_s: float) -> list[object]:
        """The replies of packed commands, in their order; errors among them. Raises RedisFailed."""
        if self._transport is None or self._closed:
            raise RedisFailed("the Redis door closed the connection")
        self._replies, self._wanted = [], len(commands)
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.writelines(commands)
        try:
            async with asyncio.timeout(timeout_s):
                await self._answered
        except TimeoutError:
            self.close()  # a reply that comes late would be taken for that of the next command
            raise RedisFailed(f"no answer within {timeout_s:g} s") from None
        return self._replies

    def close(self) -> None:
        """Closes the connection."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()


def packed(*words: bytes) -> bytes:
    """A command as the Redis protocol has it."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # any number of words
    return command


async def connect(address: str, redis_db: int, level: bytes) -> RedisConnection:
    """A connection to the keyspace of `SELECT redis_db`, reading at `level`. Raises RedisFailed."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(RedisConnection, host, int(port))
    except OSError as error:
        raise RedisFailed(f"cannot connect to {address}: {error}") from error
    commands = [
        packed(b"SELECT", str(redis_db).encode()),
        packed(b"DABBA.CONSISTENCY", level),
    ]
    for reply in await connection.ask(commands, _READ_TIMEOUT_S):
        if reply not in (b"OK", "OK"):
            connection.close()
            raise RedisFailed(f"the Redis door answered {reply!r}")
    return connection


class Verifier:
    """Reads every record at QUORUM in pipelines and compares; failed reads are asked again."""

    def __init__(self, address: str, redis_db: int, on_progress: OnProgress) -> None:
        self.tally = Tally()
        self._address = address
        self._redis_db = redis_db
        self._on_progress = on_progress
        self._patience = Patience()

    async def verify_all(self, records: Sequence[Record]) -> Tally:
        """Answers the counts: `done` are the records whose value was as written."""
        chunks = (records[start : start + _PIPELINE] for start in range(0, len(records), _PIPELINE))
        await asyncio.gather(*(self._verify_chunks(chunks) for _ in range(_CONNECTIONS)))
        return self.tally

    async def _verify_chunks(self, chunks: Iterator[Sequence[Record]]) -> None:
        connection: RedisConnection | None = None
        for chunk in chunks:
            pauses, why = self._patience.pauses(), ""
            while chunk:
                try:
                    if connection is None:
                        connection = await connect(self._address, self._redis_db, b"QUORUM")
                    chunk, why = await self._compare(connection, chunk)
                except RedisFailed as error:
                    connection, why = None, str(error)
                pause_s = next(pauses, None) if chunk else None
                if pause_s is None:
                    break
                self.tally.retries += len(chunk)
                await asyncio.sleep(pause_s)
            for _ in chunk:
                self.tally.failed(f"verifying read: {why}")
            self._on_progress(self.tally.done)
        if connection is not None:
            connection.close()

    async def _compare(
        self, connection: RedisConnection, chunk: Sequence[Record]
    ) -> tuple[Sequence[Record], str]:
        """The records that got an error instead of an answer, and the last such error."""
        commands = [packed(b"GET", record.key) for record in chunk]
        replies = await connection.ask(commands, _PIPELINE_TIMEOUT_S)
        failed, why = [], ""
        for record, reply in zip(chunk, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                failed.append(record)
                why = str(reply)
            elif reply == record.value:
                self.tally.done += 1
            else:
                self.tally.mismatches += 1
        return failed, why


async def verify_records(
    address: str, redis_db: int, records: Sequence[Record], on_progress: OnProgress
) -> Tally:
    """Reads all records back through the Redis door at `address`."""
    return await Verifier(address, redis_db, on_progress).verify_all(records)


async def read_popular(
    address: str,
    redis_db: int,
    popularity: Popularity,
    *,
    until: float,
    tally: Tally,
    connections: int,
) -> None:
    """Reads drawn records until `until` (`time.perf_counter()`), one at a time a connection."""
    drawn = iter(popularity)
    await asyncio.gather(
        *(_read_until(until, address, redis_db, drawn, tally) for _ in range(connections))
    )


async def _read_until(
    until: float, address: str, redis_db: int, drawn: Iterator[Record], tally: Tally
) -> None:
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    while (left_s := until - time.perf_counter()) > 0:
        try:
            _, reader = await loop.create_connection(
                lambda: PopularReader(redis_db, drawn, until, tally), host, int(port)
            )
            async with asyncio.timeout(left_s + _READ_TIMEOUT_S):
                await reader.ended
        except (OSError, RedisFailed) as error:  # a timeout is an OSError
            tally.failed(f"GET: {str(error) or 'no answer'}")
            await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)


class PopularReader(asyncio.Protocol):
    """Reads drawn records one after the other until `until`; no future and no timer for each.

    The loader shares two cores with what it measures: this costs a third of awaiting each reply.
    """

    def __init__(self, redis_db: int, drawn: Iterator[Record], until: float, tally: Tally) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._select = packed(b"SELECT", str(redis_db).encode())
        self._drawn = drawn
        self._until = until
        self._tally = tally
        self._replies = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._record: Record | None = None  # None: the keyspace is being selected
        self._started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._select)

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False:
            self._on_reply(reply)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(RedisFailed("the Redis door closed the connection"))

    def _on_reply(self, reply: object) -> None:
        if self._record is None:
            if reply != b"OK":
                self.ended.set_exception(RedisFailed(f"the Redis door answered {reply!r}"))
                self._close()
                return
        elif isinstance(reply, hiredis.ReplyError):
            self._tally.failed(f"GET: {reply}")
        else:
            self._tally.answered(self._started, equal=reply == self._record.value)
        self._ask_next()

    def _ask_next(self) -> None:
        now = time.perf_counter()
        if now >= self._until or self._transport is None:
            self.ended.set_result(None)
            self._close()
            return
        self._record = next(self._drawn)
        self._started = now
        self._transport.write(packed(b"GET", self._record.key))

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
