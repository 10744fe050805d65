"""Integers as Redis reads them: strictly decimal, 64 bits, no sign but minus, no leading zero."""

MAX_INT64 = (1 << 63) - 1
MIN_INT64 = -(1 << 63)


def parse_integer(text: bytes) -> int | None:
    """The number, or None when `text` is anything else."""
    body = text[1:] if text[:1] == b"-" else text
    if not 0 < len(body) <= 19 or not body.isdigit():
        return None
    if body[:1] == b"0" and len(text) > 1:
        return None
    value = int(text)
    return value if MIN_INT64 <= value <= MAX_INT64 else None
