import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicas.record import (
    FLAG_EXPIRED,
    FLAG_HAS_EXPIRY,
    FLAG_LINEARIZABLE,
    FLAG_TOMBSTONE,
    MAX_TIME_MS,
    Record,
    RecordReader,
    decode_record,
    encode_expired,
    encode_record,
)
from tests.support.replica_records import flip, sealed, version_at

VERSION = version_at(1_763_700_000_000)


def decoded(raw: bytes) -> Record:
    record = decode_record(raw)
    assert record is not None
    return record


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=200), st.integers(0, MAX_TIME_MS))
def test_a_value_comes_back(version: bytes, value: bytes, expires_at_ms: int) -> None:
    raw = encode_record(version, value, expires_at_ms=expires_at_ms)
    record = decoded(raw)
    assert (record.version, record.value, record.expires_at_ms) == (version, value, expires_at_ms)
    assert record.raw == raw
    assert not record.is_tombstone


def test_a_tombstone_comes_back() -> None:
    record = decoded(encode_record(VERSION, b"", tombstone=True))
    assert record.is_tombstone
    assert record.value == b""
    assert not record.live(0)


def test_a_typical_record_costs_25_bytes_more_than_its_value() -> None:
    assert len(encode_record(VERSION, b"x" * 75)) == 100


@given(st.data())
def test_a_flipped_bit_anywhere_makes_it_no_answer(data: st.DataObject) -> None:
    raw = encode_record(VERSION, b"value", expires_at_ms=data.draw(st.sampled_from([0, 99])))
    position = data.draw(st.integers(0, len(raw) - 1))
    assert decode_record(flip(raw, position)) is None


@given(st.binary(max_size=60))
def test_random_bytes_are_no_answer(raw: bytes) -> None:
    assert decode_record(raw) is None


@pytest.mark.parametrize(
    ("flags", "rest"),
    [
        (16, b""),  # written by a later version of the software
        (FLAG_EXPIRED, b""),
        (FLAG_EXPIRED | FLAG_HAS_EXPIRY, bytes(7) + b"\x01"),
        (FLAG_TOMBSTONE | FLAG_EXPIRED, b""),
        (FLAG_TOMBSTONE | FLAG_HAS_EXPIRY, bytes(7) + b"\x01"),
        (FLAG_TOMBSTONE, b"value"),
        (FLAG_HAS_EXPIRY, b"short"),
        (FLAG_HAS_EXPIRY, bytes(8)),
        (FLAG_HAS_EXPIRY, b"\x00\x01" + bytes(6)),
        (FLAG_TOMBSTONE | FLAG_HAS_EXPIRY | FLAG_EXPIRED, bytes(7) + b"\x01" + b"value"),
    ],
)
def test_a_wrong_form_is_no_answer_even_with_a_right_checksum(flags: int, rest: bytes) -> None:
    assert decode_record(sealed(VERSION + bytes([flags]) + rest)) is None


def test_records_of_the_other_mode_are_recognized() -> None:
    record = decoded(sealed(VERSION + bytes([FLAG_LINEARIZABLE]) + b"state"))
    assert record.is_linearizable
    assert (record.value, record.live(0)) == (b"", False)  # nothing that could pass for a value
    assert not decoded(encode_record(VERSION, b"x")).is_linearizable


@pytest.mark.parametrize("kind", [3, 4, 5, 6])
def test_flags_that_do_not_go_together_are_none_in_the_other_mode_either(kind: int) -> None:
    assert decode_record(sealed(VERSION + bytes([FLAG_LINEARIZABLE | kind]) + bytes(60))) is None


def test_a_value_is_live_until_its_expiry() -> None:
    record = decoded(encode_record(VERSION, b"x", expires_at_ms=1000))
    assert [record.live(now_ms) for now_ms in (999, 1000, 1001)] == [True, False, False]
    assert decoded(encode_record(VERSION, b"x")).live(MAX_TIME_MS)


def test_the_tombstone_of_an_expiry_is_the_same_wherever_it_is_made() -> None:
    record = decoded(encode_record(VERSION, b"x", expires_at_ms=1000))
    tombstone = decoded(encode_expired(record))
    assert tombstone.is_tombstone
    assert (tombstone.version, tombstone.expires_at_ms) == (VERSION, 1000)
    assert encode_expired(decoded(record.raw)) == tombstone.raw


def test_only_what_has_an_expiry_expires() -> None:
    with pytest.raises(ValueError, match="expiry"):
        encode_expired(decoded(encode_record(VERSION, b"x")))


