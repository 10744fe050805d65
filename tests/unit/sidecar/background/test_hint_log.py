"""The hint log: durable before it says so, bounded, and never silent about what it lost."""

import asyncio
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.dev.die_with_parent import tied
from sidecar.background.hint_file import EVERYWHERE, open_hint_file
from sidecar.background.hint_log import CLOSED, OFF, HintLog
from sidecar.core.hints import ONLY_COPY, Hint, HintBounds
from tests.support.control_planes import until

ROOT = Path(__file__).resolve().parents[4]
NOW_MS = 1_000_000_000


class Clock:
    """Wall time that a test moves."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hints-0.db"


@asynccontextmanager
async def open_log(
    path: Path | None, clock: Callable[[], int] | None = None, **bounds: int
) -> AsyncIterator[HintLog]:
    hints = HintLog(path, "test", wall_ms=clock or Clock(), bounds=HintBounds(**bounds))
    await hints.start()
    yield hints
    await hints.close()


def hint(
    number: int, *, node: int = 3, bucket: int = 5, size: int = 40, created_ms: int = NOW_MS
) -> Hint:
    return Hint("places", bucket, b"%05d" % number, bytes(size), node, created_ms)


async def all_of(hints: HintLog, node: int = 3) -> list[Hint]:
    found: list[Hint] = []
    stored, after = await hints.read(node, 0, 1000)
    while after:
        found += [one.hint for one in stored]
        stored, after = await hints.read(node, after, 1000)
    return found + [one.hint for one in stored]


def marked(hints: HintLog) -> dict[tuple[str, int], str]:
    return {(mark.keyspace, mark.bucket): mark.cause for mark in hints.view().marks}


async def test_hints_are_there_after_another_start(path: Path) -> None:
    async with open_log(path) as hints:
        for number in range(1000):
            hints.keep(hint(number))
        await hints.flush()
        assert hints.view().counters["stored"] == 1000
    async with open_log(path) as hints:
        assert await all_of(hints) == [hint(number) for number in range(1000)]
        [node] = hints.view().nodes
        assert (node.node, node.count, node.size_bytes) == (3, 1000, 1000 * hint(0).size_bytes)
        assert node.oldest_ms == NOW_MS


async def test_it_is_not_on_before_it_has_counted_what_it_found(path: Path) -> None:
    async with open_log(path) as hints:
        for number in range(10_000):
            hints.keep(hint(number))
        await hints.flush()
    again = HintLog(path, "test", wall_ms=Clock(), bounds=HintBounds())
    start = asyncio.create_task(again.start())
    seen: dict[str, set[int]] = {}
    while not start.done():
        view = again.view()
        seen.setdefault(view.state, set()).add(sum(node.count for node in view.nodes))
        await asyncio.sleep(0)
    await again.close()
    assert seen["opening"] == {0}
    assert seen.get("on", {10_000}) == {10_000}


async def test_many_hints_share_one_fsync(path: Path) -> None:
    async with open_log(path) as hints:
        for number in range(5000):
            hints.keep(hint(number))
        assert hints.view().queued_bytes > 0
        await hints.flush()
        assert len(await all_of(hints)) == 5000
        # A commit each would have left a write-ahead log of at least 5,000 pages.
        assert Path(f"{path}-wal").stat().st_size < 2000 * 4096


async def test_an_only_copy_is_confirmed_after_it_is_on_disk(path: Path) -> None:
    async with open_log(path) as hints:
        said: list[str] = []
        assert hints.keep_only_copy(hint(1, node=ONLY_COPY), said.append) == ""
        assert said == []
        await hints.flush()
        assert said == [""]
        assert await all_of(hints, ONLY_COPY) == [hint(1, node=ONLY_COPY)]


async def test_an_only_copy_is_shown_to_be_as_old_as_the_oldest(path: Path) -> None:
    async with open_log(path) as hints:
        for number, at_ms in ((1, NOW_MS), (2, NOW_MS - 5)):
            hints.keep_only_copy(hint(number, node=ONLY_COPY, created_ms=at_ms), lambda _: None)
            await hints.flush()
        assert hints.view().nodes[0].oldest_ms == NOW_MS - 5


async def test_what_an_owner_took_is_removed(path: Path) -> None:
    async with open_log(path) as hints:
        hints.keep(hint(1, created_ms=NOW_MS - 5))
        hints.keep(hint(2))
        await hints.flush()
        [first, second], _ = await hints.read(3, 0, 100)
        hints.remove(first)
        assert [one.id for one in (await hints.read(3, 0, 100))[0]] == [second.id]
        await hints.flush()
        assert hints.view().nodes[0].oldest_ms == NOW_MS
        hints.remove(second)
        await hints.flush()
        assert hints.view().nodes == []
        assert hints.view().size_bytes == 0
        assert hints.nodes() == []


async def test_a_row_gives_way_to_those_of_the_owners_that_are_left(path: Path) -> None:
    async with open_log(path) as hints:
        hints.keep_only_copy(hint(1, node=ONLY_COPY), lambda problem: None)
        await hints.flush()
        [stored], _ = await hints.read(ONLY_COPY, 0, 9)
        hints.remove(stored, [hint(1, node=4), hint(1, node=7)])
        await hints.flush()
        assert sorted(hints.nodes()) == [4, 7]
    async with open_log(path) as hints:
        assert sorted(hints.nodes()) == [4, 7]


# --- bounds


async def test_at_the_bound_the_bucket_is_marked_durably(path: Path) -> None:
    bound = 10 * hint(0).size_bytes
    async with open_log(path, size_bytes=bound) as hints:
        for number in range(15):
            hints.keep(hint(number, bucket=number % 2))
        await hints.flush()
        assert len(await all_of(hints)) == 10
        view = hints.view()
        assert view.counters["lost"] == 5
        assert sum(mark.lost for mark in view.marks) == 5
        assert all(mark.durable for mark in view.marks)
    async with open_log(path) as hints:
        assert set(marked(hints)) == {("places", 0), ("places", 1)}
        assert "bound of" in marked(hints)["places", 0]


async def test_at_the_bound_an_only_copy_is_refused_at_once(path: Path) -> None:
    async with open_log(path, size_bytes=hint(0).size_bytes) as hints:
        hints.keep(hint(0))
        said: list[str] = []
        assert "bound" in hints.keep_only_copy(hint(1, node=ONLY_COPY), said.append)
        await hints.flush()
        assert said == []
        assert hints.nodes() == [3]
        assert marked(hints) == {}  # its client is told: nothing was lost


async def test_room_that_a_replay_made_is_used_again(path: Path) -> None:
    async with open_log(path, size_bytes=hint(0).size_bytes) as hints:
        hints.keep(hint(0))
        await hints.flush()
        [stored], _ = await hints.read(3, 0, 9)
        hints.remove(stored)
        await hints.flush()
        hints.keep(hint(1))
        await hints.flush()
        assert await all_of(hints) == [hint(1)]


async def test_a_slow_disk_can_not_fill_the_memory(path: Path) -> None:
    async with open_log(path, queue_bytes=10 * hint(0).size_bytes) as hints:
        for number in range(100):  # in one turn of the loop: nothing is written meanwhile
            hints.keep(hint(number))
        assert hints.view().queued_bytes == 10 * hint(0).size_bytes
        await hints.flush()
        assert hints.view().counters["lost"] == 90
        assert "disk is slow" in marked(hints)["places", 5]


async def test_what_is_too_old_is_dropped_and_marked_and_an_only_copy_stays(path: Path) -> None:
    clock = Clock()
    async with open_log(path, clock, age_ms=1000) as hints:
        for number in range(2500):
            hints.keep(hint(number, bucket=number % 3))
        hints.keep(hint(9, node=ONLY_COPY))
        hints.keep(hint(10, node=8, created_ms=NOW_MS + 1))
        await hints.flush()
        clock.ms += 1000
        await hints.expire()
        assert sorted(hints.nodes()) == [ONLY_COPY, 8]
        assert set(marked(hints)) == {("places", bucket) for bucket in range(3)}
        assert sum(mark.lost for mark in hints.view().marks) == 2500
        assert hints.view().counters["aged_out"] == 2500
        assert all(mark.durable for mark in hints.view().marks)


# --- without a disk, and with a bad one


async def test_without_a_state_dir_every_hint_marks_its_bucket() -> None:
    async with open_log(None) as hints:
        hints.keep(hint(1))
        assert hints.keep_only_copy(hint(2, node=ONLY_COPY), lambda problem: None) == OFF
        await hints.flush()
        view = hints.view()
        assert view.state == "off"
        assert view.problem == OFF
        assert [mark.durable for mark in view.marks] == [False]
        assert marked(hints) == {("places", 5): OFF}


async def test_a_flipped_byte_costs_its_hint_and_marks_its_bucket(path: Path) -> None:
    async with open_log(path) as hints:
        for number in range(10):
            hints.keep(hint(number, bucket=number))
        await hints.flush()
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"00004") + 20] ^= 1
    path.write_bytes(raw)
    async with open_log(path) as hints:
        assert await all_of(hints) == [hint(n, bucket=n) for n in range(10) if n != 4]
        await hints.flush()
        assert hints.view().counters["corrupt"] == 1
        assert set(marked(hints)) == {("places", 4)}
        assert hints.view().size_bytes == 9 * hint(0).size_bytes


async def test_a_truncated_file_is_set_aside_and_hints_are_kept_again(path: Path) -> None:
    async with open_log(path) as hints:
        for number in range(2000):
            hints.keep(hint(number))
        await hints.flush()
    path.write_bytes(path.read_bytes()[:40_000])
    async with open_log(path) as hints:
        assert hints.view().state == "on"
        kept = len(await all_of(hints))
        assert 0 < kept < 2000
        assert EVERYWHERE in marked(hints)
        assert hints.ledger.is_marked("any", 1)
        hints.keep(hint(5000))
        await hints.flush()
        assert len(await all_of(hints)) == kept + 1
    assert [p.name for p in path.parent.glob("hints-0.db.aside-*")] == [
        f"{path.name}.aside-{NOW_MS}"
    ]


async def test_a_file_of_another_cluster_is_set_aside(path: Path) -> None:
    file = open_hint_file(path, "other")
    file.close()
    async with open_log(path) as hints:
        assert hints.view().state == "on"
        hints.keep(hint(1))
    assert len(list(path.parent.glob("hints-0.db.aside-*"))) == 1


@pytest.mark.slow
async def test_a_file_that_another_process_has_is_waited_for(path: Path) -> None:
    theirs = open_hint_file(path, "test")
    theirs.shrink()
    async with open_log(path) as hints:
        assert hints.view().state == "failing"
        assert "state_dir of its own" in hints.view().problem
        hints.keep(hint(1))
        assert "lock" in marked(hints)["places", 5]
        theirs.close()
        await until(lambda: hints.view().state == "on", "the file is taken over")
        await hints.flush()
        assert [mark.durable for mark in hints.view().marks] == [True]
        hints.keep(hint(2))
        await hints.flush()
        assert await all_of(hints) == [hint(2)]


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """A disk that takes no more: the kernel refuses to let a file grow beyond this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.slow
async def test_a_full_disk_marks_buckets_in_memory_and_later_on_disk(path: Path) -> None:
    async with open_log(path) as hints:
        hints.keep(hint(0))
        await hints.flush()
        said: list[str] = []
        with largest_file(200_000):
            for number in range(1, 1000):
                hints.keep(hint(number, size=1000, bucket=number % 4))
            hints.keep_only_copy(hint(1000, node=ONLY_COPY), said.append)
            await hints.flush()
            view = hints.view()
            assert view.state == "failing"
            assert view.problem
            assert len(said) == 1
            assert said[0] == view.problem
            assert set(marked(hints)) == {("places", bucket) for bucket in range(4)}
            assert not any(mark.durable for mark in view.marks)
            assert view.counters["lost"] == 999
            assert hints.keep_only_copy(hint(2000, node=ONLY_COPY), said.append) == view.problem
        await until(lambda: hints.view().state == "on", "it recovers with the disk")
        await hints.flush()
        assert all(mark.durable for mark in hints.view().marks)
        assert hint(0) in await all_of(hints)


