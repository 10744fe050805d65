"""Several keys written together: what is refused, what is sent, what its hint holds."""

from collections.abc import Callable

import pytest

from buckets.bucket_map import KeyspaceSettings, Mode
from replicas.group import decode_group
from sidecar.core.hints import Hint
from sidecar.core.operation import GroupItem, GroupWrite
from sidecar.errors import Outcome, Reason
from tests.support.fake_cluster import KEYSPACE, START_MS, TIMEOUT_S, FakeCluster

A, B = b"{x}a", b"{x}b"
BOTH = (GroupItem(A, b"1"), GroupItem(B, None))


class Kept:
    """Keeps hints in memory."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.hints: list[Hint] = []
        cluster.sidecar.core.hints = self

    def keep(self, hint: Hint) -> None:
        self.hints.append(hint)

    def keep_only_copy(self, hint: Hint, done: Callable[[str], None]) -> str:
        return "not here"


def transact(
    cluster: FakeCluster, *items: GroupItem, level: int = 0, version: bytes = b""
) -> GroupWrite:
    ended: list[GroupWrite] = []
    op = GroupWrite(
        KEYSPACE,
        items,
        level=level,
        deadline=cluster.now_s + TIMEOUT_S,
        done=ended.append,
        version=version,
        tag=ended,
    )
    cluster.sidecar.core.transact(op)
    return op


def ended(op: GroupWrite) -> tuple[Outcome | None, Reason | None]:
    assert len(op.tag) == 1
    return (op.error.outcome, op.error.reason) if op.error is not None else (Outcome.OK, None)


def test_every_owner_writes_all_keys_under_one_version() -> None:
    cluster = FakeCluster()
    op = transact(cluster, *BOTH)
    cluster.flow()
    assert ended(op) == (Outcome.OK, None)
    for key in (A, B):
        assert cluster.holders(key, op.version) == {1, 2, 3}
        assert {record.version for n in (1, 2, 3) if (record := cluster.record(n, key))} == {
            op.version
        }
    assert cluster.get(A).op.level  # a read of one key sees it
    cluster.flow()


@pytest.mark.parametrize(
    ("items", "reason", "field"),
    [
        ((), Reason.REQUEST_INVALID, "items"),
        ((GroupItem(A, b"1"), GroupItem(b"{y}b", b"2")), Reason.KEYS_APART, "items[1].key"),
        ((GroupItem(b"a", b"1"), GroupItem(b"b", b"2")), Reason.KEYS_APART, "items[1].key"),
        ((GroupItem(A, b"1"), GroupItem(A, None)), Reason.REQUEST_INVALID, "items[1].key"),
        ((GroupItem(A, b"1"), GroupItem(b"", b"2")), Reason.KEY_INVALID, "items[1].key"),
        ((GroupItem(A, b"1", 1 << 50),), Reason.EXPIRY_INVALID, "items[0].expires_at_ms"),
        ((GroupItem(A, bytes(9)), GroupItem(B, bytes(1 << 20))), Reason.VALUE_TOO_LARGE, "items"),
        (tuple(GroupItem(b"{x}%d" % n, b"") for n in range(257)), Reason.REQUEST_INVALID, "items"),
    ],
)  # fmt: skip
def test_what_can_not_be_written_together_is_not_applied(
    items: tuple[GroupItem, ...], reason: Reason, field: str
) -> None:
    cluster = FakeCluster()
    op = transact(cluster, *items)
    assert ended(op) == (Outcome.NOT_APPLIED, reason)
    assert op.error is not None
    assert op.error.field == field
    assert not cluster.link(1).commands


def test_a_linearizable_keyspace_refuses_it() -> None:
    settings = KeyspaceSettings(KEYSPACE, buckets=1, redis_db=0, mode=Mode.LINEARIZABLE)
    op = transact(FakeCluster(settings=settings), *BOTH)
    assert ended(op) == (Outcome.NOT_APPLIED, Reason.NEEDS_TUNABLE)


def test_it_waits_for_the_map_and_is_judged_then() -> None:
    cluster = FakeCluster(with_map=False)
    op, apart = transact(cluster, *BOTH), transact(cluster, GroupItem(A, b""), GroupItem(b"b", b""))
    cluster.sidecar.adopt(cluster.map)
    cluster.flow()
    assert ended(op) == (Outcome.OK, None)
    assert ended(apart) == (Outcome.NOT_APPLIED, Reason.KEYS_APART)


def test_a_retry_with_its_version_is_the_same_write() -> None:
    cluster = FakeCluster()
    first = transact(cluster, *BOTH)
    cluster.link(1).flow()
    cluster.link(2).cut()
    cluster.link(3).cut()
    assert ended(first) == (Outcome.UNKNOWN, Reason.NOT_ENOUGH_REPLICAS)
    assert first.error is not None
    cluster.sidecar.connect(2)
    cluster.sidecar.connect(3)
    again = transact(cluster, *BOTH, version=first.error.version)
    cluster.flow()
    assert ended(again) == (Outcome.OK, None)
    assert again.version == first.version
    assert cluster.holders(A, first.version) == cluster.holders(B, first.version) == {1, 2, 3}


def test_under_a_later_epoch_it_goes_on_as_a_group() -> None:
    cluster = FakeCluster()
    cluster.change()
    for number in (1, 2, 3):
        cluster.fence_raised(number)
    op = transact(cluster, *BOTH)
    cluster.flow()
    assert ended(op) == (Outcome.OK, None)
    assert cluster.holders(B, op.version) == {1, 2, 3}


def test_an_owner_that_missed_it_gets_one_hint_with_all_of_it() -> None:
    cluster = FakeCluster()
    kept = Kept(cluster)
    cluster.link(3).cut()
    op = transact(cluster, *BOTH)
    cluster.flow()
    assert ended(op) == (Outcome.OK, None)
    [hint] = kept.hints
    assert hint == Hint(KEYSPACE, 0, A, hint.record, 3, START_MS)
    group = decode_group(hint.record)
    assert group is not None
    assert [(key, record.version) for key, record in group] == [(A, op.version), (B, op.version)]
