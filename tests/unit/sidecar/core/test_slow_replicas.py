"""Reads behind a replica that is slow, frozen or failing."""

import pytest

from buckets.bucket_map import Consistency
from sidecar.core import health, sweep
from sidecar.core.health import Budget
from sidecar.core.peer import Peer
from sidecar.errors import Outcome, Reason
from tests.support import register_cluster
from tests.support.fake_cluster import Asked, FakeCluster
from tests.support.register_cluster import Ended, linearizable

pytestmark = pytest.mark.usefixtures("lane")  # on both ways of a read

KEY = b"key"
TICK_S = 0.005


@pytest.fixture
def cluster() -> FakeCluster:
    """Three equally near replicas that hold the key; each answers within 20 ms as a rule."""
    made = FakeCluster(zones=1)
    made.put(KEY, b"v", Consistency.ALL)
    made.flow()
    for number in (1, 2, 3):
        for _ in range(health.SAMPLES):
            peer(made, number).breaker.observe(0.02)
    return made


def peer(cluster: FakeCluster, number: int) -> Peer:
    return cluster.sidecar.core.peers[number]


def freeze(cluster: FakeCluster, number: int) -> None:
    """As the connections' watcher finds it."""
    assert peer(cluster, number).breaker.watch(cluster.now_s, cluster.now_s - 1.0)
    cluster.sidecar.core.health_changed()


def asked_nodes(cluster: FakeCluster) -> set[int]:
    return {number for number, link in cluster.sidecar.links.items() if link.commands}


def read_waiting_for(cluster: FakeCluster, number: int) -> Asked:
    """A read at ONE that was sent to this replica."""
    for _ in range(10):
        read = cluster.get(KEY, Consistency.ONE)
        if asked_nodes(cluster) == {number}:
            return read
        cluster.flow()
    raise AssertionError(f"{number} is not read from")


# --- hedged reads


def test_another_is_asked_once_the_replica_has_taken_longer_than_it_usually_does(
    cluster: FakeCluster,
) -> None:
    read = read_waiting_for(cluster, 2)
    cluster.wait(TICK_S)
    cluster.wait(0.02 - 2 * TICK_S)
    assert asked_nodes(cluster) == {2}
    cluster.wait(2 * TICK_S)
    (other,) = asked_nodes(cluster) - {2}
    cluster.link(other).flow()
    assert read.value == b"v"
    assert cluster.sidecar.core.counters.reads_hurried == 1


def test_each_replica_is_measured_by_what_it_itself_usually_takes(cluster: FakeCluster) -> None:
    for _ in range(health.SAMPLES):
        peer(cluster, 3).breaker.observe(0.08)
    read_waiting_for(cluster, 3)
    cluster.wait(TICK_S)
    cluster.wait(0.03)
    assert asked_nodes(cluster) == {3}
    cluster.wait(0.06)
    assert len(asked_nodes(cluster)) == 2


def test_one_that_answered_meanwhile_is_not_what_is_waited_for(cluster: FakeCluster) -> None:
    for _ in range(health.SAMPLES):
        peer(cluster, 3).breaker.observe(0.08)
    while True:
        cluster.get(KEY, Consistency.QUORUM)
        if 3 in asked_nodes(cluster):
            break
        cluster.flow()
    (fast,) = asked_nodes(cluster) - {3}
    cluster.wait(TICK_S)
    cluster.link(fast).flow()
    cluster.wait(0.03)
    assert asked_nodes(cluster) == {3}


def test_hedged_reads_are_at_most_a_tenth_of_all_reads(cluster: FakeCluster) -> None:
    core = cluster.sidecar.core
    core.hedges.tokens = 0.0
    began = core.counters.reads
    for _ in range(300):
        cluster.get(KEY, Consistency.ONE)
        cluster.wait(TICK_S)
        cluster.wait(0.05)
        cluster.flow()
    elapsed_s = 300 * (TICK_S + 0.05)
    assert 0 < core.counters.reads_hurried <= (core.counters.reads - began) / 10 + elapsed_s
    assert core.hedges.denied


def test_a_read_that_the_budget_did_not_cover_is_hedged_when_it_fills(
    cluster: FakeCluster,
) -> None:
    core = cluster.sidecar.core
    read_waiting_for(cluster, 1)
    core.hedges = Budget(share=0.0, per_s=0.0, burst=0.0)
    cluster.wait(TICK_S)
    cluster.wait(0.05)
    assert asked_nodes(cluster) == {1}
    core.hedges = Budget(share=0.0, per_s=0.0, burst=1.0)
    cluster.wait(sweep.HEDGE_AGAIN_S)
    assert len(asked_nodes(cluster)) == 2