async def test_after_its_end_nothing_is_taken(path: Path) -> None:
    async with open_log(path) as hints:
        pass
    hints.keep(hint(1))
    assert marked(hints) == {("places", 5): CLOSED}


# --- marks


async def test_a_repair_removes_the_marks_from_before_it_began(path: Path) -> None:
    clock = Clock()
    async with open_log(path, clock) as hints:
        hints.mark(("places", 1), "why")
        clock.ms += 10
        hints.mark(("places", 2), "why")
        assert hints.repaired(("places", 1), clock.ms)
        assert not hints.repaired(("places", 2), clock.ms)
        assert not hints.repaired(("places", 3), clock.ms)
        await hints.flush()
    async with open_log(path) as hints:
        assert set(marked(hints)) == {("places", 2)}


# --- against a model


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.integers(0, 3), st.integers(0, 60)),
        st.tuples(st.just("remove"), st.integers(0, 3), st.integers(0, 5)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


async def run_model(path: Path, steps: list[tuple[str, int, int]]) -> None:
    model: list[Hint] = []
    bound = 12 * hint(0).size_bytes
    async with contextless(path, bound) as box:
        for number, (what, node, size) in enumerate(steps):
            hints = box[0]
            if what == "keep":
                one = hint(number, node=node + 1, size=size, bucket=node)
                fits = sum(kept.size_bytes for kept in model) + one.size_bytes <= bound
                hints.keep(one)
                if fits:
                    model.append(one)
            elif what == "remove":
                await hints.flush()
                stored, _ = await hints.read(node + 1, 0, 100)
                for row in stored[:size]:
                    hints.remove(row)
                    model.remove(row.hint)
            else:
                await hints.close()
                box[0] = await reopened(path, bound)
            await box[0].flush()
        for node in range(1, 5):
            assert await all_of(box[0], node) == [one for one in model if one.node == node]
        assert box[0].view().size_bytes == sum(one.size_bytes for one in model)


async def reopened(path: Path, bound: int) -> HintLog:
    hints = HintLog(path, "test", wall_ms=Clock(), bounds=HintBounds(size_bytes=bound))
    await hints.start()
    return hints


@asynccontextmanager
async def contextless(path: Path, bound: int) -> AsyncIterator[list[HintLog]]:
    box = [await reopened(path, bound)]
    try:
        yield box
    finally:
        await box[0].close()


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_it_holds_what_a_list_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    asyncio.run(run_model(tmp_path_factory.mktemp("log") / "hints.db", steps))


# --- kill -9


@pytest.mark.slow
async def test_what_was_confirmed_survives_a_kill_between_commits(path: Path) -> None:
    for confirmed_at_least in (1, 500, 4000):
        confirmed = killed_after(path, confirmed_at_least)
        async with open_log(path) as hints:
            found = await all_of(hints, ONLY_COPY)
            assert hints.view().counters["corrupt"] == 0
            assert hints.view().marks == []
        keys = {one.key for one in found}
        assert {b"%d" % number for number in confirmed} <= keys
        path.unlink()


def killed_after(path: Path, count: int) -> list[int]:
    """Numbers of the hints that a process confirmed until it was killed."""
    command = [sys.executable, "-m", "tests.support.hint_writer", str(path)]
    process = subprocess.Popen(tied(command), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout as lines:
        confirmed = []
        for line in lines:
            number, _, problem = line.rstrip("\n").partition(" ")
            if not line.endswith("\n"):
                break  # cut off by the kill
            assert not problem
            confirmed.append(int(number))
            if len(confirmed) == count:
                process.send_signal(signal.SIGKILL)
    return confirmed
