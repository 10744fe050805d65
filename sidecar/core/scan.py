"""A page of a walk over a keyspace: buckets are listed, then each key is read at the level asked.

A key that is there from the beginning of a walk to its end is given; one that comes or goes
meanwhile may be. Each value is as a read at the level finds it at that moment: a walk is no
snapshot. What a listing found beyond the page is kept for a few seconds, for whoever goes on there.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from buckets.hashing import bucket_shift
from sidecar.core.count import Count, count_keys
from sidecar.core.listing import Listing
from sidecar.core.operation import Read
from sidecar.core.walk import Cursor, has_tag, start_of
from sidecar.errors import DataError

MAX_PAGE = 1000  # keys
MAX_PAGE_BYTES = 1 << 20  # of keys and values: then the page is full, with one key at least
BUCKETS_A_PAGE = 128
MOST_BUCKETS_AT_ONCE = 32
READS_AT_ONCE = 32
KEPT_S = 5.0
KEPT_WALKS = 32

Entry = tuple[Cursor, bytes]  # where a walk stands before this key, and the key


class ScanCore(Protocol):
    """The coordinator, as a scan sees it."""

    def list_keys(self, op: Listing, /) -> None: ...

    def read(self, op: Read, /) -> None: ...


class Found(NamedTuple):
    """One key that is there."""

    key: bytes
    value: bytes
    version: bytes
    expires_at_ms: int


class Scan:
    """One page. After `done`: `error`, or `found` and `next` (None: the walk is at its end).

    `wanted` may leave keys out by their names before they are read. `bucket`: only this one.
    """

    __slots__ = ("bucket", "cursor", "deadline", "done", "error", "found", "keyspace", "level",
                 "limit", "next", "prefix", "tag", "wanted")  # fmt: skip

    def __init__(
        self,
        keyspace: str,
        cursor: Cursor,
        *,
        level: int,
        deadline: float,
        done: Callable[["Scan"], None],
        prefix: bytes = b"",
        bucket: int | None = None,
        limit: int = 100,
        wanted: Callable[[bytes], bool] | None = None,
        tag: Any = None,
    ) -> None:
        self.keyspace = keyspace
        self.cursor = cursor
        self.level = level
        self.deadline = deadline
        self.done = done
        self.prefix = prefix
        self.bucket = bucket
        self.limit = max(1, min(limit, MAX_PAGE))
        self.wanted = wanted
        self.tag = tag
        self.error: DataError | None = None
        self.found: list[Found] = []
        self.next: Cursor | None = None


class Scanner:
    """Runs scans over a coordinator. `monotonic`: loop time, seconds."""

    def __init__(self, core: ScanCore, monotonic: Callable[[], float]) -> None:
        self.core = core
        self._monotonic = monotonic
        self._kept: OrderedDict[tuple[object, ...], _Kept] = OrderedDict()

    def scan(self, op: Scan) -> None:
        """Run a page; `op.done` is called once, perhaps before this returns."""
        _ScanRun(self, op).begin(self._kept.pop(_place(op, op.cursor), None))

    def count(self, op: Count) -> None:
        """Count roughly; `op.done` is called once, perhaps before this returns."""
        count_keys(self.core, op)

    def now(self) -> float:
        """Loop time."""
        return self._monotonic()

    def keep(self, op: Scan, kept: "_Kept") -> None:
        """Keys beyond a page, for the next one."""
        if op.next is not None and kept.entries:
            self._kept[_place(op, op.next)] = kept
            if len(self._kept) > KEPT_WALKS:
                self._kept.popitem(last=False)


def _place(op: Scan, cursor: Cursor) -> tuple[object, ...]:
    return op.keyspace, op.prefix, op.bucket, op.level, cursor


class _Kept(NamedTuple):
    entries: deque[Entry]
    beyond: Cursor | None
    until: float


class _ScanRun:
    """Lists, reads, and goes on, until the page is full or has cost enough."""

    __slots__ = (
        "_at_once",
        "_awaited",
        "_beyond",
        "_buckets_left",
        "_ended",
        "_entries",
        "_listings",
        "_op",
        "_reads",
        "_scanner",
        "_size_bytes",
    )  # fmt: skip

    def __init__(self, scanner: Scanner, op: Scan) -> None:
        self._scanner = scanner
        self._op = op
        self._entries: deque[Entry] = deque()
        self._beyond: Cursor | None = op.cursor  # where to list on; None: at the end
        self._listings: list[Listing] = []
        self._reads: list[tuple[Entry, Read]] = []
        self._awaited = 0
        self._at_once = 1
        self._buckets_left = BUCKETS_A_PAGE
        self._size_bytes = 0
        self._ended = False

    def begin(self, kept: _Kept | None) -> None:
        if kept is not None and self._scanner.now() < kept.until:
            self._entries, self._beyond = kept.entries, kept.beyond
        self._go_on()

    def _go_on(self) -> None:
        # A loop and no recursion: what is asked may be answered at once.
        while not self._ended and not self._awaited:
            if self._full():
                self._end()
            elif self._entries:
                self._read()
            elif self._beyond is not None and self._buckets_left > 0:
                self._list(self._beyond)
            else:
                self._end()

    def _full(self) -> bool:
        op = self._op
        return len(op.found) >= op.limit or self._size_bytes >= MAX_PAGE_BYTES

    # --- listing

    def _list(self, cursor: Cursor) -> None:
        self._listings = [self._listing(at) for at in self._next_buckets(cursor)]
        self._buckets_left -= len(self._listings)
        self._at_once = min(2 * self._at_once, MOST_BUCKETS_AT_ONCE)
        self._awaited = len(self._listings) + 1
        for listing in self._listings:
            self._scanner.core.list_keys(listing)
        self._awaited -= 1
        if not self._awaited:
            self._listed()

    def _next_buckets(self, cursor: Cursor) -> list[Cursor]:
        """Where to list: here, and in the buckets that follow if their number is known."""
        if self._one_bucket():
            return [cursor]
        first = cursor.bucket(bucket_shift(cursor.buckets))
        last = min(first + self._at_once, cursor.buckets)
        return [cursor, *(start_of(bucket, cursor.buckets) for bucket in range(first + 1, last))]

    def _one_bucket(self) -> bool:
        return self._op.bucket is not None or has_tag(self._op.prefix)

    def _listing(self, cursor: Cursor) -> Listing:
        op = self._op
        return Listing(
            op.keyspace,
            cursor,
            prefix=op.prefix,
            level=op.level,
            deadline=op.deadline,
            done=self._one_listed,
        )

    def _one_listed(self, _listing: Listing) -> None:
        self._awaited -= 1
        if not self._awaited:
            self._listed()
            self._go_on()

    def _listed(self) -> None:
        for listing in self._listings:
            if listing.error is not None:
                self._fail(listing.error)
                return
        for listing in self._listings:
            self._take(listing)
            if listing.more:
                break

    def _take(self, listing: Listing) -> None:
        op = self._op
        base = listing.cursor
        if base.buckets != listing.buckets:
            base = Cursor(base.place, 0, listing.buckets)
        wanted = op.wanted
        self._entries += (
            (base.at(walked), key) for walked, key in listing.keys if wanted is None or wanted(key)
        )
        if listing.more:
            self._beyond = base.at(listing.keys[-1][0] + 1)
        else:
            self._beyond = self._after(listing)

    def _after(self, listing: Listing) -> Cursor | None:
        following = listing.bucket + 1
        if self._one_bucket() or following >= listing.buckets:
            return None
        return start_of(following, listing.buckets)

    # --- reading

    def _read(self) -> None:
        op = self._op
        count = min(len(self._entries), READS_AT_ONCE, op.limit - len(op.found))
        self._reads = [self._reading(self._entries.popleft()) for _ in range(count)]
        self._awaited = count + 1
        for _, read in self._reads:
            self._scanner.core.read(read)
        self._awaited -= 1
        if not self._awaited:
            self._have_read()

    def _reading(self, entry: Entry) -> tuple[Entry, Read]:
        op = self._op
        level = op.level
        read = Read(op.keyspace, entry[1], level=level, deadline=op.deadline, done=self._one_read)
        return entry, read

    def _one_read(self, _read: Read) -> None:
        self._awaited -= 1
        if not self._awaited:
            self._have_read()
            self._go_on()

    def _have_read(self) -> None:
        for place, (_, read) in enumerate(self._reads):
            if self._full():  # large values: the rest is read again for the next page
                self._entries.extendleft(entry for entry, _ in reversed(self._reads[place:]))
                return
            if read.error is not None:
                self._fail(read.error)
                return
            record = read.record
            if record is not None:
                self._size_bytes += len(read.key) + len(record.value)
                found = Found(read.key, record.value, record.version, record.expires_at_ms)
                self._op.found.append(found)

    # --- ends

    def _fail(self, error: DataError) -> None:
        self._ended = True
        self._op.error = error
        self._op.done(self._op)

    def _end(self) -> None:
        op = self._op
        self._ended = True
        op.next = self._entries[0][0] if self._entries else self._beyond
        kept = _Kept(self._entries, self._beyond, self._scanner.now() + KEPT_S)
        self._scanner.keep(op, kept)
        op.done(op)
