"""Epochs that move while operations are under way, and lives that end."""

from dataclasses import replace

import pytest

from buckets.bucket_map import Consistency, Stage
from replicas.fence import Fence, Role
from sidecar.core import coordinator
from sidecar.core.route import Route
from sidecar.errors import Outcome, Reason
from tests.support.fake_cluster import KEYSPACE, FakeCluster, Move

pytestmark = pytest.mark.usefixtures("lane")  # on both ways of a read

KEY = b"key"


def test_a_write_is_never_ok_under_an_epoch_that_the_sidecar_knows_to_be_over() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v")
    version = write.op.version
    for number in (1, 2, 3):
        cluster.link(number).deliver()
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    cluster.publish()
    for number in (1, 2, 3):
        cluster.link(number).answer()
    assert not write.ended
    cluster.flow()
    assert write.outcome is Outcome.OK
    assert write.op.version == version
    assert cluster.sidecar.core.counters.restarts == 1


def test_a_read_begun_under_an_earlier_epoch_runs_again() -> None:
    cluster = FakeCluster()
    cluster.put(KEY, b"v")
    cluster.flow()
    read = cluster.get(KEY)
    for number in (1, 2, 3):
        cluster.link(number).deliver(len(cluster.link(number).commands))
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    cluster.publish()
    for number in (1, 2, 3):
        cluster.link(number).answer(len(cluster.link(number).replies))
    assert not read.ended
    cluster.flow()
    assert read.value == b"v"


def test_a_settled_version_is_not_answered_under_an_earlier_epoch() -> None:
    cluster = FakeCluster()
    cluster.put(KEY, b"v")
    cluster.link(1).flow()
    for number in (2, 3):
        cluster.link(number).cut()
    cluster.sidecar.connect(2)
    read = cluster.get(KEY)
    for number in (1, 2):
        cluster.link(number).deliver()
        cluster.link(number).answer()
    cluster.link(2).deliver()
    cluster.change()
    cluster.publish()
    cluster.link(2).answer()
    assert not read.ended
    cluster.flow()
    assert read.value == b"v"


def test_a_frozen_sidecar_with_a_write_in_flight_through_a_whole_move_loses_nothing() -> None:
    cluster = FakeCluster(nodes=6, zones=6)
    frozen = cluster.sidecar
    write = frozen.put(KEY, b"v")
    frozen.links[1].deliver()  # the others hear of it only after the move
    move = Move(cluster, (4, 5, 6))
    move.write_both_read_old(fenced=(2, 3))
    move.copy()
    move.write_both_read_new()
    move.write_new()
    cluster.change(owners=cluster.bucket.pending, pending=(), stage=Stage.OLD)
    cluster.fence_raised(4, 5, 6)
    reader = cluster.new_sidecar()
    before = reader.get(KEY)
    cluster.flow()
    assert before.value == b"v"  # node 1 held it when it was copied
    assert write.outcome is Outcome.OK
    assert write.op.error is None
    assert len(cluster.holders(KEY, write.op.version) & {4, 5, 6}) >= 2


def test_a_stale_write_learns_the_entry_from_the_replica_and_goes_on() -> None:
    cluster = FakeCluster()
    cluster.change()
    cluster.fence_raised(1, 2, 3)  # and nothing is published
    write = cluster.put(KEY, b"v")
    cluster.flow()
    assert write.outcome is Outcome.OK
    assert cluster.sidecar.core.map is not None
    assert cluster.sidecar.core.map.keyspaces[KEYSPACE].buckets[0].epoch == 2


@pytest.mark.parametrize("level", [Consistency.ONE, Consistency.QUORUM])
def test_a_stale_read_learns_the_entry_from_the_replica_and_goes_on(level: int) -> None:
    cluster = FakeCluster()
    cluster.put(KEY, b"v", Consistency.ALL)
    cluster.flow()
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    read = cluster.get(KEY, level)
    cluster.flow()
    assert read.value == b"v"


def test_a_gravestone_leads_to_the_successors() -> None:
    cluster = FakeCluster(nodes=6, zones=6)
    cluster.put(KEY, b"v", Consistency.ALL)
    cluster.flow()
    move = Move(cluster, (4, 5, 6))
    move.write_both_read_old()
    move.copy()
    cluster.change(owners=cluster.bucket.pending, pending=(), stage=Stage.OLD)
    cluster.fence_raised(4, 5, 6)
    for number in (1, 2, 3):
        cluster.set_fence(number, Fence(cluster.bucket.epoch, Stage.OLD, Role.RELEASED, 1).encode())
    read, write = cluster.get(KEY), cluster.put(b"other", b"w")
    cluster.flow()
    assert read.value == b"v"
    assert write.outcome is Outcome.OK
    assert {4, 5, 6} >= cluster.holders(b"other", write.op.version)


def test_many_stale_reads_ask_for_the_entry_once_and_again_when_that_was_lost() -> None:
    cluster = FakeCluster()
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    reads = [cluster.get(KEY, Consistency.ONE) for _ in range(20)]
    for number in (1, 2, 3):
        link = cluster.link(number)
        link.deliver(len(link.commands))
        link.answer(len(link.replies))
    asked = cluster.sidecar.entries_asked
    assert asked == 1
    holder = next(link for link in cluster.sidecar.links.values() if link.commands)
    holder.cut()
    cluster.sidecar.connect(holder.number)
    reads.append(cluster.get(KEY, Consistency.ONE))
    cluster.flow()
    assert cluster.sidecar.entries_asked > asked
    assert [read.value for read in reads] == [None] * 21


