import pytest

from control_plane.coordination.epoch import epoch_number, with_epoch_bump
from control_plane.coordination.errors import WrongStore
from control_plane.coordination.store import ABSENT, Delete, Entry, Put


def test_the_first_bump_expects_that_there_is_no_epoch_yet() -> None:
    change = Put("/r", b"x", 3)
    assert with_epoch_bump([change], "/epoch", None) == [Put("/epoch", b"1", ABSENT), change]


def test_a_bump_is_guarded_by_the_version_that_was_read() -> None:
    bumped = with_epoch_bump([Delete("/r", 1)], "/epoch", Entry(b"41", 9))
    assert bumped == [Put("/epoch", b"42", 9), Delete("/r", 1)]


def test_an_empty_epoch_counts_as_zero() -> None:
    assert epoch_number(Entry(b"", 0)) == 0


@pytest.mark.parametrize("value", [b"x", b"-1", b"1.0", b"9" * 20])
def test_a_damaged_epoch_is_refused(value: bytes) -> None:
    with pytest.raises(WrongStore, match="damaged"):
        epoch_number(Entry(value, 0))
