"""The simulator itself: the same seed is the same run, good runs are good, and rules are needed."""

import pytest

from buckets.bucket_map import Mode
from tests.sim.broken import VARIANTS
from tests.sim.faults import KINDS
from tests.sim.run import run_seed
from tests.sim.session import hunt, search

GOOD_RUNS = 100


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.TUNABLE, Mode.LINEARIZABLE])
def test_the_same_seed_gives_the_same_run(mode: Mode) -> None:
    first, second = (run_seed(7, mode=mode, trace=True) for _ in range(2))
    assert first.trace
    assert first == second


@pytest.mark.slow
def test_a_trace_does_not_change_the_run() -> None:
    silent, told = run_seed(8), run_seed(8, trace=True)
    assert (silent.outcomes, silent.faults) == (told.outcomes, told.faults)


@pytest.mark.slow
def test_runs_keep_every_invariant_under_every_fault() -> None:
    session = search(1, GOOD_RUNS, jobs=1)
    assert session.failed == []
    assert session.operations > 30 * GOOD_RUNS
    assert KINDS.keys() <= session.faults.keys()
    assert session.outcomes["OK"] > 0.8 * session.operations
    others = ("NOT_APPLIED", "UNKNOWN", "FAILED", "REFUSED")
    assert all(session.outcomes[each] for each in others)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_without_a_rule_an_invariant_breaks(name: str) -> None:
    caught = hunt(name, 1, 3000)
    assert caught is not None
    assert caught.trace
