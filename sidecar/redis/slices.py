"""What one read of a socket brought, in pieces that are parsed one at a time."""

from collections.abc import Iterator

SLICE_BYTES = 8 * 1024  # parsed and dispatched in about a millisecond
_SEARCHED_BYTES = 1024  # of the end of a slice


def slices(data: bytes) -> Iterator[bytes]:
    """`data` in slices of at most SLICE_BYTES, cut between commands where that is easily found:
    half a command at the end of each would have all of it parsed the slow way.
    """
    at = 0
    while at < len(data):
        end = at + SLICE_BYTES
        if end < len(data):
            between = data.rfind(b"\r\n*", end - _SEARCHED_BYTES, end)
            end = between + 2 if between >= 0 else end
        yield data[at:end]
        at = end
