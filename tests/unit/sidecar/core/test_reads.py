"""Reads: what is no answer, what is settled before the answer, and what follows it."""

from dataclasses import replace

import pytest
from hiredis import ReplyError

from buckets.bucket_map import Consistency, Stage
from replicas.fence import Fence, Role
from replicas.layout import user_field
from replicas.record import FLAG_LINEARIZABLE
from sidecar.core.health import MOST_HEDGE_S, Budget
from sidecar.core.sweep import HEDGE_AGAIN_S
from sidecar.errors import Reason
from tests.support.fake_cluster import START_MS, Asked, FakeCluster, Move
from tests.support.replica_records import flip, sealed, version_at

pytestmark = pytest.mark.usefixtures("lane")  # on both ways of a read

KEY = b"key"
OLD, NEW = version_at(START_MS + 1), version_at(START_MS + 2)


def holding(**on: bytes) -> FakeCluster:
    """n1=b"v" puts a value on node 1: b"old" with an older version, anything else a newer."""
    cluster = FakeCluster()
    for node, value in on.items():
        put_on(cluster, value, int(node[1:]))
    return cluster


def put_on(cluster: FakeCluster, value: bytes, *numbers: int) -> None:
    version = OLD if value == b"old" else NEW
    other = cluster.new_sidecar()
    other.put(KEY, value, Consistency.ALL, version=version)
    for number in numbers:
        other.links[number].flow()
    for link in list(other.links.values()):
        link.cut()
    cluster.sidecars.remove(other)


def asked_nodes(cluster: FakeCluster) -> list[int]:
    return sorted(n for n, link in cluster.sidecar.links.items() if link.commands)


def only(cluster: FakeCluster, *numbers: int) -> None:
    """The sidecar has no connection but to these."""
    for number in list(cluster.sidecar.links):
        if number not in numbers:
            cluster.link(number).cut()


def purged_on(cluster: FakeCluster, *numbers: int, dropped: bool = True) -> None:
    """What is up to NEW is gone there, by a purge, or is missed and the bucket merely closed."""
    bound = version_at(START_MS + 3, 0, bytes(8))
    through = bound[:-1] + b"\1" if dropped else bound
    for number in numbers:
        cluster.fields(number).pop(user_field(KEY), None)
        cluster.set_fence(number, replace(cluster.fence(number), purged_through=through).encode())


def failed(read: Asked, reason: Reason) -> bool:
    return read.ends == 1 and read.reason is reason


# --- levels


def test_a_quorum_read_asks_a_majority_and_answers_what_it_agrees_on() -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    read = cluster.get(KEY)
    assert len(asked_nodes(cluster)) == 2
    cluster.flow()
    assert read.value == b"v"
    assert read.op.version == NEW
    assert read.op.acks == 2


def test_what_was_never_written_reads_as_absent_without_a_version() -> None:
    cluster = FakeCluster()
    read = cluster.get(KEY)
    cluster.flow()
    assert read.value is None
    assert read.op.version == b""


@pytest.mark.parametrize("level", [Consistency.LOCAL_ONE, Consistency.LOCAL_QUORUM])
def test_a_local_level_in_a_zone_without_owners_is_refused_and_never_vacuous(level: int) -> None:
    cluster = FakeCluster()
    elsewhere = cluster.new_sidecar(zone="z")
    read, write = elsewhere.get(KEY, level), elsewhere.put(KEY, b"v", level)
    assert failed(read, Reason.NO_OWNER_IN_ZONE)
    assert failed(write, Reason.NO_OWNER_IN_ZONE)
    assert write.outcome is not None
    assert write.outcome.name == "NOT_APPLIED"
    assert not any(link.commands for link in elsewhere.links.values())


@pytest.mark.parametrize("level", [Consistency.ANY, Consistency.BOUNDED, Consistency.SESSION, 99])
def test_a_level_that_is_not_served_is_named(level: int) -> None:
    cluster = FakeCluster()
    assert failed(cluster.get(KEY, level), Reason.CONSISTENCY_INVALID)
    written = cluster.put(KEY, b"v", level)
    assert level == Consistency.ANY or failed(written, Reason.CONSISTENCY_INVALID)


# --- what is no answer


