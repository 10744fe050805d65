"""Operations of one request: in order, so many at a time, fewer where values are large."""

import pytest

from sidecar.core.turns import MOST_HELD_BYTES, MOST_UNDER_WAY, Together, Turns


class Store:
    """Takes operations and ends them when told to."""

    def __init__(self) -> None:
        self.under_way: list[int] = []
        self.begun: list[int] = []

    def __call__(self, op: int) -> None:
        self.under_way.append(op)
        self.begun.append(op)


def run(count: int, value_bytes: int) -> tuple[list[int], int]:
    """The order in which all were begun, and the most at once after the first had ended."""
    store = Store()
    turns = Turns(count, store, Together())
    turns.begin()
    first = len(store.under_way)
    most = 0
    while store.under_way:
        store.under_way.pop(0)
        turns.ended(value_bytes)
        first -= 1
        if first <= 0:
            most = max(most, len(store.under_way))
    return store.begun, most


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1_000])
def test_all_are_begun_in_their_order(count: int) -> None:
    assert run(count, 100)[0] == list(range(count))


def test_small_values_are_asked_for_by_dozens_and_large_ones_a_few_at_a_time() -> None:
    assert 32 <= run(2_000, 100)[1] <= 64
    assert run(2_000, 1 << 20)[1] <= 4
    assert run(2_000, 64 << 20)[1] <= 2


def test_answers_that_come_at_once_do_not_go_deeper() -> None:
    turns: Turns
    begun = []

    def at_once(op: int) -> None:
        begun.append(op)
        turns.ended(0)

    turns = Turns(100_000, at_once, Together())
    turns.begin()
    assert begun == list(range(100_000))


def test_what_is_stopped_is_not_begun() -> None:
    store = Store()
    turns = Turns(100, store, Together())
    turns.begin()
    assert list(turns.stop()) == list(range(64, 100))
    for _ in range(64):
        turns.ended(0)
    assert store.begun == list(range(64))


def test_requests_at_once_share_what_may_be_under_way() -> None:
    together = Together()
    stores = [Store() for _ in range(100)]
    turns = [Turns(200, store, together) for store in stores]
    for one in turns:
        one.begin()
    assert [len(store.begun) for store in stores] == [64] * 16 + [2] * 84
    while any(store.under_way for store in stores):
        for one, store in zip(turns, stores, strict=True):
            if store.under_way:
                store.under_way.pop(0)
                one.ended(10)
        assert together.under_way <= MOST_UNDER_WAY + 2 * 100 + 64
    assert all(store.begun == list(range(200)) for store in stores)
    assert (together.under_way, together.held_bytes) == (0, 0)


def test_values_are_held_until_the_last_of_a_request_has_ended() -> None:
    together = Together()
    first, second = (Turns(count, Store(), together) for count in (3, 100))
    first.begin()
    second.begin()
    first.ended(MOST_HELD_BYTES - 10)
    first.ended(100, held=False)
    assert second.fits(10)
    assert not second.fits(11)
    first.ended(0)
    assert second.fits(MOST_HELD_BYTES)
    second.ended(50)
    second.stop()
    assert together.held_bytes == 50
    for _ in range(63):
        second.ended(0)
    assert (together.under_way, together.held_bytes) == (0, 0)
