"""What is kept for an owner that missed a write, how fast it is replayed, and when it ends."""

import pytest
from hiredis import ReplyError
from hypothesis import given
from hypothesis import strategies as st

from buckets.bucket_map import Stage
from replicas.fence import Fence, Role
from replicas.replies import Code
from sidecar.core.hints import (
    BASE_INTERVAL_S,
    MAX_BYTES_ON_THE_WAY,
    MAX_WINDOW,
    ONLY_COPY,
    Budget,
    Fate,
    Hint,
    HintBounds,
    Pace,
    judge,
    targets,
)

BOUNDS = HintBounds(size_bytes=1000, age_ms=60_000, queue_bytes=300)


def refused(code: str) -> list[object]:
    return [code.encode(), None, b"entry", b""]


@pytest.mark.parametrize("reply", [1, 2, 3])
def test_an_acknowledgement_superseded_or_not_ends_a_hint(reply: int) -> None:
    assert judge(reply) == (Fate.DONE, None)


@pytest.mark.parametrize(("last", "expected"), [(1, Fate.DONE), (0, Fate.KEEP)])
def test_what_was_purged_is_not_brought_back_but_what_is_merely_closed_may_be_missed(
    last: int, expected: Fate
) -> None:
    through = b"\1" + bytes(14) + bytes([last])
    fence = Fence(1, Stage.OLD, Role.OWNER, 1, purged_through=through).encode()
    fate, refusal = judge([b"PURGED", fence, None, b""])
    assert fate is expected
    assert refusal is not None


@pytest.mark.parametrize("code", ["STALE_EPOCH", "RELEASED", "WRONG_INCARNATION"])
def test_an_owner_at_a_later_epoch_teaches_it(code: str) -> None:
    fate, refusal = judge(refused(code))
    assert fate is Fate.LEARN
    assert refusal is not None
    assert refusal.entry == b"entry"


@pytest.mark.parametrize("code", ["NO_FENCE", "SKEWED", "CORRUPT", "WRONG_ROLE"])
def test_what_may_be_taken_later_is_kept(code: str) -> None:
    assert judge(refused(code))[0] is Fate.KEEP


@pytest.mark.parametrize("code", ["WRONG_MODE", "BAD_REQUEST", "CLOSED"])
def test_what_will_never_be_taken_is_given_up(code: str) -> None:
    assert judge(refused(code))[0] is Fate.GIVE_UP


@pytest.mark.parametrize(
    "reply", [ReplyError("OOM no memory"), ReplyError("ERR what"), None, [], b"?", 4, 0]
)
def test_an_answer_that_proves_nothing_keeps_the_hint(reply: object) -> None:
    assert judge(reply)[0] is Fate.KEEP


def test_every_refusal_of_the_write_script_has_a_fate() -> None:
    assert all(judge(refused(code.value))[0] in Fate for code in Code)


def test_a_hint_goes_to_the_owner_that_missed_it() -> None:
    assert targets(7, [5, 7, 9]) == (1,)


def test_when_that_owner_has_gone_it_goes_to_all_that_own_the_bucket_now() -> None:
    assert targets(7, [5, 8, 9]) == (0, 1, 2)


def test_an_only_copy_goes_to_every_owner() -> None:
    assert targets(ONLY_COPY, [5, 8, 9]) == (0, 1, 2)


# --- bounds


def test_a_hint_is_taken_up_to_the_bound_in_bytes_and_not_above() -> None:
    assert not BOUNDS.refusal(100, 800, 100)
    assert "bound of 1000 bytes" in BOUNDS.refusal(101, 800, 100)


def test_what_waits_for_a_slow_disk_is_bounded() -> None:
    assert not BOUNDS.refusal(100, 0, 200)
    assert "disk is slow" in BOUNDS.refusal(101, 0, 200)


def test_the_default_bounds_are_256_mib_and_three_hours() -> None:
    assert HintBounds().size_bytes == 268_435_456
    assert HintBounds().cutoff_ms(20_000_000) == 9_200_000


def test_a_hint_counts_with_its_key_its_record_and_its_row() -> None:
    assert Hint("ks", 1, b"k" * 10, b"r" * 100, 3, 0).size_bytes == 270


