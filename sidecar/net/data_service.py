"""Service `dabbawala.v1.Data`: messages of the gRPC door to operations, and back."""

from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.core.coordinator import Coordinator
from sidecar.core.location import Location, OwnerView
from sidecar.core.operation import GroupItem, GroupWrite, Read, Write
from sidecar.core.scan import Scanner
from sidecar.core.session_ops import Session
from sidecar.core.turns import MOST_HELD_BYTES, Together, Turns
from sidecar.errors import DataError, Fault, Reason
from sidecar.net.get_service import GetCalls, Soon, get_response, level_reached
from sidecar.net.grpc_errors import bad_request, fail_call, failure_message, garbled
from sidecar.net.grpc_rights import GrpcRights
from sidecar.net.pipeline_service import PipelineCalls
from sidecar.net.register_service import DEFAULT_KEYSPACE, RegisterCalls
from sidecar.net.scan_service import ScanCalls
from sidecar.net.session_calls import SESSION, open_for, start_in_session
from sidecar.wire.grpc import Call, StreamHandler, UnaryHandler
from sidecar.wire.grpc_codec import CANCELLED

SERVICE = b"/dabbawala.v1.Data/"
MAX_BATCH = 10_000
MAX_BATCH_BYTES = 64 << 20  # of values in one BatchGet's answer


