"""The sidecar's clock beside those of its replicas, and what versions are made from."""

import pytest

from buckets.bucket_map import Consistency
from replicas.version import physical_ms
from sidecar.core.clocks import Clocks, ClockState, NodeClock, skewed_text
from sidecar.errors import Outcome, Reason
from tests.support.fake_cluster import START_MS, Asked, FakeCluster

EVERY_NODE = (1, 2, 3)
OFF_MS = (30_000, -30_000)


def clocks_of(cluster: FakeCluster) -> Clocks:
    return cluster.sidecar.core.clocks


def say_time(cluster: FakeCluster, *numbers: int, ahead_ms: int = 0, took_s: float = 0.0) -> None:
    """These nodes answer TIME, with the true time or one `ahead_ms` of it."""
    for number in numbers:
        now = cluster.now_s
        said_ms = cluster.wall_ms + ahead_ms - took_s * 500 - 0.5
        cluster.sidecar.core.peers[number].clock.observe(now - took_s, now, said_ms)
    clocks_of(cluster).measure()


def put(cluster: FakeCluster, key: bytes = b"k", level: int = Consistency.QUORUM) -> Asked:
    asked = cluster.put(key, b"v", level)
    cluster.flow()
    return asked


def issued_ms(asked: Asked) -> int:
    return physical_ms(asked.write.version)


@pytest.mark.parametrize("ahead_ms", OFF_MS)
def test_versions_come_from_the_replicas_time_the_moment_the_clock_has_stepped(
    ahead_ms: int,
) -> None:
    cluster = FakeCluster()
    say_time(cluster, *EVERY_NODE)
    assert issued_ms(put(cluster)) == START_MS
    cluster.wait(0.1)
    cluster.sidecar.clock_ahead_ms = ahead_ms  # and nothing is measured since
    asked = put(cluster)
    assert asked.outcome is Outcome.OK
    assert not asked.write.superseded
    assert abs(issued_ms(asked) - cluster.wall_ms) <= 1
    assert clocks_of(cluster).state is ClockState.CORRECTED
    assert clocks_of(cluster).skew_ms == pytest.approx(ahead_ms, abs=1)


def test_versions_grow_while_the_clock_steps_back_and_forth() -> None:
    cluster = FakeCluster()
    say_time(cluster, *EVERY_NODE)
    versions = []
    for step in (0, 30_000, -30_000, 400, -400, 501, -501, 0) * 3:
        cluster.wait(0.001)
        cluster.sidecar.clock_ahead_ms = step
        versions.append(put(cluster).write.version)
    assert versions == sorted(set(versions))
    assert physical_ms(versions[-1]) <= cluster.wall_ms + 500


def test_within_max_skew_the_wall_clock_stands() -> None:
    cluster = FakeCluster()
    say_time(cluster, *EVERY_NODE)
    cluster.sidecar.clock_ahead_ms = 400
    assert issued_ms(put(cluster)) == START_MS + 400
    assert clocks_of(cluster).state is ClockState.GOOD


def test_a_single_node_that_is_off_moves_nothing_and_is_named() -> None:
    cluster = FakeCluster()
    say_time(cluster, 1, 2)
    say_time(cluster, 3, ahead_ms=-20_000)
    clocks = clocks_of(cluster)
    assert clocks.state is ClockState.GOOD
    skews = [clocks.node_skew_ms(cluster.sidecar.core.peers[n].clock) for n in EVERY_NODE]
    assert skews == [
        pytest.approx(0, abs=1),
        pytest.approx(0, abs=1),
        pytest.approx(-20_000, abs=1),
    ]


@pytest.mark.parametrize("ahead_ms", OFF_MS)
def test_when_too_few_say_the_time_a_clock_that_is_off_refuses_typed(ahead_ms: int) -> None:
    cluster = FakeCluster()
    say_time(cluster, 1)
    assert put(cluster).outcome is Outcome.OK  # a clock that agrees with the one there is
    cluster.sidecar.clock_ahead_ms = ahead_ms
    asked = put(cluster)
    assert (asked.outcome, asked.reason) == (Outcome.NOT_APPLIED, Reason.CLOCK_SKEW)
    assert asked.op.error is not None
    assert "30.0 s" in asked.op.error.message
    assert "only 1 of 3 nodes" in asked.op.error.message
    assert clocks_of(cluster).state is ClockState.REFUSING
    say_time(cluster, 2)
    assert put(cluster).outcome is Outcome.OK


def test_before_any_replica_is_known_no_version_is_issued_that_would_raise_later_ones() -> None:
    cluster = FakeCluster()
    cluster.sidecar.clock_ahead_ms = 30_000
    for number in EVERY_NODE:
        cluster.link(number).cut()
    asked = put(cluster)
    assert (asked.outcome, asked.reason) == (Outcome.NOT_APPLIED, Reason.NOT_ENOUGH_REPLICAS)
    for number in EVERY_NODE:
        cluster.sidecar.connect(number)
    say_time(cluster, *EVERY_NODE)
    asked = put(cluster)
    assert asked.outcome is Outcome.OK
    assert abs(issued_ms(asked) - cluster.wall_ms) <= 1


@pytest.mark.parametrize("ahead_ms", OFF_MS)
def test_a_record_expires_by_the_replicas_time(ahead_ms: int) -> None:
    cluster = FakeCluster()
    say_time(cluster, *EVERY_NODE)
    expires_at_ms = cluster.wall_ms + 5_000
    kept = cluster.put(b"k", b"v", expires_at_ms=expires_at_ms)
    cluster.flow()
    assert kept.outcome is Outcome.OK
    cluster.sidecar.clock_ahead_ms = ahead_ms
    found = cluster.get(b"k")
    cluster.flow()
    assert found.value == b"v"
    cluster.wait(5.001)
    found = cluster.get(b"k")
    cluster.flow()
    assert found.value is None


def test_the_shortest_round_trip_says_most_of_a_clock() -> None:
    clock = NodeClock()
    clock.observe(1.0, 1.2, 5_000)
    clock.observe(2.0, 2.001, 5_931)  # within the error of the first
    clock.observe(3.0, 3.4, 7_100)
    assert clock.offset_ms(4.0) == pytest.approx(3_931, abs=1)


def test_a_clock_that_has_stepped_is_measured_anew() -> None:
    clock = NodeClock()
    clock.observe(1.0, 1.001, 5_000)
    clock.observe(2.0, 2.1, 26_000)
    assert clock.offset_ms(3.0) == pytest.approx(23_950, abs=1)


def test_what_was_not_measured_for_a_minute_is_not_known() -> None:
    clock = NodeClock()
    assert clock.offset_ms(1.0) is None
    clock.observe(1.0, 1.001, 5_000)
    assert clock.offset_ms(60.9) is not None
    assert clock.offset_ms(62.0) is None


def test_a_comparison_outlives_the_last_node() -> None:
    """With every node away the clock steps: what it was compared to last still tells."""
    cluster = FakeCluster()
    say_time(cluster, *EVERY_NODE)
    cluster.wait(120)
    cluster.sidecar.clock_ahead_ms = 30_000
    clocks_of(cluster).measure()
    assert clocks_of(cluster).state is ClockState.REFUSING


def test_the_skew_in_words() -> None:
    assert skewed_text(30_040) == "30.0 s ahead of the replicas'"
    assert skewed_text(-750.4) == "750 ms behind the replicas'"
