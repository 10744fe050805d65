"""Get of the gRPC door. Those of one turn that ask the same replicas are read together."""

from collections.abc import Callable
from typing import cast

from google.protobuf.message import DecodeError

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.core.coordinator import Coordinator
from sidecar.core.fast_lane import ReadBatch
from sidecar.core.operation import Read
from sidecar.net.get_messages import GetForms, encode_get_response, encode_level
from sidecar.net.grpc_errors import fail_call, garbled
from sidecar.net.register_service import DEFAULT_KEYSPACE
from sidecar.net.session_calls import SESSION, start_in_session
from sidecar.wire.grpc import Call

Soon = Callable[[Callable[[], None]], object]
"""Runs what it is given when the requests of this turn of the loop have been taken."""


class GetCalls:
    """The handler. `deadline` gives loop time for a call and its timeout_ms."""

    def __init__(
        self, core: Coordinator, deadline: Callable[[Call, int], float], soon: Soon
    ) -> None:
        self._core = core
        self._deadline = deadline
        self._soon = soon
        self._forms = GetForms()
        self._join = core.join_batch
        self._turn_over = True

    def get(self, call: Call, message: bytes) -> None:
        """Get: one key."""
        asked = self._forms.read(message)
        if asked is None:
            try:
                request = pb.GetRequest.FromString(message)
            except DecodeError:
                garbled(call, "GetRequest")
                return
            if request.session or request.consistency == SESSION:
                self._start_in_session(call, request)
                return
            self._forms.learn(message, request)
            asked = request.keyspace, request.key, request.consistency, request.timeout_ms
        keyspace, key, level, timeout_ms = asked
        lone = _LoneGet(self, call)
        lone.keyspace = keyspace or DEFAULT_KEYSPACE
        lone.key = key
        lone.level = level
        lone.deadline = deadline = self._deadline(call, timeout_ms)
        if self._turn_over:
            self._turn_over = False
            self._soon(self._end_turn)
        if not self._join(lone, deadline):
            self._core.read(
                Read(lone.keyspace, key, level=level, deadline=deadline, done=_answer, tag=call)
            )

    def _start_in_session(self, call: Call, request: pb.GetRequest) -> None:
        op = Read(
            request.keyspace or DEFAULT_KEYSPACE,
            request.key,
            level=request.consistency,
            deadline=self._deadline(call, request.timeout_ms),
            done=_answer,
            tag=call,
        )
        start_in_session(self._core, op, request.session, get_response)

    def _end_turn(self) -> None:
        self._turn_over = True
        self._core.end_turn()

    def batch_read(self, batch: ReadBatch) -> None:
        """Part of Asker."""
        level = encode_level(batch.level)
        for lone, raw, value in zip(batch.tag, batch.raws, batch.values, strict=True):
            lone.call.respond(encode_get_response(raw, value, level))

    def batch_dissolved(self, batch: ReadBatch, reads: list[Read]) -> None:
        """Part of Asker."""
        for lone, op in zip(batch.tag, reads, strict=True):
            op.deadline = lone.deadline
            op.done = _answer
            op.tag = lone.call


class _LoneGet:
    """A LoneKey, and the call that asks for it."""

    __slots__ = ("asker", "call", "deadline", "key", "keyspace", "level")

    def __init__(self, asker: GetCalls, call: Call) -> None:
        self.asker = asker
        self.call = call
        self.keyspace: str
        self.key: bytes
        self.level: int
        self.deadline: float


def level_reached(level: int) -> "pb.Consistency.ValueType":
    """For a response: the same number, as protobuf's stubs want it."""
    return cast("pb.Consistency.ValueType", level)


def get_response(op: Read) -> pb.GetResponse:
    """What is said of a read that has succeeded."""
    record = op.record
    if record is None:
        return pb.GetResponse(version=op.version, consistency=level_reached(op.level))
    return pb.GetResponse(
        found=True,
        value=record.value,
        version=record.version,
        consistency=level_reached(op.level),
        expires_at_ms=record.expires_at_ms,
    )


def _answer(op: Read) -> None:
    if op.error is not None:
        fail_call(op.tag, op.error)
    else:
        op.tag.respond(get_response(op).SerializeToString())
