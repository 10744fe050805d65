"""The hints of a worker as a whole: its files, and those of workers that are no more."""

import asyncio
import time
from pathlib import Path

import pytest

from replicas.version import HybridClock
from sidecar.background.hint_file import Batch, Mark, open_hint_file
from sidecar.config import ConfigError, SidecarConfig
from sidecar.core.coordinator import Coordinator
from sidecar.core.hints import Hint
from sidecar.hinting import Hinting, hint_path, log_id
from tests.support.control_planes import until

NOW_MS = 1_000_000


def hinting(state_dir: Path, worker: int = 0, workers: int = 1) -> Hinting:
    config = SidecarConfig(cluster="test", zone="a", state_dir=str(state_dir), workers=workers)
    core = Coordinator(
        zone="a", clock=HybridClock(bytes(8)), wall_ms=lambda: NOW_MS, monotonic=time.monotonic
    )
    made = Hinting(config, worker, core, wall_ms=lambda: NOW_MS, monotonic=time.monotonic)
    assert core.hints is made.log
    return made


def hint(number: int) -> Hint:
    return Hint("ks", 1, b"%d" % number, b"record", 3, NOW_MS)


def test_every_worker_has_a_file_of_its_own() -> None:
    assert hint_path("/state", 0) != hint_path("/state", 1)
    assert hint_path("", 0) is None


async def test_what_workers_that_are_no_more_left_is_taken_over(tmp_path: Path) -> None:
    for worker in (1, 2):
        path = hint_path(str(tmp_path), worker)
        assert path is not None
        file = open_hint_file(path, "test")
        marks = [Mark("ks", worker, "why", 1, 1)]
        file.commit(Batch([hint(n) for n in range(600)], marks=marks))
        file.close()
    first = hinting(tmp_path, workers=2)  # worker 1 is there still, worker 2 is not
    first.start()
    await until(lambda: first.log.nodes() == [3], "the hints are taken over")
    view = first.view()
    assert view.nodes[0].count == 600
    assert [mark.bucket for mark in view.marks] == [2]
    await first.close()
    assert sorted(p.name for p in tmp_path.glob("*.db")) == ["hints-0.db", "hints-1.db"]


async def test_a_hint_made_before_the_file_is_open_is_kept(tmp_path: Path) -> None:
    first = hinting(tmp_path)
    first.start()
    first.log.keep(hint(1))
    assert first.view().state == "opening"
    await until(lambda: first.view().counters["stored"] == 1, "it is on disk")
    await first.finish(0.1)
    await first.close()
    assert first.view().nodes[0].count == 1


async def test_it_may_end_before_it_has_begun(tmp_path: Path) -> None:
    first = hinting(tmp_path)
    first.start()
    await asyncio.sleep(0)
    await first.finish(0.1)
    await first.close()


def test_the_logs_of_a_folder_have_one_name_over_all_starts(tmp_path: Path) -> None:
    first, other = str(tmp_path / "first"), str(tmp_path / "other")
    assert len(log_id(first)) == 32
    assert log_id(first) == log_id(first) != log_id(other)
    assert log_id("") == ""


def test_a_folder_that_takes_no_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "hints-id").mkdir()
    with pytest.raises(ConfigError, match="hints-id"):
        log_id(str(tmp_path))
