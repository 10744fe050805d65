"""What one read of a socket brought is parsed in pieces."""

import pytest

from sidecar.redis.slices import SLICE_BYTES, slices
from tests.support.conversation import packed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"x" * SLICE_BYTES,
        b"x" * (SLICE_BYTES + 1),
        b"\r\n*" * 50_000,
        packed("GET", "key") * 10_000,
        packed("SET", "key", b"v" * 100_000) * 3,
    ],
    ids=["nothing", "little", "one slice", "one more byte", "seams", "GETs", "large values"],
)
def test_nothing_is_lost_and_no_slice_is_larger_than_one(data: bytes) -> None:
    pieces = list(slices(data))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= SLICE_BYTES for piece in pieces)


def test_slices_end_where_commands_end() -> None:
    command = packed("GET", "key")
    assert all(len(piece) % len(command) == 0 for piece in slices(command * 10_000))
