"""What a hint log holds, added up in memory: for bounds, for the replay, and for people."""

from collections.abc import Iterable

import msgspec

from sidecar.background.hint_file import EVERYWHERE, Group, Mark, Place
from sidecar.core.hints import ROW_OVERHEAD_BYTES, Hint

COUNTED = (
    "stored",
    "replayed",
    "purged",
    "refused_for_good",
    "lost",
    "aged_out",
    "corrupt",
)


class BucketHints(msgspec.Struct):
    """Hints that wait for one node in one bucket."""

    keyspace: str
    bucket: int
    count: int
    size_bytes: int


class NodeHints(msgspec.Struct):
    """Hints that wait for one node. `node` 0: for every owner, of level ANY, the only copies."""

    node: int
    count: int
    size_bytes: int
    oldest_ms: int  # Unix milliseconds
    buckets: list[BucketHints]


class MarkView(msgspec.Struct):
    """A bucket in need of repair; bucket -1 of no keyspace: all of them."""

    keyspace: str
    bucket: int
    cause: str
    last_ms: int
    lost: int
    durable: bool  # on disk, so that it outlives this process


class HintsView(msgspec.Struct):
    """Everything about one worker's hints."""

    state: str  # on, opening, failing, off
    problem: str  # why not "on"
    size_bytes: int
    bound_bytes: int
    queued_bytes: int
    nodes: list[NodeHints]
    marks: list[MarkView]
    counters: dict[str, int]


class Ledger:
    """Counts of what is on disk. `counters` are since the start of the process."""

    def __init__(self) -> None:
        self.counters = dict.fromkeys(COUNTED, 0)
        self.size_bytes = 0
        self._groups: dict[int, dict[Place, tuple[int, int]]] = {}
        self._oldest: dict[int, int] = {}
        self._marks: dict[Place, Mark] = {}
        self._undurable: set[Place] = set()

    def load(self, groups: Iterable[Group], oldest: dict[int, int], marks: Iterable[Mark]) -> None:
        """Take over what a file holds; marks that could not be written yet stay."""
        self.size_bytes = 0
        self._groups.clear()
        for group in groups:
            self._change(group.node, group.keyspace, group.bucket, group.hints,
                         group.size_bytes + group.hints * ROW_OVERHEAD_BYTES)  # fmt: skip
        self._oldest = oldest
        undurable = {place: self._marks[place] for place in self._undurable}
        self._marks = {mark.place: mark for mark in marks} | undurable

    # --- hints

    def added(self, hint: Hint) -> None:
        """It is on disk."""
        self._change(hint.node, hint.keyspace, hint.bucket, 1, hint.size_bytes)
        oldest_ms = self._oldest.get(hint.node, hint.created_ms)
        self._oldest[hint.node] = min(oldest_ms, hint.created_ms)

    def removed(self, hint: Hint) -> None:
        """It is gone from the disk."""
        self._change(hint.node, hint.keyspace, hint.bucket, -1, -hint.size_bytes)

    def dropped(self, group: Group) -> None:
        """As many are gone from the disk."""
        size_bytes = group.size_bytes + group.hints * ROW_OVERHEAD_BYTES
        self._change(group.node, group.keyspace, group.bucket, -group.hints, -size_bytes)

    def _change(self, node: int, keyspace: str, bucket: int, count: int, size_bytes: int) -> None:
        buckets = self._groups.setdefault(node, {})
        had, had_bytes = buckets.get((keyspace, bucket), (0, 0))
        self.size_bytes += size_bytes
        if had + count > 0:
            buckets[keyspace, bucket] = (had + count, had_bytes + size_bytes)
            return
        buckets.pop((keyspace, bucket), None)
        if not buckets:
            del self._groups[node]
            self._oldest.pop(node, None)

    @property
    def hints(self) -> int:
        """How many there are."""
        return sum(count for buckets in self._groups.values() for count, _ in buckets.values())

    def nodes(self) -> list[int]:
        """Numbers of the nodes for which hints wait."""
        return list(self._groups)

    def set_oldest(self, oldest: dict[int, int]) -> None:
        """Times of the first hints of these nodes, looked up."""
        self._oldest.update({n: at_ms for n, at_ms in oldest.items() if n in self._groups})

    # --- marks

    def mark(self, place: Place, cause: str, now_ms: int, lost: int) -> bool:
        """Mark a bucket; whether that is news: it was not marked for this cause yet."""
        before = self._marks.get(place)
        total = lost + (before.lost if before is not None else 0)
        self._marks[place] = Mark(*place, cause, now_ms, total)
        if before is not None and before.cause == cause:
            return False  # that mark is on disk, or will be; its count need not be exact there
        self._undurable.add(place)
        return True

    def marked_on_disk(self, groups: Iterable[Group], cause: str, now_ms: int) -> None:
        """The file has marked these buckets itself."""
        for group in groups:
            if self.mark((group.keyspace, group.bucket), cause, now_ms, group.hints):
                self._undurable.discard((group.keyspace, group.bucket))

    def undurable(self) -> list[Mark]:
        """Marks that are not on disk yet."""
        return [self._marks[place] for place in self._undurable]

    def written(self, marks: Iterable[Mark]) -> None:
        """These are on disk."""
        self._undurable.difference_update(mark.place for mark in marks)

    def unmark(self, place: Place, before_ms: int) -> bool:
        """Repaired, by a repair that began at `before_ms`; False when it was marked since."""
        mark = self._marks.get(place)
        if mark is None or mark.last_ms >= before_ms:
            return False
        del self._marks[place]
        self._undurable.discard(place)
        return True

    def is_marked(self, keyspace: str, bucket: int) -> bool:
        """Whether a bucket is in need of repair."""
        return (keyspace, bucket) in self._marks or EVERYWHERE in self._marks

    # --- for people

    def node_views(self) -> list[NodeHints]:
        """Nodes by number."""
        return [
            NodeHints(
                node=node,
                count=sum(count for count, _ in buckets.values()),
                size_bytes=sum(size for _, size in buckets.values()),
                oldest_ms=self._oldest.get(node, 0),
                buckets=[BucketHints(*place, *sums) for place, sums in sorted(buckets.items())],
            )
            for node, buckets in sorted(self._groups.items())
        ]

    def mark_views(self) -> list[MarkView]:
        """Marks by place."""
        return [
            MarkView(*mark, durable=place not in self._undurable)
            for place, mark in sorted(self._marks.items())
        ]
