"""Every test here starts real processes and treats them badly; the table of it is at the end."""

from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path

import orjson
import pytest

from tests.support.fault_table import Counts, Judged, as_json, as_lines, faults_of
from tests.support.local_cluster import LocalCluster, local_cluster

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
_JUDGED = pytest.StashKey[Judged]()
_COUNTED = pytest.StashKey[defaultdict[int, Counts]]()


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Six nodes in three zones, in memory: a node that restarts is empty."""
    with local_cluster() as running:
        yield running


@pytest.fixture
def kept_cluster() -> Iterator[LocalCluster]:
    """The same on kept data: a node that restarts has all that it acknowledged."""
    with local_cluster("--data", "data") as running:
        yield running


@pytest.fixture
def judged(request: pytest.FixtureRequest) -> Judged:
    """Judges histories, and counts them for the faults of the test's `fault` marker."""
    node: pytest.Item = request.node
    node.stash[_JUDGED] = Judged()
    return node.stash[_JUDGED]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-json", metavar="FILE", help="write the table of faults there")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COUNTED] = defaultdict(Counts)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        counts = item.stash[_JUDGED].counts if _JUDGED in item.stash else Counts(tests=1)
        counts.failed = int(not report.passed)
        counted = item.config.stash[_COUNTED]
        for marker in item.iter_markers("fault"):
            for number in marker.args:
                counted[number] += counts
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counted = config.stash[_COUNTED]
    if not counted:
        return
    faults = faults_of(PAGE.read_text())
    terminalreporter.section("faults, see docs/faults.md")
    for line in as_lines(counted, faults):
        terminalreporter.write_line(line)
    if path := config.getoption("--faults-json", default=None):
        Path(path).write_bytes(orjson.dumps(as_json(counted, faults), option=orjson.OPT_INDENT_2))
