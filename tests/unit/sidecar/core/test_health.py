"""Who answers promptly, what not waiting may cost, and how much is let in: by themselves."""

from math import inf

from sidecar.core import health
from sidecar.core.health import Admission, Breaker, Budget

NOW = 100.0


def stalled() -> Breaker:
    breaker = Breaker()
    assert breaker.watch(NOW, NOW - health.STALL_S * 1.1)
    return breaker


def recovered(breaker: Breaker, now: float) -> None:
    while not breaker.probed(0.001, now):
        now += 0.25


# --- its own p95


def test_a_replica_of_which_little_is_known_is_given_the_longest_wait() -> None:
    breaker = Breaker()
    for _ in range(health.FEWEST_SAMPLES - 1):
        breaker.observe(0.02)
    assert breaker.hedge_after_s == health.MOST_HEDGE_S


def test_a_replica_is_waited_for_as_long_as_nineteen_of_twenty_answers_took() -> None:
    breaker = Breaker()
    for number in range(health.SAMPLES):
        breaker.observe(0.06 if number % 22 == 0 else 0.02 if number % 10 == 0 else 0.01)
    assert breaker.hedge_after_s == 0.02


def test_what_is_waited_for_follows_what_is_recent() -> None:
    breaker = Breaker()
    for _ in range(health.SAMPLES):
        breaker.observe(0.08)
    assert breaker.hedge_after_s == 0.08
    for _ in range(health.SAMPLES):
        breaker.observe(0.01)
    assert breaker.hedge_after_s == 0.01


def test_the_wait_is_bounded_on_both_sides() -> None:
    fast, slow = Breaker(), Breaker()
    for _ in range(health.FEWEST_SAMPLES):
        fast.observe(0.0001)
        slow.observe(3.0)
    assert fast.hedge_after_s == health.LEAST_HEDGE_S
    assert slow.hedge_after_s == health.MOST_HEDGE_S


# --- demoted, and back


def test_a_replica_is_demoted_once_its_oldest_request_has_waited_too_long() -> None:
    breaker = Breaker()
    assert not breaker.watch(NOW, inf)
    assert not breaker.watch(NOW, NOW - health.STALL_S * 0.9)
    assert breaker.watch(NOW, NOW - health.STALL_S * 1.1)
    assert breaker.demoted
    assert not breaker.watch(NOW, NOW - health.STALL_S * 2)  # told once


def test_a_replica_that_mostly_fails_is_demoted_and_one_that_sometimes_does_is_not() -> None:
    breaker = Breaker()
    assert not breaker.count(NOW, 100, 5)
    assert not breaker.count(NOW, 104, 9)
    assert not breaker.demoted
    assert breaker.count(NOW, 110, 14)
    assert breaker.demoted


def test_it_comes_back_after_probes_in_a_row_that_it_answers_promptly() -> None:
    breaker = stalled()
    later = NOW + health.FIRST_PAUSE_S * 2
    assert not breaker.probed(0.001, later)
    assert not breaker.probed(health.STALL_S * 2, later)
    assert not breaker.probed(0.001, later)
    assert breaker.demoted
    assert breaker.probed(0.001, later)
    assert not breaker.demoted


def test_a_request_left_unanswered_between_two_probes_begins_the_count_again() -> None:
    breaker = stalled()
    later = NOW + health.FIRST_PAUSE_S * 2
    assert not breaker.probed(0.001, later)
    assert not breaker.watch(later, later - 1.0)
    assert not breaker.probed(0.001, later)
    assert breaker.probed(0.001, later)


def test_it_does_not_come_back_before_its_pause_is_over() -> None:
    breaker = stalled()
    for _ in range(5):
        assert not breaker.probed(0.001, NOW + health.FIRST_PAUSE_S / 2)
    assert breaker.probed(0.001, NOW + health.FIRST_PAUSE_S)


def test_the_pause_grows_while_it_keeps_relapsing_up_to_a_bound() -> None:
    breaker = stalled()
    now, pauses = NOW, []
    for _ in range(8):
        began = now
        while not breaker.probed(0.001, now):
            now += 0.05
        pauses.append(now - began)
        assert breaker.watch(now, now - 1.0)
    assert pauses[0] < 0.4 < pauses[1] < 0.6 < 1.9 < pauses[3]
    assert pauses[-1] <= health.LONGEST_PAUSE_S + 0.1


def test_after_a_long_time_well_its_pause_is_short_again() -> None:
    breaker = stalled()
    recovered(breaker, NOW)
    assert breaker.watch(NOW + 1, NOW)
    recovered(breaker, NOW + 1)
    long_after = NOW + 60
    assert breaker.watch(long_after, long_after - 1.0)
    breaker.probed(0.001, long_after)
    assert breaker.probed(0.001, long_after + health.FIRST_PAUSE_S)


# --- budgets


def test_a_budget_is_spent_and_fills_with_operations_and_time_up_to_its_bound() -> None:
    budget = Budget(share=0.1, per_s=1.0, burst=2.0)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    assert budget.denied == 1
    budget.earn(10, 0.0)
    assert [budget.take() for _ in range(2)] == [True, False]
    budget.earn(0, 1.0)
    assert budget.take()
    budget.earn(1_000_000, 0.0)
    assert budget.tokens == 2.0


# --- admission


def test_a_late_tick_halves_what_is_let_in_and_ticks_in_time_bring_it_back() -> None:
    admission = Admission(65_536, NOW)
    admission.ticked(NOW + 0.005, 10_000)
    assert admission.limit == 65_536
    admission.ticked(NOW + 1.0, 10_000)
    assert admission.limit == 5_000
    admission.ticked(NOW + 2.0, 5_000)
    assert admission.limit == 2_500
    for tick in range(1, 6):
        admission.ticked(NOW + 2.0 + tick * 0.005, 100)
    assert admission.limit == 65_536


def test_some_are_always_let_in_and_never_more_than_the_bound() -> None:
    admission = Admission(65_536, NOW)
    for second in range(1, 10):
        admission.ticked(NOW + second, 0)
    assert admission.limit == Admission.LEAST
    small = Admission(100, NOW)
    small.ticked(NOW + 1.0, 0)
    assert small.limit == 100
