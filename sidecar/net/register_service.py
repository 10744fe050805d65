"""CompareAndSet and Increment of the gRPC door."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from google.protobuf.message import DecodeError

from protos.dabbawala.v1 import data_pb2 as pb
from replicas.changes import (
    Change,
    Current,
    Propose,
    Refuse,
    compare_and_set,
    increment,
    parse_integer,
)
from replicas.record import MAX_TIME_MS, VERSION_BYTES
from replicas.version import ZERO_VERSION
from sidecar.core.coordinator import Coordinator
from sidecar.core.register_op import Modify
from sidecar.core.session_ops import Session
from sidecar.errors import DataError, Fault, Outcome, Reason
from sidecar.net.grpc_errors import bad_request, fail_call, garbled
from sidecar.wire.grpc import Call

DEFAULT_KEYSPACE = "default"


class RegisterCalls:
    """The handlers. `deadline` gives loop time for a call and its timeout_ms."""

    def __init__(self, core: Coordinator, deadline: Callable[[Call, int], float]) -> None:
        self._core = core
        self._deadline = deadline

    def compare_and_set(self, call: Call, message: bytes) -> None:
        """CompareAndSet: one key."""
        try:
            request = pb.CompareAndSetRequest.FromString(message)
        except DecodeError:
            garbled(call, "CompareAndSetRequest")
            return
        change = _change_of(call, request)
        if change is not None:
            op = Modify(
                request.keyspace or DEFAULT_KEYSPACE,
                request.key,
                change,
                deadline=self._deadline(call, request.timeout_ms),
                done=_answer_compare_and_set,
                operation_id=request.operation_id,
                tag=call,
            )
            self._start(op, request.session, _answer_compare_and_set)

    def increment(self, call: Call, message: bytes) -> None:
        """Increment: one key."""
        try:
            request = pb.IncrementRequest.FromString(message)
        except DecodeError:
            garbled(call, "IncrementRequest")
            return
        op = Modify(
            request.keyspace or DEFAULT_KEYSPACE,
            request.key,
            _typed_increment(request.delta),
            deadline=self._deadline(call, request.timeout_ms),
            done=_answer_increment,
            operation_id=request.operation_id,
            tag=call,
        )
        self._start(op, request.session, _answer_increment)

    def _start(self, op: Modify, token: bytes, answer: "_Answer") -> None:
        if token:
            session = self._core.sessions.open(token)
            if isinstance(session, DataError):
                self._core.reject(op, session)
                return
            op.done = partial(answer, session=session)
        self._core.modify(op)


class _Answer(Protocol):
    def __call__(self, op: Modify, *, session: Session | None = None) -> None:
        """Answer the call of `op`, with the session's next token if it is in one."""


def _change_of(call: Call, request: pb.CompareAndSetRequest) -> Change | None:
    """What the request asks for; None: the call was refused."""
    expected, change = request.WhichOneof("expected"), request.WhichOneof("change")
    version = request.expected_version or ZERO_VERSION
    if expected is None or (expected == "expected_absent" and not request.expected_absent):
        text = "name what must stand: expected_version, expected_value, or expected_absent true"
        bad_request(call, "expected", text)
    elif change is None or (change == "delete" and not request.delete):
        bad_request(call, "change", "give `put`, or `delete` true")
    elif len(version) != VERSION_BYTES:
        text = f"it has {len(version)} bytes; a version has {VERSION_BYTES}, or none: never written"
        bad_request(call, "expected_version", text)
    elif request.expires_at_ms > MAX_TIME_MS:
        text = f"it is Unix milliseconds from 1 to {MAX_TIME_MS}, or 0 for never"
        bad_request(call, "expires_at_ms", text)
    else:
        by_value = request.expected_value if expected == "expected_value" else None
        return compare_and_set(
            request.put if change == "put" else None,
            expected_version=version if expected == "expected_version" else None,
            expected_value=by_value,
            expires_at_ms=request.expires_at_ms,
        )
    return None


def _answer_compare_and_set(op: Modify, *, session: Session | None = None) -> None:
    call: Call = op.tag
    if op.error is not None:
        fail_call(call, op.error)
        return
    response = pb.CompareAndSetResponse(
        applied=not op.refused,
        version=b"" if op.version == ZERO_VERSION else op.version,
        repeated_earlier=op.repeated,
    )
    if op.refused and op.current is not None and op.current.value is not None:
        response.found = True
        response.value = op.current.value
        response.expires_at_ms = op.current.expires_at_ms
    if session is not None:
        response.session = session.token()
    call.respond(response.SerializeToString())


def _answer_increment(op: Modify, *, session: Session | None = None) -> None:
    call: Call = op.tag
    if op.error is None and op.refused:
        op.error = _refused_increment(op)
    if op.error is not None:
        fail_call(call, op.error)
        return
    response = pb.IncrementResponse(
        version=op.version, value=op.result or 0, repeated_earlier=op.repeated
    )
    if session is not None:
        response.session = session.token()
    call.respond(response.SerializeToString())


def _typed_increment(delta: int) -> Change:
    """As increment; the result of a refusal is its reason."""
    change = increment(delta)

    def typed(current: Current) -> Propose | Refuse:
        verdict = change(current)
        if isinstance(verdict, Propose):
            return verdict
        integer = current.value is None or parse_integer(current.value) is not None
        why = Reason.INTEGER_OVERFLOW if integer else Reason.NOT_AN_INTEGER
        return Refuse(verdict.reason, why)

    return typed


def _refused_increment(op: Modify) -> DataError:
    known = isinstance(op.result, Reason)
    return DataError(
        op.result if known else Reason.OPERATION_ID_INVALID,
        Fault.PRECONDITION,
        f"{op.refused}; nothing was changed",
        outcome=Outcome.NOT_APPLIED,
        keyspace=op.keyspace,
    )
