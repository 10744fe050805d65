"""A change of one key of a linearizable keyspace that depends on what stands there."""

from collections.abc import Callable
from typing import Any

from buckets.bucket_map import Consistency
from replicas.acceptor import ID_BYTES, id_time_ms
from replicas.changes import Change, Current
from sidecar.errors import DataError, Fault, Outcome, Reason

_VERSION_AT, _VARIANT_AT = 6, 8


class Modify:
    """Apply `change` to one key. `operation_id` is the caller's; empty: one is made.

    After `done`: `error`; or `refused`, the change's own reason to leave everything as it is; or
    `version`. `result` is the change's, None where `repeated`: an earlier call with the same id had
    ended it, and what it answered is not known. `current` is what stood after it, if that is known.
    """

    __slots__ = (
        "acks",
        "change",
        "current",
        "deadline",
        "done",
        "error",
        "key",
        "keyspace",
        "level",
        "maybe_applied",
        "operation_id",
        "refused",
        "repeated",
        "result",
        "tag",
        "version",
    )

    def __init__(
        self,
        keyspace: str,
        key: bytes,
        change: Change,
        *,
        deadline: float,
        done: Callable[["Modify"], None],
        operation_id: bytes = b"",
        level: int = Consistency.UNSPECIFIED,
        tag: Any = None,
    ) -> None:
        self.keyspace = keyspace
        self.key = key
        self.change = change
        self.operation_id = operation_id
        self.level = level
        self.deadline = deadline  # loop time, seconds
        self.done = done
        self.tag = tag
        self.version = b""
        self.current: Current | None = None
        self.result: Any = None
        self.refused = ""
        self.repeated = False
        self.error: DataError | None = None
        self.acks = 0
        # An earlier call with the same id may have been applied: never NOT_APPLIED for want of
        # replicas.
        self.maybe_applied = operation_id != b""


def new_operation_id(now_ms: int, random_bytes: bytes) -> bytes:
    """A UUIDv7 of this moment; `random_bytes` are ten."""
    tail = bytearray(random_bytes)
    tail[0] = 0x70 | tail[0] & 0x0F
    tail[2] = 0x80 | tail[2] & 0x3F
    return now_ms.to_bytes(6, "big") + tail


def operation_id_error(operation_id: bytes, now_ms: int, max_skew_ms: int) -> DataError | None:
    """None for an id that the key can remember: a UUIDv7 not from the future."""
    if len(operation_id) != ID_BYTES:
        return _bad_id(f"it has {len(operation_id)} bytes")
    if operation_id[_VERSION_AT] >> 4 != 7 or operation_id[_VARIANT_AT] >> 6 != 2:
        return _bad_id("it is of another version")
    ahead_ms = id_time_ms(operation_id) - now_ms
    if ahead_ms > max_skew_ms:
        # A sidecar whose clock is ahead as well may have taken it before: nothing is proved.
        return _bad_id(f"its time is {ahead_ms} ms ahead, over {max_skew_ms}", operation_id)
    return None


def _bad_id(what: str, maybe_applied: bytes = b"") -> DataError:
    return DataError(
        Reason.OPERATION_ID_INVALID,
        Fault.CALLER,
        f"operation_id is not usable: {what}. Give the {ID_BYTES} bytes of a UUIDv7 made for this"
        " change, and the same again to repeat it; or none",
        # Nothing is ever written under an id that is malformed.
        outcome=Outcome.UNKNOWN if maybe_applied else Outcome.NOT_APPLIED,
        operation_id=maybe_applied,
        field="operation_id",
    )
