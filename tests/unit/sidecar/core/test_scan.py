"""Scans of one bucket over simulated replicas: what they give, and what they survive."""

from collections.abc import Callable
from typing import Any

import pytest

from buckets.bucket_map import Consistency, KeyspaceSettings, Mode, Stage
from replicas.fence import Fence, Role
from replicas.layout import user_field
from replicas.record import encode_record
from sidecar.core.listing import KEPT_KEYS
from sidecar.core.scan import KEPT_S, MAX_PAGE_BYTES, Found, Scan, Scanner
from sidecar.core.walk import Cursor
from sidecar.errors import Outcome, Reason
from tests.support.fake_cluster import KEYSPACE, START_MS, TIMEOUT_S, FakeCluster
from tests.support.replica_records import version_at

ONE, QUORUM = Consistency.ONE, Consistency.QUORUM


class Walk:
    """A scanner over the first sidecar of a cluster."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.scanner = Scanner(cluster.sidecar.core, lambda: cluster.now_s)

    def begin(
        self,
        cursor: Cursor | None = None,
        *,
        limit: int = 10,
        level: int = QUORUM,
        prefix: bytes = b"",
        wanted: Callable[[bytes], bool] | None = None,
    ) -> Scan:
        ended: list[Scan] = []
        op = Scan(
            KEYSPACE,
            cursor or Cursor(),
            level=level,
            deadline=self.cluster.now_s + TIMEOUT_S,
            done=ended.append,
            prefix=prefix,
            limit=limit,
            wanted=wanted,
            tag=ended,
        )
        self.scanner.scan(op)
        return op

    def page(self, cursor: Cursor | None = None, **how: Any) -> Scan:
        op = self.begin(cursor, **how)
        self.cluster.flow()
        assert op.tag == [op]
        assert op.error is None, op.error
        return op

    def all(self, **how: Any) -> list[Found]:
        op = self.page(**how)
        found = list(op.found)
        while op.next is not None:
            op = self.page(op.next, **how)
            found += op.found
        return found

    def keys(self, **how: Any) -> list[bytes]:
        return sorted(found.key for found in self.all(**how))


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def walk(cluster: FakeCluster) -> Walk:
    return Walk(cluster)


def put_many(cluster: FakeCluster, count: int) -> list[bytes]:
    keys = [b"key %03d" % n for n in range(count)]
    for key in keys:
        cluster.put(key, b"v" + key)
    cluster.flow()
    return keys


@pytest.mark.parametrize("level", [ONE, QUORUM, Consistency.ALL])
def test_every_key_is_given_once_with_what_a_read_finds(
    cluster: FakeCluster, walk: Walk, level: Consistency
) -> None:
    keys = put_many(cluster, 45)
    found = walk.all(level=level)
    assert sorted(one.key for one in found) == keys
    read = cluster.get(keys[0]).op
    cluster.flow()
    assert next(one for one in found if one.key == keys[0]) == Found(
        keys[0], b"v" + keys[0], read.version, 0
    )


def test_what_was_deleted_or_has_expired_is_left_out(cluster: FakeCluster, walk: Walk) -> None:
    keys = put_many(cluster, 3)
    cluster.sidecar.delete(keys[0])
    cluster.put(keys[1], b"v", expires_at_ms=cluster.wall_ms + 10)
    cluster.flow()
    cluster.wait(0.1)
    assert walk.keys() == keys[2:]


def test_a_prefix_and_a_condition_leave_keys_out(cluster: FakeCluster, walk: Walk) -> None:
    put_many(cluster, 20)
    cluster.put(b"other", b"v")
    cluster.flow()
    assert walk.keys(prefix=b"key 00", wanted=lambda key: key != b"key 003") == [
        b"key %03d" % n for n in range(10) if n != 3
    ]


def test_at_quorum_a_key_is_found_that_one_owner_missed(cluster: FakeCluster, walk: Walk) -> None:
    for missing in (1, 2, 3):
        cluster.put(b"k", b"v")
        for number in (1, 2, 3):
            link = cluster.link(number)
            if number == missing:
                link.commands.clear()
            else:
                link.flow()
        cluster.fields(missing).pop(user_field(b"k"), None)
        assert walk.keys() == [b"k"]


def test_an_owner_that_breaks_off_while_it_lists_is_replaced(
    cluster: FakeCluster, walk: Walk
) -> None:
    keys = put_many(cluster, 5)
    op = walk.begin()
    asked = next(n for n in (1, 2, 3) if cluster.link(n).commands)
    cluster.link(asked).cut()
    cluster.flow()
    assert sorted(found.key for found in op.found) == keys


def test_a_later_epoch_is_learnt_and_the_page_goes_on(cluster: FakeCluster, walk: Walk) -> None:
    keys = put_many(cluster, 15)
    first = walk.page()
    cluster.change()
    for number in (1, 2, 3):
        cluster.fence_raised(number)
    rest = walk.page(first.next, limit=100)
    assert sorted(found.key for found in first.found + rest.found) == keys


@pytest.mark.parametrize("why", ["no fence", "joining"])
def test_a_replica_that_is_no_owner_is_never_taken_for_an_empty_one(
    cluster: FakeCluster, walk: Walk, why: str
) -> None:
    put_many(cluster, 3)
    for number in (2, 3):
        cluster.fields(number).clear()
        if why == "joining":
            cluster.set_fence(number, Fence(1, Stage.OLD, Role.JOINING, 1).encode())
    cluster.link(1).cut()
    op = walk.begin(level=ONE)
    cluster.flow()
    assert op.error is not None
    assert (op.error.reason, op.error.outcome) == (Reason.NOT_ENOUGH_REPLICAS, None)


def test_too_few_owners_and_a_passed_deadline_are_typed(cluster: FakeCluster, walk: Walk) -> None:
    late = walk.begin()
    cluster.time_out()
    assert late.error is not None
    assert late.error.reason is Reason.TIMEOUT
    cluster.link(1).cut()
    cluster.link(2).cut()
    refused = walk.begin()
    assert refused.error is not None
    assert refused.error.reason is Reason.NOT_ENOUGH_REPLICAS


def test_a_page_of_large_values_is_short_and_the_next_goes_on(
    cluster: FakeCluster, walk: Walk
) -> None:
    for n in range(4):
        cluster.put(b"%d" % n, bytes(MAX_PAGE_BYTES // 2))
    cluster.flow()
    first = walk.page()
    assert len(first.found) == 2
    rest = walk.page(first.next)
    assert {found.key for found in first.found + rest.found} == {b"0", b"1", b"2", b"3"}


def test_a_bucket_of_more_keys_than_one_listing_keeps_is_walked_whole(
    cluster: FakeCluster, walk: Walk
) -> None:
    raw = encode_record(version_at(START_MS - 1), b"v")
    keys = {b"%d" % n for n in range(2 * KEPT_KEYS + 100)}
    for number in (1, 2, 3):
        cluster.fields(number).update({user_field(key): raw for key in keys})
    pages, op = 1, walk.page(limit=1000, level=ONE)
    found = [one.key for one in op.found]
    while op.next is not None:
        if pages % 2:
            cluster.wait(KEPT_S + 1)  # what the listing found beyond the page is forgotten
        pages, op = pages + 1, walk.page(op.next, limit=1000, level=ONE)
        found += [one.key for one in op.found]
    assert len(found) == len(keys)
    assert set(found) == keys


def test_in_a_linearizable_keyspace_no_level_can_be_asked() -> None:
    settings = KeyspaceSettings(KEYSPACE, buckets=1, redis_db=0, mode=Mode.LINEARIZABLE)
    cluster = FakeCluster(settings=settings)
    walk = Walk(cluster)
    refused = walk.begin(level=ONE)
    assert refused.error is not None
    assert refused.error.reason is Reason.CONSISTENCY_INVALID
    put = cluster.put(b"k", b"v", Consistency.UNSPECIFIED)
    cluster.flow()
    assert put.outcome is Outcome.OK
    assert walk.keys(level=0) == [b"k"]
