"""Compressed messages, inflated within bounds: a byte can stand for a thousand."""

import zlib
from typing import Final

from sidecar.wire.http2_limits import MIB

GZIP: Final = b"gzip"
FREE_BYTES: Final = MIB  # up to here the ratio is nobody's business
MOST_RATIO: Final = 100

_GZIP_WINDOW: Final = 31


class Bomb(ValueError):
    """It becomes larger than it may."""


def inflate(body: bytes, max_bytes: int) -> bytes:
    """The message in a gzip member. Raises Bomb beyond `max_bytes`, or beyond 1 MiB and 100 times
    its size; ValueError when it is not one whole member.

    What it costs follows what was sent: never more than 100 bytes made for each, but for the first
    1 MiB.
    """
    bound = min(max_bytes, max(FREE_BYTES, MOST_RATIO * len(body)))
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        message = inflater.decompress(body, bound + 1)
    except zlib.error as fault:
        raise ValueError(f"the message is not valid gzip: {fault}") from fault
    if len(message) > bound:
        raise Bomb(
            f"a message of {len(body)} bytes inflates to more than {bound}; the limit is"
            f" {max_bytes} bytes, and beyond {FREE_BYTES} bytes {MOST_RATIO} times what was sent."
            " Send less at once, or uncompressed"
        )
    if not inflater.eof or inflater.unused_data:
        raise ValueError("the message is not one whole gzip member")
    return message