FENCES = {
    "none": None,
    "corrupt": b"\x00" * 59,
    "of another incarnation": Fence(1, Stage.OLD, Role.OWNER, 2).encode(),
    "of a joining replica": Fence(1, Stage.OLD, Role.JOINING, 1).encode(),
    "of a read replica": Fence(1, Stage.OLD, Role.READ_REPLICA, 1).encode(),
    "of a released owner": Fence(1, Stage.OLD, Role.RELEASED, 1).encode(),
    "of a later epoch": Fence(2, Stage.OLD, Role.OWNER, 1).encode(),
}


@pytest.mark.parametrize("fence", FENCES.values(), ids=FENCES.keys())
@pytest.mark.parametrize("level", [Consistency.ONE, Consistency.QUORUM, Consistency.ALL])
def test_a_replica_with_such_a_fence_never_counts(fence: bytes | None, level: int) -> None:
    cluster = holding(n2=b"v", n3=b"v")
    only(cluster, 1)
    cluster.set_fence(1, fence)
    read = cluster.get(KEY, level)
    cluster.flow()
    if read.ended:
        assert read.reason is Reason.NOT_ENOUGH_REPLICAS
    cluster.time_out()
    assert read.ends == 1
    assert read.op.error is not None


@pytest.mark.parametrize("fence", FENCES.values(), ids=FENCES.keys())
def test_another_replica_answers_in_its_place(fence: bytes | None) -> None:
    cluster = holding(n2=b"v", n3=b"v")
    cluster.sidecar.learns = False
    cluster.set_fence(1, fence)
    reads = [cluster.get(KEY, Consistency.ONE) for _ in range(6)]
    reads += [cluster.get(KEY) for _ in range(6)]
    cluster.flow()
    assert [read.value for read in reads] == [b"v"] * 12
    assert cluster.sidecar.core.counters.fence_refusals > 0


def test_a_fence_that_is_not_raised_yet_is_no_objection() -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    cluster.change()
    cluster.publish()
    read = cluster.get(KEY)
    cluster.flow()
    assert read.value == b"v"


def test_a_good_fence_is_judged_again_when_it_changes() -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    first = cluster.get(KEY)
    cluster.flow()
    assert first.value == b"v"
    for number in (1, 2, 3):
        cluster.set_fence(number, None)
    second = cluster.get(KEY)
    cluster.flow()
    assert failed(second, Reason.NOT_ENOUGH_REPLICAS)


@pytest.mark.parametrize("level", [Consistency.ONE, Consistency.QUORUM])
def test_a_record_that_fails_its_checksum_is_no_answer(level: int) -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    fields = cluster.fields(1)
    fields[user_field(KEY)] = flip(fields[user_field(KEY)], -1)
    reads = [cluster.get(KEY, level) for _ in range(6)]
    cluster.flow()
    assert [read.value for read in reads] == [b"v"] * 6
    assert cluster.sidecar.core.counters.corrupt_records > 0
    only(cluster, 1)
    alone = cluster.get(KEY, Consistency.ONE)
    cluster.flow()
    assert failed(alone, Reason.NOT_ENOUGH_REPLICAS)


def test_a_record_of_the_other_mode_is_no_answer() -> None:
    cluster = FakeCluster()
    raw = sealed(NEW + bytes((FLAG_LINEARIZABLE,)) + b"v")
    for number in (1, 2, 3):
        cluster.fields(number)[user_field(KEY)] = raw
    read = cluster.get(KEY)
    cluster.flow()
    assert failed(read, Reason.NOT_ENOUGH_REPLICAS)
    one = FakeCluster()
    one.fields(1)[user_field(KEY)] = raw
    reads = [one.get(KEY) for _ in range(6)]
    one.flow()
    assert [read.value for read in reads] == [None] * 6


@pytest.mark.parametrize(
    "reply", [ReplyError("ERR no"), b"OK", 7, None, [], [None], [b"f", b"r", b"x"]]
)
def test_a_reply_of_another_form_is_no_answer(reply: object) -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    read = cluster.get(KEY, Consistency.ONE)
    (first,) = asked_nodes(cluster)
    cluster.link(first).answer_with(reply)
    cluster.flow()
    assert read.value == b"v"