class DataService:
    """The handlers. One operation per key; the call itself is the operation's tag.

    `soon` runs what it is given when the requests of this turn of the loop have been taken.
    """

    def __init__(
        self,
        core: Coordinator,
        monotonic: Callable[[], float],
        soon: Soon,
        rights: GrpcRights | None = None,
    ) -> None:
        self._core = core
        self._rights = rights
        self._monotonic = monotonic
        self._gets = GetCalls(core, self.deadline, soon)
        self._registers = RegisterCalls(core, self.deadline)
        self._scans = ScanCalls(core, Scanner(core, monotonic), self.deadline)

    def handlers(self) -> dict[bytes, UnaryHandler]:
        """Full method path -> handler, which answers those who may call it."""
        methods: dict[str, UnaryHandler] = {
            "Get": self._gets.get,
            "Put": self.put,
            "Delete": self.delete,
            "CompareAndSet": self._registers.compare_and_set,
            "Increment": self._registers.increment,
            "BatchGet": self.batch_get,
            "BatchWrite": self.batch_write,
            "Transact": self.transact,
            "Scan": self._scans.scan,
            "Locate": self.locate,
        }
        if self._rights is not None:
            guard = self._rights.guard
            methods = {name: guard(name, handler) for name, handler in methods.items()}
        return {SERVICE + name.encode(): handler for name, handler in methods.items()}

    def streams(self) -> dict[bytes, StreamHandler]:
        """Full method path -> handler."""
        unary = self.handlers()
        requests = pb.PipelineRequest.DESCRIPTOR.oneofs_by_name["request"].fields
        handlers = {
            field.name: unary[SERVICE + field.message_type.name.removesuffix("Request").encode()]
            for field in requests
            if field.message_type is not None
        }
        return {SERVICE + b"Pipeline": PipelineCalls(handlers, self._monotonic)}

    def deadline(self, call: Call, timeout_ms: int) -> float:
        """The earlier of the request's timeout and the caller's grpc-timeout, in loop time."""
        seconds = (timeout_ms or self._core.default_timeout_ms) / 1000
        if call.timeout_ns is not None:
            given = call.timeout_ns / 1e9
            seconds = min(seconds, given) if timeout_ms else given
        return self._monotonic() + seconds

    # --- single keys

    def put(self, call: Call, message: bytes) -> None:
        """Put: one key."""
        try:
            request = pb.PutRequest.FromString(message)
        except DecodeError:
            garbled(call, "PutRequest")
            return
        op = Write(
            request.keyspace or DEFAULT_KEYSPACE,
            request.key,
            request.value,
            level=request.consistency,
            deadline=self.deadline(call, request.timeout_ms),
            done=_answer_put,
            expires_at_ms=request.expires_at_ms,
            version=request.retry_version,
            operation_id=request.operation_id,
            tag=call,
        )
        if request.session:
            start_in_session(self._core, op, request.session, _put_response)
        else:
            self._core.write(op)

    def delete(self, call: Call, message: bytes) -> None:
        """Delete: one key."""
        try:
            request = pb.DeleteRequest.FromString(message)
        except DecodeError:
            garbled(call, "DeleteRequest")
            return
        op = Write(
            request.keyspace or DEFAULT_KEYSPACE,
            request.key,
            None,
            level=request.consistency,
            deadline=self.deadline(call, request.timeout_ms),
            done=_answer_delete,
            version=request.retry_version,
            operation_id=request.operation_id,
            tag=call,
        )
        if request.session:
            start_in_session(self._core, op, request.session, _delete_response)
        else:
            self._core.write(op)

    # --- batches

    def batch_get(self, call: Call, message: bytes) -> None:
        """BatchGet: every key a read of its own."""
        try:
            request = pb.BatchGetRequest.FromString(message)
        except DecodeError:
            garbled(call, "BatchGetRequest")
            return
        if _batch_too_large(call, len(request.keys), "keys"):
            return
        session = None
        if request.session or request.consistency == SESSION:
            session = open_for(self._core, call, request.session)
            if session is None:
                return
        deadline = self.deadline(call, request.timeout_ms)
        gather = _Gather(
            call,
            len(request.keys),
            pb.BatchGetResponse(),
            _get_result,
            session=session,
            together=self._core.together,
        )
        keyspace, level = request.keyspace or DEFAULT_KEYSPACE, request.consistency
        keys, start = request.keys, self._core.read if session is None else session.read

        def begin(slot: int) -> None:
            start(
                Read(
                    keyspace, keys[slot], level=level, deadline=deadline, done=gather.done, tag=slot
                )
            )

        gather.begin(begin)

    def batch_write(self, call: Call, message: bytes) -> None:
        """BatchWrite: every item a write of its own, with an outcome of its own."""
        try:
            request = pb.BatchWriteRequest.FromString(message)
        except DecodeError:
            garbled(call, "BatchWriteRequest")
            return
        if _batch_too_large(call, len(request.items), "items"):
            return
        if _change_missing(call, request.items):
            return
        session = open_for(self._core, call, request.session) if request.session else None
        if request.session and session is None:
            return
        deadline = self.deadline(call, request.timeout_ms)
        gather = _Gather(
            call,
            len(request.items),
            pb.BatchWriteResponse(),
            _write_result,
            session=session,
            together=self._core.together,
        )
        keyspace, level = request.keyspace or DEFAULT_KEYSPACE, request.consistency
        items, start = request.items, self._core.write if session is None else session.write

        def begin(slot: int) -> None:
            item = items[slot]
            puts = item.WhichOneof("change") == "put"
            op = Write(
                keyspace,
                item.key,
                item.put if puts else None,
                level=level,
                deadline=deadline,
                done=gather.done,
                expires_at_ms=item.expires_at_ms if puts else 0,
                version=item.retry_version,
                operation_id=item.operation_id,
                tag=slot,
            )
            start(op)

        gather.begin(begin)

    def transact(self, call: Call, message: bytes) -> None:
        """Transact: several keys written together."""
        try:
            request = pb.TransactRequest.FromString(message)
        except DecodeError:
            garbled(call, "TransactRequest")
            return
        if _change_missing(call, request.items):
            return
        op = GroupWrite(
            request.keyspace or DEFAULT_KEYSPACE,
            tuple(_group_item(item) for item in request.items),
            level=request.consistency,
            deadline=self.deadline(call, request.timeout_ms),
            done=_answer_transact,
            version=request.retry_version,
            tag=call,
        )
        if request.session:
            start_in_session(self._core, op, request.session, _transact_response)
        else:
            self._core.transact(op)

    # --- where

    def locate(self, call: Call, message: bytes) -> None:
        """Locate: bucket, epoch, owners, and the one that a read would take first."""
        try:
            request = pb.LocateRequest.FromString(message)
        except DecodeError:
            garbled(call, "LocateRequest")
            return
        keyspace = request.keyspace or DEFAULT_KEYSPACE
        found = self._core.locate(keyspace, request.key, request.consistency)
        if isinstance(found, DataError):
            fail_call(call, found)
        else:
            call.respond(_location_message(found).SerializeToString())


class _Gather:
    """Collects the ends of a batch's operations and answers when the last is in."""

    __slots__ = (
        "call",
        "count",
        "encode",
        "left",
        "response",
        "results",
        "session",
        "together",
        "turns",
    )

    def __init__(
        self,
        call: Call,
        count: int,
        response: pb.BatchGetResponse | pb.BatchWriteResponse,
        encode: Callable[[Read | Write], object],
        *,
        session: Session | None,
        together: Together,
    ) -> None:
        self.call = call
        self.together = together
        self.session = session
        self.count = self.left = count
        self.response = response
        self.encode = encode
        self.results: list[object] = [None] * count
        self.turns: Turns

    def begin(self, start: Callable[[int], None]) -> None:
        if not self.count:
            self._respond()
        self.turns = Turns(self.count, start, self.together)
        self.turns.begin()

    def done(self, op: Read | Write) -> None:
        size = len(op.record.value) if isinstance(op, Read) and op.record is not None else 0
        if self.call.cancelled:  # nobody waits for the rest
            self.left -= len(self.turns.stop())
            self._ended(op)
        elif size and (
            self.turns.value_bytes + size > MAX_BATCH_BYTES or not self.turns.fits(size)
        ):
            op.error = _answer_too_large()
            for slot in self.turns.stop():
                self._give(slot, op)
            self._ended(op)
        else:
            self._ended(op)
        self.turns.ended(size)

    def _give(self, slot: int, op: Read | Write) -> None:
        self.results[slot] = self.encode(op)
        self.left -= 1

    def _ended(self, op: Read | Write) -> None:
        self._give(op.tag, op)
        if self.left:
            return
        if self.call.cancelled:
            self.call.fail(CANCELLED, "nobody waits for this batch")
        else:
            self.response.results.extend(self.results)  # type: ignore[arg-type]
            self._respond()

    def _respond(self) -> None:
        if self.session is not None:
            self.response.session = self.session.token()
        self.call.respond(self.response.SerializeToString())


