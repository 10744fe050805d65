"""The ceiling on disk: versions grow over restarts, whatever the clock does."""

import os
import resource
from pathlib import Path

import pytest

from buckets.bucket_map import Consistency
from replicas.version import physical_ms
from sidecar.clock_file import LEAD_MS, SLOT_BYTES, DurableClock, clock_path
from sidecar.core.operation import Write
from sidecar.errors import Outcome, Reason
from tests.support.fake_cluster import KEYSPACE, START_MS, START_S, FakeCluster
from tests.support.replica_records import version_at

WRITER = b"writer-1"


def ceiling(path: Path) -> int:
    """What the next process finds."""
    return DurableClock(WRITER, path).last_ms


def test_after_a_crash_and_with_an_earlier_clock_versions_still_grow(tmp_path: Path) -> None:
    path = tmp_path / "clock-0"
    last = b""
    for start in range(4):  # no clean stop between them, and the clock goes back each time
        clock = DurableClock(WRITER, path)
        for _ in range(3):
            version = clock.next(START_MS - start * 10_000)
            assert version > last
            last = version


def test_no_version_is_issued_above_what_the_disk_says(tmp_path: Path) -> None:
    path = tmp_path / "clock-0"
    clock = DurableClock(WRITER, path)
    for now_ms in (START_MS, START_MS + 1, START_MS + LEAD_MS + 1, START_MS + 9_999):
        assert physical_ms(clock.next(now_ms)) <= ceiling(path)
    clock.merge(version_at(START_MS + 20_000))
    assert physical_ms(clock.next(START_MS)) <= ceiling(path)


def test_a_clean_stop_lowers_the_ceiling_to_the_truth(tmp_path: Path) -> None:
    path = tmp_path / "clock-0"
    clock = DurableClock(WRITER, path)
    last = clock.next(START_MS)
    clock.settle()
    assert ceiling(path) == START_MS
    assert DurableClock(WRITER, path).next(START_MS - 50) > last


def test_the_ceiling_is_raised_before_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "clock-0"
    clock = DurableClock(WRITER, path)
    clock.keep_ahead()
    clock.next(START_MS)
    clock.next(START_MS + LEAD_MS - 10)
    before = ceiling(path)
    clock.keep_ahead()
    assert ceiling(path) > before


def test_a_ceiling_that_was_passed_stays_within_the_skew_that_replicas_take(tmp_path: Path) -> None:
    path = tmp_path / "clock-0"
    DurableClock(WRITER, path).next(START_MS)
    assert physical_ms(DurableClock(WRITER, path).next(START_MS)) - START_MS < 500


@pytest.mark.parametrize("text", [b"", b"noise", b"\xff\xfe", b"12\xc2\xb2", b"-5", b"9" * 30])
def test_a_file_that_holds_no_time_promises_nothing(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "clock-0"
    path.write_bytes(text)
    assert physical_ms(DurableClock(WRITER, path).next(START_MS)) == START_MS


@pytest.mark.parametrize("kept_bytes", range(SLOT_BYTES + 1))
def test_a_write_that_is_cut_short_leaves_the_ceiling_before_it(
    tmp_path: Path, kept_bytes: int
) -> None:
    path = tmp_path / "clock-0"
    clock = DurableClock(WRITER, path)
    for now_ms in (START_MS - 99_999, START_MS):  # many digits differ
        clock.next(now_ms)
    before, known_ms = path.read_bytes(), ceiling(path)
    clock.next(START_MS + 5_000)
    after, raised_ms = path.read_bytes(), ceiling(path)
    assert before[SLOT_BYTES:] == after[SLOT_BYTES:]
    path.write_bytes(after[:kept_bytes] + before[kept_bytes:])
    assert ceiling(path) == (raised_ms if kept_bytes >= SLOT_BYTES - 1 else known_ms)


def test_a_process_out_of_descriptors_still_raises_it(tmp_path: Path) -> None:
    path = tmp_path / "clock-0"
    clock = DurableClock(WRITER, path)
    clock.next(START_MS)
    taken: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 2, limits[1]))
        later = physical_ms(clock.next(START_MS + 9_999))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)
    assert later <= ceiling(path)


def test_without_a_file_nothing_is_kept() -> None:
    clock = DurableClock(WRITER, None)
    assert physical_ms(clock.next(START_MS)) == START_MS
    clock.keep_ahead()
    clock.settle()
    assert clock_path("", 0) is None
    assert clock_path("/state", 2) == Path("/state/clock-2")


def test_when_the_disk_takes_nothing_writes_are_refused_typed_and_reads_go_on(
    tmp_path: Path,
) -> None:
    clock = DurableClock(WRITER, tmp_path / "gone" / "clock-0")
    clock.keep_ahead()
    cluster = FakeCluster()
    core = cluster.sidecar.core
    core.clock = clock
    ended: list[Write] = []
    deadline = START_S + 1
    write = Write(
        KEYSPACE, b"k", b"v", level=Consistency.QUORUM, deadline=deadline, done=ended.append
    )
    core.write(write)
    assert ended == [write]
    assert write.error is not None
    assert (write.error.outcome, write.error.reason) == (Outcome.NOT_APPLIED, Reason.CLOCK_SKEW)
    read = cluster.get(b"k")
    cluster.flow()
    assert read.value is None
    clock.settle()