def test_to_go_round_a_frozen_replica_needs_no_budget(cluster: FakeCluster) -> None:
    cluster.sidecar.core.hedges = Budget(share=0.0, per_s=0.0, burst=0.0)
    read = read_waiting_for(cluster, 1)
    freeze(cluster, 1)
    cluster.wait(TICK_S)
    cluster.wait(0.05)
    (other,) = asked_nodes(cluster) - {1}
    cluster.link(other).flow()
    assert read.value == b"v"


def test_where_all_are_slow_hedging_is_not_free(cluster: FakeCluster) -> None:
    cluster.sidecar.core.hedges = Budget(share=0.0, per_s=0.0, burst=0.0)
    read_waiting_for(cluster, 1)
    for number in (1, 2, 3):
        freeze(cluster, number)
    cluster.wait(TICK_S)
    cluster.wait(0.05)
    assert asked_nodes(cluster) == {1}


def test_a_storm_of_slow_reads_without_a_budget_costs_each_tick_a_bounded_time(
    cluster: FakeCluster,
) -> None:
    core = cluster.sidecar.core
    core.hedges = Budget(share=0.0, per_s=0.0, burst=0.0)
    for _ in range(5 * sweep.DENIED_A_TICK):
        cluster.get(KEY, Consistency.ONE)
    cluster.wait(TICK_S)
    cluster.wait(0.05)
    assert core.hedges.denied == sweep.DENIED_A_TICK


# --- demoted replicas


def test_a_frozen_replica_is_not_read_first_and_comes_back_by_its_probes(
    cluster: FakeCluster,
) -> None:
    freeze(cluster, 2)
    before = peer(cluster, 2).reads
    for _ in range(12):
        cluster.get(KEY, Consistency.QUORUM)
        cluster.flow()
    assert peer(cluster, 2).reads == before
    later = cluster.now_s + 1.0
    peer(cluster, 2).breaker.probed(0.001, later)
    assert peer(cluster, 2).breaker.probed(0.001, later)
    cluster.sidecar.core.health_changed()
    for _ in range(12):
        cluster.get(KEY, Consistency.QUORUM)
        cluster.flow()
    assert peer(cluster, 2).reads > before


def test_a_frozen_replica_of_the_own_zone_stands_behind_those_of_others() -> None:
    cluster = FakeCluster()
    freeze(cluster, 1)  # the sidecar is in its zone
    cluster.get(KEY, Consistency.ONE)
    assert asked_nodes(cluster) < {2, 3}


def test_a_frozen_replica_is_still_asked_where_the_level_needs_it() -> None:
    cluster = FakeCluster()
    freeze(cluster, 1)
    local, every = cluster.get(KEY, Consistency.LOCAL_ONE), cluster.get(KEY, Consistency.ALL)
    cluster.flow()
    assert local.ended
    assert every.ended
    assert (local.reason, every.reason) == (None, None)


def test_a_frozen_replica_still_gets_writes(cluster: FakeCluster) -> None:
    freeze(cluster, 2)
    write = cluster.put(KEY, b"w", Consistency.ALL)
    cluster.flow()
    assert write.outcome is Outcome.OK


def test_in_place_of_one_that_failed_a_frozen_one_is_asked_last() -> None:
    cluster = FakeCluster(nodes=5, owners=(1, 2, 3, 4, 5), zones=1)
    read = cluster.get(KEY, Consistency.ONE)
    (first,) = asked_nodes(cluster)
    others = [number for number in (1, 2, 3, 4, 5) if number != first]
    for number in others[:3]:
        freeze(cluster, number)
    cluster.link(first).cut()
    assert asked_nodes(cluster) == {others[3]}
    for number in others[3], others[2], others[1]:
        cluster.link(number).cut()
    cluster.flow()
    assert read.ended
    assert read.reason is None


# --- replacements


def test_replacements_of_failed_replicas_have_a_budget(cluster: FakeCluster) -> None:
    core = cluster.sidecar.core
    core.replacements = Budget(share=0.0, per_s=0.0, burst=1.0)
    reads = []
    for _ in range(2):
        reads.append(cluster.get(KEY, Consistency.ONE))
        (number,) = asked_nodes(cluster)
        cluster.link(number).answer_with(OSError("an error"))
        cluster.flow()
    assert reads[0].value == b"v"
    assert reads[1].reason is Reason.NOT_ENOUGH_REPLICAS
    assert core.counters.reads_replaced == 1
    assert core.replacements.denied


# --- samples


