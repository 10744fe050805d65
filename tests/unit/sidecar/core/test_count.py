"""Counting the keys of a keyspace."""

from replicas.layout import user_field
from sidecar.core.count import Count, count_keys
from sidecar.errors import Reason
from tests.support.fake_cluster import KEYSPACE, TIMEOUT_S, FakeCluster


def count(cluster: FakeCluster) -> Count:
    ended: list[Count] = []
    op = Count(KEYSPACE, deadline=cluster.now_s + TIMEOUT_S, done=ended.append)
    count_keys(cluster.sidecar.core, op)
    cluster.flow()
    assert ended == [op]
    return op


def test_values_and_tombstones_count_and_reserved_fields_do_not() -> None:
    cluster = FakeCluster()
    assert count(cluster).total == 0
    cluster.put(b"a", b"v")
    cluster.put(b"b", b"v")
    cluster.sidecar.delete(b"b")
    cluster.flow()
    assert user_field(b"b") in cluster.fields(1)
    assert count(cluster).total == 2


def test_without_an_owner_it_is_typed() -> None:
    cluster = FakeCluster()
    for number in (1, 2, 3):
        cluster.link(number).cut()
    op = count(cluster)
    assert op.error is not None
    assert op.error.reason is Reason.NOT_ENOUGH_REPLICAS
