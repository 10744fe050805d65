"""The ways of a read through the coordinator, for whoever drives it in a test."""

from collections.abc import Callable

from replicas.record import decode_record
from sidecar.core.coordinator import Coordinator
from sidecar.core.fast_lane import ReadBatch
from sidecar.core.operation import Read

Lane = Callable[[Coordinator, Read], None]


def general_lane(core: Coordinator, op: Read) -> None:
    """Each read by itself."""
    core.read(op)


def fast_lane(core: Coordinator, op: Read) -> None:
    """As a batch of one key, as far as that goes; `op` ends like any other."""

    if not core.read_batch(ReadBatch(_One(op), op.keyspace, [op.key], op.level, op.deadline)):
        core.read(op)


def lone_lane(core: Coordinator, op: Read) -> None:
    """As a key that others might have joined; `op` ends like any other."""
    lone = _Lone(op)
    if not core.join_batch(lone, op.deadline):
        core.read(op)
    core.end_turn()


class _One:
    """Asks for the one key of `op`."""

    def __init__(self, op: Read) -> None:
        self._op = op

    def batch_read(self, batch: ReadBatch) -> None:
        """Part of Asker."""
        op, [raw], [value] = self._op, batch.raws, batch.values
        record = decode_record(raw) if raw is not None else None
        op.version = record.version if record is not None else b""
        op.record = record if value is not None else None
        op.acks = batch.width
        op.done(op)

    def batch_dissolved(self, batch: ReadBatch, reads: list[Read]) -> None:
        """Part of Asker."""
        [read] = reads
        read.done = self._read_done

    def _read_done(self, read: Read) -> None:
        op = self._op
        op.record, op.version, op.error, op.acks = read.record, read.version, read.error, read.acks
        op.done(op)


class _Lone(_One):
    """Is the one key of `op`, and asks for it."""

    def __init__(self, op: Read) -> None:
        super().__init__(op)
        self.asker = self
        self.keyspace, self.level, self.key = op.keyspace, int(op.level), op.key
