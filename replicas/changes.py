"""Changes x -> f(x) of one register: what a keyspace of the linearizable mode can do to a key.

A change is called with what stands, possibly several times, on several states: only the last call
counts, so it must do nothing but answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from replicas.version import ZERO_VERSION

MIN_INTEGER, MAX_INTEGER = -(1 << 63), (1 << 63) - 1
_MAX_DIGITS = 20  # of a number that fits 64 bits, its sign included


@dataclass(frozen=True, slots=True)
class Current:
    """What stands. `value` None: absent. `expires_at_ms`: Unix milliseconds, 0: never.

    `version` is that of the last change, a delete or an expiry too; ZERO_VERSION: never written.
    """

    value: bytes | None
    version: bytes = ZERO_VERSION
    expires_at_ms: int = 0


class Propose(NamedTuple):
    """What is to stand; `value` None deletes. `result` is handed back when it has been chosen."""

    value: bytes | None
    expires_at_ms: int = 0
    result: object = None


class Refuse(NamedTuple):
    """Nothing is to change: a condition does not hold. `reason` is for whoever asked."""

    reason: str
    result: object = None


Change = Callable[[Current], Propose | Refuse]


def put(value: bytes, expires_at_ms: int = 0) -> Change:
    """Sets the value, whatever stands."""
    return lambda _: Propose(value, expires_at_ms)


def delete() -> Change:
    """Deletes; its result is whether there was a value."""
    return lambda current: Propose(None, result=current.value is not None)


def compare_and_set(
    value: bytes | None,
    *,
    expected_version: bytes | None = None,
    expected_value: bytes | None = None,
    expires_at_ms: int = 0,
) -> Change:
    """Sets the value (None: deletes) where the expected stands.

    `expected_version` is that of the last change, ZERO_VERSION: never written. Without it the value
    is compared, and `expected_value` None means absent.
    """

    def change(current: Current) -> Propose | Refuse:
        if expected_version is not None:
            if current.version != expected_version:
                return Refuse("another version stands")
        elif current.value != expected_value:
            return Refuse("another value stands")
        return Propose(value, expires_at_ms if value is not None else 0)

    return change


def increment(by: int) -> Change:
    """Adds to a decimal integer of 64 bits, absent: 0; keeps the expiry. Its result is the sum."""

    def change(current: Current) -> Propose | Refuse:
        old = parse_integer(current.value if current.value is not None else b"0")
        if old is None:
            return Refuse("the value is not an integer of 64 bits")
        if not MIN_INTEGER <= old + by <= MAX_INTEGER:
            return Refuse("the sum would not fit 64 bits")
        return Propose(b"%d" % (old + by), current.expires_at_ms, old + by)

    return change


def parse_integer(value: bytes) -> int | None:
    """The number, if it is written as one is: no spaces, no plus, no zeros before it."""
    digits = value[1:] if value.startswith(b"-") else value
    if not digits.isdigit() or len(value) > _MAX_DIGITS:
        return None
    number = int(value)
    return number if b"%d" % number == value and MIN_INTEGER <= number <= MAX_INTEGER else None
