"""Clients of a linearizable keyspace, and whether one order explains all that they were told.

Each client is a thread with a connection to one sidecar; it puts, compares and sets, and reads the
same few keys as all others. Nothing is repeated: every operation is recorded as it went.
"""

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from tests.support.fault_table import Judged
from tests.support.history import NOT_APPLIED, OK, UNKNOWN
from tests.support.linearizable import Call, order_of
from tests.support.local_cluster import CHANNEL_OPTIONS, wait_until
from tests.support.rich_errors import info_of

TIMEOUT_S = 4.0
KEYS = 24
_PAUSE_S = 0.004  # between operations: histories stay short enough to be searched

Value = bytes | None
Step = Callable[[Value], tuple[bool, Value]]


@dataclass(frozen=True, slots=True)
class Done:
    """One operation. Times are `time.monotonic()` seconds; `code` is gRPC's name, "" for none."""

    client: str
    key: bytes
    call: Call[Value] | None  # None: it is known not to have happened, or was a read without answer
    outcome: str
    began: float
    ended: float
    code: str = ""
    error: str = ""


class RegisterLoad:
    """`targets`: the gRPC door of each client, by the client's name."""

    def __init__(self, keyspace: str, targets: dict[str, str]) -> None:
        self.done: list[Done] = []
        self._keyspace = keyspace
        self._clock = itertools.count()
        self._stop = threading.Event()
        self._crashes: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=client, daemon=True)
            for client in targets.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def run_for(self, operations: int, client: str = "", timeout_s: float = 30.0) -> None:
        """Until so many more operations have been answered well, to clients named so."""
        goal = self._answered(client) + operations
        wait_until(lambda: self._answered(client) >= goal, f"{operations} more", timeout_s)

    def _answered(self, client: str) -> int:
        assert not self._crashes, self._crashes
        return sum(d.outcome == OK and d.client.startswith(client) for d in list(self.done))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        assert not self._crashes, self._crashes

    @property
    def outcomes(self) -> Counter[str]:
        """How many ended how."""
        return Counter(done.outcome for done in self.done)

    def failures(self, client: str = "") -> list[Done]:
        """What was not answered with OK, of clients named so."""
        return [d for d in self.done if d.outcome != OK and d.client.startswith(client)]

    def violations(self) -> list[str]:
        """Keys whose history no order explains, with that history."""
        found = []
        for key in sorted({done.key for done in self.done}):
            calls = [done.call for done in self.done if done.key == key and done.call]
            if order_of(calls, None) is None:
                found.append(f"{key!r}: {sorted(calls, key=lambda call: call.started)}")
        return found

    def _guarded(self, name: str, target: str) -> None:
        try:
            with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
                self._work(name, data_pb2_grpc.DataStub(channel))
        except BaseException as crash:  # noqa: BLE001  # raised again by who waits
            self._crashes.append(crash)

    def _work(self, name: str, data: data_pb2_grpc.DataStub) -> None:
        chance = random.Random(name)
        seen: dict[bytes, Value] = {}
        for number in itertools.count():
            if self._stop.wait(_PAUSE_S):
                return
            key = b"register-%d" % chance.randrange(KEYS)
            value = b"%s-%d" % (name.encode(), number)
            kind = chance.choice(("put", "swap", "read", "read"))
            if kind == "put":
                self._put(name, data, key, value)
            elif kind == "swap" and key in seen:
                self._swap(name, data, key, (seen[key], value))
            else:
                seen[key] = self._read(name, data, key, seen.get(key))

    def _put(self, name: str, data: data_pb2_grpc.DataStub, key: bytes, value: bytes) -> None:
        request = data_pb2.PutRequest(keyspace=self._keyspace, key=key, value=value)

        def ask() -> Step:
            data.Put(request, timeout=TIMEOUT_S)
            return lambda _: (True, value)

        self._record(name, key, ask, lambda _: (True, value))

    def _swap(
        self, name: str, data: data_pb2_grpc.DataStub, key: bytes, values: tuple[Value, bytes]
    ) -> None:
        old, new = values
        request = data_pb2.CompareAndSetRequest(keyspace=self._keyspace, key=key, put=new)
        if old is None:
            request.expected_absent = True
        else:
            request.expected_value = old

        def ask() -> Step:
            if data.CompareAndSet(request, timeout=TIMEOUT_S).applied:
                return lambda state: (state == old, new)
            return lambda state: (state != old, state)

        self._record(name, key, ask, lambda state: (True, new) if state == old else (True, state))

    def _read(self, name: str, data: data_pb2_grpc.DataStub, key: bytes, before: Value) -> Value:
        request = data_pb2.GetRequest(keyspace=self._keyspace, key=key)
        read = before

        def ask() -> Step:
            nonlocal read
            answer = data.Get(request, timeout=TIMEOUT_S)
            read = value = answer.value if answer.found else None
            return lambda state: (state == value, state)

        self._record(name, key, ask, None)
        return read

    def _record(
        self, name: str, key: bytes, ask: Callable[[], Step], if_unknown: Step | None
    ) -> None:
        """`if_unknown`: what it does if it happened after all; None for a read."""
        started, began = next(self._clock), time.monotonic()
        call: Call[Value] | None = None
        outcome, code, error = OK, "", ""
        try:
            step = ask()
            call = Call(f"{name} {len(self.done)}", started, next(self._clock), step)
        except grpc.RpcError as failed:
            info = info_of(failed)
            outcome = (info.metadata["outcome"] if info is not None else "") or UNKNOWN
            code, error = failed.code().name, str(failed.details())
            if outcome != NOT_APPLIED and if_unknown is not None:
                call = Call(f"{name} {len(self.done)} unknown", started, None, if_unknown)
        done = Done(name, key, call, outcome, began, time.monotonic(), code, error)
        self.done.append(done)


@contextmanager
def register_load(keyspace: str, targets: Sequence[tuple[str, str]]) -> Iterator[RegisterLoad]:
    """A load that has done its first rounds, of clients (name, target); stopped afterwards."""
    load = RegisterLoad(keyspace, dict(targets))
    try:
        load.start()
        load.run_for(50)
        yield load
    finally:
        load.stop()


def judge(load: RegisterLoad, judged: Judged) -> None:
    """Counts what was done, and asserts that for every key an order explains it."""
    violations, outcomes = load.violations(), load.outcomes
    judged.count(
        operations=len(load.done),
        acknowledged=outcomes[OK],
        unknown=outcomes[UNKNOWN],
        not_applied=outcomes[NOT_APPLIED],
        lost=len(violations),
    )
    assert not violations, "\n".join(violations)