def test_a_suspect_owner_is_not_asked() -> None:
    cluster = holding(n2=b"v", n3=b"v")
    cluster.suspect(1)
    cluster.publish()
    read = cluster.get(KEY)
    assert asked_nodes(cluster) == [2, 3]
    cluster.flow()
    assert read.value == b"v"
    assert failed(cluster.get(KEY, Consistency.ALL), Reason.NOT_ENOUGH_REPLICAS)


def test_a_life_that_the_map_does_not_trust_is_not_asked() -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    cluster.crash(1, empty=True)
    cluster.sidecar.connect(1)
    read = cluster.get(KEY)
    assert asked_nodes(cluster) == [2, 3]
    cluster.flow()
    assert read.value == b"v"


# --- replies that differ


def test_a_quorum_read_settles_the_newest_version_before_it_answers() -> None:
    cluster = holding(n1=b"old", n2=b"v", n3=b"old")
    only(cluster, 1, 2)
    read = cluster.get(KEY)
    for number in (1, 2):
        cluster.link(number).deliver()
        cluster.link(number).answer()
    assert not read.ended
    assert cluster.link(1).commands
    cluster.flow()
    assert read.value == b"v"
    assert cluster.holders(KEY, NEW) == {1, 2}


def test_it_settles_what_one_of_them_never_heard_of() -> None:
    cluster = holding(n2=b"v")
    only(cluster, 1, 2)
    read = cluster.get(KEY)
    cluster.flow()
    assert read.value == b"v"
    assert cluster.holders(KEY, NEW) == {1, 2}


def divergent(cluster: FakeCluster) -> tuple[Asked, int]:
    """A read that heard v from node 2 and old from another, which is being repaired: its number."""
    while True:
        read = cluster.get(KEY)
        one, other = asked_nodes(cluster)
        if 2 in (one, other):
            for number in (one, other):
                cluster.link(number).deliver()
                cluster.link(number).answer()
            return read, one + other - 2
        cluster.flow()


def test_a_repair_that_fails_is_replaced_by_a_replica_that_was_not_read() -> None:
    cluster = holding(n1=b"old", n2=b"v", n3=b"old")
    read, behind = divergent(cluster)
    cluster.link(behind).cut()
    assert not read.ended
    cluster.flow()
    assert read.value == b"v"
    assert cluster.holders(KEY, NEW) == {2, 4 - behind}


def test_with_no_replica_left_to_repair_the_read_is_unavailable() -> None:
    cluster = holding(n1=b"old", n2=b"v", n3=b"old")
    read, behind = divergent(cluster)
    cluster.link(4 - behind).cut()
    assert not read.ended
    cluster.link(behind).cut()
    assert failed(read, Reason.REPLICAS_DISAGREE)


def test_a_repair_that_hangs_is_replaced_too() -> None:
    cluster = holding(n1=b"old", n2=b"v", n3=b"old")
    read, behind = divergent(cluster)
    cluster.tick()
    cluster.wait(MOST_HEDGE_S * 1.5)
    assert not read.ended
    cluster.link(4 - behind).flow()
    assert read.value == b"v"


def test_a_repair_that_hangs_is_replaced_within_the_budget_only() -> None:
    cluster = holding(n1=b"old", n2=b"v", n3=b"old")
    read, behind = divergent(cluster)
    core = cluster.sidecar.core
    core.hedges = Budget(share=0.0, per_s=0.0, burst=0.0)
    cluster.tick()
    cluster.wait(MOST_HEDGE_S * 1.5)
    assert not cluster.link(4 - behind).commands
    core.hedges = Budget(share=0.0, per_s=0.0, burst=1.0)
    cluster.wait(HEDGE_AGAIN_S)
    cluster.link(4 - behind).flow()
    assert read.value == b"v"


def test_a_repair_acknowledged_by_a_former_life_does_not_count() -> None:
    cluster = holding(n1=b"old", n2=b"v", n3=b"old")
    read, behind = divergent(cluster)
    link = cluster.link(behind)
    link.deliver()
    held = link.replies.popleft()
    cluster.crash(behind, empty=True)
    cluster.change_node(behind, run_id=cluster.life(behind))
    cluster.publish()
    cluster.sidecar.connect(behind)  # and it counts
    held[0].sink.on_reply(held[0].slot, held[1], link)  # type: ignore[arg-type]
    assert not read.ended


