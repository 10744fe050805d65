"""Every error as a gRPC status with details that fit into a reply."""

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from sidecar.errors import DataError, Fault, Outcome, Reason
from sidecar.net.grpc_errors import (
    ABORTED,
    DATA_LOSS,
    DEADLINE_EXCEEDED,
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    fail_call,
    failure_message,
    status_code,
)

MAX_DETAILS = 3_000
VERSION = bytes(range(16))


class Ended:
    """What a call was ended with."""

    def fail(self, status: int, message: str, details: bytes = b"") -> None:
        self.status, self.message, self.details = status, message, details


def ended(error: DataError) -> tuple[Status, dict[str, str], list[object]]:
    call = Ended()
    fail_call(call, error)  # type: ignore[arg-type]
    status = Status.FromString(call.details)
    assert status.code == call.status
    assert len(call.details) <= MAX_DETAILS
    parts: list[object] = []
    for packed in status.details:
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                part = kind()
                packed.Unpack(part)
                parts.append(part)
    info = parts[0]
    assert isinstance(info, ErrorInfo)
    assert info.domain == "dabbawala"
    assert info.reason == error.reason.value
    return status, dict(info.metadata), parts[1:]


@pytest.mark.parametrize(
    ("fault", "outcome", "code"),
    [
        (Fault.CALLER, None, INVALID_ARGUMENT),
        (Fault.CALLER, Outcome.NOT_APPLIED, INVALID_ARGUMENT),
        (Fault.CALLER, Outcome.UNKNOWN, INVALID_ARGUMENT),
        (Fault.UNAVAILABLE, None, UNAVAILABLE),
        (Fault.UNAVAILABLE, Outcome.NOT_APPLIED, UNAVAILABLE),
        (Fault.UNAVAILABLE, Outcome.UNKNOWN, ABORTED),
        (Fault.TIMEOUT, None, DEADLINE_EXCEEDED),
        (Fault.TIMEOUT, Outcome.UNKNOWN, DEADLINE_EXCEEDED),
        (Fault.OVERLOADED, Outcome.NOT_APPLIED, RESOURCE_EXHAUSTED),
        (Fault.OVERLOADED, Outcome.UNKNOWN, ABORTED),
        (Fault.DATA, None, DATA_LOSS),
        (Fault.PRECONDITION, Outcome.NOT_APPLIED, FAILED_PRECONDITION),
    ],
)
def test_each_fault_has_its_status_and_unknown_is_never_one_that_clients_repeat(
    fault: Fault, outcome: Outcome | None, code: int
) -> None:
    assert status_code(DataError(Reason.TIMEOUT, fault, "", outcome)) == code


def test_an_unknown_keyspace_is_not_found() -> None:
    error = DataError(Reason.KEYSPACE_UNKNOWN, Fault.CALLER, "no", field="keyspace", keyspace="x")
    status, metadata, (bad,) = ended(error)
    assert status.code == NOT_FOUND
    assert metadata == {"keyspace": "x"}
    assert isinstance(bad, BadRequest)
    assert bad.field_violations[0].field == "keyspace"


def test_an_unknown_write_carries_all_that_its_repeat_needs() -> None:
    error = DataError(
        Reason.NOT_ENOUGH_REPLICAS,
        Fault.UNAVAILABLE,
        "not enough",
        Outcome.UNKNOWN,
        keyspace="default",
        bucket=7,
        epoch=3,
        acks_had=1,
        acks_needed=2,
        version=VERSION,
    )
    _, metadata, (retry,) = ended(error)
    assert metadata == {
        "keyspace": "default",
        "outcome": "UNKNOWN",
        "bucket": "7",
        "epoch": "3",
        "acks_had": "1",
        "acks_needed": "2",
        "version": VERSION.hex(),
    }
    assert isinstance(retry, RetryInfo)


def test_a_long_message_does_not_push_the_outcome_out_of_the_reply() -> None:
    error = DataError(
        Reason.TIMEOUT, Fault.TIMEOUT, "é" * 9_000, Outcome.UNKNOWN, field="key", version=VERSION
    )
    _, metadata, _ = ended(error)
    assert metadata["version"] == VERSION.hex()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_details(reason: Reason) -> None:
    ended(DataError(reason, Fault.UNAVAILABLE, "why", Outcome.NOT_APPLIED))


def test_an_item_of_a_batch_says_the_same() -> None:
    error = DataError(
        Reason.TIMEOUT, Fault.TIMEOUT, "late", Outcome.UNKNOWN, bucket=2, epoch=5, version=VERSION
    )
    failure = failure_message(error)
    assert (failure.code, failure.reason, failure.outcome) == (DEADLINE_EXCEEDED, "TIMEOUT", 3)
    assert (failure.version, failure.bucket, failure.epoch) == (VERSION, 2, 5)
    assert failure_message(None).code == INTERNAL
