"""What must hold of every run, one invariant a file. Each takes a History and says what it breaks.

A checker believes nothing that the product says of itself: levels, majorities and orders are worked
out here again. A run is of tunable or of linearizable keys.
"""

from collections.abc import Callable

from tests.sim.checkers.acknowledged_by import acknowledged_by
from tests.sim.checkers.applied_once import applied_once
from tests.sim.checkers.chosen import chosen
from tests.sim.checkers.convergence import convergence
from tests.sim.checkers.counters import counters
from tests.sim.checkers.ends import ends
from tests.sim.checkers.genuine import genuine
from tests.sim.checkers.growing_versions import growing_versions
from tests.sim.checkers.linearizable import linearizable
from tests.sim.checkers.never_denied import never_denied
from tests.sim.checkers.no_lost_writes import no_lost_writes
from tests.sim.checkers.no_time_travel import no_time_travel
from tests.sim.checkers.not_applied import not_applied
from tests.sim.checkers.not_found_by_holders import not_found_by_holders
from tests.sim.checkers.sessions_monotonic import sessions_monotonic
from tests.sim.checkers.stay_deleted import stay_deleted
from tests.sim.checkers.version_order import version_order
from tests.sim.history import History

Checker = Callable[[History], list[str]]

CHECKERS: tuple[Checker, ...] = (
    no_lost_writes,
    no_time_travel,
    sessions_monotonic,
    not_applied,
    genuine,
    acknowledged_by,
    ends,
    growing_versions,
    convergence,
    stay_deleted,
    not_found_by_holders,
)

REGISTER_CHECKERS: tuple[Checker, ...] = (
    linearizable,
    version_order,
    counters,
    applied_once,
    never_denied,
    chosen,
    ends,
    convergence,
    stay_deleted,
)


def violations(history: History) -> list[str]:
    """What the run broke, each with the name of its checker."""
    checkers = REGISTER_CHECKERS if history.linearizable else CHECKERS
    return [f"{checker.__name__}: {what}" for checker in checkers for what in checker(history)]
