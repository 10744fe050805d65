"""The tally against a deliberately dumb twin that tries every possible end."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from replicas.quorum import IMPOSSIBLE, PENDING, REACHED, Group, majority, smallest_set, tally

SLOTS = 5
MASKS = st.integers(0, (1 << SLOTS) - 1)
GROUPS = st.builds(Group, MASKS, st.integers(1, SLOTS))
NEEDS = st.lists(GROUPS, min_size=1, max_size=3).map(tuple)


def met(needs: tuple[Group, ...], acked: int) -> bool:
    return all((acked & group.members).bit_count() >= group.need for group in needs)


def dumb_tally(needs: tuple[Group, ...], acked: int, failed: int) -> int:
    if met(needs, acked):
        return REACHED
    undecided = [slot for slot in range(SLOTS) if not (acked | failed) >> slot & 1]
    ends = itertools.product((0, 1), repeat=len(undecided))
    for end in ends:
        more = sum(1 << slot for slot, yes in zip(undecided, end, strict=True) if yes)
        if met(needs, acked | more):
            return PENDING
    return IMPOSSIBLE


@given(NEEDS, MASKS, MASKS)
def test_the_tally_is_that_of_the_twin(needs: tuple[Group, ...], acked: int, failed: int) -> None:
    failed &= ~acked
    assert tally(needs, acked, failed) == dumb_tally(needs, acked, failed)
    outside = failed | ~((1 << SLOTS) - 1)  # slots that do not exist never acknowledge
    assert tally(needs, acked, outside) == dumb_tally(needs, acked, failed)


def test_a_group_of_nobody_is_never_reached() -> None:
    assert tally((Group(0, 1),), 0b111, 0) == IMPOSSIBLE
    assert tally((Group(0b111, 2), Group(0, 1)), 0b111, 0) == IMPOSSIBLE


def test_any_two_majorities_share_a_member() -> None:
    assert [majority(count) for count in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]
    for count in range(1, 8):
        assert 2 * majority(count) > count
        assert 2 * (majority(count) - 1) <= count


def test_a_majority_of_the_union_is_not_enough_in_a_move() -> None:
    needs = (Group(0b00111, 2), Group(0b11100, 2))  # old and new owners, one in both
    assert tally(needs, 0b00111, 0) == PENDING
    assert tally(needs, 0b11100, 0) == PENDING
    assert tally(needs, 0b01110, 0) == REACHED
    assert tally(needs, 0b00111, 0b11000) == IMPOSSIBLE


@given(NEEDS, st.permutations(range(SLOTS)))
def test_the_smallest_set_suffices_and_nothing_of_the_end_of_it_is_idle(
    needs: tuple[Group, ...], preference: list[int]
) -> None:
    chosen = smallest_set(needs, tuple(preference))
    everybody = (1 << SLOTS) - 1
    assert met(needs, chosen) == met(needs, everybody)
    best_first = [slot for slot in preference if chosen >> slot & 1]
    if best_first and met(needs, chosen):
        assert not met(needs, chosen & ~(1 << best_first[-1]))
