"""The two ways of a read through the coordinator, for whoever drives it in a test."""

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

    def done(batch: ReadBatch) -> None:
        [raw], [value] = batch.raws, batch.values
        record = decode_record(raw) if raw is not None else None
        op.version = record.version if record is not None else b""
        op.record = record if value is not None else None
        op.acks = batch.width
        op.done(op)

    def instead(batch: ReadBatch, reads: list[Read]) -> None:
        [read] = reads
        read.done = single_done

    def single_done(read: Read) -> None:
        op.record, op.version, op.error, op.acks = read.record, read.version, read.error, read.acks
        op.done(op)

    batch = ReadBatch(
        op.keyspace, [op.key], level=op.level, deadline=op.deadline, done=done, instead=instead
    )
    if not core.read_batch(batch):
        core.read(op)
