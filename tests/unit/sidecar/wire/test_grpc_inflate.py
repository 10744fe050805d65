"""Inflating within bounds."""

import gzip
import os
import tracemalloc

import pytest

from sidecar.wire.grpc_inflate import FREE_BYTES, Bomb, inflate

MIB = 1 << 20
LIMIT = 4 * MIB


@pytest.mark.parametrize("message", [b"", b"x", os.urandom(300_000), bytes(FREE_BYTES)])
def test_what_was_compressed_comes_out(message: bytes) -> None:
    assert inflate(gzip.compress(message), LIMIT) == message


def test_beyond_the_bound_of_a_message_it_is_a_bomb() -> None:
    sent = gzip.compress(os.urandom(LIMIT + 1), 1)
    with pytest.raises(Bomb, match="the limit is 4194304 bytes"):
        inflate(sent, LIMIT)


def test_beyond_a_hundred_times_what_was_sent_it_is_a_bomb() -> None:
    sent = gzip.compress(bytes(FREE_BYTES + 1))
    assert len(sent) < FREE_BYTES // 100
    with pytest.raises(Bomb, match="100 times what was sent"):
        inflate(sent, LIMIT)


def test_a_bomb_takes_no_more_memory_than_what_it_may_become() -> None:
    sent = gzip.compress(bytes(64 * MIB), 1)
    tracemalloc.start()
    try:
        with pytest.raises(Bomb):
            inflate(sent, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 3 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"no gzip",
        gzip.compress(b"cut off")[:-1],
        gzip.compress(b"two") + gzip.compress(b"members"),
        gzip.compress(b"trailed by") + b"x",
    ],
)
def test_what_is_not_one_whole_member_is_wrong_and_no_bomb(sent: bytes) -> None:
    with pytest.raises(ValueError, match="gzip") as caught:
        inflate(sent, LIMIT)
    assert not isinstance(caught.value, Bomb)