def test_a_repair_acknowledged_by_an_owner_that_became_suspect_does_not_count() -> None:
    cluster = holding(n1=b"old", n2=b"v", n3=b"old")
    read, behind = divergent(cluster)
    cluster.suspect(behind)
    cluster.publish()
    cluster.link(behind).flow()
    assert not read.ended
    cluster.flow()
    assert read.value == b"v"
    assert cluster.holders(KEY, NEW) == {1, 2, 3}


def test_a_replica_that_holds_something_newer_still_is_repaired_enough() -> None:
    cluster = holding(n1=b"old", n2=b"v", n3=b"old")
    read, behind = divergent(cluster)
    other = cluster.new_sidecar()
    other.put(KEY, b"newest", version=version_at(START_MS + 9))
    other.links[behind].flow()
    cluster.link(behind).flow()
    assert read.value == b"v"


@pytest.mark.parametrize("level", [Consistency.LOCAL_QUORUM, Consistency.LOCAL_ONE])
def test_below_quorum_repair_follows_the_answer(level: int) -> None:
    cluster = FakeCluster(zones=1)
    put_on(cluster, b"old", 1, 3)
    put_on(cluster, b"v", 2)
    if level == Consistency.LOCAL_ONE:
        read = cluster.get(KEY, level)
        cluster.flow()
        assert read.value in (b"v", b"old")
        assert cluster.sidecar.core.counters.read_repairs == 0
        return
    only(cluster, 1, 2)
    read = cluster.get(KEY, level)
    for number in (1, 2):
        cluster.link(number).deliver()
        cluster.link(number).answer()
    assert read.value == b"v"
    assert cluster.holders(KEY, NEW) == {2}
    cluster.flow()
    assert cluster.holders(KEY, NEW) == {1, 2}


def test_a_later_reader_never_goes_back_whichever_replicas_it_reads() -> None:
    for first in ((1, 2), (2, 3)):
        for second in ((1, 2), (2, 3), (1, 3)):
            cluster = holding(n2=b"v", n1=b"old", n3=b"old")
            only(cluster, *first)
            read = cluster.get(KEY)
            cluster.flow()
            assert read.value == b"v"
            later = cluster.new_sidecar()
            for number in {1, 2, 3} - set(second):
                later.links[number].cut()
            again = later.get(KEY)
            cluster.flow()
            assert again.value == b"v"


# --- in a move


@pytest.mark.parametrize("stage", [Stage.WRITE_BOTH_READ_OLD, Stage.WRITE_BOTH_READ_NEW])
def test_in_a_move_what_the_read_majority_agrees_on_is_settled_on_the_other_majority(
    stage: Stage,
) -> None:
    """Replies that agree are not enough: the next stage reads others."""
    cluster = FakeCluster(nodes=6, zones=6)
    move = Move(cluster, (4, 5, 6))
    move.write_both_read_old()
    if stage is Stage.WRITE_BOTH_READ_NEW:
        move.write_both_read_new()
    cluster.publish()
    put_on(cluster, b"v", *(move.old if stage is Stage.WRITE_BOTH_READ_OLD else move.new))
    read = cluster.get(KEY)
    cluster.flow()
    assert read.value == b"v"
    assert len(cluster.holders(KEY, NEW) & {1, 2, 3}) >= 2
    assert len(cluster.holders(KEY, NEW) & {4, 5, 6}) >= 2


def test_in_a_move_what_was_never_written_needs_no_settling() -> None:
    cluster = FakeCluster(nodes=4)
    Move(cluster, (1, 2, 4)).write_both_read_old()
    cluster.publish()
    read = cluster.get(KEY)
    cluster.flow()
    assert read.value is None


# --- tombstones and expiry


def test_a_tombstone_reads_as_absent_with_its_version() -> None:
    cluster = holding(n1=b"old", n2=b"old", n3=b"old")
    deleted = cluster.sidecar.delete(KEY, Consistency.ALL, version=NEW)
    cluster.flow()
    assert deleted.op.error is None
    read = cluster.get(KEY)
    cluster.flow()
    assert read.value is None
    assert read.op.version == NEW


