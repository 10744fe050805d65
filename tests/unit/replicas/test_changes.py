import pytest

from replicas.changes import (
    MAX_INTEGER,
    MIN_INTEGER,
    Current,
    Propose,
    Refuse,
    compare_and_set,
    delete,
    increment,
    parse_integer,
    put,
)
from replicas.version import ZERO_VERSION
from tests.support.replica_records import version_at

ABSENT = Current(None)
V1 = version_at(1)
STANDS = Current(b"old", V1, 5000)


def test_a_put_sets_whatever_stands() -> None:
    assert put(b"new", 7)(ABSENT) == put(b"new", 7)(STANDS) == Propose(b"new", 7)


def test_a_delete_says_whether_there_was_a_value() -> None:
    assert delete()(STANDS) == Propose(None, result=True)
    assert delete()(ABSENT) == Propose(None, result=False)


@pytest.mark.parametrize(
    ("expected", "current", "applies"),
    [
        ({"expected_version": V1}, STANDS, True),
        ({"expected_version": V1}, Current(None, V1), True),  # a delete has a version too
        ({"expected_version": V1}, ABSENT, False),
        ({"expected_version": ZERO_VERSION}, ABSENT, True),
        ({"expected_version": ZERO_VERSION}, STANDS, False),
        ({"expected_value": b"old"}, STANDS, True),
        ({"expected_value": b"other"}, STANDS, False),
        ({"expected_value": b""}, ABSENT, False),
        ({"expected_value": None}, ABSENT, True),
        ({"expected_value": None}, STANDS, False),
        ({"expected_version": V1, "expected_value": b"other"}, STANDS, True),
    ],
)
def test_compare_and_set_sets_only_where_the_expected_stands(
    expected: dict[str, bytes | None], current: Current, applies: bool
) -> None:
    verdict = compare_and_set(b"new", expires_at_ms=9, **expected)(current)
    assert verdict == Propose(b"new", 9) if applies else isinstance(verdict, Refuse)


def test_compare_and_delete_has_no_expiry() -> None:
    change = compare_and_set(None, expected_value=b"old", expires_at_ms=9)
    assert change(STANDS) == Propose(None, 0)


def test_an_increment_adds_and_keeps_the_expiry() -> None:
    assert increment(5)(Current(b"-7", V1, 5000)) == Propose(b"-2", 5000, -2)
    assert increment(-1)(ABSENT) == Propose(b"-1", 0, -1)


@pytest.mark.parametrize(
    "value", [b"", b"-", b"+1", b" 1", b"01", b"-0", b"1.0", b"1e3", b"9" * 30, b"\xb2", b"abc"]
)
def test_what_is_no_integer_is_not_incremented(value: bytes) -> None:
    assert parse_integer(value) is None
    assert isinstance(increment(1)(Current(value, V1)), Refuse)


def test_an_increment_stays_within_64_bits() -> None:
    for edge, by in ((MAX_INTEGER, 1), (MIN_INTEGER, -1)):
        assert isinstance(increment(by)(Current(b"%d" % edge, V1)), Refuse)
        assert increment(-by)(Current(b"%d" % edge, V1)) == Propose(
            b"%d" % (edge - by), 0, edge - by
        )