def _answer_too_large() -> DataError:
    return DataError(
        Reason.OVERLOADED,
        Fault.OVERLOADED,
        f"the values of this batch pass {MAX_BATCH_BYTES} bytes, or those of all batches that are"
        f" under way {MOST_HELD_BYTES}; ask for this key in another batch",
    )


def _put_response(op: Write) -> pb.PutResponse:
    return pb.PutResponse(
        version=op.version,
        superseded=op.superseded,
        consistency=level_reached(op.level),
        repeated_earlier=op.repeated,
    )


def _delete_response(op: Write) -> pb.DeleteResponse:
    return pb.DeleteResponse(
        version=op.version,
        superseded=op.superseded,
        existed=op.existed,
        consistency=level_reached(op.level),
        repeated_earlier=op.repeated,
    )


def _transact_response(op: GroupWrite) -> pb.TransactResponse:
    return pb.TransactResponse(
        version=op.version, superseded=op.superseded, consistency=level_reached(op.level)
    )


def _answer_put(op: Write) -> None:
    if op.error is not None:
        fail_call(op.tag, op.error)
    else:
        op.tag.respond(_put_response(op).SerializeToString())


def _answer_delete(op: Write) -> None:
    if op.error is not None:
        fail_call(op.tag, op.error)
    else:
        op.tag.respond(_delete_response(op).SerializeToString())


def _answer_transact(op: GroupWrite) -> None:
    if op.error is not None:
        fail_call(op.tag, op.error)
    else:
        op.tag.respond(_transact_response(op).SerializeToString())


def _group_item(item: pb.TransactItem) -> GroupItem:
    if item.WhichOneof("change") == "put":
        return GroupItem(item.key, item.put, item.expires_at_ms)
    return GroupItem(item.key, None)


def _change_missing(call: Call, items: Iterable[pb.BatchWriteItem | pb.TransactItem]) -> bool:
    """Whether an item says nothing of what to do: then the call has been refused."""
    number = next((i for i, item in enumerate(items) if not _says_change(item)), None)
    if number is not None:
        text = "an item needs `put`, or `delete` true; nothing was sent"
        bad_request(call, f"items[{number}].change", text)
    return number is not None


def _says_change(item: pb.BatchWriteItem | pb.TransactItem) -> bool:
    change = item.WhichOneof("change")
    return change == "put" or (change == "delete" and item.delete)


def _get_result(op: Read | Write) -> pb.BatchGetResult:
    if op.error is not None or isinstance(op, Write):
        return pb.BatchGetResult(failure=failure_message(op.error))
    return pb.BatchGetResult(value=get_response(op))


def _write_result(op: Read | Write) -> pb.BatchWriteResult:
    if op.error is not None or isinstance(op, Read):
        return pb.BatchWriteResult(failure=failure_message(op.error))
    if op.value is None:
        return pb.BatchWriteResult(delete=_delete_response(op))
    return pb.BatchWriteResult(put=_put_response(op))


def _location_message(found: Location) -> pb.LocateResponse:
    return pb.LocateResponse(
        keyspace=found.keyspace,
        bucket=found.bucket,
        key_hash=found.key_hash,
        epoch=found.epoch,
        stage=found.stage,
        owners=[_owner_message(view) for view in found.owners],
        pending_owners=[_owner_message(view) for view in found.pending_owners],
        target=found.target,
        reason=found.reason,
        data_key=found.data_key,
        field=found.field,
        consistency=level_reached(found.level),
        map_revision=found.map_revision,
    )


def _owner_message(view: OwnerView) -> pb.OwnerView:
    return pb.OwnerView(
        node=view.node,
        address=view.address,
        zone=view.zone,
        rack=view.rack,
        incarnation=view.incarnation,
        health=view.health,
        latency_ms=view.latency_ms,
    )


def _batch_too_large(call: Call, count: int, field: str) -> bool:
    if count <= MAX_BATCH:
        return False
    message = f"the batch has {count} {field}; it may have {MAX_BATCH}. Send several batches"
    bad_request(call, field, message)
    return True