def test_one_read_of_each_tick_measures_the_replicas_that_it_asked_first(
    cluster: FakeCluster,
) -> None:
    def measured() -> list[float]:
        latencies = [s for n in (1, 2, 3) for s in peer(cluster, n).breaker._latencies_s]
        return [latency for latency in latencies if latency != 0.02]

    cluster.tick()
    reads = [cluster.get(KEY, Consistency.QUORUM) for _ in range(2)]
    cluster.now_s += 0.09
    cluster.flow()
    assert all(read.ended for read in reads)
    assert measured() == pytest.approx([0.09, 0.09])
    cluster.get(KEY, Consistency.QUORUM)
    cluster.flow()
    assert len(measured()) == 2
    cluster.tick()
    cluster.get(KEY, Consistency.QUORUM)
    cluster.flow()
    assert len(measured()) == 4


def test_a_read_of_one_replica_measures_it_too(cluster: FakeCluster) -> None:
    cluster.tick()
    cluster.get(KEY, Consistency.ONE)
    (asked,) = asked_nodes(cluster)
    cluster.now_s += 0.09
    cluster.flow()
    assert max(peer(cluster, asked).breaker._latencies_s) == pytest.approx(0.09)


def test_one_that_was_asked_later_is_not_measured_from_the_beginning(
    cluster: FakeCluster,
) -> None:
    cluster.tick()
    cluster.get(KEY, Consistency.ONE)
    (first,) = asked_nodes(cluster)
    cluster.wait(TICK_S)
    cluster.wait(0.05)
    (other,) = asked_nodes(cluster) - {first}
    cluster.link(other).flow()
    assert max(peer(cluster, other).breaker._latencies_s) == 0.02


# --- overload


def test_while_the_loop_is_late_fewer_operations_are_let_in(cluster: FakeCluster) -> None:
    core = cluster.sidecar.core
    cluster.wait(1.0)
    for _ in range(health.Admission.LEAST):
        cluster.get(KEY, Consistency.ONE)
    shed_read, shed_write = cluster.get(KEY, Consistency.ONE), cluster.put(KEY, b"w")
    assert shed_read.reason is Reason.OVERLOADED
    assert (shed_write.outcome, shed_write.reason) == (Outcome.NOT_APPLIED, Reason.OVERLOADED)
    assert shed_read.op.error is not None
    assert "event loop has been late" in shed_read.op.error.message
    assert core.active == health.Admission.LEAST
    cluster.wait(TICK_S)
    assert cluster.put(KEY, b"w").reason is None


# --- hedged reads of registers


@pytest.fixture
def registers() -> FakeCluster:
    """The same with a linearizable keyspace: a read asks two of the three."""
    made = linearizable(zones=1)
    register_cluster.put(made.sidecar, b"v")
    made.flow()
    for number in (1, 2, 3):
        for _ in range(health.SAMPLES):
            peer(made, number).breaker.observe(0.02)
    return made


def linearizable_read_half_answered(registers: FakeCluster) -> tuple[Ended, int]:
    """A read that one of two has answered; and the replica that was not asked."""
    read = register_cluster.get(registers.sidecar)
    first, _ = sorted(asked_nodes(registers))
    (spare,) = {1, 2, 3} - asked_nodes(registers)
    registers.link(first).flow()
    registers.wait(TICK_S)
    return read, spare


def test_a_linearizable_read_asks_the_third_owner_when_the_second_is_slow(
    registers: FakeCluster,
) -> None:
    read, spare = linearizable_read_half_answered(registers)
    assert spare not in asked_nodes(registers)
    registers.wait(0.03)
    assert spare in asked_nodes(registers)
    registers.link(spare).flow()
    assert read.value == b"v"
    assert registers.sidecar.core.counters.reads_hurried == 1


def test_the_slow_owner_of_a_linearizable_read_still_counts(registers: FakeCluster) -> None:
    read, spare = linearizable_read_half_answered(registers)
    registers.wait(0.03)
    (slow,) = asked_nodes(registers) - {spare}
    registers.link(slow).flow()
    assert read.value == b"v"


def test_linearizable_reads_are_hedged_within_the_budget(registers: FakeCluster) -> None:
    core = registers.sidecar.core
    core.hedges = Budget(share=0.0, per_s=0.0, burst=0.0)
    read, spare = linearizable_read_half_answered(registers)
    registers.wait(0.03)
    assert spare not in asked_nodes(registers)
    core.hedges = Budget(share=0.0, per_s=0.0, burst=1.0)
    registers.wait(sweep.HEDGE_AGAIN_S)
    assert spare in asked_nodes(registers)
    registers.link(spare).flow()
    assert read.value == b"v"
