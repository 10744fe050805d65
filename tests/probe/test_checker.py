"""The judge of histories fails on each thing that must not happen, else probes prove nothing."""

import pytest

from tests.support.history import ABSENT, NOT_APPLIED, UNKNOWN, Event, History

KEY = b"k"


def write(
    number: int, began: float, ended: float, outcome: str = "OK", version: bytes = b""
) -> Event:
    return Event("door", KEY, number, began, ended, outcome, version)


def read(number: int, began: float, ended: float, version: bytes = b"") -> Event:
    return Event("door", KEY, number, began, ended, "OK", version)


@pytest.mark.parametrize(
    ("writes", "reads"),
    [
        pytest.param([write(1, 0, 1)], [read(1, 2, 3)], id="one after the other"),
        pytest.param([write(1, 0, 1), write(2, 2, 5)], [read(1, 3, 4)], id="before it is visible"),
        pytest.param([write(1, 0, 1), write(2, 2, 5)], [read(2, 3, 4)], id="before its end"),
        pytest.param([write(1, 0, 1, UNKNOWN)], [read(1, 2, 3)], id="unknown was applied"),
        pytest.param([write(1, 0, 1, UNKNOWN)], [read(ABSENT, 2, 3)], id="unknown was not"),
        pytest.param([write(1, 0, 1, NOT_APPLIED)], [read(ABSENT, 2, 3)], id="not applied"),
        pytest.param([write(1, 0, 5)], [read(1, 1, 3), read(ABSENT, 2, 4)], id="at the same time"),
        pytest.param([write(1, 0, 1, "OK", b"a")], [read(1, 2, 3, b"a")], id="its version"),
    ],
)
def test_what_may_happen_is_accepted(writes: list[Event], reads: list[Event]) -> None:
    assert History(writes, reads).violations() == []


@pytest.mark.parametrize(
    ("writes", "reads", "words"),
    [
        pytest.param([write(1, 0, 1)], [read(ABSENT, 2, 3)], "acknowledged", id="not found"),
        pytest.param([write(1, 0, 1), write(2, 2, 3)], [read(1, 4, 5)], "acknowledged", id="lost"),
        pytest.param([write(1, 0, 1, NOT_APPLIED)], [read(1, 2, 3)], "not applied", id="applied"),
        pytest.param([], [read(1, 2, 3)], "nobody", id="invented"),
        pytest.param([write(1, 5, 6)], [read(1, 2, 3)], "nobody", id="from the future"),
        pytest.param(
            [write(1, 0, 9)], [read(1, 1, 2), read(ABSENT, 3, 4)], "earlier read", id="back"
        ),
        pytest.param(
            [write(1, 0, 1, "OK", b"b"), write(2, 2, 3, "OK", b"a")], [], "order", id="versions"
        ),
        pytest.param(
            [write(1, 0, 1, "OK", b"a")], [read(1, 2, 3, b"b")], "order", id="another version"
        ),
    ],
)
def test_what_must_not_happen_is_found(writes: list[Event], reads: list[Event], words: str) -> None:
    (found, *_) = History(writes, reads).violations()
    assert words in found


def test_another_key_is_another_matter() -> None:
    history = History([write(1, 0, 1)], [Event("door", b"other", ABSENT, 2, 3)])
    assert history.violations() == []