# --- pacing


def ready_pace(latency_s: float = 0.001, answers: int = 2000) -> Pace:
    """A pace that has seen a receiver answer quickly for a while (all within a second)."""
    pace = Pace()
    for turn in range(answers):
        pace.sent(100)
        pace.answered(100, latency_s, turn / answers)
    return pace


def test_the_window_opens_while_the_receiver_answers_as_quickly_as_ever() -> None:
    assert Pace().window == 2
    assert ready_pace(answers=100).window > 10
    assert ready_pace(answers=5000).window == MAX_WINDOW


def test_a_round_trip_of_twice_the_shortest_and_more_halves_the_window() -> None:
    pace = ready_pace()
    before = pace.window
    pace.sent(100)
    pace.answered(100, 0.004, 1.0)
    assert pace.window == before / 2


def test_one_slow_moment_halves_the_window_once() -> None:
    pace = ready_pace()
    before = pace.window
    for _ in range(10):  # all sent before the receiver's slowness could be known
        pace.sent(100)
        pace.answered(100, 0.1, 1.0)
    assert pace.window == before / 2
    pace.sent(100)
    pace.answered(100, 0.1, 1.2)
    assert pace.window == before / 4


def test_a_receiver_that_stays_slow_gets_one_at_a_time() -> None:
    pace = ready_pace()
    for turn in range(40):
        pace.sent(100)
        pace.answered(100, 0.5, 1.0 + turn)
        if turn == 8:
            assert pace.window == 1
    assert pace.window >= 1
    assert pace.room(100)


def test_a_receiver_that_was_always_far_away_is_not_taken_for_a_slow_one() -> None:
    assert ready_pace(latency_s=0.5).window > 10


def test_what_was_fast_is_forgotten_after_some_intervals() -> None:
    pace = ready_pace(latency_s=0.001)
    now = 1.0
    for _ in range(400):  # the receiver is ten times slower from now on
        pace.sent(100)
        now += BASE_INTERVAL_S / 100
        pace.answered(100, 0.01, now)
    assert pace.window > 5


def test_no_more_hints_are_on_their_way_than_the_window_has() -> None:
    pace = Pace()
    pace.sent(100)
    assert pace.room(100)
    pace.sent(100)
    assert not pace.room(100)


def test_large_hints_are_bounded_by_their_bytes_and_one_may_always_go() -> None:
    pace = ready_pace()
    assert pace.room(10 * MAX_BYTES_ON_THE_WAY)
    pace.sent(MAX_BYTES_ON_THE_WAY)
    assert not pace.room(1)


def test_a_lost_hint_makes_room_and_slows_down() -> None:
    pace = ready_pace()
    before = pace.window
    pace.sent(100)
    pace.failed(100, 1.0)
    assert pace.in_flight == 0
    assert pace.window == before / 2


def test_the_budget_lets_so_many_a_second_through() -> None:
    budget = Budget(1000, burst=10)
    now, gone = 0.0, 0
    while now < 2.0:
        while budget.take(100, now):
            gone += 1
        now += 0.001
    assert 1990 <= gone <= 2020


def test_a_large_hint_takes_the_budget_of_many() -> None:
    budget = Budget(1000, burst=10)
    assert budget.take(1 << 20, 0.0)
    assert not budget.take(1, 1.0)
    assert budget.take(1, 1.1)


def test_a_long_rest_earns_no_more_than_the_burst() -> None:
    budget = Budget(1000, burst=10)
    assert sum(budget.take(1, 3600.0) for _ in range(100)) == 10


@given(st.lists(st.tuples(st.floats(0.0001, 2.0), st.floats(0, 1), st.booleans()), max_size=200))
def test_the_window_stays_within_its_bounds(
    answers: list[tuple[float, float, bool]],
) -> None:
    pace = Pace()
    now = 0.0
    for latency_s, pause_s, lost in answers:
        now += pause_s
        pace.sent(10)
        if lost:
            pace.failed(10, now)
        else:
            pace.answered(10, latency_s, now)
        assert 1 <= pace.window <= MAX_WINDOW
        assert pace.in_flight == pace.in_flight_bytes == 0
