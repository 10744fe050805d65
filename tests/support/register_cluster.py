"""Operations of linearizable keyspaces on a cluster in virtual time."""

from typing import Any

from buckets.bucket_map import Consistency, KeyspaceSettings, Mode
from replicas.changes import Change, increment
from sidecar.core.operation import Read, Write
from sidecar.core.register_op import Modify, new_operation_id
from sidecar.errors import Outcome, Reason
from tests.support.fake_cluster import KEYSPACE, START_MS, TIMEOUT_S, FakeCluster, FakeSidecar

SETTINGS = KeyspaceSettings(KEYSPACE, buckets=1, redis_db=0, mode=Mode.LINEARIZABLE)
KEY = b"key"


class Ended:
    """An operation and how often it has ended."""

    def __init__(self, op: Any) -> None:
        self.op = op
        self.ends = 0

    def done(self, _op: object) -> None:
        self.ends += 1

    @property
    def outcome(self) -> Outcome | None:
        """None while it is under way."""
        if not self.ends:
            return None
        assert self.ends == 1, "an operation ends once"
        return Outcome.OK if self.op.error is None else self.op.error.outcome

    @property
    def reason(self) -> Reason | None:
        return self.op.error.reason if self.op.error is not None else None

    @property
    def value(self) -> bytes | None:
        """What a read that ended well found."""
        assert self.ends == 1
        assert self.op.error is None, self.op.error
        return self.op.record.value if self.op.record is not None else None


def linearizable(**more: Any) -> FakeCluster:
    """A cluster of one linearizable keyspace."""
    return FakeCluster(settings=SETTINGS, **more)


def get(sidecar: FakeSidecar, level: int = Consistency.UNSPECIFIED) -> Ended:
    deadline = sidecar.cluster.now_s + TIMEOUT_S
    ended = Ended(Read(KEYSPACE, KEY, level=level, deadline=deadline, done=lambda _: None))
    ended.op.done = ended.done
    sidecar.core.read(ended.op)
    return ended


def put(sidecar: FakeSidecar, value: bytes | None, **more: Any) -> Ended:
    """A put, or a delete."""
    level = more.pop("level", Consistency.UNSPECIFIED)
    deadline = sidecar.cluster.now_s + TIMEOUT_S
    op = Write(KEYSPACE, KEY, value, level=level, deadline=deadline, done=lambda _: None, **more)
    ended = Ended(op)
    op.done = ended.done
    sidecar.core.write(op)
    return ended


def modify(sidecar: FakeSidecar, change: Change | None = None, **more: Any) -> Ended:
    """A change; without one it increments by 1."""
    deadline = sidecar.cluster.now_s + TIMEOUT_S
    op = Modify(
        KEYSPACE, KEY, change or increment(1), deadline=deadline, done=lambda _: None, **more
    )
    ended = Ended(op)
    op.done = ended.done
    sidecar.core.modify(op)
    return ended


def operation_id(number: int = 1, at_ms: int = START_MS) -> bytes:
    """The id of a client's operation."""
    return new_operation_id(at_ms, bytes([number]) * 10)
