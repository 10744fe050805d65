from itertools import islice

from control_plane.dev.load_tally import Patience, Tally


def test_pauses_grow_to_a_bound() -> None:
    assert list(islice(Patience().pauses(), 8)) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_all_that_is_repeated_shares_one_patience() -> None:
    patience = Patience(0.33)
    assert list(patience.pauses()) == [0.05, 0.1]
    assert list(patience.pauses()) == [0.05, 0.1]
    assert list(patience.pauses()) == []


def test_only_the_first_errors_are_kept() -> None:
    tally = Tally()
    for number in range(100):
        tally.failed(f"error {number}")
    assert tally.errors == 100
    assert tally.first_errors == [f"error {number}" for number in range(5)]
