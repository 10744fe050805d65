"""A hint file that can not be used: set it aside, begin a new one, keep what can still be read."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.background.errors import HintDiskFailed, HintFileError, HintFileForeign
from sidecar.background.hint_file import (
    COLUMNS,
    EVERYWHERE,
    Batch,
    HintFile,
    Mark,
    Page,
    Place,
    open_hint_file,
    page_of,
)
from sidecar.core.hints import Hint

_ROWS_AT_ONCE: Final = 500


class Salvaged(NamedTuple):
    """The new file, what became of the old one, and how many of its rows were corrupt."""

    file: HintFile
    aside: Path
    kept: int
    corrupt: int


def start_over(path: Path, cluster: str, why: HintFileError, now_ms: int) -> Salvaged:
    """Set the file at `path` aside and begin a new one, with the good rows of the old.

    Every bucket that the old one names is marked; where it could not be read to its end, all are.
    Rows of another cluster stay in the old file. Raises HintFileError.
    """
    try:
        aside = _set_aside(path, now_ms)
    except OSError as error:
        raise HintDiskFailed(path, f"it can not be set aside: {error}") from error
    file = open_hint_file(path, cluster)
    keep_rows = not isinstance(why, HintFileForeign)
    cause = f"{aside.name} was set aside"
    marks: dict[Place, Mark] = {}
    batch = Batch()
    kept = corrupt = 0
    for found in _readable(aside):
        if isinstance(found, Mark):
            marks[found.place] = found
            continue
        for place in _places(found):
            marks.setdefault(place, Mark(*place, cause, now_ms, 1))
        corrupt += len(found.corrupt)
        if keep_rows:
            kept += _keep(file, batch, [stored.hint for stored in found.hints])
    batch.marks = list(marks.values())
    file.commit(batch)
    return Salvaged(file, aside, kept, corrupt)


def take_over(file: HintFile, path: Path, cluster: str, now_ms: int) -> None:
    """Move all that the file at `path` holds to `file`. Raises HintFileError.

    A crash in between leaves some in both: a hint that is replayed twice is the same write.
    """
    other = open_hint_file(path, cluster)
    try:
        marks = {mark.place: mark for mark in file.marks() + other.marks()}
        for page in other.all_rows():
            for _, place in page.corrupt:
                marks[place] = Mark(*place, "its hint failed the checksum", now_ms, 1)
            file.commit(Batch([stored.hint for stored in page.hints]))
        file.commit(Batch(marks=list(marks.values())))
    finally:
        other.close()
    path.unlink(missing_ok=True)


def _keep(file: HintFile, batch: Batch, hints: list[Hint]) -> int:
    batch.adds += hints
    if len(batch.adds) >= _ROWS_AT_ONCE:
        file.commit(Batch(batch.adds))
        batch.adds = []
    return len(hints)


def _places(page: Page) -> set[Place]:
    sound = {(stored.hint.keyspace, stored.hint.bucket) for stored in page.hints}
    return sound | {place for _, place in page.corrupt}


def _set_aside(path: Path, now_ms: int) -> Path:
    """Rename it, with its write-ahead log; its new name."""
    aside = path.with_name(f"{path.name}.aside-{now_ms}")
    for suffix in ("-wal", "-shm", "-journal", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _readable(path: Path) -> Iterator[Page | Mark]:
    """Whatever can still be read; the mark of everywhere last when something may be missing."""
    whole = False
    try:
        connection = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            # Without it a file that is shorter than its header says is refused as a whole.
            connection.execute("PRAGMA writable_schema = ON")
            connection.text_factory = lambda raw: raw.decode(errors="replace")
            marks = "SELECT keyspace, bucket, cause, last_ms, lost FROM marks"
            yield from (Mark(*row) for row in connection.execute(marks))
            # By row id: the index of the nodes may be what is damaged.
            for row in connection.execute(f"SELECT {COLUMNS} FROM hints NOT INDEXED"):
                yield page_of([row], 0)
            whole = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        finally:
            connection.close()
    except sqlite3.Error:
        whole = False
    if not whole:
        yield Mark(*EVERYWHERE, f"{path.name} could not be read to its end", 0, 1)
