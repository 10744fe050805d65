"""The file of a hint log: hints and repair marks in SQLite (WAL), each commit one fsync.

Every method blocks and belongs to one thread. A commit that returns is on disk; a process that is
killed loses at most the commit under way, whole. Every row carries two checksums, one of its place
(node, keyspace, bucket) and one of all of it: SQLite has none, and a row that fails its own is no
hint, but still says which bucket has lost one as long as its place is sound.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest

from sidecar.background.errors import HintFileDamaged, HintFileForeign, hint_file_error
from sidecar.core.hints import ONLY_COPY, Hint

APPLICATION_ID: Final = 0x44616248  # "DabH", as `file` and PRAGMA application_id show it
SCHEMA_VERSION: Final = 1
EVERYWHERE: Final = ("", -1)  # the mark of all buckets: which of them lost a hint is not known
_CHECKSUM_BYTES: Final = 8
PAGE_BYTES: Final = 1 << 20
_RECORD_COLUMN: Final = 6
_EXPIRE_AT_ONCE: Final = 1000
_TABLES: Final = {"hints", "marks", "meta"}

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE hints (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    node INTEGER NOT NULL,
    keyspace TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    key BLOB NOT NULL,
    record BLOB NOT NULL,
    checksum BLOB NOT NULL
);
CREATE INDEX hints_by_node ON hints (node, id);
CREATE INDEX hints_by_age ON hints (created_ms) WHERE node != 0;
CREATE INDEX only_copies_by_age ON hints (created_ms) WHERE node = 0;
CREATE TABLE marks (
    keyspace TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    cause TEXT NOT NULL,
    last_ms INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    PRIMARY KEY (keyspace, bucket)
) WITHOUT ROWID;
"""

COLUMNS: Final = "id, node, keyspace, bucket, created_ms, key, record, checksum"
_INSERT: Final = (
    "INSERT INTO hints (node, keyspace, bucket, created_ms, key, record, checksum)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_MARK: Final = "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?)"

Place = tuple[str, int]  # keyspace and bucket


class StoredHint(NamedTuple):
    """A hint and its row."""

    id: int
    hint: Hint


class Mark(NamedTuple):
    """A bucket whose owners may differ for good, because hints of it were lost."""

    keyspace: str
    bucket: int
    cause: str  # of the last loss
    last_ms: int
    lost: int  # hints, as far as they could be counted

    @property
    def place(self) -> Place:
        """What is marked."""
        return self.keyspace, self.bucket


@dataclass(slots=True)
class Batch:
    """What one commit writes: all of it or nothing."""

    adds: list[Hint] = field(default_factory=list)
    removes: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    unmarks: list[Place] = field(default_factory=list)


class Page(NamedTuple):
    """Hints in order of their ids; `last_id` is where to go on, also past rows that are corrupt."""

    hints: list[StoredHint]
    last_id: int
    corrupt: list[tuple[int, Place]]  # id of the row, and its place (EVERYWHERE: not known)
    more: bool = False  # it is full: there may be more


class Group(NamedTuple):
    """How much waits for one node in one bucket."""

    node: int
    keyspace: str
    bucket: int
    hints: int
    size_bytes: int  # of keys and records alone


