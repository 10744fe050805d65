"""One command on many keys: one reply when all its operations have ended."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from replicas.record import Record
from sidecar.core.operation import Read, Write
from sidecar.core.turns import Turns
from sidecar.redis import replies
from sidecar.redis.backend import Backend
from sidecar.redis.counters import RespCounters

_SEEN = Record(b"", 0, 0, b"", b"")


class OwnersDoor(Protocol):
    @property
    def backend(self) -> Backend: ...

    @property
    def counters(self) -> RespCounters: ...


class Owner(Protocol):
    """Whose reply it is."""

    @property
    def door(self) -> OwnersDoor: ...

    def gathered(self, gather: "Gather") -> None:
        """All operations have ended, or will not be begun."""


class Gather:
    """Operations counted down; then `encode` makes one reply of `ops`, which are those begun.

    `too_large`: the values passed `most_bytes`; the rest was not asked for.
    """

    __slots__ = (
        "_make",
        "_most_bytes",
        "_owner",
        "_start",
        "_turns",
        "count",
        "encode",
        "keeps_values",
        "left",
        "ops",
        "tag",
        "too_large",
    )

    def __init__(
        self, owner: Owner, encode: Callable[[Any, Sequence[Any]], bytes] | None, most_bytes: int
    ) -> None:
        self._owner = owner
        self._most_bytes = most_bytes
        self._make: Callable[[int], Any]
        self._start: Callable[[Any], None]
        self._turns: Turns
        self.count = 0
        self.encode = encode
        self.keeps_values = True  # False: `encode` asks of a record only whether it is there
        self.ops: list[Any] = []
        self.left = 0
        self.tag: bytes | None = None
        self.too_large = False

    def begin(self, make: Callable[[int], Any], start: Callable[[Any], None]) -> None:
        """Makes `count` operations and hands each to `start`, which may answer at once, as earlier
        ones end."""
        self.left = self.count
        self._make, self._start = make, start
        self._turns = Turns(self.count, self._begin_one, self._owner.door.backend.together)
        self._turns.begin()

    def _begin_one(self, number: int) -> None:
        op = self._make(number)
        self.ops.append(op)
        self._start(op)

    @property
    def half_begun(self) -> bool:
        """Whether some of `ops` wait until others have ended."""
        return self._turns.half_begun

    def done(self, op: Read | Write) -> None:
        """One of the operations has ended."""
        self.left -= 1
        size = 0
        if type(op) is Read and op.record is not None:
            size = len(op.record.value)
            if not self.keeps_values:
                op.record = _SEEN
        if size and self.keeps_values:
            self._bound(size)
        self._turns.ended(size, held=self.keeps_values)
        if not self.left:
            self._owner.gathered(self)

    def cancel(self) -> None:
        """Nobody waits for it any more: what is under way is counted until it has ended unheard."""
        self._turns.abandon()
        for op in self.ops:
            op.done = self._ended_unheard
        self.ops = []

    def _ended_unheard(self, _op: Read | Write) -> None:
        self._turns.ended(0, held=False)

    def _bound(self, size: int) -> None:
        """Asks for no more where a value of `size` bytes more is too much."""
        if self._turns.value_bytes + size > self._most_bytes:
            self.too_large = True
        elif self._turns.fits(size):
            return
        elif self.encode is not None:
            self.encode = _refuse
        self.left -= len(self._turns.stop())


def _refuse(owner: Owner, _ops: Sequence[Any]) -> bytes:
    owner.door.counters.errors += 1
    return replies.HELD_TOO_MUCH
