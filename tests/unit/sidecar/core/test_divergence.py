"""What reads found to differ, bucket by bucket."""

from buckets.bucket_map import Consistency
from sidecar.core.divergence import ELSEWHERE, MOST_PLACES, Divergence
from tests.support.fake_cluster import KEYSPACE, START_MS, FakeCluster
from tests.support.replica_records import version_at


def test_a_read_that_finds_a_replica_behind_counts_the_key_and_the_age_of_the_difference() -> None:
    cluster = FakeCluster()
    cluster.link(3).full = True
    cluster.put(b"k", b"v")
    cluster.flow()
    cluster.link(3).full = False
    cluster.wait(7)
    for _ in range(2):
        cluster.get(b"k", Consistency.ALL)
        cluster.flow()
    found = cluster.sidecar.core.counters.divergence.places
    assert list(found) == [(KEYSPACE, 0)]
    assert (found[KEYSPACE, 0].keys, found[KEYSPACE, 0].oldest_ms) == (1, START_MS)


def test_reads_that_agree_count_nothing() -> None:
    cluster = FakeCluster()
    cluster.put(b"k", b"v")
    cluster.flow()
    cluster.get(b"k", Consistency.ALL)
    cluster.flow()
    assert cluster.sidecar.core.counters.divergence.places == {}


def test_the_oldest_counts_and_buckets_are_bounded() -> None:
    divergence = Divergence()
    for bucket in range(MOST_PLACES + 10):
        for at_ms in (START_MS, START_MS - bucket):
            divergence.found(KEYSPACE, bucket, version_at(at_ms))
    assert len(divergence.places) == MOST_PLACES + 1
    assert divergence.places[KEYSPACE, 5].oldest_ms == START_MS - 5
    assert divergence.places[ELSEWHERE].keys == 20
