"""Budgets: bursts are taken, floods are not, and what was earned counts."""

import pytest

from sidecar.wire.http2_limits import SECOND_NS, Budget, Http2Limits


def test_a_burst_passes_and_the_next_does_not() -> None:
    budget = Budget(burst=3, per_s=1, now_ns=0)
    assert [budget.spend(0) for _ in range(5)] == [True, True, True, False, False]


def test_time_refills_up_to_the_burst() -> None:
    budget = Budget(burst=3, per_s=1, now_ns=0)
    while budget.spend(0):
        pass
    later = 100 * SECOND_NS
    assert sum(budget.spend(later) for _ in range(10)) == 3


def test_what_was_earned_counts_once() -> None:
    budget = Budget(burst=10, per_s=1, now_ns=0)
    while budget.spend(0):
        pass
    assert sum(budget.spend(0, earned=5) for _ in range(20)) == 5


def test_windows_below_the_default_are_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        Http2Limits(stream_window_bytes=1_000)
