"""What the commands that read before they write do to a key: each x -> f(x), with Redis's reply.

Pure: time and nil are arguments, and a change may be asked several times. The result of each is the
reply's bytes, of one that changes nothing too.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from replicas.changes import Change, Current, Propose, Refuse
from sidecar.redis import replies
from sidecar.redis.numbers import MAX_INT64, MIN_INT64, parse_integer
from sidecar.wire import resp_reply as resp

MAX_STRING_BYTES = 16 << 20  # no keyspace takes more: what is not to be built is refused here
_FLOAT = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")
_INFINITE = re.compile(rb"[+-]?inf(inity)?", re.IGNORECASE)
_MAX_FLOAT_BYTES = 256
_MANTISSA_BITS = 64
_LEAST_EXPONENT, _MOST_EXPONENT = -4950, 4932  # in decimal, of what an x87 register holds
_PLACES = 17


def _unchanged(reply: bytes) -> Refuse:
    return Refuse("nothing to change", reply)


def _value(value: bytes | None, nil: bytes) -> bytes:
    return nil if value is None else resp.bulk(value)


class SetOptions(NamedTuple):
    """SET's: `if_equal` None: not asked for; `expires_at_ms` 0: never, unless `keep_ttl`."""

    only_absent: bool = False
    only_present: bool = False
    if_equal: bytes | None = None
    get: bool = False
    keep_ttl: bool = False
    expires_at_ms: int = 0


def set_value(value: bytes, options: SetOptions, nil: bytes) -> Change:
    """SET with NX, XX, IFEQ, GET or KEEPTTL; GETSET."""

    def change(current: Current) -> Propose | Refuse:
        old = current.value
        held = (
            (options.only_absent and old is not None)
            or (options.only_present and old is None)
            or (options.if_equal is not None and old != options.if_equal)
        )
        told = _value(old, nil)
        if held:
            return _unchanged(told if options.get else nil)
        expiry = current.expires_at_ms if options.keep_ttl else options.expires_at_ms
        return Propose(value, expiry, told if options.get else resp.OK)

    return change


def set_if_absent(value: bytes) -> Change:
    """SETNX."""
    return lambda current: (
        Propose(value, 0, resp.ONE) if current.value is None else _unchanged(resp.ZERO)
    )


def get_and_delete(nil: bytes) -> Change:
    """GETDEL."""
    return lambda current: (
        _unchanged(nil) if current.value is None else Propose(None, 0, resp.bulk(current.value))
    )


def get_and_expire(expires_at_ms: int, now_ms: int, nil: bytes) -> Change:
    """GETEX with an expiry; 0: PERSIST. One that has passed deletes."""

    def change(current: Current) -> Propose | Refuse:
        if current.value is None:
            return _unchanged(nil)
        told = resp.bulk(current.value)
        if current.expires_at_ms == expires_at_ms:
            return _unchanged(told)
        if 0 < expires_at_ms <= now_ms:
            return Propose(None, 0, told)
        return Propose(current.value, expires_at_ms, told)

    return change


def append(suffix: bytes) -> Change:
    """APPEND."""

    def change(current: Current) -> Propose | Refuse:
        new = (current.value or b"") + suffix
        if len(new) > MAX_STRING_BYTES:
            return _unchanged(replies.STRING_TOO_LONG)
        return Propose(new, current.expires_at_ms, resp.integer(len(new)))

    return change


def set_range(offset: int, part: bytes) -> Change:
    """SETRANGE; `offset` is not negative."""

    def change(current: Current) -> Propose | Refuse:
        old = current.value or b""
        if not part:
            return _unchanged(resp.integer(len(old)))
        end = offset + len(part)
        if end > MAX_STRING_BYTES:
            return _unchanged(replies.STRING_TOO_LONG)
        new = old[:offset].ljust(offset, b"\0") + part + old[end:]
        return Propose(new, current.expires_at_ms, resp.integer(len(new)))

    return change


def increase(by: int) -> Change:
    """INCR, DECR, INCRBY, DECRBY."""

    def change(current: Current) -> Propose | Refuse:
        old = 0 if current.value is None else parse_integer(current.value)
        if old is None:
            return _unchanged(replies.NOT_AN_INTEGER)
        if not MIN_INT64 <= old + by <= MAX_INT64:
            return _unchanged(replies.OVERFLOW)
        return Propose(b"%d" % (old + by), current.expires_at_ms, resp.integer(old + by))

    return change


def increase_float(by: bytes) -> Change:
    """INCRBYFLOAT: sums as a server's long double does, told to 17 places. `by`: see is_float."""

    def change(current: Current) -> Propose | Refuse:
        old = b"0" if current.value is None else current.value
        if not is_float(old):
            return _unchanged(replies.NOT_A_FLOAT)
        if _INFINITE.fullmatch(old) or _INFINITE.fullmatch(by):
            return _unchanged(replies.NOT_FINITE)
        total = _rounded(Fraction(old.decode())) + _rounded(Fraction(by.decode()))
        new = _plain(_rounded(total))
        return Propose(new, current.expires_at_ms, resp.bulk(new))

    return change


def is_float(text: bytes) -> bool:
    """Whether it is a number, or infinite, as far as it is read here."""
    if len(text) > _MAX_FLOAT_BYTES:
        return False
    if _INFINITE.fullmatch(text):
        return True
    if not _FLOAT.fullmatch(text):
        return False
    return _LEAST_EXPONENT <= Decimal(text.decode()).adjusted() <= _MOST_EXPONENT


def _rounded(number: Fraction) -> Fraction:
    """The nearest number of 64 binary digits, as the x87 registers hold them."""
    if not number:
        return number
    exponent = number.numerator.bit_length() - number.denominator.bit_length()
    scale = Fraction(2) ** (_MANTISSA_BITS - exponent)
    if abs(number * scale) >= 1 << _MANTISSA_BITS:
        scale /= 2
    return Fraction(round(number * scale)) / scale


def _plain(number: Fraction) -> bytes:
    scaled = round(number * 10**_PLACES)
    whole, part = divmod(abs(scaled), 10**_PLACES)
    digits = f"{whole}.{part:0{_PLACES}d}".rstrip("0").rstrip(".")
    return (f"-{digits}" if scaled < 0 else digits).encode()


def expire(
    at_ms: int, now_ms: int, allowed: Callable[[int, int], bool] = lambda _old, _new: True
) -> Change:
    """EXPIRE and the like; one that has passed deletes. `allowed` judges the expiry that stands (0:
    never) and the new one."""

    def change(current: Current) -> Propose | Refuse:
        if current.value is None or not allowed(current.expires_at_ms, at_ms):
            return _unchanged(resp.ZERO)
        if at_ms <= now_ms:
            return Propose(None, 0, resp.ONE)
        return Propose(current.value, at_ms, resp.ONE)

    return change


def persist() -> Change:
    """PERSIST."""
    return lambda current: (
        Propose(current.value, 0, resp.ONE)
        if current.value is not None and current.expires_at_ms
        else _unchanged(resp.ZERO)
    )
