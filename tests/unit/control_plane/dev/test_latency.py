import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.dev.latency import Latencies


@given(st.lists(st.floats(1e-6, 60.0), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_is_within_its_precision_of_the_exact_one(
    seconds: list[float], share: float
) -> None:
    latencies = Latencies()
    for one in seconds:
        latencies.add(one)
    rank = max(1, -int(-share * len(seconds) // 1))
    exact_ms = sorted(seconds)[rank - 1] * 1000
    assert latencies.quantile_ms(share) == pytest.approx(exact_ms, rel=0.03, abs=0.001)


def test_without_answers_there_is_no_latency() -> None:
    assert Latencies().quantile_ms(0.99) == 0.0


def test_absurd_values_are_counted_at_the_ends() -> None:
    latencies = Latencies()
    for seconds in (0.0, -1.0, 1e9):
        latencies.add(seconds)
    assert latencies.count == 3
    assert latencies.quantile_ms(1.0) > 1e6