class HintFile:
    """Open it with `open_hint_file`. Raises HintFileError, never sqlite3's own."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    def commit(self, batch: Batch) -> set[int]:
        """Write a batch and fsync it; the ids that were really there to be removed.

        On HintDiskFailed the batch may be there or not.
        """
        with self._errors(), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, map(_row, batch.adds))
            delete = "DELETE FROM hints WHERE id = ?"
            removed = {n for n in batch.removes if connection.execute(delete, (n,)).rowcount}
            connection.executemany(
                "DELETE FROM marks WHERE keyspace = ? AND bucket = ?", batch.unmarks
            )
            connection.executemany(_MARK, batch.marks)
        return removed

    def read(self, node: int, after_id: int, count: int) -> Page:
        """Up to `count` hints for `node` with ids above `after_id`, each checked.

        Fewer when they are large: not more than one beyond PAGE_BYTES.
        """
        rows: list[tuple[object, ...]] = []
        size_bytes = 0
        with self._errors():
            found = self._connection.execute(
                f"SELECT {COLUMNS} FROM hints WHERE node = ? AND id > ? ORDER BY id LIMIT ?",
                (node, after_id, count),
            )
            for row in found:
                rows.append(row)
                size_bytes += len(row[_RECORD_COLUMN])
                if size_bytes > PAGE_BYTES:
                    break
            found.close()
        full = len(rows) == count or size_bytes > PAGE_BYTES
        return page_of(rows, after_id)._replace(more=full)

    def expire(self, cutoff_ms: int, now_ms: int) -> list[Group]:
        """Drop what was made at `cutoff_ms` or before, marking its buckets in the same commit.

        A bounded number at a time; never an only copy. Returns what was dropped.
        """
        with self._errors(), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute(
                "SELECT id, node, keyspace, bucket, length(key) + length(record) FROM hints"
                " WHERE created_ms <= ? AND node != 0 ORDER BY created_ms LIMIT ?",
                (cutoff_ms, _EXPIRE_AT_ONCE),
            ).fetchall()
            groups = _grouped(rows)
            connection.executemany("DELETE FROM hints WHERE id = ?", ((row[0],) for row in rows))
            for group in groups:
                self._count_loss(group, now_ms)
        return groups

    def _count_loss(self, group: Group, now_ms: int) -> None:
        self._connection.execute(
            "INSERT INTO marks VALUES (?, ?, 'aged out', ?, ?) ON CONFLICT DO UPDATE SET"
            " cause = excluded.cause, last_ms = excluded.last_ms, lost = lost + excluded.lost",
            (group.keyspace, group.bucket, now_ms, group.hints),
        )

    def groups(self) -> list[Group]:
        """Everything that waits, added up by node and bucket (one pass over the file)."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT node, keyspace, bucket, count(*), sum(length(key) + length(record))"
                " FROM hints GROUP BY node, keyspace, bucket"
            ).fetchall()
        return [Group(*row) for row in rows]

    def oldest_ms(self, node: int) -> int:
        """When the first hint that waits for `node` was made; 0: none waits.

        Of only copies the oldest, whichever was kept first: they are as old as their versions.
        """
        first = "SELECT created_ms FROM hints WHERE node = ? ORDER BY id LIMIT 1"
        oldest = "SELECT min(created_ms) FROM hints WHERE node = 0 AND ? = 0"
        with self._errors():
            statement = oldest if node == ONLY_COPY else first
            row = self._connection.execute(statement, (node,)).fetchone()
        return int(row[0] or 0) if row else 0

    def marks(self) -> list[Mark]:
        """All repair marks."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT keyspace, bucket, cause, last_ms, lost FROM marks"
            ).fetchall()
        return [Mark(*row) for row in rows]

    def all_rows(self) -> Iterator[Page]:
        """Everything, page by page, for whoever moves it to another file."""
        last_id = 0
        while True:
            with self._errors():
                rows = self._connection.execute(
                    f"SELECT {COLUMNS} FROM hints WHERE id > ? ORDER BY id LIMIT 500", (last_id,)
                ).fetchall()
            if not rows:
                return
            page = page_of(rows, last_id)
            last_id = page.last_id
            yield page

    def shrink(self) -> None:
        """Give the room of deleted rows back to the disk; for when little is left."""
        with self._errors():
            # First the write-ahead log: on a full disk the vacuum has no other room.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            # As a script: execute() would take one step, and a step frees one page.
            self._connection.executescript("PRAGMA incremental_vacuum")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Let go of the file."""
        with self._errors():
            self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise hint_file_error(self.path, error) from error


