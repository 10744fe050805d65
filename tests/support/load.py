"""Clients that read and write at QUORUM through both doors of a cluster, and record what they see.

Four threads: each door over TCP and over its Unix socket. A fifth reads, at ONE, keys that were
written once at ALL: an answer of a single replica that forgot would show, if it is in the zone of
the sidecar. Clients repeat nothing by themselves: every operation is recorded as it went.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import grpc
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from tests.support.history import ABSENT, NOT_APPLIED, OK, UNKNOWN, Event, History
from tests.support.local_cluster import CHANNEL_OPTIONS, LocalCluster, wait_until
from tests.support.rich_errors import info_of

KEYS_PER_WRITER = 12
STEADY_KEYS = [f"steady-{number}".encode() for number in range(48)]
TIMEOUT_S = 4.0
_NO_RETRY = Retry(NoBackoff(), 0)
_PAUSE_S = 0.001  # between rounds: enough operations to hit every moment, and a calm machine


class Client(Protocol):
    """One connection to one door."""

    name: str

    def write(self, key: bytes, value: bytes) -> tuple[str, bytes, str]:
        """(outcome, version, error)"""

    def read(self, key: bytes) -> tuple[str, bytes | None, bytes, str]:
        """(outcome, value, version, error)"""

    def close(self) -> None: ...


class GrpcClient:
    """grpcio's."""

    read_level = data_pb2.CONSISTENCY_QUORUM
    write_level = data_pb2.CONSISTENCY_QUORUM

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._data = data_pb2_grpc.DataStub(self._channel)

    def write(self, key: bytes, value: bytes) -> tuple[str, bytes, str]:
        request = data_pb2.PutRequest(key=key, value=value, consistency=self.write_level)
        try:
            return OK, self._data.Put(request, timeout=TIMEOUT_S).version, ""
        except grpc.RpcError as error:
            info = info_of(error)
            outcome = UNKNOWN if info is None else info.metadata["outcome"]
            return outcome, b"", f"{error.code().name} {error.details()}"

    def read(self, key: bytes) -> tuple[str, bytes | None, bytes, str]:
        request = data_pb2.GetRequest(key=key, consistency=self.read_level)
        try:
            answer = self._data.Get(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return UNKNOWN, None, b"", f"{error.code().name} {error.details()}"
        return OK, answer.value if answer.found else None, answer.version, ""

    def close(self) -> None:
        self._channel.close()


class SteadyClient(GrpcClient):
    """Writes to every owner, reads from any one."""

    read_level = data_pb2.CONSISTENCY_ONE
    write_level = data_pb2.CONSISTENCY_ALL


class RedisClient:
    """redis-py's."""

    def __init__(self, name: str, client: redis.Redis) -> None:
        self.name = name
        self._client = client

    def write(self, key: bytes, value: bytes) -> tuple[str, bytes, str]:
        try:
            self._client.set(key, value)
        except redis.RedisError as error:
            word = str(error).partition(" ")[0]
            proved = isinstance(error, redis.ResponseError) and word in ("NOTAPPLIED", "ERR")
            return NOT_APPLIED if proved else UNKNOWN, b"", f"{type(error).__name__} {error}"
        return OK, b"", ""

    def read(self, key: bytes) -> tuple[str, bytes | None, bytes, str]:
        try:
            value = self._client.get(key)
        except redis.RedisError as error:
            return UNKNOWN, None, b"", f"{type(error).__name__} {error}"
        assert value is None or isinstance(value, bytes)
        return OK, value, b"", ""

    def close(self) -> None:
        self._client.close()


def clients_of(cluster: LocalCluster) -> list[Client]:
    """One for every way in; the caller closes them."""
    tcp, unix = cluster.grpc_targets
    return [
        GrpcClient("grpc-tcp", tcp),
        GrpcClient("grpc-unix", unix),
        RedisClient(
            "redis-tcp",
            redis.Redis(
                port=cluster.redis_port, protocol=2, socket_timeout=TIMEOUT_S, retry=_NO_RETRY
            ),
        ),
        RedisClient(
            "redis-unix",
            redis.Redis(
                unix_socket_path=cluster.redis_socket,
                protocol=3,
                socket_timeout=TIMEOUT_S,
                retry=_NO_RETRY,
            ),
        ),
    ]


class Load:
    """Workers and their history."""

    def __init__(
        self,
        cluster: LocalCluster,
        history: History | None = None,
        *,
        more: Sequence[Client] = (),
    ) -> None:
        """`more` clients work like those of the cluster's own sidecar; they are closed with it."""
        self.history = history if history is not None else History()
        self._stop = threading.Event()
        self._clients = [*clients_of(cluster), *more]
        self._steady = SteadyClient("grpc-one", cluster.grpc_targets[0])
        workers = [(self._work, client) for client in self._clients]
        self._threads = [
            threading.Thread(target=self._guarded, args=worker, daemon=True)
            for worker in [*workers, (self._work_steadily, self._steady)]
        ]
        self._crashes: list[BaseException] = []

    @property
    def keys(self) -> list[bytes]:
        """All keys that are written."""
        return [key for client in self._clients for key in _keys_of(client)]

    def start(self) -> None:
        """Writes what is read at ONE, unless an earlier load of this history has; then works."""
        if not any(write.key == STEADY_KEYS[0] for write in self.history.writes):
            for key in STEADY_KEYS:
                self._write(self._steady, key, 1)
        for thread in self._threads:
            thread.start()

    def run_for(self, operations: int, timeout_s: float = 20.0) -> None:
        """Until so many more operations have been answered well."""
        goal = self._answered() + operations
        wait_until(
            lambda: self._answered() >= goal,
            f"{operations} more operations: {self.history.failures[-3:]}",
            timeout_s,
        )

    def _answered(self) -> int:
        assert not self._crashes, self._crashes
        history = self.history
        return len(history.writes) + len(history.reads) - len(history.failures)

    def stop(self) -> History:
        """The history of all that was done."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        assert not self._crashes, self._crashes
        return self.history

    def close(self) -> None:
        self.stop()
        for client in [*self._clients, self._steady]:
            client.close()

    def read_all(self) -> None:
        """Reads every key through every door, once the workers have stopped."""
        for client in self._clients:
            for key in [*self.keys, *STEADY_KEYS]:
                self._read(client, key)

    def _guarded(self, work: Callable[[Client], None], client: Client) -> None:
        try:
            work(client)
        except BaseException as crash:  # noqa: BLE001  # raised again by who waits
            self._crashes.append(crash)

    def _work_steadily(self, client: Client) -> None:
        while not self._stop.wait(_PAUSE_S):
            for key in STEADY_KEYS:
                self._read(client, key)

    def _work(self, client: Client) -> None:
        chance = random.Random(client.name)
        numbers = dict.fromkeys(_keys_of(client), 0)
        for write in self.history.writes:
            if write.key in numbers:
                numbers[write.key] = max(numbers[write.key], write.number)
        keys = self.keys
        while not self._stop.wait(_PAUSE_S):
            for own in numbers:
                numbers[own] += 1
                self._write(client, own, numbers[own])
                self._read(client, own)
                self._read(client, chance.choice(keys))
                if self._stop.is_set():
                    break

    def _write(self, client: Client, key: bytes, number: int) -> None:
        began = time.monotonic()
        outcome, version, error = client.write(key, b"%s=%d" % (key, number))
        event = Event(client.name, key, number, began, time.monotonic(), outcome, version, error)
        self.history.writes.append(event)

    def _read(self, client: Client, key: bytes) -> None:
        began = time.monotonic()
        outcome, value, version, error = client.read(key)
        number = ABSENT
        if value is not None:
            written, _, text = value.partition(b"=")
            assert written == key, f"{key!r} read as {value!r}"
            number = int(text)
        event = Event(client.name, key, number, began, time.monotonic(), outcome, version, error)
        self.history.reads.append(event)


def _keys_of(client: Client) -> list[bytes]:
    return [f"{client.name}-{number}".encode() for number in range(KEYS_PER_WRITER)]


@contextmanager
def load_on(
    cluster: LocalCluster, history: History | None = None, *, more: Sequence[Client] = ()
) -> Iterator[Load]:
    """A load that has done its first rounds; stopped afterwards, its clients closed."""
    load = Load(cluster, history, more=more)
    try:
        load.start()
        load.run_for(200)
        yield load
    finally:
        load.close()


def read_everything(cluster: LocalCluster, history: History) -> None:
    """Adds a read of every key through every door to the history."""
    load = Load(cluster, history)
    try:
        load.read_all()
    finally:
        load.close()
