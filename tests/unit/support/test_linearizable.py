"""The checker itself: what has an order, and what has none."""

import pytest

from tests.support.linearizable import Call, order_of


def wrote(value: int, started: int, ended: int | None) -> Call[int]:
    return Call(f"write {value}", started, ended, lambda _: (True, value))


def was_read(value: int, started: int, ended: int) -> Call[int]:
    return Call(f"read {value}", started, ended, lambda state: (state == value, state))


@pytest.mark.parametrize(
    "calls",
    [
        [],
        [wrote(1, 0, 1), was_read(1, 2, 3)],
        [wrote(1, 0, 5), was_read(0, 1, 2), was_read(1, 3, 4)],
        [wrote(1, 0, 9), wrote(2, 1, 8), was_read(2, 2, 3), was_read(1, 4, 5)],
        [wrote(1, 0, None), was_read(0, 1, 2), was_read(1, 3, 4)],  # it happened after all
        [wrote(1, 0, None), was_read(0, 1, 2)],  # or never
    ],
)
def test_what_an_order_explains(calls: list[Call[int]]) -> None:
    order = order_of(calls, 0)
    assert order is not None
    answered = {call.name for call in calls if call.ended is not None}
    assert answered <= set(order)


@pytest.mark.parametrize(
    "calls",
    [
        [was_read(1, 0, 1)],  # never written
        [wrote(1, 0, 1), was_read(0, 2, 3)],  # lost
        [wrote(1, 0, 5), was_read(1, 1, 2), was_read(0, 3, 4)],  # back in time
        [wrote(1, 2, None), was_read(1, 0, 1)],  # before it was asked for
        [wrote(1, 0, 1), wrote(2, 2, 3), was_read(1, 4, 5)],
        [wrote(1, 0, None), was_read(1, 1, 2), wrote(2, 3, 4), was_read(1, 5, 6)],  # happens once
    ],
)
def test_what_no_order_explains(calls: list[Call[int]]) -> None:
    assert order_of(calls, 0) is None