def test_order_is_version_then_expired_rank() -> None:
    record = decoded(encode_record(VERSION, b"x", expires_at_ms=1000))
    later = decoded(encode_record(version_at(1_763_700_000_001), b"x"))
    assert record.order < decoded(encode_expired(record)).order < later.order


def test_records_are_equal_when_their_bytes_are() -> None:
    raw = encode_record(VERSION, b"x")
    assert decoded(raw) == decoded(bytes(raw))
    assert decoded(raw) != decoded(encode_record(VERSION, b"y"))
    assert {decoded(raw)} == {decoded(raw)}
    assert VERSION.hex() in repr(decoded(raw))


@pytest.mark.parametrize(
    ("version", "value", "expires_at_ms", "tombstone", "message"),
    [
        (b"short", b"", 0, False, "16 bytes"),
        (VERSION, b"x", 0, True, "neither"),
        (VERSION, b"", 5, True, "neither"),
        (VERSION, b"", -1, False, "expires_at_ms"),
        (VERSION, b"", MAX_TIME_MS + 1, False, "expires_at_ms"),
    ],
)
def test_what_is_no_record_is_not_encoded(
    version: bytes, value: bytes, expires_at_ms: int, tombstone: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode_record(version, value, expires_at_ms=expires_at_ms, tombstone=tombstone)


RAWS = st.one_of(
    st.none(),
    st.binary(max_size=60),
    st.binary(max_size=60).map(sealed),
    st.builds(
        lambda kind, rest: sealed(VERSION + bytes([kind]) + rest),
        st.integers(0, 15),
        st.binary(max_size=20),
    ),
    st.builds(
        lambda value, at: encode_record(VERSION, value, expires_at_ms=at),
        st.binary(max_size=20),
        st.integers(0, 9),
    ),
    st.integers(1, 9).map(
        lambda counter: encode_record(version_at(1_763_700_000_000, counter), b"x")
    ),
    st.just(encode_record(VERSION, b"", tombstone=True)),
)


@given(st.lists(RAWS, max_size=5), st.integers(0, 9))
def test_many_records_are_opened_as_each_by_itself(raws: list[bytes | None], now_ms: int) -> None:
    records = [decode_record(raw) if raw is not None else None for raw in raws]
    found = RecordReader().live_values(raws, lambda: now_ms)
    if any(
        raw is not None and (record is None or record.is_linearizable)
        for raw, record in zip(raws, records, strict=True)
    ):
        assert found is None
        return
    live = [record.value if record and record.live(now_ms) else None for record in records]
    assert found == (live, max((record.version for record in records if record), default=b""))


@given(st.lists(RAWS, max_size=5), st.integers(0, 9))
def test_what_is_read_again_is_the_same(raws: list[bytes | None], now_ms: int) -> None:
    reader = RecordReader()
    first = reader.live_values(raws, lambda: now_ms)
    again = reader.live_values(raws, lambda: now_ms)
    assert (first is None) == (again is None)
    if first is not None and again is not None:
        assert again[0] == first[0]
        assert again[1] == max(map(_version_with_flags, raws), default=b"")


def _version_with_flags(raw: bytes | None) -> bytes:
    """Of what is not remembered."""
    record = decode_record(raw) if raw is not None else None
    return record.version if record is not None and record.flags else b""


def test_damage_to_a_record_that_was_whole_before_is_found() -> None:
    reader, raw = RecordReader(), encode_record(VERSION, b"value")
    assert reader.live_values([raw] * 2, lambda: 0) == ([b"value"] * 2, VERSION)
    assert reader.live_values([raw], lambda: 0) == ([b"value"], b"")
    for at in range(len(raw)):
        assert reader.live_values([flip(raw, at)], lambda: 0) is None
    assert reader.live_values([raw[:-1]], lambda: 0) is None


def test_what_was_not_given_is_not_remembered() -> None:
    """Its version was told to nobody, whose clock it should have moved on."""
    reader, raw = RecordReader(), encode_record(VERSION, b"value")
    assert reader.live_values([raw, flip(raw, 29)], lambda: 0) is None
    assert reader.live_values([raw], lambda: 0) == ([b"value"], VERSION)


def test_a_value_that_expires_is_not_remembered() -> None:
    reader, raw = RecordReader(), encode_record(VERSION, b"v", expires_at_ms=10)
    assert reader.live_values([raw], lambda: 9) == ([b"v"], VERSION)
    assert reader.live_values([raw], lambda: 10) == ([None], VERSION)


def test_bytes_that_are_no_record_are_never_known() -> None:
    for raw in (b"", b"\x00", bytes(25)):
        assert RecordReader().live_values([raw], lambda: 0) is None
