import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from control_plane.errors import (
    MESSAGE_BOUND_CHARS,
    AdminError,
    Duplicate,
    Invalid,
    Later,
    Missing,
    Refused,
    Violation,
    invalid,
    refused,
)


def test_bad_fields_travel_as_bad_request() -> None:
    status = invalid("NODE_INVALID", [Violation("id", "too long"), Violation("port", "0")])
    info, bad = ErrorInfo(), BadRequest()
    packed = status.to_status()
    assert packed.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert packed.details[0].Unpack(info)
    assert packed.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("NODE_INVALID", "dabbawala")
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("id", "too long"),
        ("port", "0"),
    ]
    assert packed.message == "id: too long; port: 0"


def test_what_may_be_repeated_says_when() -> None:
    retry = RetryInfo()
    assert Later("MAP_BUSY", "try again").to_status().details[-1].Unpack(retry)
    assert retry.retry_delay.seconds == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("R", "m"), "INVALID_ARGUMENT"),
        (Refused("R", "m"), "FAILED_PRECONDITION"),
        (Duplicate("R", "m"), "ALREADY_EXISTS"),
        (Missing("R", "m"), "NOT_FOUND"),
        (Later("R", "m"), "UNAVAILABLE"),
    ],
)
def test_each_has_its_code(error: AdminError, code: str) -> None:
    assert error.code.name == code


def test_metadata_is_kept() -> None:
    info = ErrorInfo()
    error = Missing("KEYSPACE_UNKNOWN", "no such keyspace", metadata={"keyspace": "x"})
    assert error.to_status().details[0].Unpack(info)
    assert dict(info.metadata) == {"keyspace": "x"}


def test_a_message_fits_a_header() -> None:
    error = refused("R", "host", "x" * 10_000)
    assert len(error.message) == MESSAGE_BOUND_CHARS
    assert error.to_status().message == error.message
