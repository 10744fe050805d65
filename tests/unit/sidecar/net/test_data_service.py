"""The Data service over a coordinator in memory: what its batches promise."""

import time
from typing import Any

import pytest

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.core.turns import MOST_HELD_BYTES
from sidecar.net.data_service import MAX_BATCH_BYTES, DataService
from tests.support.memory_coordinator import MemoryCoordinator

RESOURCE_EXHAUSTED = 8
INVALID_ARGUMENT = 3


class Answered:
    """A call, as far as a service sees it: keeps how it was answered."""

    def __init__(self) -> None:
        self.timeout_ns = None
        self.cancelled = False
        self.tag: object = None
        self.message = b""
        self.status = -1

    def respond(self, message: bytes) -> None:
        self.message, self.status = message, 0

    def fail(self, status: int, message: str, details: bytes = b"") -> None:
        self.message, self.status = message.encode(), status


def service() -> Any:
    def now_ms() -> int:
        return 1_763_700_000_000

    return DataService(
        MemoryCoordinator({0: "default"}, now_ms),  # type: ignore[arg-type]
        time.monotonic,
        lambda act: None,
    )


def written(data: Any, *items: pb.BatchWriteItem) -> pb.BatchWriteResponse:
    call = Answered()
    data.batch_write(call, pb.BatchWriteRequest(items=items).SerializeToString())
    assert call.status == 0
    return pb.BatchWriteResponse.FromString(call.message)


@pytest.mark.slow
def test_a_batch_whose_values_pass_the_bound_answers_what_fits_and_refuses_the_rest() -> None:
    data = service()
    big = bytes(1 << 20)
    written(data, pb.BatchWriteItem(key=b"big", put=big))
    fit = MAX_BATCH_BYTES // len(big)
    call = Answered()
    data.batch_get(call, pb.BatchGetRequest(keys=[b"big"] * (fit + 2)).SerializeToString())
    results = pb.BatchGetResponse.FromString(call.message).results
    assert [one.WhichOneof("result") for one in results] == ["value"] * fit + ["failure"] * 2
    assert results[-1].failure.code == RESOURCE_EXHAUSTED
    assert results[-1].failure.reason == "OVERLOADED"


def test_values_that_other_batches_hold_leave_less_room() -> None:
    data = service()
    written(data, *(pb.BatchWriteItem(key=b"k%d" % n, put=b"v") for n in range(3)))
    data._core.together.held_bytes = MOST_HELD_BYTES - 2
    call = Answered()
    keys = [b"k0", b"never", b"k1", b"k2"]
    data.batch_get(call, pb.BatchGetRequest(keys=keys).SerializeToString())
    results = pb.BatchGetResponse.FromString(call.message).results
    assert [one.failure.reason for one in results] == ["", "", "", "OVERLOADED"]
    assert data._core.together.held_bytes == MOST_HELD_BYTES - 2


def test_an_item_without_a_change_stops_the_batch_before_anything_is_written() -> None:
    data = service()
    call = Answered()
    items = [pb.BatchWriteItem(key=b"a", put=b"1"), pb.BatchWriteItem(key=b"b")]
    data.batch_write(call, pb.BatchWriteRequest(items=items).SerializeToString())
    assert call.status == INVALID_ARGUMENT
    read = Answered()
    data.batch_get(read, pb.BatchGetRequest(keys=[b"a"]).SerializeToString())
    (result,) = pb.BatchGetResponse.FromString(read.message).results
    assert not result.value.found


def test_results_stand_in_the_order_asked_for() -> None:
    data = service()
    response = written(
        data,
        pb.BatchWriteItem(key=b"a", put=b"1"),
        pb.BatchWriteItem(key=b"", put=b"2"),
        pb.BatchWriteItem(key=b"a", delete=True),
    )
    assert [one.WhichOneof("result") for one in response.results] == ["put", "failure", "delete"]
    assert response.results[1].failure.outcome == pb.OUTCOME_NOT_APPLIED
    assert response.results[2].delete.existed


def test_nothing_more_of_a_batch_is_begun_when_nobody_waits_for_it() -> None:
    data = service()
    call = Answered()
    call.cancelled = True
    items = [pb.BatchWriteItem(key=b"k%d" % n, put=b"1") for n in range(1_000)]
    data.batch_write(call, pb.BatchWriteRequest(items=items).SerializeToString())
    read = Answered()
    keys = [item.key for item in items]
    data.batch_get(read, pb.BatchGetRequest(keys=keys).SerializeToString())
    results = pb.BatchGetResponse.FromString(read.message).results
    assert len(results) == 1_000
    assert sum(one.value.found for one in results) < 100
