"""What the phases of a load count."""

import time
from collections.abc import Callable

from control_plane.dev.latency import Latencies
from control_plane.dev.load_report import DoorReport

_ERRORS_SHOWN = 5

OnProgress = Callable[[int], None]


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
