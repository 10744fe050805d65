import time
from collections.abc import AsyncIterator

import grpc
import pytest

from control_plane.dev import grpc_load, load_tally
from control_plane.dev.cities import Popularity, Record
from control_plane.dev.grpc_load import read_popular, write_records
from control_plane.dev.load_tally import Patience, Tally
from protos.dabbawala.v1 import data_pb2
from protos.dabbawala.v1.data_pb2_grpc import add_DataServicer_to_server
from tests.support.stand_ins import VERSION, DataStandIn

RECORDS = [Record(str(n).encode(), b"value %d" % n, 1) for n in range(600)]
UNKNOWN = data_pb2.Failure(code=14, outcome=data_pb2.OUTCOME_UNKNOWN, version=VERSION)
REFUSED = data_pb2.Failure(code=3, reason="VALUE_TOO_LARGE", message="too large")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats three times, almost at once."""
    monkeypatch.setattr(grpc_load, "Patience", lambda: Patience(0.18))
    monkeypatch.setattr(load_tally, "_LONGEST_PAUSE_S", 0.05)


@pytest.fixture
def data() -> DataStandIn:
    return DataStandIn()


@pytest.fixture
async def address(data: DataStandIn) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_DataServicer_to_server(data, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_every_record_is_written_once_at_quorum(data: DataStandIn, address: str) -> None:
    seen: list[int] = []
    tally = await write_records(address, "places", RECORDS, seen.append)
    assert (tally.done, tally.errors, tally.retries) == (600, 0, 0)
    assert all(data.values[record.key] == record.value for record in RECORDS)
    assert sum(len(request.items) for request in data.asked) == 600
    assert {request.consistency for request in data.asked} == {data_pb2.CONSISTENCY_QUORUM}
    assert seen[-1] == 600


async def test_an_unknown_outcome_is_repeated_as_the_same_write(
    data: DataStandIn, address: str
) -> None:
    data.failures = [UNKNOWN]
    tally = await write_records(address, "places", RECORDS[:3], lambda done: None)
    assert (tally.done, tally.errors, tally.retries) == (3, 0, 1)
    (again,) = data.asked[1].items
    assert (again.key, again.retry_version) == (RECORDS[0].key, VERSION)


async def test_what_can_not_succeed_is_an_error_at_once(data: DataStandIn, address: str) -> None:
    data.failures = [REFUSED]
    tally = await write_records(address, "places", RECORDS[:3], lambda done: None)
    assert (tally.done, tally.errors, tally.retries) == (2, 1, 0)
    assert tally.first_errors == ["write: VALUE_TOO_LARGE: too large"]


async def test_repeating_has_an_end(data: DataStandIn, address: str) -> None:
    data.failures = [UNKNOWN] * 100
    tally = await write_records(address, "places", RECORDS[:1], lambda done: None)
    assert (tally.done, tally.errors) == (0, 1)
    assert len(data.asked) == 4


async def test_a_door_that_is_not_there_is_an_error_for_each_record() -> None:
    tally = await write_records("127.0.0.1:1", "places", RECORDS[:5], lambda done: None)
    assert (tally.done, tally.errors) == (0, 5)


async def test_reads_are_compared_with_what_was_written(data: DataStandIn, address: str) -> None:
    data.values |= {record.key: record.value for record in RECORDS[:10]}
    data.values[RECORDS[0].key] = b"something else"
    tally, until = Tally(), time.perf_counter() + 0.1
    popularity = Popularity(RECORDS[:10], seed=1)
    await read_popular(
        address, "places", popularity, until=until, tally=tally, connections=2, streams=4
    )
    wrong = sum(request.key == RECORDS[0].key for request in data.asked)
    assert tally.done == len(data.asked) == tally.latencies.count
    assert tally.mismatches == wrong > 0
    assert tally.errors == 0


async def test_failed_reads_are_errors_and_no_latencies() -> None:
    tally, until = Tally(), time.perf_counter() + 0.05
    popularity = Popularity(RECORDS[:10], seed=1)
    await read_popular(
        "127.0.0.1:1", "places", popularity, until=until, tally=tally, connections=1, streams=1
    )
    assert tally.errors > 0
    assert tally.done == tally.latencies.count == 0
