"""The google.rpc details of a failed call, as a client reads them."""

from dataclasses import dataclass, field
from typing import cast

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status


@dataclass
class RichError:
    """All that one error says."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    retry_ms: float | None = None


def info_of(error: grpc.RpcError) -> ErrorInfo | None:
    """Its ErrorInfo; None when the server sent none (the connection broke, the time ran out)."""
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status is not None else ():
        info = ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


def rich(error: grpc.RpcError) -> RichError:
    """Every detail. Fails when there is no google.rpc.Status, or it contradicts the call's."""
    call = cast(grpc.Call, error)
    status = rpc_status.from_call(call)
    assert status is not None, f"no google.rpc.Status: {error}"
    read = RichError(call.code(), status.message)
    assert status.message == call.details()
    for detail in status.details:
        info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
        if detail.Unpack(info):
            assert info.domain == "dabbawala"
            read.reason, read.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            read.fields = [violation.field for violation in bad.field_violations]
        elif detail.Unpack(retry):
            read.retry_ms = retry.retry_delay.ToMilliseconds()
    return read
