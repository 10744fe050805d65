"""Operations on linearizable keys as clients see them, and what they come to: one call for all
attempts under one operation id.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.sim.history import NOT_APPLIED, OK, UNKNOWN, History, Op

REFUSED = "REFUSED"  # the change itself: its condition did not hold

# What clients do to a key, by the letter that its name begins with.
REGISTER, COUNTER, LIST = b"r", b"c", b"l"


@dataclass(slots=True)
class RegisterOp(Op):
    """One attempt. `found`: what stood after it, or what it was refused for, as far as known."""

    kind: str = "get"  # get, put, delete, compare, add, append
    operation_id: bytes = b""  # empty: the sidecar makes one
    first: int = 0  # number of the first attempt
    expected: bytes | None = None  # the value that has to stand
    expected_version: bytes | None = None  # given: the version of that value
    result: object = None
    known: bool = False  # `found` and `result` are; not of an answer from memory

    @property
    def strong(self) -> bool:
        """All of them."""
        return True

    def __str__(self) -> str:
        what = self.found if self.kind == "get" else self.value
        return (
            f"op {self.number} of {self.first} ({self.client} at {self.sidecar}, {self.kind}"
            f" {self.key!r}, steps {self.began}..{self.ended}): {self.outcome or 'no end'} {what!r}"
            f" id {self.operation_id.hex()[-6:]} version {self.version.hex()[6:16]}"
        )


@dataclass(slots=True)
class Call:
    """What a client wanted once. `end`: the attempt that told; None: it is not known."""

    attempts: list[RegisterOp] = field(default_factory=list)
    end: RegisterOp | None = None

    @property
    def first(self) -> RegisterOp:
        """The first attempt."""
        return self.attempts[0]

    @property
    def began(self) -> int:
        """From this step on it may have happened."""
        return self.first.began

    @property
    def outcome(self) -> str:
        """OK, REFUSED, NOT_APPLIED (said of any attempt: none was ever applied) or UNKNOWN."""
        if self.end is not None:
            return self.end.outcome
        denied = any(attempt.outcome == NOT_APPLIED for attempt in self.attempts)
        return NOT_APPLIED if denied else UNKNOWN

    def __str__(self) -> str:
        return str(self.end or self.first)


def calls_on(history: History, key: bytes) -> list[Call]:
    """The calls on a key in the order in which they began; reads without an answer are none."""
    calls: dict[int, Call] = {}
    for op in history.ops:
        if not isinstance(op, RegisterOp) or op.key != key:
            continue
        if op.kind == "get" and op.outcome != OK:
            continue
        call = calls.setdefault(op.first, Call())
        call.attempts.append(op)
        if call.end is None and op.outcome in (OK, REFUSED):
            call.end = op
    return list(calls.values())


def keys_of(history: History, kind: bytes = b"") -> Iterator[bytes]:
    """The linearizable keys that were used, of a kind or of all."""
    keys = {op.key for op in history.ops if isinstance(op, RegisterOp)}
    return (key for key in sorted(keys) if key.startswith(kind))
