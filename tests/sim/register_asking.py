"""A client's operation on a linearizable key, as the doors hand it to the coordinator."""

from collections.abc import Callable

from buckets.bucket_map import Consistency
from replicas.changes import Change, Current, Propose, compare_and_set, increment
from sidecar.core.coordinator import Coordinator
from sidecar.core.operation import Read, Write
from sidecar.core.register_op import Modify
from sidecar.errors import DataError
from tests.sim.history import FAILED, OK
from tests.sim.register_history import REFUSED, RegisterOp
from tests.sim.server import KEYSPACE

Ended = Callable[[str, DataError | None], None]  # the outcome; what is known is in the operation


def ask(core: Coordinator, op: RegisterOp, deadline_s: float, ended: Ended) -> None:
    """`ended` is called once, perhaps before this returns."""
    if op.kind == "get":
        read = Read(
            KEYSPACE,
            op.key,
            level=Consistency.UNSPECIFIED,
            deadline=deadline_s,
            done=lambda done: _read_ended(op, done, ended),
        )
        core.read(read)
    elif op.kind in ("put", "delete"):
        write = Write(
            KEYSPACE,
            op.key,
            op.value,
            level=Consistency.UNSPECIFIED,
            deadline=deadline_s,
            done=lambda done: _write_ended(op, done, ended),
            expires_at_ms=op.expires_at_ms,
            operation_id=op.operation_id,
        )
        core.write(write)
    else:
        modify = Modify(
            KEYSPACE,
            op.key,
            _change(op),
            deadline=deadline_s,
            done=lambda done: _modify_ended(op, done, ended),
            operation_id=op.operation_id,
        )
        core.modify(modify)


def _change(op: RegisterOp) -> Change:
    value = op.value or b""
    if op.kind == "add":
        return increment(int(value))
    if op.kind == "append":
        return _append(value)
    return compare_and_set(
        value,
        expected_version=op.expected_version,
        expected_value=op.expected,
        expires_at_ms=op.expires_at_ms,
    )


def _append(suffix: bytes) -> Change:
    """A read-modify-write as the Redis door has them."""

    def change(current: Current) -> Propose:
        new = (current.value or b"") + suffix
        return Propose(new, current.expires_at_ms, len(new))

    return change


def _read_ended(op: RegisterOp, read: Read, ended: Ended) -> None:
    if read.error is None:
        op.version = read.version
        op.found = read.record.value if read.record is not None else None
        op.known = True
    ended(OK if read.error is None else FAILED, read.error)


def _write_ended(op: RegisterOp, write: Write, ended: Ended) -> None:
    op.version = write.version
    if write.error is None:
        op.found, op.known = op.value, not write.repeated
        if op.kind == "delete" and not write.repeated:
            op.result = write.existed
    _end(op, OK, write.error, ended)


def _modify_ended(op: RegisterOp, modify: Modify, ended: Ended) -> None:
    op.version = modify.version
    op.result = modify.result
    if modify.error is None and modify.current is not None:
        op.found, op.known = modify.current.value, not modify.repeated
    _end(op, REFUSED if modify.refused else OK, modify.error, ended)


def _end(op: RegisterOp, outcome: str, error: DataError | None, ended: Ended) -> None:
    if error is None:
        ended(outcome, None)
        return
    op.operation_id = op.operation_id or error.operation_id
    ended(error.outcome.name if error.outcome is not None else "", error)
