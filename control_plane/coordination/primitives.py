"""What sessions need from a store beyond its public contract, and the checks made before anything
is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from control_plane.coordination.errors import BadOperation, TooLarge
from control_plane.coordination.paths import checked_path
from control_plane.coordination.store import (
    ABSENT,
    ANY,
    TRANSACTION_BOUND_BYTES,
    VALUE_BOUND_BYTES,
    Check,
    Delete,
    Op,
    Put,
    Watch,
)

RETRY_PAUSE_S = 0.1
# What the protocol adds to an operation besides its path and value, generously.
_OP_OVERHEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class PutEphemeral:
    """Create a path (it must be absent) that vanishes with this store's session."""

    path: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Holding:
    """Who a path belongs to. `ours`: this store's present session. `ephemeral`: some session, not
    necessarily ours.
    """

    version: int
    ours: bool
    ephemeral: bool


SessionOp: TypeAlias = Op | PutEphemeral


class Primitives(Protocol):
    """What both stores provide and sessions are built from."""

    @property
    def session_id(self) -> int:
        """The session that ephemerals are made with; 0 while there is none."""

    async def holding(self, path: str) -> Holding | None:
        """Who holds a path. An answer also proves that the session was alive, and renewed, when it
        was asked.
        """

    async def apply(self, ops: Sequence[SessionOp]) -> list[int]:
        """As `transact`, without its checks; a path may be deleted and made again in one go."""

    def watch(self, path: str) -> Watch: ...


def check_value(path: str, value: bytes) -> None:
    if len(value) > VALUE_BOUND_BYTES:
        raise TooLarge(f"the value of {path}", len(value), VALUE_BOUND_BYTES)


def check_ops(ops: Sequence[Op]) -> None:
    """Refuse, before anything is sent, what no store could carry out."""
    seen: set[str] = set()
    total_bytes = 0
    for op in ops:
        checked_path(op.path)
        if op.path in seen:
            raise BadOperation(f"{op.path} is named twice in one transaction")
        seen.add(op.path)
        _check_expect(op)
        total_bytes += len(op.path) + _OP_OVERHEAD_BYTES
        if isinstance(op, Put):
            check_value(op.path, op.value)
            total_bytes += len(op.value)
    if total_bytes > TRANSACTION_BOUND_BYTES:
        raise TooLarge(
            f"a transaction of {len(ops)} operations", total_bytes, TRANSACTION_BOUND_BYTES
        )


def _check_expect(op: Op) -> None:
    if isinstance(op, Check) and op.expect is ANY:
        raise BadOperation(f"a Check of {op.path} must expect a version or ABSENT")
    if isinstance(op, Delete) and op.expect is ABSENT:
        raise BadOperation(f"a Delete of {op.path} cannot expect ABSENT; use a Check")
    if isinstance(op.expect, int) and op.expect < 0:
        raise BadOperation(f"{op.path}: version {op.expect} cannot exist; use ANY or ABSENT")
