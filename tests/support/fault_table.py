"""What the probes did, fault by fault: the table that `make probe` prints at its end.

The faults, their numbers and their names stand in docs/faults.md.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.history import NOT_APPLIED, OK, UNKNOWN, History

_ROW = re.compile(r"^\|\s*(\d+)\s*\|")
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_HEADER = ("fault", "tests", "operations", "acknowledged", "unknown", "not applied", "lost")


@dataclass
class Counts:
    """Of one test, or of all tests of one fault. `tests` that failed have lost something."""

    tests: int = 0
    failed: int = 0
    operations: int = 0
    acknowledged: int = 0
    unknown: int = 0
    not_applied: int = 0
    lost: int = 0

    def __iadd__(self, other: "Counts") -> Self:
        for name, more in vars(other).items():
            setattr(self, name, getattr(self, name) + more)
        return self


@dataclass
class Judged:
    """The fixture `judged`: judges what clients saw, and counts it for the table.

    `judged(history)` asserts that nothing of it is in need of an explanation. What has another
    checker is judged by that, and then counted: `judged.count(operations=..., lost=0)`.
    """

    counts: Counts = field(default_factory=lambda: Counts(tests=1))

    def __call__(self, history: History) -> None:
        """Call it once for a history, when all of it is there."""
        events = [*history.writes, *history.reads]
        violations = history.violations()
        self.count(
            operations=len(events),
            acknowledged=sum(event.outcome == OK for event in events),
            unknown=sum(event.outcome == UNKNOWN for event in events),
            not_applied=sum(event.outcome == NOT_APPLIED for event in events),
            lost=len(violations),
        )
        assert not violations, "\n".join(violations)

    def count(
        self,
        *,
        operations: int,
        acknowledged: int,
        unknown: int = 0,
        not_applied: int = 0,
        lost: int = 0,
    ) -> None:
        """`unknown` of reads: those without an answer. `lost`: what must not be, and was."""
        self.counts += Counts(
            operations=operations,
            acknowledged=acknowledged,
            unknown=unknown,
            not_applied=not_applied,
            lost=lost,
        )


@dataclass(frozen=True)
class Fault:
    """A row of docs/faults.md: its cells as they stand there, without the number."""

    number: int
    name: str
    cells: tuple[str, ...]

    @property
    def tests(self) -> list[tuple[str, str]]:
        """(file, function) of every test that the row names; "" for a whole file."""
        return [(path, name) for cell in self.cells for path, name in _TEST.findall(cell)]


def faults_of(page: str) -> list[Fault]:
    """The rows of the page's table, in their order."""
    found = []
    for line in page.splitlines():
        if _ROW.match(line):
            number, name, *cells = (cell.strip() for cell in line.strip().strip("|").split("|"))
            found.append(Fault(int(number), name, tuple(cells)))
    return found


def as_lines(counted: Mapping[int, Counts], faults: Iterable[Fault]) -> list[str]:
    """A table for people; a row for every fault that was probed."""
    names = {fault.number: fault.name for fault in faults}
    rows: list[Sequence[str]] = [_HEADER]
    for number, counts in sorted(counted.items()):
        tests = f"{counts.tests}, {counts.failed} failed" if counts.failed else f"{counts.tests}"
        numbers = (
            counts.operations,
            counts.acknowledged,
            counts.unknown,
            counts.not_applied,
            counts.lost,
        )
        rows.append((f"{number:2} {names.get(number, '')}", tests, *(f"{n:,}" for n in numbers)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def as_json(counted: Mapping[int, Counts], faults: Iterable[Fault]) -> list[dict[str, Any]]:
    """The same for programs."""
    names = {fault.number: fault.name for fault in faults}
    return [
        {"fault": number, "name": names.get(number, "")} | vars(counts)
        for number, counts in sorted(counted.items())
    ]
