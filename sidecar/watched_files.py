"""Files of the configuration that are read again when they change, without a restart.

Files that can not be used leave what was read before in force, and `problem` says why.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from sidecar.config import ConfigError

LOOK_S: Final = 1.0
_SHARE: Final = 0.05  # of the processor's time, for what comes to nothing
_MOST_PAUSE_S: Final = 10.0

log = structlog.get_logger()

Stamp = tuple[tuple[int, int, int], ...]
Made = TypeVar("Made")


class UnusableError(Exception):
    """Nothing can be made of the files: the text names them and says why."""


class Watched(Protocol):
    """Files, and how they are doing."""

    problem: str  # empty: none
    failing_s: float  # processor's seconds that the last look took, if nothing could be made

    def reload(self) -> bool:
        """Look at the files; True when something new was made of them."""


class WatchedFiles(ABC, Generic[Made]):
    """Some files and what was made of them. Raises ConfigError when the first can not be used."""

    def __init__(self, paths: Iterable[str], what: str) -> None:
        self._paths = tuple(paths)
        self._what = what  # "the rights"
        self.problem = ""
        self.failing_s = 0.0
        self._stamp = stamp_of(self._paths)
        try:
            self.made = self._make()
        except UnusableError as error:
            raise ConfigError(f"configuration: {error}") from None

    @abstractmethod
    def _make(self) -> Made:
        """Of the files as they are now. Raises UnusableError."""

    def reload(self) -> bool:
        """Look at the files; True when something new was made of them."""
        stamp = stamp_of(self._paths)
        self.failing_s = 0.0
        if stamp == self._stamp:
            return False
        self._stamp = ()  # what is wrong may not be the files: they are looked at again
        began = time.thread_time()
        try:
            self.made = self._make()
        except UnusableError as error:
            self.failing_s = time.thread_time() - began
            problem = f"keeps {self._what} it had: {error}"
            if problem != self.problem:
                log.error("new files can not be used", why=problem)
            self.problem = problem
            return False
        self._stamp = stamp
        self.problem = ""
        log.info("files read again", files=self._paths)
        return True


def stamp_of(paths: Iterable[str]) -> Stamp:
    """Differs when one of the files does."""
    found = []
    for path in paths:
        try:
            facts = Path(path).stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((facts.st_mtime_ns, facts.st_size, facts.st_ino))
    return tuple(found)


async def keep_fresh(watched: Watched, changed: Callable[[], Any]) -> None:
    """Look at the files every second; `changed` is awaited when there is something new, and again
    until that goes well. Large files that stay bad take little of the time.
    """
    due, failure = False, ""
    while True:
        await asyncio.sleep(max(LOOK_S, min(watched.failing_s / _SHARE, _MOST_PAUSE_S)))
        before = failure
        try:
            due = watched.reload() or due
            if due:
                await changed()
            due, failure = False, ""
            if watched.problem == before:
                watched.problem = ""
        except Exception as error:  # who looks no more would never take a right away
            watched.problem = failure = _failure(error)
            if failure != before:
                log.exception("new files are not in force", why=failure)


def _failure(error: Exception) -> str:
    if isinstance(error, OSError):  # the servers of before go on
        return f"new connections still get what was before: {error}"
    return f"what was before may be in force still: {type(error).__name__}"
