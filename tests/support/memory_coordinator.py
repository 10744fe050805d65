"""A coordinator with one copy of everything in memory: for tests of the doors and their benchmark.

It keeps the promises of the real one as far as one copy can: versions from a hybrid logical clock,
the last writer wins, tombstones, expiry by the clock it is given, bounds on keys and values, `done`
called exactly once. Answers may be held back (`hold`), to test what a door does meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from buckets.bucket_map import BucketMap, Consistency
from buckets.hashing import bucket_shift, key_hash
from replicas.changes import Current, Refuse
from replicas.record import Record, decode_record, encode_record
from replicas.version import HybridClock
from sidecar.core.fast_lane import Asker, LoneKey, ReadBatch
from sidecar.core.listing import Listing
from sidecar.core.operation import GroupWrite, Read, Write
from sidecar.core.register_op import Modify
from sidecar.core.session_ops import Sessions
from sidecar.core.sessions import SessionKeys
from sidecar.core.turns import Together
from sidecar.core.walk import walk_hash
from sidecar.errors import DataError, Fault, Outcome, Reason

MAX_KEY_BYTES = 1024
_BUCKETS = 64


@dataclass(frozen=True, slots=True)
class MemoryLocation:
    """What `locate` answers: as much as one copy has to say."""

    keyspace: str
    bucket: int
    epoch: int
    owners: tuple[str, ...]
    target: str
    reason: str
    consistency: Consistency


class MemoryCoordinator:
    """`keyspaces`: by the number that SELECT names. `clock`: Unix milliseconds."""

    def __init__(
        self,
        keyspaces: dict[int, str],
        clock: Callable[[], int],
        *,
        max_value_bytes: int = 1 << 20,
    ) -> None:
        self.default_timeout_ms = 1000
        self.now = 0.0
        self.map: BucketMap | None = None
        self.sessions = Sessions(self, clock, SessionKeys("memory", [b"a secret of enough bytes"]))
        self.together = Together()
        self.keyspaces = keyspaces
        self.max_value_bytes = max_value_bytes
        self.has_map = True
        self.linearizable = False  # all keyspaces are
        self.in_batches = False  # whether reads that came together are answered as one
        self.batches: list[ReadBatch] = []  # begun
        self._joined: dict[tuple[str, int, Asker], ReadBatch] = {}
        self.failures: dict[bytes, DataError] = {}  # answered instead, by key
        self.held: list[Callable[[], None]] | None = None  # answers held back, in order of asking
        self._clock = clock
        self.clock = HybridClock(b"memory:0")
        self._shift = bucket_shift(_BUCKETS)
        self._data: dict[str, dict[bytes, Record]] = {name: {} for name in keyspaces.values()}

    def keyspace_for_db(self, db: int) -> str | None:
        """The keyspace's name, or None."""
        return self.keyspaces.get(db) if self.has_map else None

    def read(self, op: Read) -> None:
        """Answer a read."""
        error = self._refusal(op.keyspace, op.key, None) or self._failure(op.key)
        if error is not None:
            op.error = error
        else:
            record = self._data[op.keyspace].get(op.key)
            op.record = record if record is not None and record.live(self._clock()) else None
            op.version = record.version if record is not None else b""
            op.acks = 1
        op.level = op.level or Consistency.QUORUM
        self._answer(op)

    def read_batch(self, batch: ReadBatch) -> bool:
        """Answer reads that came together, if the test wants that and nothing is odd."""
        refused = any(self._refusal(batch.keyspace, key, None) for key in batch.keys)
        if not self.in_batches or refused or any(map(self._failure, batch.keys)):
            return False
        now_ms = self._clock()
        found = [self._data[batch.keyspace].get(key) for key in batch.keys]
        batch.level = batch.level or Consistency.QUORUM
        batch.raws = [record.raw if record else None for record in found]
        batch.values = [
            record.value if record and record.live(now_ms) else None for record in found
        ]
        self.batches.append(batch)
        self._soon(lambda: batch.asker.batch_read(batch))
        return True

    def join_batch(self, lone: LoneKey, deadline: float) -> bool:
        """One batch for all of a keyspace and level, begun when the turn ends."""
        if not self.in_batches or self._refusal(lone.keyspace, lone.key, None):
            return False
        if self._failure(lone.key):
            return False
        group = (lone.keyspace, lone.level, lone.asker)
        if group not in self._joined:
            batch = ReadBatch(lone.asker, lone.keyspace, [], lone.level, deadline)
            batch.tag = []
            self._joined[group] = batch
        self._joined[group].keys.append(lone.key)
        self._joined[group].tag.append(lone)
        return True

    def end_turn(self) -> None:
        """What was joined is begun."""
        joined, self._joined = self._joined, {}
        for batch in joined.values():
            self.read_batch(batch)

    def dissolve(self, batch: ReadBatch) -> None:
        """Read each of its keys by itself after all; its own answer must be held."""
        reads = [
            Read(batch.keyspace, key, level=batch.level, deadline=batch.deadline, done=_nobody)
            for key in batch.keys
        ]
        batch.asker.batch_dissolved(batch, reads)
        for op in reads:
            self.read(op)

    def check_read(self, op: Read) -> DataError | None:
        """What is wrong with the read in itself."""
        return self._refusal(op.keyspace, op.key, None) if self.has_map else None

    def list_keys(self, op: Listing) -> None:
        """Answer a listing: all keys, in one bucket."""
        op.error = self._refusal(op.keyspace, b"key", None)
        if op.error is None:
            keys = self._data[op.keyspace]
            walked = op.cursor.walked_in(1)
            op.buckets, op.count = 1, len(keys)
            found = ((walk_hash(key), key) for key in keys if key.startswith(op.key))
            op.keys = sorted(entry for entry in found if entry[0] >= walked)
        if self.held is None:
            op.done(op)
        else:
            self.held.append(lambda: op.done(op))

    def check_write(self, op: Write) -> DataError | None:
        """What is wrong with the write in itself."""
        return self._write_refusal(op) if self.has_map else None

    def _write_refusal(self, op: Write) -> DataError | None:
        error = self._refusal(op.keyspace, op.key, Outcome.NOT_APPLIED)
        if error is None and op.value is not None and len(op.value) > self.max_value_bytes:
            error = DataError(
                Reason.VALUE_TOO_LARGE,
                Fault.CALLER,
                f"the value has {len(op.value)} bytes, over {self.max_value_bytes}",
                Outcome.NOT_APPLIED,
                field="value",
            )
        return error

    def write(self, op: Write) -> None:
        """Answer a write."""
        error = self._write_refusal(op) or self._failure(op.key)
        if error is not None:
            op.error = error
        else:
            self._apply(op)
        self._answer(op)

    def reject(self, op: Any, error: DataError) -> None:
        """Answer with an error."""
        op.error = error
        op.done(op)

    def route_of(self, keyspace: str, key: bytes) -> None:
        """One copy has no owners."""

    def transact(self, op: GroupWrite) -> None:
        """The door in front of this has no such command."""
        raise NotImplementedError

    def is_linearizable(self, keyspace: str) -> bool:
        """Whether changes that depend on what stands are served."""
        return self.linearizable

    def modify(self, op: Modify) -> None:
        """Answer a change."""
        error = self._refusal(op.keyspace, op.key, Outcome.NOT_APPLIED)
        if error is not None:
            op.error = error
        else:
            self._modify(op)
        self._answer(op)

    def _modify(self, op: Modify) -> None:
        record = self._data[op.keyspace].get(op.key)
        live = record if record is not None and record.live(self._clock()) else None
        current = Current(live.value, live.version, live.expires_at_ms) if live else Current(None)
        verdict = op.change(current)
        op.result = verdict.result
        if isinstance(verdict, Refuse):
            op.refused, op.current = verdict.reason, current
            return
        done: list[Write] = []
        write = Write(
            op.keyspace,
            op.key,
            verdict.value,
            level=0,
            deadline=op.deadline,
            done=done.append,
            expires_at_ms=verdict.expires_at_ms,
        )
        self._apply(write)
        op.version = write.version

    def locate(self, keyspace: str, key: bytes, level: Consistency) -> MemoryLocation | DataError:
        """Where `key` lives."""
        error = self._refusal(keyspace, key, None)
        if error is not None:
            return error
        return MemoryLocation(
            keyspace, self.bucket(key), 1, ("memory",), "memory", "the only one", level
        )

    def cancel(self, op: Read | Write | Modify) -> None:
        """Its end will be quiet."""
        op.done = _nobody

    def bucket(self, key: bytes) -> int:
        """The bucket of a key."""
        return key_hash(key) >> self._shift

    def hold(self) -> None:
        """From now on hold answers back, for the test to give in any order."""
        self.held = []

    def release(self, *order: int) -> None:
        """Give held answers: those at the places in `order`, or all."""
        held = self.held or []
        self.held = (
            None if not order else [answer for at, answer in enumerate(held) if at not in order]
        )
        for at in order or range(len(held)):
            held[at]()

    def _answer(self, op: Read | Write | Modify) -> None:
        self._soon(lambda: op.done(op))  # type: ignore[arg-type]

    def _soon(self, answer: Callable[[], None]) -> None:
        if self.held is None:
            answer()
        else:
            self.held.append(answer)

    def _apply(self, op: Write) -> None:
        data = self._data[op.keyspace]
        now_ms = self._clock()
        version = op.version or self.clock.next(now_ms)
        before = data.get(op.key)
        op.existed = before is not None and before.live(now_ms)
        op.version = version
        op.acks = 1
        if before is not None and before.version > version:
            op.superseded = True
            return
        raw = (
            encode_record(version, op.value, expires_at_ms=op.expires_at_ms)
            if op.value is not None
            else encode_record(version, b"", tombstone=True)
        )
        record = decode_record(raw)
        if record is not None:
            data[op.key] = record

    def _refusal(self, keyspace: str, key: bytes, outcome: Outcome | None) -> DataError | None:
        if not self.has_map:
            return DataError(Reason.NO_MAP, Fault.UNAVAILABLE, "no map of the cluster yet", outcome)
        if keyspace not in self._data:
            return DataError(
                Reason.KEYSPACE_UNKNOWN,
                Fault.CALLER,
                f"there is no keyspace {keyspace!r}",
                outcome,
                field="keyspace",
            )
        if not 0 < len(key) <= MAX_KEY_BYTES:
            return DataError(
                Reason.KEY_INVALID,
                Fault.CALLER,
                f"a key has 1 to {MAX_KEY_BYTES} bytes, not {len(key)}; use a shorter one",
                outcome,
                field="key",
            )
        return None

    def _failure(self, key: bytes) -> DataError | None:
        return self.failures.get(key) if self.failures else None


def _nobody(op: object) -> None:
    """Replaced before the read begins."""
