"""The table of faults: what a probe counts, what is printed, and that the page tells the truth."""

import re
from pathlib import Path

import pytest

from tests.support.fault_table import Counts, Fault, Judged, as_json, as_lines, faults_of
from tests.support.history import NOT_APPLIED, UNKNOWN, Event, History

ROOT = Path(__file__).resolve().parents[3]
PAGE = "| 3 | a replica restarted | nothing lost | `tests/probe/test_a.py::test_b` | |\n| | x |\n"


def event(number: int, outcome: str = "OK") -> Event:
    return Event("door", b"k", number, number, number + 0.5, outcome)


def test_a_judged_history_is_counted_by_outcome() -> None:
    judged = Judged()
    judged(History([event(1), event(2, UNKNOWN), event(3, NOT_APPLIED)], [event(1)]))
    judged.count(operations=2, acknowledged=1, unknown=1)
    assert judged.counts == Counts(
        tests=1, operations=6, acknowledged=3, unknown=2, not_applied=1, lost=0
    )


def test_what_can_not_be_explained_fails_and_is_counted_as_lost() -> None:
    judged = Judged()
    with pytest.raises(AssertionError, match="acknowledged write"):
        judged(History([event(1)], [Event("door", b"k", 0, 9, 10)]))
    assert judged.counts.lost == 1


def test_rows_of_the_page_have_number_name_and_tests() -> None:
    [fault] = faults_of(PAGE)
    assert (fault.number, fault.name) == (3, "a replica restarted")
    assert fault.tests == [("tests/probe/test_a.py", "test_b")]


def test_the_printed_table_has_a_row_for_every_fault_probed() -> None:
    counted = {3: Counts(tests=2, failed=1, operations=1234)}
    header, row = as_lines(counted, faults_of(PAGE))
    assert len(header) == len(row)
    assert re.split(r" {2,}", row.strip()) == [
        "3 a replica restarted", "2, 1 failed", "1,234", "0", "0", "0", "0"
    ]  # fmt: skip
    assert as_json(counted, faults_of(PAGE))[0]["operations"] == 1234


@pytest.fixture(scope="module")
def faults() -> list[Fault]:
    return faults_of((ROOT / "docs" / "faults.md").read_text())


def test_the_page_has_every_fault_and_says_of_each_how_it_is_tested_or_what_is_missing(
    faults: list[Fault],
) -> None:
    assert [fault.number for fault in faults] == list(range(1, 43))
    assert {len(fault.cells) for fault in faults} == {4}
    assert [fault.number for fault in faults if not fault.tests and not fault.cells[-1]] == []


def test_every_test_that_the_page_names_exists(faults: list[Fault]) -> None:
    missing = [
        f"{fault.number}: {path}::{name}"
        for fault in faults
        for path, name in fault.tests
        if not (ROOT / path).is_file() or f"def {name}" not in (ROOT / path).read_text()
    ]
    assert missing == []


def test_every_fault_that_a_probe_is_marked_with_names_its_file(faults: list[Fault]) -> None:
    named = {(fault.number, path) for fault in faults for path, _ in fault.tests}
    for file in sorted((ROOT / "tests" / "probe").glob("test_*.py")):
        path = str(file.relative_to(ROOT))
        for numbers in re.findall(r"mark\.fault\(([\d, ]+)\)", file.read_text()):
            for number in map(int, numbers.split(",")):
                assert (number, path) in named, f"docs/faults.md, row {number}: name {path}"
