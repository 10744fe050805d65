"""The file of the embedded store: tables and blocking operations, each one SQLite transaction.

Every method blocks and belongs to one thread. Several processes of one host may share the file.
Time is milliseconds of CLOCK_MONOTONIC, which all processes of a host share and which nobody can
set; it starts again with the machine, and a lease that seems to end further away than it is long is
therefore from before a restart, and over. That holds only for a time taken under the write lock:
with one from before the wait for the lock, a lease renewed meanwhile would seem to be too long.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.coordination.errors import (
    BadPath,
    Conflict,
    NotEmpty,
    NotFound,
    Unavailable,
    WrongStore,
)
from control_plane.coordination.paths import parents
from control_plane.coordination.primitives import Holding, PutEphemeral, SessionOp
from control_plane.coordination.store import ABSENT, ANY, Check, Delete, Entry, Expect, Put

APPLICATION_ID: Final = 0x44616262  # "Dabb", as `file` and PRAGMA application_id show it
SCHEMA_VERSION: Final = 1
_BUSY_PAUSE_S: Final = 0.02

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ends_at_ms INTEGER NOT NULL,
    length_ms INTEGER NOT NULL
);
CREATE TABLE entries (
    path TEXT PRIMARY KEY,
    parent TEXT NOT NULL,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    change INTEGER NOT NULL,
    session INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX entries_by_parent ON entries (parent);
CREATE INDEX entries_by_session ON entries (session) WHERE session != 0;
INSERT INTO meta VALUES ('last_change', '0');
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """A path's state as a watch compares it: `change` differs after each write, even when it was
    made anew.
    """

    version: int
    change: int


class SqliteFile:
    """Open with `open_file`. `session_id` is 0 until the first `renew`."""

    def __init__(
        self, connection: sqlite3.Connection, session_length_ms: int, clock_ms: Callable[[], int]
    ) -> None:
        self._connection = connection
        self._session_length_ms = session_length_ms
        self._clock_ms = clock_ms
        self.session_id = 0

    def read(self, paths: Sequence[str]) -> list[Entry | None]:
        with self._reading():
            return [self._entry(path) for path in paths]

    def children(self, path: str) -> list[str]:
        with self._reading():
            rows = self._connection.execute(
                "SELECT path FROM entries WHERE parent = ? ORDER BY path", (path,)
            )
            return [str(child).rsplit("/", 1)[1] for (child,) in rows]

    def read_tree(self, prefix: str) -> dict[str, Entry]:
        with self._reading():
            # '0' is the character after '/': exactly what lies below, whatever its depth.
            rows = self._connection.execute(
                "SELECT path, value, version FROM entries"
                " WHERE path = ? OR (path > ? AND path < ?) ORDER BY path",
                (prefix, prefix + "/", prefix + "0"),
            )
            return {path: Entry(bytes(value), version) for path, value, version in rows}

    def seen(self, paths: Sequence[str]) -> list[Seen | None]:
        with self._reading():
            return [None if (row := self._row(path)) is None else row[0] for path in paths]

    def data_version(self) -> int:
        """Changes when another connection committed. Our own commits do not show."""
        with self._reading():
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            return int(version)

    def holding(self, path: str) -> Holding | None:
        with self._writing():
            self._renew()
            row = self._row(path)
            if row is None:
                return None
            seen, session = row
            return Holding(seen.version, session == self.session_id, session != 0)

    def apply(self, ops: Sequence[SessionOp]) -> list[int]:
        with self._writing():
            self._renew()
            return [self._apply_one(index, op) for index, op in enumerate(ops)]

    def delete_tree(self, prefix: str) -> None:
        with self._writing():
            self._connection.execute(
                "DELETE FROM entries WHERE path = ? OR (path > ? AND path < ?)",
                (prefix, prefix + "/", prefix + "0"),
            )

    def renew(self) -> None:
        """Keep the session alive, or begin a new one when it ended; end those of others whose time
        is over.
        """
        with self._writing():
            self._renew()

    def end_session(self) -> None:
        with self._writing():
            self._connection.execute("DELETE FROM sessions WHERE id = ?", (self.session_id,))
            self._connection.execute(
                "DELETE FROM entries WHERE session = ? AND session != 0", (self.session_id,)
            )
            self.session_id = 0

    def close(self) -> None:
        self._connection.close()

    def _renew(self) -> None:
        """Within a write, and first in it."""
        now_ms = self._clock_ms()
        self._end_overdue(now_ms)
        ends_at_ms = now_ms + self._session_length_ms
        renewed = self._connection.execute(
            "UPDATE sessions SET ends_at_ms = ? WHERE id = ?", (ends_at_ms, self.session_id)
        )
        if renewed.rowcount == 0:
            begun = self._connection.execute(
                "INSERT INTO sessions (ends_at_ms, length_ms) VALUES (?, ?)",
                (ends_at_ms, self._session_length_ms),
            )
            self.session_id = int(begun.lastrowid or 0)

    def _end_overdue(self, now_ms: int) -> None:
        overdue = "SELECT id FROM sessions WHERE ends_at_ms <= ? OR ends_at_ms > ? + length_ms"
        for (session,) in self._connection.execute(overdue, (now_ms, now_ms)).fetchall():
            self._connection.execute("DELETE FROM entries WHERE session = ?", (session,))
            self._connection.execute("DELETE FROM sessions WHERE id = ?", (session,))

    def _apply_one(self, index: int, op: SessionOp) -> int:
        row = self._row(op.path)
        actual = None if row is None else row[0].version
        match op:
            case Put():
                _guard(index, op.path, op.expect, actual)
                return self._put(op.path, op.value, actual, session=0)
            case PutEphemeral():
                _guard(index, op.path, ABSENT, actual)
                return self._put(op.path, op.value, None, session=self.session_id)
            case Check():
                _guard(index, op.path, op.expect, actual)
                return -1 if actual is None else actual
            case Delete():
                return self._delete(index, op, actual)

    def _put(self, path: str, value: bytes, actual: int | None, *, session: int) -> int:
        if actual is not None:
            self._connection.execute(
                "UPDATE entries SET value = ?, version = ?, change = ? WHERE path = ?",
                (value, actual + 1, self._next_change(), path),
            )
            return actual + 1
        above = parents(path)
        for parent in above:
            self._make_parent(parent, path)
        self._insert(path, value, session)
        return 0

    def _make_parent(self, parent: str, path: str) -> None:
        row = self._row(parent)
        if row is None:
            self._insert(parent, b"", 0)
        elif row[1] != 0:
            raise BadPath(f"{path} cannot be made: {parent} is ephemeral and has no children")

    def _insert(self, path: str, value: bytes, session: int) -> None:
        self._connection.execute(
            "INSERT INTO entries (path, parent, value, version, change, session)"
            " VALUES (?, ?, ?, 0, ?, ?)",
            (path, path.rpartition("/")[0], value, self._next_change(), session),
        )

    def _delete(self, index: int, op: Delete, actual: int | None) -> int:
        if actual is None and op.expect is ANY:
            raise NotFound(op.path, index)
        _guard(index, op.path, op.expect, actual)
        if self._connection.execute(
            "SELECT 1 FROM entries WHERE parent = ? LIMIT 1", (op.path,)
        ).fetchone():
            raise NotEmpty(op.path, index)
        self._connection.execute("DELETE FROM entries WHERE path = ?", (op.path,))
        return -1

    def _entry(self, path: str) -> Entry | None:
        row = self._connection.execute(
            "SELECT value, version FROM entries WHERE path = ?", (path,)
        ).fetchone()
        return None if row is None else Entry(bytes(row[0]), int(row[1]))

    def _row(self, path: str) -> tuple[Seen, int] | None:
        row = self._connection.execute(
            "SELECT version, change, session FROM entries WHERE path = ?", (path,)
        ).fetchone()
        return None if row is None else (Seen(int(row[0]), int(row[1])), int(row[2]))

    def _next_change(self) -> int:
        (change,) = self._connection.execute(
            "UPDATE meta SET value = value + 1 WHERE key = 'last_change' RETURNING value"
        ).fetchone()
        return int(change)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with _typed_errors(maybe_applied=False):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with _typed_errors(maybe_applied=False):
            self._connection.execute("BEGIN IMMEDIATE")
        before = self.session_id
        try:
            with _typed_errors(maybe_applied=True):
                yield
                self._connection.execute("COMMIT")
        except BaseException:
            self.session_id = before
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def open_file(
    path: Path,
    *,
    busy_timeout_ms: int,
    session_length_ms: int,
    cluster: str | None,
    clock_ms: Callable[[], int] = monotonic_ms,
) -> SqliteFile:
    """Open or make the file. WrongStore when it is not ours; Unavailable when it cannot be opened
    or is locked.
    """
    with _typed_errors(maybe_applied=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Any thread may close it; all else happens in one.
        connection = sqlite3.connect(
            path, timeout=busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, path, cluster)
            _use_wal(connection, deadline_s=time.monotonic() + busy_timeout_ms / 1000)
        except BaseException:
            connection.close()
            raise
    return SqliteFile(connection, session_length_ms, clock_ms)


def _prepare(connection: sqlite3.Connection, path: Path, cluster: str | None) -> None:
    connection.execute("BEGIN IMMEDIATE")
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id == 0 and tables == 0:
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif application_id != APPLICATION_ID:
        raise WrongStore(f"{path} is an SQLite file of something else; choose another file")
    _check_schema(connection, path)
    _check_cluster(connection, path, cluster)
    connection.execute("COMMIT")


def _use_wal(connection: sqlite3.Connection, deadline_s: float) -> None:
    # The busy timeout does not cover this pragma, and two processes may make the file at once.
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(_BUSY_PAUSE_S)
    # FULL: an epoch that was seen must not be taken back by a power cut.
    connection.execute("PRAGMA synchronous = FULL")


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise WrongStore(
            f"{path} has schema {version}, this program knows {SCHEMA_VERSION};"
            " use the program that made it"
        )


def _check_cluster(connection: sqlite3.Connection, path: Path, cluster: str | None) -> None:
    if cluster is None:
        return
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('cluster', ?)", (cluster,))
    (stamped,) = connection.execute("SELECT value FROM meta WHERE key = 'cluster'").fetchone()
    if stamped != cluster:
        raise WrongStore(
            f"{path} belongs to the cluster {stamped!r}, not to {cluster!r}; choose another file"
        )


def _guard(index: int, path: str, expect: Expect, actual: int | None) -> None:
    if expect is ANY or expect == actual or (expect is ABSENT and actual is None):
        return
    raise Conflict(
        path,
        "absent" if expect is ABSENT else expect,
        "absent" if actual is None else actual,
        index,
    )


@contextmanager
def _typed_errors(*, maybe_applied: bool) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(
            f"the coordination file: {error}; try again", maybe_applied=maybe_applied
        ) from error
    except sqlite3.DatabaseError as error:
        raise WrongStore(f"the coordination file is damaged or no SQLite file: {error}") from error
    except OSError as error:
        raise Unavailable(f"the coordination file: {error}") from error
