"""The gRPC half of the loader: writes records in batches, reads them one by one."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import grpc

from control_plane.dev.admin_calls import LOOPBACK_CHANNEL
from control_plane.dev.cities import Popularity, Record
from control_plane.dev.load_tally import OnProgress, Patience, Tally
from protos.dabbawala.v1 import data_pb2
from protos.dabbawala.v1.data_pb2_grpc import DataStub

if TYPE_CHECKING:  # known to the types only
    from protos.dabbawala.v1.data_pb2_grpc import DataAsyncStub

_BATCH_ITEMS = 256
_BATCHES_AT_ONCE = 4
_BATCH_TIMEOUT_MS = 5_000
_PAUSE_AFTER_FAILURE_S = 0.05
_READ_TIMEOUT_S = 5.0

_RETRYABLE = frozenset(
    code.value[0]
    for code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    )
)
# gRPC shares a connection between channels to one address unless it is told not to.
_OWN_CONNECTION = (*LOOPBACK_CHANNEL, ("grpc.use_local_subchannel_pool", 1))


class BatchWriter:
    """Writes every record at QUORUM, several batches at a time; each item has its own outcome."""

    def __init__(self, channel: grpc.aio.Channel, keyspace: str, on_progress: OnProgress) -> None:
        self.tally = Tally()
        self._data: DataAsyncStub = DataStub(channel)
        self._keyspace = keyspace
        self._on_progress = on_progress
        self._patience = Patience()

    async def write_all(self, records: Sequence[Record]) -> Tally:
        """Answers the counts: `done` are the records acknowledged at QUORUM."""
        batches = (
            records[start : start + _BATCH_ITEMS] for start in range(0, len(records), _BATCH_ITEMS)
        )
        await asyncio.gather(*(self._write_batches(batches) for _ in range(_BATCHES_AT_ONCE)))
        return self.tally

    async def _write_batches(self, batches: Iterator[Sequence[Record]]) -> None:
        for batch in batches:
            items = [data_pb2.BatchWriteItem(key=one.key, put=one.value) for one in batch]
            await self._write(items)
            self._on_progress(self.tally.done)

    async def _write(self, items: list[data_pb2.BatchWriteItem]) -> None:
        """One batch, and again what is worth repeating, for as long as the patience lasts."""
        pauses, why = self._patience.pauses(), ""
        while items:
            items, why = await self._attempt(items)
            pause_s = next(pauses, None) if items else None
            if pause_s is None:
                break
            self.tally.retries += len(items)
            await asyncio.sleep(pause_s)
        for _ in items:
            self.tally.failed(why)

    async def _attempt(
        self, items: list[data_pb2.BatchWriteItem]
    ) -> tuple[list[data_pb2.BatchWriteItem], str]:
        """The items to send again and why; an unknown outcome with its version: the same write."""
        request = data_pb2.BatchWriteRequest(
            keyspace=self._keyspace,
            items=items,
            consistency=data_pb2.CONSISTENCY_QUORUM,
            timeout_ms=_BATCH_TIMEOUT_MS,
        )
        try:
            response = await self._data.BatchWrite(request, timeout=2 * _BATCH_TIMEOUT_MS / 1000)
        except grpc.aio.AioRpcError as error:
            why = f"BatchWrite: {error.code().name}: {error.details()}"
            if error.code().value[0] in _RETRYABLE:
                return items, why
            for _ in items:
                self.tally.failed(why)
            return [], ""
        again, why = [], ""
        for item, result in zip(items, response.results, strict=True):
            if result.WhichOneof("result") != "failure":
                self.tally.done += 1
                continue
            failure = result.failure
            text = f"write: {failure.reason}: {failure.message}"
            if failure.code in _RETRYABLE:
                item.retry_version = failure.version
                again.append(item)
                why = text
            else:
                self.tally.failed(text)
        return again, why


async def write_records(
    address: str, keyspace: str, records: Sequence[Record], on_progress: OnProgress
) -> Tally:
    """Writes all records through the gRPC door at `address`."""
    async with grpc.aio.insecure_channel(address, options=LOOPBACK_CHANNEL) as channel:
        return await BatchWriter(channel, keyspace, on_progress).write_all(records)


async def read_popular(
    address: str,
    keyspace: str,
    popularity: Popularity,
    *,
    until: float,
    tally: Tally,
    connections: int,
    streams: int,
) -> None:
    """Reads drawn records until `until` (`time.perf_counter()`), `streams` at a time in all."""
    drawn = iter(popularity)
    channels = [
        grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) for _ in range(connections)
    ]
    try:
        await asyncio.gather(
            *(
                _read_until(until, DataStub(channels[number % connections]), keyspace, drawn, tally)
                for number in range(streams)
            )
        )
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _read_until(
    until: float, data: "DataAsyncStub", keyspace: str, drawn: Iterator[Record], tally: Tally
) -> None:
    while (started := time.perf_counter()) < until:
        record = next(drawn)
        try:
            response = await data.Get(
                data_pb2.GetRequest(keyspace=keyspace, key=record.key), timeout=_READ_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            tally.failed(f"Get: {error.code().name}: {error.details()}")
            await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)
        else:
            tally.answered(started, equal=response.value == record.value)
