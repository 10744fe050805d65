import dataclasses
from hashlib import sha1

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets.bucket_map import Stage
from replicas.fence import (
    FENCE_BYTES,
    FLOOR_BYTES,
    PREFIX_BYTES,
    Fence,
    Role,
    decode_fence,
    fence_prefix,
)
from replicas.replies import judge_fence
from tests.support.replica_records import flip, version_at

FENCE = Fence(5, Stage.WRITE_BOTH_READ_OLD, Role.JOINING, 9, version_at(1), version_at(2))
numbers = st.integers(1, (1 << 64) - 1)


@given(
    epoch=numbers,
    incarnation=numbers,
    stage=st.sampled_from(Stage),
    role=st.sampled_from(Role),
    purged=st.binary(min_size=16, max_size=16),
    closed=st.binary(min_size=16, max_size=16),
)
def test_a_fence_comes_back(
    epoch: int, incarnation: int, stage: Stage, role: Role, purged: bytes, closed: bytes
) -> None:
    fence = Fence(epoch, stage, role, incarnation, purged, closed)
    raw = fence.encode()
    assert decode_fence(raw) == fence
    assert len(raw) == FENCE_BYTES


def test_it_begins_with_all_that_a_map_knows() -> None:
    prefix = fence_prefix(5, Stage.WRITE_BOTH_READ_OLD, Role.JOINING, 9)
    assert FENCE.encode().startswith(prefix)
    assert FENCE.prefix == prefix
    assert len(prefix) == PREFIX_BYTES


FLOORED = dataclasses.replace(FENCE, ballot_floor=version_at(3))


def test_a_ballot_floor_makes_it_longer_and_comes_back() -> None:
    raw = FLOORED.encode()
    assert len(raw) == FENCE_BYTES + FLOOR_BYTES
    assert decode_fence(raw) == FLOORED
    assert raw[1:PREFIX_BYTES] == FENCE.prefix[1:]
    assert judge_fence(decode_fence(raw), 5, 9) is judge_fence(FENCE, 5, 9)


@pytest.mark.parametrize("raw", [FENCE.encode()[:-8] + bytes(16), b"\2" + FENCE.encode()[1:-8]])
def test_the_format_says_whether_there_is_a_floor(raw: bytes) -> None:
    assert decode_fence(raw + sha1(raw).digest()[:8]) is None


@given(st.integers(0, FENCE_BYTES + FLOOR_BYTES - 1))
def test_a_flipped_bit_anywhere_makes_one_with_a_floor_none(position: int) -> None:
    assert decode_fence(flip(FLOORED.encode(), position)) is None


@given(st.integers(0, FENCE_BYTES - 1))
def test_a_flipped_bit_anywhere_makes_it_none(position: int) -> None:
    assert decode_fence(flip(FENCE.encode(), position)) is None


@pytest.mark.parametrize("raw", [b"", b"f", FENCE.encode()[:-1], FENCE.encode() + b"\0"])
def test_another_length_is_none(raw: bytes) -> None:
    assert decode_fence(raw) is None


@pytest.mark.parametrize(
    "fence",
    [
        Fence(0, Stage.OLD, Role.OWNER, 1),
        Fence(1, Stage.OLD, Role.OWNER, 0),
        Fence(1 << 64, Stage.OLD, Role.OWNER, 1),
        Fence(1, Stage.OLD, Role.OWNER, 1, b"short"),
        Fence(1, Stage.OLD, Role.OWNER, 1, closed_through=b"short"),
        Fence(1, Stage.OLD, Role.OWNER, 1, ballot_floor=b"short"),
    ],
)
def test_what_is_out_of_bounds_is_not_encoded(fence: Fence) -> None:
    with pytest.raises(ValueError, match=r"must be within|are versions"):
        fence.encode()
