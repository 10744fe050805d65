"""Whoever looks at files goes on looking, whatever comes of it."""

import asyncio
import time
from collections.abc import Callable

import pytest

from sidecar import watched_files
from sidecar.watched_files import keep_fresh


class Files:
    """New once; looking at them fails as told before that."""

    def __init__(self, *failures: Exception) -> None:
        self.problem = ""
        self.failing_s = 0.0
        self.problems: list[str] = []
        self._failures = list(failures)
        self._new = True

    def reload(self) -> bool:
        self.problems.append(self.problem)
        if self._failures:
            raise self._failures.pop()
        new, self._new = self._new, False
        return new


async def looked_at(files: Files, changed: Callable[[int], None]) -> int:
    """Until a change is taken, and looked at once more; how often it was offered."""
    calls = 0
    taken = asyncio.Event()

    async def take() -> None:
        nonlocal calls
        calls += 1
        changed(calls)
        taken.set()

    looking = asyncio.create_task(keep_fresh(files, take))
    try:
        async with asyncio.timeout(10):
            await taken.wait()
            looks = len(files.problems)
            while len(files.problems) < looks + 2:
                await asyncio.sleep(0.001)
    finally:
        looking.cancel()
    return calls


def test_a_failure_does_not_end_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "LOOK_S", 0.001)
    files = Files(RuntimeError("odd"), OSError("full"))

    def fails_once(call: int) -> None:
        if call == 1:
            raise KeyError(call)

    assert asyncio.run(looked_at(files, fails_once)) == 2
    assert files.problems[:5] == [
        "",
        "new connections still get what was before: full",
        "what was before may be in force still: RuntimeError",
        "what was before may be in force still: KeyError",
        "",
    ]


def test_what_could_not_be_put_in_force_is_tried_again_though_the_files_did_not_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watched_files, "LOOK_S", 0.001)
    files = Files()

    def fails_twice(call: int) -> None:
        if call < 3:
            raise OSError(24, "Too many open files")

    assert asyncio.run(looked_at(files, fails_twice)) == 3
    problem = "new connections still get what was before: [Errno 24] Too many open files"
    assert files.problems[:4] == ["", problem, problem, ""]


def test_bad_files_after_ones_that_are_not_in_force_yet_stay_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watched_files, "LOOK_S", 0.001)

    class BadAfterwards(Files):
        def reload(self) -> bool:
            new = super().reload()
            if not new:
                self.problem = "bad"
            return new

    def fails_once(call: int) -> None:
        if call == 1:
            raise OSError("full")

    files = BadAfterwards()
    assert asyncio.run(looked_at(files, fails_once)) == 2
    assert files.problem == "bad"


@pytest.mark.parametrize(("failing_s", "pause_s"), [(0.005, 0.1), (3600.0, 0.15)])
def test_bad_files_that_take_long_leave_most_of_the_time_to_others(
    monkeypatch: pytest.MonkeyPatch, failing_s: float, pause_s: float
) -> None:
    monkeypatch.setattr(watched_files, "LOOK_S", 0.001)
    monkeypatch.setattr(watched_files, "_MOST_PAUSE_S", 0.15)
    files = Files()
    files.failing_s = failing_s

    async def first_look() -> float:
        looking = asyncio.create_task(keep_fresh(files, asyncio.Event().wait))
        began = time.monotonic()
        while not files.problems:
            await asyncio.sleep(0.001)
        looking.cancel()
        return time.monotonic() - began

    assert asyncio.run(first_look()) >= pause_s
