"""What sidecars say of their hints: kept in the store for as long as there are any.

A tombstone must stay while a hint that it covers may still come, also from a sidecar that is gone
and may come back with its disk. What a sidecar needs to know in turn, which of the buckets that it
marked have been repaired, goes back with the answer.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha1
from typing import Final

import msgspec

from buckets.bucket_map import RANGE_BUCKETS, Mode
from control_plane.controllers.cluster_state import ClusterState
from control_plane.coordination.errors import CoordinationError, NotFound
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import CoordinationStore
from control_plane.errors import Violation, invalid
from control_plane.jobs.repair import repair_began_ms, repaired_path
from protos.dabbawala.v1 import admin_pb2

EVERYWHERE: Final = ("", -1)  # a mark of all buckets
# Clocks of sidecars and replicas differ, and a repair is to have begun *after* the loss.
MARK_MARGIN_MS: Final = 1_000
MOST_NAME: Final = 256
LOOK_TIMEOUT_S: Final = 1.0

Place = tuple[str, int]  # keyspace and bucket


class HintRecord(msgspec.Struct, frozen=True):
    """One sidecar's hints. Unix milliseconds, 0: it has none of that kind.

    `oldest_ms` is of those that it drops at the age of `age_ms`. `log` names where they are kept:
    a sidecar that starts again may have another id, and two may have the same.
    """

    sidecar: str
    oldest_ms: int
    age_ms: int
    only_copy_ms: int
    log: str = ""

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
        self._last: list[HintRecord] = []

    async def take(self, record: HintRecord) -> None:
        """Keep what a sidecar says of itself now."""
        path = self._path(record)
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
        """Keep what a sidecar reports; say which of its marks are done with. Raises Invalid."""
        check_report(request)
        await self.take(
            HintRecord(
                request.sidecar,
                request.oldest_ms,
                request.age_ms,
                request.only_copy_ms,
                request.log,
            )
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
        found = [path for path, record in await self._records() if record.sidecar == sidecar]
        for path in found:
            await self._delete(path)
        return bool(found)

    async def forget_aged(self, now_ms: int) -> None:
        """Forget what sidecars said that are gone since all they had is too old to be replayed."""
        for path, record in await self._records():
            if not record.holds_ms(now_ms):
                await self._delete(path)

    async def read_all(self) -> list[HintRecord]:
        """Of all sidecars that have hints, as far as it was said; not older than this call."""
        await self._store.sync(self._paths.epoch)
        return [record for _, record in await self._records()]

    async def known(self) -> list[HintRecord]:
        """The same for people to look at: of a moment ago, or the last read while the store does
        not answer at once.
        """
        if self._store.connected:
            with contextlib.suppress(CoordinationError, TimeoutError):
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    self._last = [record for _, record in await self._records()]
        return self._last

    async def _records(self) -> list[tuple[str, HintRecord]]:
        names = await self._store.children(self._folder)
        paths = [f"{self._folder}/{name}" for name in names]
        entries = await self._store.read_many(paths)
        return [
            (path, _decoded(name, entry.value))
            for path, name, entry in zip(paths, names, entries, strict=True)
            if entry is not None
        ]

    async def _delete(self, path: str) -> None:
        try:
            await self._store.delete(path)
        except NotFound:  # gone already
            return

    def _path(self, record: HintRecord) -> str:
        # An id is whatever its operator likes; a path is not.
        name = record.log or record.sidecar
        return f"{self._folder}/{sha1(name.encode()).hexdigest()[:20]}"


def _decoded(name: str, raw: bytes) -> HintRecord:
    """What nobody can read may be of any time: it holds everything, until it is forgotten."""
    try:
        return msgspec.json.decode(raw, type=HintRecord)
    except msgspec.MsgspecError:
        return HintRecord(f"unreadable-{name}", 0, 0, only_copy_ms=1)


def check_report(request: admin_pb2.ReportHintsRequest) -> None:
    """Raises Invalid for a report that nobody could make use of, or that is not kept."""
    wrong = [
        Violation(field, f"{field} has {len(text)} characters; {least} to {MOST_NAME} are allowed")
        for field, text, least in (("sidecar", request.sidecar, 1), ("log", request.log, 0))
        if not least <= len(text) <= MOST_NAME
    ]
    if wrong:
        raise invalid("REPORT_INVALID", wrong)


def hints_away(
    records: Iterable[HintRecord], connected: Iterable[str], now_ms: int
) -> list[HintRecord]:
    """Those that hold tombstones and that no sidecar is there to replay: by what was reported.

    A sidecar that lost its state_dir is there, and yet what it kept before is not.
    """
    held = [record for record in records if record.holds_ms(now_ms)]
    there, logs = set(connected), Counter(record.sidecar for record in held)
    away = (r for r in held if r.sidecar not in there or logs[r.sidecar] > 1)
    return sorted(away, key=lambda record: (record.sidecar, record.log))


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
    # Linearizable keyspaces keep no hints, so none of theirs was lost.
    return [
        (name, bucket.id)
        for name, stored in state.keyspaces.items()
        if not stored.creating and stored.settings.mode is Mode.TUNABLE
        for bucket in stored.keyspace.buckets
    ]
