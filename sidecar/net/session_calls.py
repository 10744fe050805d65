"""Calls of the gRPC door that bring a session token, or ask for one."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.core.coordinator import Coordinator
from sidecar.core.operation import GroupWrite, Read
from sidecar.core.session_ops import Session
from sidecar.errors import DataError
from sidecar.net.grpc_errors import fail_call
from sidecar.wire.grpc import Call

SESSION = pb.CONSISTENCY_SESSION


class _Response(Protocol):
    session: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802  # as protobuf names it
        ...


def start_in_session(
    core: Coordinator, op: Any, token: bytes, encode: Callable[[Any], _Response]
) -> None:
    """Run a read or a write whose tag is its call, as the next of its session.

    `encode` makes the response, to which the next token is added.
    """
    session = core.sessions.open(token)
    if isinstance(session, DataError):
        core.reject(op, session)
        return
    op.done = partial(_answer, session, encode)
    if isinstance(op, Read):
        session.read(op)
    elif isinstance(op, GroupWrite):
        session.transact(op)
    else:
        session.write(op)


def open_for(core: Coordinator, call: Call, token: bytes) -> Session | None:
    """The session of a call of many operations; None: the call was refused."""
    session = core.sessions.open(token)
    if isinstance(session, DataError):
        fail_call(call, session)
        return None
    return session


def _answer(session: Session, encode: Callable[[Any], _Response], op: Any) -> None:
    if op.error is not None:
        fail_call(op.tag, op.error)
        return
    response = encode(op)
    response.session = session.token()
    op.tag.respond(response.SerializeToString())
