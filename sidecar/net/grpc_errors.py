"""Errors of operations as gRPC statuses with google.rpc details.

A write whose outcome is UNKNOWN is ABORTED (or DEADLINE_EXCEEDED when time ran out), not
UNAVAILABLE: clients repeat UNAVAILABLE by themselves, and such a repeat would be another write. To
make it the same write, repeat it with the version (the operation id) that ErrorInfo carries.
"""

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.errors import DataError, Fault, Outcome, Reason
from sidecar.wire.grpc import Call, GrpcRoutes, StreamSink

DOMAIN = "dabbawala"
RETRY_AFTER_MS = 100
# Details beyond 3,000 bytes are left out of a reply, and with them a write's outcome and version.
MAX_TEXT = 500

INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
ABORTED = 10
INTERNAL = 13
UNAVAILABLE = 14
DATA_LOSS = 15
UNAUTHENTICATED = 16

_CODES = {
    Fault.CALLER: INVALID_ARGUMENT,
    Fault.UNAVAILABLE: UNAVAILABLE,
    Fault.TIMEOUT: DEADLINE_EXCEEDED,
    Fault.OVERLOADED: RESOURCE_EXHAUSTED,
    Fault.DATA: DATA_LOSS,
    Fault.PRECONDITION: FAILED_PRECONDITION,
    Fault.FORBIDDEN: PERMISSION_DENIED,
    Fault.UNAUTHENTICATED: UNAUTHENTICATED,
}
# What clients may repeat by themselves.
_REPEATED = (Fault.UNAVAILABLE, Fault.OVERLOADED)


def status_code(error: DataError) -> int:
    """The gRPC status that `error` ends a call with."""
    if error.reason is Reason.KEYSPACE_UNKNOWN:
        return NOT_FOUND
    if error.outcome is Outcome.UNKNOWN and error.fault in _REPEATED:
        return ABORTED
    return _CODES[error.fault]


def fail_call(call: Call, error: DataError) -> None:
    """End `call` with the status, message and details of `error`."""
    code = status_code(error)
    details = Status(code=code, message=error.message[:MAX_TEXT], details=_details(error))
    call.fail(code, error.message, details.SerializeToString())


def _details(error: DataError) -> list[Any]:
    info = ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=_metadata(error))
    parts = [_packed(info)]
    if error.field:
        violation = BadRequest.FieldViolation(
            field=error.field, description=error.message[:MAX_TEXT]
        )
        parts.append(_packed(BadRequest(field_violations=[violation])))
    if error.retryable:
        delay = Duration(nanos=RETRY_AFTER_MS * 1_000_000)
        parts.append(_packed(RetryInfo(retry_delay=delay)))
    return parts


def _metadata(error: DataError) -> dict[str, str]:
    metadata = {"keyspace": error.keyspace} if error.keyspace else {}
    if error.outcome is not None:
        metadata["outcome"] = error.outcome.name
    if error.bucket >= 0:
        metadata["bucket"] = str(error.bucket)
        metadata["epoch"] = str(error.epoch)
        metadata["acks_had"] = str(error.acks_had)
        metadata["acks_needed"] = str(error.acks_needed)
    if error.version:
        metadata["version"] = error.version.hex()
    if error.missing:
        metadata["application"] = error.application
        metadata["missing"] = error.missing
    if error.operation_id:
        metadata["operation_id"] = error.operation_id.hex()
    return metadata


def _packed(message: ErrorInfo | BadRequest | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def failure_message(error: DataError | None) -> pb.Failure:
    """One item's error inside a batch."""
    if error is None:
        return pb.Failure(code=INTERNAL, message="the item ended without an answer")
    return pb.Failure(
        code=status_code(error),
        reason=error.reason.value,
        message=error.message,
        outcome=error.outcome or 0,  # type: ignore[arg-type]
        version=error.version,
        acks_had=error.acks_had,
        acks_needed=error.acks_needed,
        bucket=max(error.bucket, 0),
        epoch=error.epoch,
        operation_id=error.operation_id,
    )


def garbled(call: Call, message: str) -> None:
    """End `call`: its body is no such message."""
    bad_request(call, "", f"the body is not a serialized dabbawala.v1.{message}")


def bad_request(call: Call, field: str, message: str) -> None:
    """End `call`: the request's field is wrong."""
    error = DataError(Reason.REQUEST_INVALID, Fault.CALLER, message, field=field)
    fail_call(call, error)


def refusing_routes(routes: GrpcRoutes, why: str) -> GrpcRoutes:
    """The same methods for a client that may not come in: every call of it is answered so."""
    refusing = Refusing(why)
    return GrpcRoutes(
        dict.fromkeys(routes.unary, refusing.refuse), dict.fromkeys(routes.stream, refusing)
    )


class Refusing:
    """A handler of either kind, and the sink of a stream that has ended."""

    def __init__(self, why: str) -> None:
        self._error = DataError(Reason.IDENTITY_REFUSED, Fault.FORBIDDEN, why)

    def refuse(self, call: Call, _message: bytes) -> None:
        fail_call(call, self._error)

    def start(self, call: Call) -> StreamSink:
        fail_call(call, self._error)
        return self

    def message(self, message: bytes) -> None: ...

    def half_closed(self) -> None: ...

    def cancelled(self) -> None: ...
