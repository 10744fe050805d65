"""How many keys a keyspace has, roughly: one owner of each bucket counts its own copy.

Tombstones that were not purged and values that have expired count too.
"""

from collections.abc import Callable
from typing import Any, Protocol

from buckets.bucket_map import Consistency
from sidecar.core.listing import Listing
from sidecar.core.walk import Cursor, start_of
from sidecar.errors import DataError

BUCKETS_AT_ONCE = 64


class CountCore(Protocol):
    """The coordinator, as a count sees it."""

    def list_keys(self, op: Listing, /) -> None: ...


class Count:
    """After `done`: `error`, or `total`."""

    __slots__ = ("deadline", "done", "error", "keyspace", "tag", "total")

    def __init__(
        self, keyspace: str, *, deadline: float, done: Callable[["Count"], None], tag: Any = None
    ) -> None:
        self.keyspace = keyspace
        self.deadline = deadline
        self.done = done
        self.tag = tag
        self.total = 0
        self.error: DataError | None = None


def count_keys(core: CountCore, op: Count) -> None:
    """Count; `op.done` is called once, perhaps before this returns."""
    _CountRun(core, op).go_on()


class _CountRun:
    """A number of buckets at a time; the first reply says how many there are."""

    __slots__ = ("_asking", "_awaited", "_buckets", "_core", "_next", "_op")

    def __init__(self, core: CountCore, op: Count) -> None:
        self._core = core
        self._op = op
        self._next = 0
        self._buckets = 1
        self._awaited = 0
        self._asking = False

    def go_on(self) -> None:
        if self._asking:
            return
        self._asking = True
        while self._op.error is None and self._awaited < BUCKETS_AT_ONCE:
            if self._next >= self._buckets:
                break
            cursor = start_of(self._next, self._buckets) if self._next else Cursor()
            self._next += 1
            self._awaited += 1
            self._core.list_keys(self._listing(cursor))
        self._asking = False
        if not self._awaited:
            self._op.done(self._op)

    def _listing(self, cursor: Cursor) -> Listing:
        op = self._op
        level = Consistency.UNSPECIFIED
        return Listing(
            op.keyspace,
            cursor,
            prefix=b"",
            level=level,
            deadline=op.deadline,
            done=self._counted,
            counting=True,
        )

    def _counted(self, listing: Listing) -> None:
        op = self._op
        self._awaited -= 1
        op.total += listing.count
        op.error = op.error or listing.error
        self._buckets = listing.buckets or self._buckets
        self.go_on()
