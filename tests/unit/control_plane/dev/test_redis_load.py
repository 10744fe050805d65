import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
import uvloop

from buckets.bucket_map import Consistency
from control_plane.dev import redis_load
from control_plane.dev.cities import Popularity, Record
from control_plane.dev.load_tally import Patience, Tally
from control_plane.dev.redis_load import RedisFailed, connect, packed, read_popular, verify_records
from sidecar.core.operation import Write
from sidecar.errors import DataError, Fault, Reason
from sidecar.net.resp_door import RespDoor
from tests.support.memory_coordinator import MemoryCoordinator

RECORDS = [Record(str(n).encode(), b"value %d" % n, 1) for n in range(600)]
LATE = DataError(Reason.TIMEOUT, Fault.TIMEOUT, "1 of 2 replicas answered")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats once."""
    monkeypatch.setattr(redis_load, "Patience", lambda: Patience(0.06))


@pytest.fixture
def store() -> MemoryCoordinator:
    """Keyspace `places` behind SELECT 1, holding all records."""
    store = MemoryCoordinator({0: "default", 1: "places"}, lambda: int(time.time() * 1000))
    for record in RECORDS:
        put(store, record.key, record.value)
    return store


def put(store: MemoryCoordinator, key: bytes, value: bytes | None) -> None:
    level = Consistency.QUORUM
    store.write(Write("places", key, value, level=level, deadline=0.0, done=lambda op: None))


@pytest.fixture
async def address(store: MemoryCoordinator) -> AsyncIterator[str]:
    door = RespDoor(store)
    host, port = await door.listen_tcp("127.0.0.1", 0)
    yield f"{host}:{port}"
    await door.drain(1.0)


async def test_every_record_is_read_back_and_compared(address: str) -> None:
    seen: list[int] = []
    tally = await verify_records(address, 1, RECORDS, seen.append)
    assert (tally.done, tally.mismatches, tally.errors, tally.retries) == (600, 0, 0, 0)
    assert seen[-1] == 600


async def test_another_value_or_none_is_a_mismatch(store: MemoryCoordinator, address: str) -> None:
    put(store, RECORDS[3].key, b"another")
    put(store, RECORDS[4].key, None)
    tally = await verify_records(address, 1, RECORDS, lambda done: None)
    assert (tally.done, tally.mismatches, tally.errors) == (598, 2, 0)


async def test_another_keyspace_holds_none_of_them(address: str) -> None:
    tally = await verify_records(address, 0, RECORDS[:10], lambda done: None)
    assert (tally.done, tally.mismatches) == (0, 10)


async def test_a_read_that_fails_for_good_is_an_error(
    store: MemoryCoordinator, address: str
) -> None:
    store.failures[RECORDS[5].key] = LATE
    tally = await verify_records(address, 1, RECORDS, lambda done: None)
    assert (tally.done, tally.mismatches, tally.errors) == (599, 0, 1)
    assert "1 of 2 replicas answered" in tally.first_errors[0]


async def test_a_read_that_fails_once_is_asked_again(
    store: MemoryCoordinator, address: str
) -> None:
    class Once(dict[bytes, DataError]):
        def get(self, key: bytes, default: object = None) -> DataError | None:  # type: ignore[override]
            return self.pop(key, None)

    store.failures = Once({RECORDS[5].key: LATE})
    tally = await verify_records(address, 1, RECORDS, lambda done: None)
    assert (tally.done, tally.errors, tally.retries) == (600, 0, 1)


async def test_a_door_that_is_not_there_is_an_error_for_each_record() -> None:
    tally = await verify_records("127.0.0.1:1", 1, RECORDS[:5], lambda done: None)
    assert (tally.done, tally.errors) == (0, 5)
    assert "cannot connect" in tally.first_errors[0]


async def test_a_keyspace_that_is_not_there_is_refused(address: str) -> None:
    with pytest.raises(RedisFailed, match="answered"):
        await connect(address, 7, b"QUORUM")


async def test_an_answer_that_does_not_come_ends_the_connection(
    store: MemoryCoordinator, address: str
) -> None:
    connection = await connect(address, 1, b"QUORUM")
    store.held = []
    ask = partial(connection.ask, [packed(b"GET", b"1")])
    with pytest.raises(RedisFailed, match=r"no answer within 0\.05 s"):
        await ask(0.05)
    with pytest.raises(RedisFailed, match="closed"):
        await ask(0.05)


async def test_popular_reads_are_compared_and_timed(store: MemoryCoordinator, address: str) -> None:
    put(store, RECORDS[0].key, b"another")
    tally, until = Tally(), time.perf_counter() + 0.1
    popularity = Popularity(RECORDS[:4], seed=1)
    await read_popular(address, 1, popularity, until=until, tally=tally, connections=3)
    assert tally.done == tally.latencies.count > tally.mismatches > 0
    assert tally.errors == 0
    assert tally.door_report(0.1).reads_per_s == pytest.approx(tally.done / 0.1, rel=0.01)


async def test_failed_popular_reads_are_errors_and_no_latencies(
    store: MemoryCoordinator, address: str
) -> None:
    store.failures[RECORDS[0].key] = LATE
    tally, until = Tally(), time.perf_counter() + 0.05
    popularity = Popularity(RECORDS[:2], seed=1)
    await read_popular(address, 1, popularity, until=until, tally=tally, connections=1)
    assert tally.done == tally.latencies.count > 0
    assert tally.errors > 0
    assert tally.first_errors[0].startswith("GET: ")


@pytest.mark.parametrize("redis_db", [1, 7])
async def test_popular_reads_of_a_door_or_keyspace_that_is_not_there_are_errors(
    address: str, redis_db: int
) -> None:
    tally, until = Tally(), time.perf_counter() + 0.05
    where = address if redis_db == 7 else "127.0.0.1:1"
    popularity = Popularity(RECORDS[:2], seed=1)
    await read_popular(where, redis_db, popularity, until=until, tally=tally, connections=1)
    assert tally.done == 0
    assert tally.errors > 0


def test_it_works_on_the_event_loop_that_the_loader_runs_on(store: MemoryCoordinator) -> None:
    async def verify() -> Tally:
        door = RespDoor(store)
        host, port = await door.listen_tcp("127.0.0.1", 0)
        try:
            return await verify_records(f"{host}:{port}", 1, RECORDS, lambda done: None)
        finally:
            await door.drain(1.0)

    assert uvloop.run(verify()).done == 600
