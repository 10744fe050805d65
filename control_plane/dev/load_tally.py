"""What the phases of a load count."""

import time
from collections.abc import Callable, Iterator

from control_plane.dev.latency import Latencies
from control_plane.dev.load_report import DoorReport

_ERRORS_SHOWN = 5

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_PATIENCE_S = 60.0

OnProgress = Callable[[int], None]


class Patience:
    """How long a phase may spend on repeating in all, so that a broken cluster ends it soon."""

    def __init__(self, seconds: float = _PATIENCE_S) -> None:
        self._left_s = seconds

    def pauses(self) -> Iterator[float]:
        """Seconds to wait before each further attempt of one thing, longer and longer."""
        pause_s = _FIRST_PAUSE_S
        while self._left_s >= pause_s:
            self._left_s -= pause_s
            yield pause_s
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class Tally:
    """Counters of one phase; the texts of the first errors are kept to be shown."""

    def __init__(self) -> None:
        self.done = 0
        self.errors = 0
        self.mismatches = 0
        self.retries = 0
        self.first_errors: list[str] = []
        self.latencies = Latencies()

    def failed(self, text: str) -> None:
        """Counts an operation that failed for good."""
        self.errors += 1
        if len(self.first_errors) < _ERRORS_SHOWN:
            self.first_errors.append(text)

    def answered(self, started: float, *, equal: bool) -> None:
        """Counts an answered read that began at `started` (`time.perf_counter()`)."""
        self.latencies.add(time.perf_counter() - started)
        self.done += 1
        if not equal:
            self.mismatches += 1

    def door_report(self, seconds: float) -> DoorReport:
        """As the report shows a door that was read for so many seconds."""
        return DoorReport(
            reads_per_s=round(self.done / seconds, 1),
            p50_ms=self.latencies.quantile_ms(0.50),
            p99_ms=self.latencies.quantile_ms(0.99),
            reads=self.done,
            errors=self.errors,
        )