def test_an_expired_record_reads_as_absent_with_its_version() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v", Consistency.ALL, expires_at_ms=START_MS + 100)
    cluster.flow()
    before = cluster.get(KEY)
    cluster.flow()
    assert before.value == b"v"
    cluster.wait(0.1)
    after = cluster.get(KEY)
    cluster.flow()
    assert after.value is None
    assert after.op.version == write.op.version


def test_a_tombstone_is_settled_like_a_value() -> None:
    cluster = holding(n1=b"old", n2=b"old", n3=b"old")
    cluster.sidecar.delete(KEY, Consistency.ALL, version=NEW)
    cluster.link(2).flow()
    for number in (1, 3):
        cluster.link(number).cut()
    cluster.sidecar.connect(1)
    read = cluster.get(KEY)
    cluster.flow()
    assert read.value is None
    assert cluster.holders(KEY, NEW) == {1, 2}


def test_a_tombstone_that_an_owner_has_purged_is_settled_there() -> None:
    """While a purge goes on, one owner has the tombstone still, and the next one not any more."""
    cluster = holding(n1=b"old", n2=b"old", n3=b"old")
    cluster.sidecar.delete(KEY, Consistency.ALL, version=NEW)
    cluster.flow()
    purged_on(cluster, 1, 3)
    only(cluster, 1, 2)
    read = cluster.get(KEY)
    cluster.flow()
    assert read.ended
    assert read.value is None
    assert cluster.record(1, KEY) is None


def test_a_tombstone_is_not_settled_where_the_bucket_is_merely_closed() -> None:
    """Node 3 has what it covers still: with node 1, which lacks both, it would be read again."""
    cluster = holding(n1=b"old", n2=b"old", n3=b"old")
    cluster.sidecar.delete(KEY, Consistency.ALL, version=NEW)
    cluster.link(2).flow()
    purged_on(cluster, 1, dropped=False)
    only(cluster, 1, 2)
    cluster.sidecar.connect(1)
    read = cluster.get(KEY)
    cluster.flow()
    assert failed(read, Reason.REPLICAS_DISAGREE)


def test_a_late_write_back_of_a_value_does_not_count_where_it_was_purged() -> None:
    """Fault 16: node 2 answered long ago, when it had the value still."""
    cluster = holding(n2=b"old")
    only(cluster, 1, 2)
    read = cluster.get(KEY)
    for number in (1, 2):
        cluster.link(number).deliver()
    purged_on(cluster, 1, 2, 3)
    cluster.flow()
    assert failed(read, Reason.REPLICAS_DISAGREE)
    assert all(cluster.record(number, KEY) is None for number in (1, 2, 3))


# --- slow replicas


def test_a_read_that_waits_long_asks_one_more_replica() -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    read = cluster.get(KEY)
    frozen, other = asked_nodes(cluster)
    cluster.link(other).flow()
    cluster.tick()
    cluster.wait(MOST_HEDGE_S / 2)
    assert len(asked_nodes(cluster)) == 1
    cluster.wait(MOST_HEDGE_S)
    (third,) = set(asked_nodes(cluster)) - {frozen}
    cluster.link(third).flow()
    assert read.value == b"v"
    assert cluster.sidecar.core.counters.reads_hurried == 1


def test_a_read_without_enough_answers_times_out() -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    read = cluster.get(KEY)
    cluster.time_out()
    assert failed(read, Reason.TIMEOUT)
    cluster.flow()
    assert read.ends == 1


def test_a_broken_connection_is_replaced_by_the_next_replica() -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    read = cluster.get(KEY)
    cluster.link(asked_nodes(cluster)[0]).cut()
    cluster.flow()
    assert read.value == b"v"


def test_a_full_connection_is_replaced_by_the_next_replica() -> None:
    cluster = holding(n1=b"v", n2=b"v", n3=b"v")
    cluster.link(1).full = True
    reads = [cluster.get(KEY) for _ in range(6)]
    cluster.flow()
    assert [read.value for read in reads] == [b"v"] * 6
    cluster.link(2).full = True
    assert failed(cluster.get(KEY), Reason.NOT_ENOUGH_REPLICAS)
