"""When a value expires: from what a command says to Unix milliseconds."""

import enum

from replicas.record import MAX_TIME_MS


class Expiry(enum.Enum):
    """The four ways to say it: (milliseconds in one unit, counted from now)."""

    EX = (1000, True)
    PX = (1, True)
    EXAT = (1000, False)
    PXAT = (1, False)


EXPIRIES = {option.name.encode(): option for option in Expiry}
"""By the words of a command, in capitals."""


def deadline_ms(expiry: Expiry, amount: int, now_ms: int) -> int | None:
    """Unix milliseconds; None when not positive or beyond what a record holds (the year 10889;
    Redis goes on to 2^63). The past is allowed: such a value is written and has expired."""
    unit_ms, relative = expiry.value
    if amount <= 0:
        return None
    at_ms = amount * unit_ms + (now_ms if relative else 0)
    return at_ms if at_ms <= MAX_TIME_MS else None
