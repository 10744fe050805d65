"""Digests of copies, and what is made of them."""

from hypothesis import given
from hypothesis import strategies as st

from replicas.digest import (
    LEAF_BYTES,
    NO_ORDER,
    Difference,
    add_digests,
    differences,
    differing_leaves,
    leaf_digests,
    leaf_of,
    order_of,
)
from replicas.record import encode_record
from tests.support.replica_records import flip, version_at

LEAVES = 16
OLD, NEW = version_at(1_000), version_at(2_000)
fields = st.binary(min_size=1, max_size=8).map(lambda key: b"k" + key)
copies = st.dictionaries(fields, st.binary(max_size=8), max_size=20)


@given(copy=copies, cut=st.integers(0, 20))
def test_neither_order_nor_steps_matter(copy: dict[bytes, bytes], cut: int) -> None:
    records = list(copy.items())
    whole = leaf_digests(records, LEAVES)
    assert leaf_digests(records[::-1], LEAVES) == whole
    steps = leaf_digests(records[:cut], LEAVES), leaf_digests(records[cut:], LEAVES)
    assert add_digests(*steps) == whole
    assert len(whole) == LEAVES * LEAF_BYTES


@given(one=copies, other=copies)
def test_leaves_differ_exactly_where_a_record_does(
    one: dict[bytes, bytes], other: dict[bytes, bytes]
) -> None:
    digests = [leaf_digests(copy.items(), LEAVES) for copy in (one, other)]
    different = {f for f in one.keys() | other.keys() if one.get(f) != other.get(f)}
    assert set(differing_leaves(digests)) == {leaf_of(field, LEAVES) for field in different}


def test_a_flipped_byte_has_no_order() -> None:
    raw = encode_record(NEW, b"tiffin")
    assert order_of(raw).startswith(NEW)
    assert all(order_of(flip(raw, at)) == NO_ORDER for at in range(len(raw)))


def listing(**records: bytes) -> dict[bytes, bytes]:
    return {b"k" + name.encode(): order for name, order in records.items()}


def test_the_newest_valid_record_wins_and_the_others_are_behind_it() -> None:
    old, new = order_of(encode_record(OLD, b"x")), order_of(encode_record(NEW, b"y"))
    found = differences([listing(a=new, b=old), listing(a=old, b=old), listing(b=old)])
    assert list(found) == [Difference(b"ka", new, holders=(0,), behind=(1, 2), corrupt=())]


def test_a_corrupt_record_is_told_apart_from_one_that_is_behind() -> None:
    order = order_of(encode_record(OLD, b"x"))
    found = differences([listing(a=order), listing(a=NO_ORDER), listing()])
    assert list(found) == [Difference(b"ka", order, holders=(0,), behind=(2,), corrupt=(1,))]


def test_where_no_record_is_valid_nobody_is_behind() -> None:
    found = differences([listing(a=NO_ORDER), listing(a=NO_ORDER), listing()])
    assert list(found) == [Difference(b"ka", NO_ORDER, holders=(), behind=(), corrupt=(0, 1))]


def test_equal_listings_have_no_differences() -> None:
    order = order_of(encode_record(OLD, b"x"))
    assert list(differences([listing(a=order, b=order)] * 3)) == []
