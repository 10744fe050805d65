"""Clients that count through a door while nodes die: what was acknowledged, what is unknown."""

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import redis.asyncio
import redis.exceptions

from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from sidecar.core.register_op import new_operation_id
from tests.support.local_cluster import CHANNEL_OPTIONS
from tests.support.rich_errors import info_of

TIMEOUT_S = 5.0
REPEATS = 100
PAUSE_S = 0.02  # after a failure: nobody is there to answer


@dataclass
class Counts:
    """Of each counter: increments acknowledged, and those of unknown outcome."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # by the first word of the error

    def problems(self, final: dict[str, int]) -> list[str]:
        """Counters whose value can not be explained."""
        found = []
        for key, value in final.items():
            low = self.acknowledged[key]
            high = low + self.unknown[key]
            if not low <= value <= high:
                found.append(f"{key} is {value}, not within {low} and {high}")
        return found


Client = Callable[[int, threading.Event, Counts], Coroutine[Any, Any, None]]


class Counting:
    """`clients` of them at work in a thread, from start to stop."""

    def __init__(self, client: Client, clients: int) -> None:
        self.counts = Counts()
        self._stop = threading.Event()
        self._client = client
        self._clients = clients
        self._pool = ThreadPoolExecutor(1)
        self._ended = self._pool.submit(asyncio.run, self._all())

    def total(self) -> int:
        """How many increments have been acknowledged."""
        return self.counts.acknowledged.total()

    def stop(self) -> Counts:
        """The end of all clients. Raises what one of them could not explain."""
        self._stop.set()
        self._pool.shutdown()
        self._ended.result()
        return self.counts

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(number, self._stop, self.counts))


def incrementing(port: int, database: int, keys: list[str]) -> Client:
    """INCR through the Redis door, each client in its own turn through the keys."""

    async def client(number: int, stop: threading.Event, counts: Counts) -> None:
        door = redis.asyncio.Redis(
            port=port, db=database, single_connection_client=True, socket_timeout=TIMEOUT_S
        )
        turn = number
        async with door:
            while not stop.is_set():
                turn += 1
                key = keys[turn % len(keys)]
                try:
                    await door.incr(key)
                except redis.exceptions.ResponseError as error:
                    word = str(error).partition(" ")[0]
                    counts.refused[word] += 1
                    counts.unknown[key] += word != "NOTAPPLIED"
                    await asyncio.sleep(PAUSE_S)
                except (redis.exceptions.RedisError, OSError):
                    counts.unknown[key] += 1
                    await asyncio.sleep(PAUSE_S)
                else:
                    counts.acknowledged[key] += 1

    return client


def swapping(target: str, keyspace: str, keys: list[str]) -> Client:
    """Read, then compare-and-set to one more; repeated with its operation id while unknown."""

    async def client(number: int, stop: threading.Event, counts: Counts) -> None:
        turn = number
        async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            data = data_pb2_grpc.DataStub(channel)
            while not stop.is_set():
                turn += 1
                await _swap(data, keyspace, keys[turn % len(keys)], counts)

    return client


async def _swap(
    data: "data_pb2_grpc.DataAsyncStub", keyspace: str, key: str, counts: Counts
) -> None:
    read = data_pb2.GetRequest(keyspace=keyspace, key=key.encode())
    try:
        got = await data.Get(read, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError:
        await asyncio.sleep(PAUSE_S)
        return
    request = data_pb2.CompareAndSetRequest(
        keyspace=keyspace,
        key=key.encode(),
        expected_version=got.version,
        put=b"%d" % (int(got.value or b"0") + 1),
        operation_id=new_operation_id(time.time_ns() // 1_000_000, os.urandom(10)),
    )
    for _ in range(REPEATS):
        applied = await _swapped(data, request)
        if applied is not None:
            counts.acknowledged[key] += applied
            return
        await asyncio.sleep(PAUSE_S)
    counts.unknown[key] += 1


async def _swapped(
    data: "data_pb2_grpc.DataAsyncStub", request: data_pb2.CompareAndSetRequest
) -> bool | None:
    """Whether it was applied, by this call or an earlier one with its id; None: unknown."""
    try:
        return (await data.CompareAndSet(request, timeout=TIMEOUT_S)).applied
    except grpc.aio.AioRpcError as error:
        info = info_of(error)
        known = info is not None and info.metadata["outcome"] == "NOT_APPLIED"
        return False if known else None
