"""Files of the configuration that are read again when they change, without a restart.

Files that can not be used leave what was read before in force, and `problem` says why.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

LOOK_S: Final = 1.0

log = structlog.get_logger()

Stamp = tuple[tuple[int, int, int], ...]


class Watched(Protocol):
    """What is made of some files."""

    problem: str  # empty: none

    def reload(self) -> bool:
        """Look at the files; True when something new was made of them."""


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
    """Look at the files every second; `changed` is awaited when there is something new."""
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            if watched.reload():
                await changed()
        except OSError as error:  # the servers of before go on
            watched.problem = f"new connections still get what was before: {error}"
            log.exception("no server with the new files")
        except Exception as error:  # who looks no more would never take a right away
            watched.problem = f"what was before may be in force still: {type(error).__name__}"
            log.exception("new files are not in force")