def open_hint_file(path: Path, cluster: str) -> HintFile:
    """Open a file, or make it. Raises HintFileError: damaged, of another cluster, or no access."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    except OSError as error:
        raise hint_file_error(path, sqlite3.OperationalError(str(error))) from error
    except sqlite3.Error as error:
        raise hint_file_error(path, error) from error
    try:
        _prepare(connection, path, cluster)
    except sqlite3.Error as error:
        connection.close()
        raise hint_file_error(path, error) from error
    except BaseException:
        connection.close()
        raise
    return HintFile(connection, path)


def _prepare(connection: sqlite3.Connection, path: Path, cluster: str) -> None:
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    # One process has the file as long as it lives: two would replay and count each other's hints.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded only by an empty file
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL")  # WAL with NORMAL would not fsync a commit
    connection.execute(f"PRAGMA journal_size_limit = {8 << 20}").fetchall()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        _create(connection, cluster)
        return
    if not tables >= _TABLES or _number(connection, "application_id") != APPLICATION_ID:
        raise HintFileDamaged(path, "it is no hint file")
    version = _number(connection, "user_version")
    if version != SCHEMA_VERSION:
        raise HintFileDamaged(path, f"its format is {version}, and this program knows 1")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise HintFileDamaged(path, str(verdict))
    row = connection.execute("SELECT value FROM meta WHERE key = 'cluster'").fetchone()
    if row is None or row[0] != cluster:
        raise HintFileForeign(path, f"it is of cluster {row[0] if row else '?'}, not {cluster}")


def _create(connection: sqlite3.Connection, cluster: str) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('cluster', ?)", (cluster,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _number(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


# --- rows


def _place_checksum(node: int, keyspace: str, bucket: int) -> bytes:
    return xxh3_64_digest(f"{node} {bucket} {keyspace}".encode(errors="replace"))


def _row(hint: Hint) -> tuple[int, str, int, int, bytes, bytes, bytes]:
    return (hint.node, hint.keyspace, hint.bucket, hint.created_ms, hint.key, hint.record,
            _checksum(hint))  # fmt: skip


def _checksum(hint: Hint) -> bytes:
    place = _place_checksum(hint.node, hint.keyspace, hint.bucket)
    head = b"%b%d %d " % (place, hint.created_ms, len(hint.key))
    return place + xxh3_64_digest(head + hint.key + hint.record)


def page_of(rows: Sequence[tuple[object, ...]], after_id: int) -> Page:
    page = Page([], after_id, [])
    for row in rows:
        row_id = int(str(row[0]))
        page = page._replace(last_id=row_id)
        hint = _decode(row)
        if hint is not None:
            page.hints.append(StoredHint(row_id, hint))
        else:
            page.corrupt.append((row_id, _sound_place(row)))
    return page


def _decode(row: Sequence[object]) -> Hint | None:
    match row:
        case [int(), int(node), str(keyspace), int(bucket), int(created_ms), bytes(key),
              bytes(record), bytes(checksum)]:  # fmt: skip
            hint = Hint(keyspace, bucket, key, record, node, created_ms)
            return hint if _checksum(hint) == checksum else None
    return None


def _sound_place(row: Sequence[object]) -> Place:
    _, node, keyspace, bucket, *_, checksum = row
    if isinstance(node, int) and isinstance(keyspace, str) and isinstance(bucket, int):
        expected = _place_checksum(node, keyspace, bucket)
        if isinstance(checksum, bytes) and checksum[:_CHECKSUM_BYTES] == expected:
            return keyspace, bucket
    return EVERYWHERE


def _grouped(rows: Sequence[tuple[int, int, str, int, int]]) -> list[Group]:
    sums: dict[tuple[int, str, int], tuple[int, int]] = {}
    for _, node, keyspace, bucket, size_bytes in rows:
        count, total = sums.get((node, keyspace, bucket), (0, 0))
        sums[node, keyspace, bucket] = (count + 1, total + size_bytes)
    return [Group(*place, *sizes) for place, sizes in sums.items()]
