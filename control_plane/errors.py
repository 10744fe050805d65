"""What an admin call may refuse, as gRPC statuses with google.rpc details.

Grouped by who must act: `Invalid`, `Refused`, `Duplicate` and `Missing` ask the caller to change
the request or the cluster, `Later` is worth repeating.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

DOMAIN: Final = "dabbawala"
MESSAGE_BOUND_CHARS: Final = 2_000  # it travels in a header
_RETRY_AFTER_S: Final = 1


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its name, and what is wrong, the bound and what to do in one sentence."""

    field: str
    description: str


class AdminError(Exception):
    """An answer other than success. `reason` is stable, for programs; the message is for people."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        message = message[:MESSAGE_BOUND_CHARS]
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})

    def to_status(self) -> Status:
        """google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where they apply."""
        number: int = self.code.value[0]
        status = Status(code=number, message=self.message)
        details = [Any()]
        details[0].Pack(ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata))
        if self.violations:
            bad = BadRequest()
            for violation in self.violations:
                bad.field_violations.add(field=violation.field, description=violation.description)
            details.append(Any())
            details[-1].Pack(bad)
        if self.code is grpc.StatusCode.UNAVAILABLE:
            retry = RetryInfo()
            retry.retry_delay.seconds = _RETRY_AFTER_S
            details.append(Any())
            details[-1].Pack(retry)
        status.details.extend(details)
        return status


class Invalid(AdminError):
    """The request is wrong and will be wrong again."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class Refused(AdminError):
    """Well formed, but the cluster or the server it names is not in a state that allows it."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Duplicate(AdminError):
    """It exists already, and differs from what was asked for."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Missing(AdminError):
    """What the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class Later(AdminError):
    """It cannot be done now; the same request may succeed a moment later."""

    code = grpc.StatusCode.UNAVAILABLE


class BadConfig(Exception):
    """The process cannot start as configured: one line of what, the bound, and what to do."""


class MapDamaged(Exception):
    """What the store holds is not a map that may be used: empty, corrupt or rolled back."""


def invalid(reason: str, violations: Sequence[Violation]) -> Invalid:
    """One error for all bad fields of a request."""
    words = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
    return Invalid(reason, words, violations=violations)


def refused(reason: str, field: str, description: str) -> Refused:
    """A refusal that names the field which led to it."""
    return Refused(reason, f"{field}: {description}", violations=[Violation(field, description)])
