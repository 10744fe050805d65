import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicas.record import Record, decode_record, encode_expired, encode_record
from replicas.version import ZERO_VERSION, HybridClock, physical_ms, winner
from tests.support.replica_records import version_at

NOW_MS = 1_763_700_000_000


def decoded(raw: bytes) -> Record:
    record = decode_record(raw)
    assert record is not None
    return record


@given(st.lists(st.integers(0, (1 << 47)), min_size=2, max_size=50))
def test_versions_only_grow_whatever_the_wall_clock_does(times_ms: list[int]) -> None:
    clock = HybridClock(b"writer-1")
    issued = [clock.next(now_ms) for now_ms in times_ms]
    assert all(earlier < later for earlier, later in itertools.pairwise(issued))
    assert all(len(version) == 16 for version in issued)


def test_a_version_carries_the_time_of_the_clock() -> None:
    assert physical_ms(HybridClock(b"writer-1").next(NOW_MS)) == NOW_MS


def test_a_full_counter_carries_into_the_milliseconds() -> None:
    clock = HybridClock(b"writer-1")
    clock.merge(version_at(NOW_MS, 65535))
    assert clock.next(NOW_MS) == version_at(NOW_MS + 1)


def test_a_version_read_from_a_replica_is_passed() -> None:
    clock = HybridClock(b"writer-1")
    seen = version_at(NOW_MS + 5000, 7, b"\xff" * 8)
    clock.merge(seen)
    assert clock.next(NOW_MS) > seen
    assert clock.last_ms == NOW_MS + 5000
    clock.merge(version_at(1))
    assert clock.last_ms == NOW_MS + 5000


def test_nothing_is_issued_at_or_below_the_floor() -> None:
    clock = HybridClock(b"writer-1", floor_ms=NOW_MS)
    assert clock.next(NOW_MS - 60_000) > version_at(NOW_MS, 65535, b"\xff" * 8)


@pytest.mark.parametrize("writer", [b"", b"seven..", b"nine....."])
def test_a_writer_has_eight_bytes(writer: bytes) -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        HybridClock(writer)


def test_a_floor_beyond_any_version_is_refused() -> None:
    with pytest.raises(ValueError, match="floor_ms"):
        HybridClock(b"writer-1", floor_ms=1 << 48)


def test_every_version_is_above_zero() -> None:
    assert HybridClock(bytes(8)).next(0) > ZERO_VERSION


def test_the_newer_record_wins_in_either_order() -> None:
    old = decoded(encode_record(version_at(1), b"old"))
    new = decoded(encode_record(version_at(2), b"new"))
    assert winner(old, new) is new
    assert winner(new, old) is new


def test_any_record_wins_over_none() -> None:
    record = decoded(encode_record(version_at(1), b"x"))
    assert winner(record, None) is record
    assert winner(None, record) is record
    assert winner(None, None) is None


def test_the_tombstone_of_an_expiry_beats_its_own_record_and_nothing_later() -> None:
    record = decoded(encode_record(version_at(1), b"x", expires_at_ms=5))
    tombstone = decoded(encode_expired(record))
    later = decoded(encode_record(version_at(1, counter=1), b"later"))
    assert winner(record, tombstone) is tombstone
    assert winner(tombstone, later) is later
    assert tombstone.expires_at_ms == 5
    assert tombstone.version == record.version


@given(st.lists(st.binary(max_size=3), min_size=2, max_size=4, unique=True))
def test_one_version_with_several_values_still_has_one_winner(values: list[bytes]) -> None:
    records = [decoded(encode_record(version_at(1), value)) for value in values]
    winners = set()
    for order in itertools.permutations(records):
        best: Record | None = None
        for record in order:
            best = winner(best, record)
        winners.add(best)
    assert len(winners) == 1
