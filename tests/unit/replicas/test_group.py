"""Groups of records as bytes."""

from replicas.group import MAX_ITEMS, decode_group, encode_group, is_group
from replicas.record import encode_record
from tests.support.replica_records import flip, sealed, version_at

VERSION = version_at(1_763_700_000_000)
PUT = encode_record(VERSION, b"v")
DELETE = encode_record(VERSION, b"", tombstone=True)
GROUP = encode_group(VERSION, [(b"a", PUT), (b"\x00", DELETE)])


def test_a_group_is_read_as_it_was_written() -> None:
    found = decode_group(GROUP)
    assert found is not None
    assert [(key, record.raw) for key, record in found] == [(b"a", PUT), (b"\x00", DELETE)]


def test_a_record_is_no_group_and_a_group_no_record() -> None:
    assert is_group(GROUP)
    assert not is_group(PUT)
    assert not is_group(b"")
    assert decode_group(PUT) is None


def test_any_flipped_byte_is_noticed() -> None:
    assert [at for at in range(len(GROUP)) if decode_group(flip(GROUP, at)) is not None] == []


def test_a_group_that_is_cut_off_is_none_even_with_a_right_checksum() -> None:
    ends = range(8, len(GROUP))
    whole = {len(encode_group(VERSION, [(b"a", PUT)]))}  # cut between two items: a shorter group
    assert {end for end in ends if decode_group(sealed(GROUP[8:end])) is not None} == whole


def test_what_a_replica_refuses_is_none() -> None:
    other = encode_record(version_at(1_763_700_000_001), b"v")
    refused = [
        [],
        [(b"", PUT)],
        [(b"k" * 1025, PUT)],
        [(b"a", PUT), (b"a", DELETE)],
        [(b"a", other)],
        [(b"%d" % n, PUT) for n in range(MAX_ITEMS + 1)],
    ]
    assert [decode_group(encode_group(VERSION, items)) for items in refused] == [None] * 6
