"""Cursors of walks as numbers, and what they mean after buckets were split or merged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets.hashing import MAX_BUCKETS, bucket_shift, key_hash
from sidecar.core.walk import (
    MAX_CURSOR,
    Cursor,
    decode_cursor,
    has_tag,
    start_of,
    start_of_prefix,
    walk_hash,
)

cursors = st.builds(
    Cursor,
    st.integers(0, (1 << 20) - 1),
    st.integers(0, (1 << 38) - 1),
    st.sampled_from([1 << n for n in range(21)]),
)


@given(cursors)
def test_a_cursor_is_a_positive_number_of_63_bits_and_read_back_as_it_was(cursor: Cursor) -> None:
    number = cursor.encode()
    assert 0 < number <= MAX_CURSOR < 1 << 63
    assert decode_cursor(number) == cursor


def test_zero_begins_and_what_no_sidecar_gave_is_none() -> None:
    assert decode_cursor(0) == Cursor()
    assert [decode_cursor(bad) for bad in (-1, 32, 31, 1 << 63, MAX_CURSOR)] == [None] * 5


@pytest.mark.parametrize("buckets", [1, 64, 4096, MAX_BUCKETS])
def test_the_start_of_a_bucket_lies_in_it(buckets: int) -> None:
    for bucket in {0, buckets // 2, buckets - 1}:
        assert start_of(bucket, buckets).bucket(bucket_shift(buckets)) == bucket


@pytest.mark.parametrize(("before", "after"), [(16, 32), (16, 8), (4, 64)])
def test_after_a_split_or_a_merge_every_key_that_was_to_come_still_is(
    before: int, after: int
) -> None:
    keys = [b"key %d" % n for n in range(500)]
    for bucket in range(before):
        cursor = start_of(bucket, before).at(1 << 37)
        shift = bucket_shift(before)
        to_come = {
            key
            for key in keys
            if (key_hash(key) >> shift, walk_hash(key)) >= (bucket, cursor.walked)
        }
        first = cursor.bucket(bucket_shift(after))
        given_now = {
            key
            for key in keys
            if key_hash(key) >> bucket_shift(after) >= first and cursor.holds(key)
        }
        assert cursor.walked_in(after) == 0
        assert to_come <= given_now


def test_a_prefix_with_a_whole_tag_begins_at_its_bucket() -> None:
    assert has_tag(b"{order-42}/")
    assert not has_tag(b"order{42")
    shift = bucket_shift(64)
    bucket = start_of_prefix(b"{order-42}/").bucket(shift)
    assert bucket == key_hash(b"order-42") >> shift
    assert start_of_prefix(b"order") == Cursor()
