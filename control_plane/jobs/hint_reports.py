"""What sidecars say of their hints: kept in the store for as long as there are any.

A tombstone must stay while a hint that it covers may still come, also from a sidecar that is gone
and may come back with its disk. What a sidecar needs to know in turn, which of the buckets that it
marked have been repaired, goes back with the answer.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha1
from typing import Final

import msgspec

from buckets.bucket_map import RANGE_BUCKETS
from control_plane.controllers.cluster_state import ClusterState
from control_plane.coordination.errors import NotFound
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import CoordinationStore
from control_plane.jobs.repair import repair_began_ms, repaired_path
from protos.dabbawala.v1 import admin_pb2

EVERYWHERE: Final = ("", -1)  # a mark of all buckets
# Clocks of sidecars and replicas differ, and a repair is to have begun *after* the loss.
MARK_MARGIN_MS: Final = 1_000

Place = tuple[str, int]  # keyspace and bucket


class HintRecord(msgspec.Struct, frozen=True):
    """One sidecar's hints. Unix milliseconds, 0: it has none of that kind.

    `oldest_ms` is of those that it drops at the age of `age_ms`.
    """

    sidecar: str
    oldest_ms: int
    age_ms: int
    only_copy_ms: int

    def holds_ms(self, now_ms: int) -> int:
        """The time of the oldest hint that may still be replayed; 0: none.

        A hint that is the only copy of a write never ages out.
        """
        aged = self.oldest_ms + self.age_ms < now_ms
        left = [at_ms for at_ms in (self.only_copy_ms, 0 if aged else self.oldest_ms) if at_ms]
        return min(left, default=0)


class HintReports:
    """The records in the store. Any instance may write them: nobody decides anything from its own
    memory. Methods raise what the store raises.
    """

    def __init__(self, store: CoordinationStore, paths: ClusterPaths) -> None:
        self._store = store
        self._paths = paths
        self._folder = f"{paths.root}/hints"

    async def take(self, record: HintRecord) -> None:
        """Keep what a sidecar says of itself now."""
        path = self._path(record.sidecar)
        known = await self._store.read(path)
        if record.oldest_ms or record.only_copy_ms:
            raw = msgspec.json.encode(record)
            if known is None or known.value != raw:
                await self._store.write(path, raw)
        elif known is not None:
            await self._delete(path)

    async def answer(
        self, request: admin_pb2.ReportHintsRequest, state: ClusterState
    ) -> admin_pb2.ReportHintsResponse:
        """Keep what a sidecar reports; say which of its marks are done with."""
        await self.take(
            HintRecord(request.sidecar, request.oldest_ms, request.age_ms, request.only_copy_ms)
        )
        marks = {(mark.keyspace, mark.bucket): mark.last_ms for mark in request.marks}
        began = await self._repairs_began(marks, state)
        done = repaired_marks(marks, began, state)
        return admin_pb2.ReportHintsResponse(
            repaired=[
                admin_pb2.RepairMark(keyspace=keyspace, bucket=bucket, last_ms=began_ms)
                for (keyspace, bucket), began_ms in done.items()
            ]
        )

    async def _repairs_began(self, marks: Iterable[Place], state: ClusterState) -> dict[Place, int]:
        """When the last complete repair of these buckets began, as far as there was one."""
        places = list(marks)
        if EVERYWHERE in places:
            places += _all_places(state)
        known = sorted({(ks, b // RANGE_BUCKETS) for ks, b in places if ks in state.keyspaces})
        paths = [repaired_path(self._paths, keyspace, index) for keyspace, index in known]
        entries = await self._store.read_many(paths)
        return {
            (keyspace, bucket): began_ms
            for (keyspace, _), entry in zip(known, entries, strict=True)
            for bucket, began_ms in repair_began_ms(entry).items()
        }

    async def forget(self, sidecar: str) -> bool:
        """A sidecar will not come back; False: it had said nothing."""
        path = self._path(sidecar)
        known = await self._store.read(path)
        if known is not None:
            await self._delete(path)
        return known is not None

    async def read_all(self) -> list[HintRecord]:
        """Of all sidecars that have hints, as far as it was said; not older than this call."""
        await self._store.sync(self._paths.epoch)
        names = await self._store.children(self._folder)
        entries = await self._store.read_many([f"{self._folder}/{name}" for name in names])
        return [
            msgspec.json.decode(entry.value, type=HintRecord)
            for entry in entries
            if entry is not None
        ]

    async def _delete(self, path: str) -> None:
        try:
            await self._store.delete(path)
        except NotFound:  # gone already
            return

    def _path(self, sidecar: str) -> str:
        # An id is whatever its operator likes; a path is not.
        return f"{self._folder}/{sha1(sidecar.encode()).hexdigest()[:20]}"


def repaired_marks(
    marks: Mapping[Place, int], begun_ms: Mapping[Place, int], state: ClusterState
) -> dict[Place, int]:
    """Which marks are done with, by place: when the repair began (less a margin for clocks).

    `marks`: when a hint was last lost; `begun_ms`: when each bucket's last repair began in which
    all owners took part. The mark of all buckets is done with once each has been repaired since.
    """
    found = {}
    for place, last_ms in marks.items():
        places = _all_places(state) if place == EVERYWHERE else [place]
        began_ms = min((begun_ms.get(each, 0) for each in places), default=0) - MARK_MARGIN_MS
        if began_ms > last_ms:
            found[place] = began_ms
    return found


def _all_places(state: ClusterState) -> Iterable[Place]:
    return [
        (name, bucket.id)
        for name, stored in state.keyspaces.items()
        if not stored.creating
        for bucket in stored.keyspace.buckets
    ]
