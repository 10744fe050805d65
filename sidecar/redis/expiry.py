"""When a value expires: from what a command says to Unix milliseconds."""

import enum

from sidecar.redis.numbers import MAX_INT64


class Expiry(enum.Enum):
    """The four ways to say it: (milliseconds in one unit, counted from now)."""

    EX = (1000, True)
    PX = (1, True)
    EXAT = (1000, False)
    PXAT = (1, False)


def deadline_ms(expiry: Expiry, amount: int, now_ms: int) -> int | None:
    """Unix milliseconds; None when not positive or beyond 64 bits. The past is allowed: such a
    value is written and has expired."""
    unit_ms, relative = expiry.value
    if amount <= 0:
        return None
    at_ms = amount * unit_ms + (now_ms if relative else 0)
    return at_ms if at_ms <= MAX_INT64 else None