def test_a_repair_refused_by_a_later_epoch_lets_the_read_run_again() -> None:
    cluster = FakeCluster()
    cluster.put(KEY, b"v")
    cluster.link(1).flow()
    for number in (2, 3):
        cluster.link(number).cut()
        cluster.sidecar.connect(number)
    cluster.sidecar.learns = False
    read = cluster.get(KEY, Consistency.ALL)
    for number in (1, 2, 3):
        cluster.link(number).deliver()
        cluster.link(number).answer()
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    cluster.flow()
    assert not read.ended
    cluster.publish()
    cluster.flow()
    assert read.value == b"v"


def test_a_parked_operation_ends_typed_at_its_deadline() -> None:
    cluster = FakeCluster()
    cluster.sidecar.learns = False
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    read, write = cluster.get(KEY), cluster.put(KEY, b"v")
    cluster.flow()
    assert not read.ended
    assert not write.ended
    cluster.time_out()
    assert (read.ends, read.reason) == (1, Reason.TIMEOUT)
    assert (write.ends, write.reason) == (1, Reason.TIMEOUT)
    assert all(not cluster.values(number) for number in (1, 2, 3))


def test_a_parked_write_that_every_owner_refused_is_not_applied() -> None:
    cluster = FakeCluster()
    cluster.sidecar.learns = False
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    write = cluster.put(KEY, b"v", Consistency.ONE)  # impossible only when all have refused
    cluster.flow()
    cluster.time_out()
    assert write.outcome is Outcome.NOT_APPLIED


def test_a_write_that_one_owner_took_before_the_epoch_moved_stays_unknown() -> None:
    cluster = FakeCluster()
    cluster.sidecar.learns = False
    write = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.change()
    cluster.fence_raised(2, 3)
    cluster.flow()
    assert not write.ended
    for number in (1, 2, 3):
        cluster.link(number).cut()
    cluster.publish()  # it runs again, and nobody can be reached
    assert write.outcome is Outcome.UNKNOWN
    assert write.op.error is not None
    assert write.op.error.version == write.op.version


def test_an_owner_lost_with_its_epoch_lets_the_operation_run_under_the_next() -> None:
    cluster = FakeCluster(nodes=6, zones=6)
    cluster.put(KEY, b"v", Consistency.ALL)
    cluster.flow()
    read, write = cluster.get(KEY), cluster.put(b"other", b"w")
    for number in (4, 5, 6):
        cluster.fence_created(number)
        cluster.copy((1, 2, 3), number)
    owners = tuple(type(owner)(owner.node + 3, 1) for owner in cluster.bucket.owners)
    cluster.change(owners=owners)
    cluster.fence_raised(4, 5, 6)
    cluster.publish()
    for number in (1, 2, 3):
        cluster.link(number).cut()
    cluster.flow()
    assert read.value == b"v"
    assert write.outcome is Outcome.OK


def test_a_former_lifes_acknowledgement_is_not_added_to_a_new_lifes() -> None:
    """B acknowledges, forgets, is trusted again; then a late C must not complete it."""
    cluster = FakeCluster()
    cluster.sidecar.learns = False
    write = cluster.put(KEY, b"v")
    cluster.link(2).flow()
    cluster.crash(2, empty=True)
    cluster.readmit(2)
    cluster.link(3).flow()
    assert write.outcome is not Outcome.OK


def test_a_readmitted_owner_counts_again_and_only_with_its_new_incarnation() -> None:
    cluster = FakeCluster()
    cluster.put(KEY, b"v", Consistency.ALL)
    cluster.flow()
    cluster.crash(2, empty=True)
    cluster.readmit(2)
    cluster.publish()
    cluster.sidecar.connect(2)
    cluster.link(3).cut()
    read, write = cluster.get(KEY), cluster.put(b"other", b"w")
    cluster.flow()
    assert read.value == b"v"
    assert write.outcome is Outcome.OK
    assert cluster.fence(2).incarnation == 2


def test_a_keyspace_that_is_deleted_meanwhile_leaves_an_applied_write_unknown() -> None:
    cluster = FakeCluster()
    write, read = cluster.put(KEY, b"v"), cluster.get(KEY)
    for number in (1, 2, 3):
        cluster.link(number).deliver(len(cluster.link(number).commands))
    nowhere = type(cluster.map)("test", 9, cluster.map.nodes, {})
    cluster.sidecar.adopt(nowhere)
    cluster.flow()
    assert (write.outcome, write.reason) == (Outcome.UNKNOWN, Reason.KEYSPACE_UNKNOWN)
    assert read.reason is Reason.KEYSPACE_UNKNOWN


def test_parked_operations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "MAX_ACTIVE", 3)
    cluster = FakeCluster()
    cluster.sidecar.learns = False
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    reads = []
    for _ in range(5):
        reads.append(cluster.get(KEY, Consistency.ONE))
        cluster.flow()
    assert [read.reason for read in reads] == [None] * 3 + [Reason.OVERLOADED] * 2
    write = cluster.put(KEY, b"v", Consistency.ONE)
    cluster.flow()
    assert (write.outcome, write.reason) == (Outcome.NOT_APPLIED, Reason.OVERLOADED)


def test_with_a_smaller_keyspace_of_the_same_name_the_epoch_has_moved() -> None:
    cluster = FakeCluster()
    core = cluster.sidecar.core
    beyond = replace(cluster.bucket, id=7)
    assert core.epoch_moved(Route(cluster.map.keyspaces[KEYSPACE], beyond, core.peers, "a"))
