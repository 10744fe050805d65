"""Whoever looks at files goes on looking, whatever comes of it."""

import asyncio
from collections.abc import Callable

import pytest

from sidecar import watched_files
from sidecar.watched_files import keep_fresh


class Files:
    """New each time; making something of them fails as told, once each."""

    def __init__(self, *failures: Exception) -> None:
        self.problem = ""
        self.problems: list[str] = []
        self._failures = list(failures)

    def reload(self) -> bool:
        self.problems.append(self.problem)
        self.problem = ""
        if self._failures:
            raise self._failures.pop()
        return True


async def looked_at(files: Files, changed: Callable[[int], None]) -> None:
    """Until a change is taken."""
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
    finally:
        looking.cancel()


def test_a_failure_does_not_end_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "LOOK_S", 0.001)
    files = Files(RuntimeError("odd"), OSError("full"))

    def fails_once(call: int) -> None:
        if call == 1:
            raise KeyError(call)

    asyncio.run(looked_at(files, fails_once))
    assert files.problems == [
        "",
        "new connections still get what was before: full",
        "what was before may be in force still: RuntimeError",
        "what was before may be in force still: KeyError",
    ]
