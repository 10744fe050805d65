"""Operations of linearizable keyspaces: playbooks of what can come between."""

from dataclasses import replace

import pytest

from buckets.bucket_map import Consistency, Durability
from replicas.changes import Propose, Refuse, compare_and_set
from replicas.version import ZERO_VERSION
from sidecar.errors import Outcome, Reason
from tests.support.fake_cluster import TIMEOUT_S, FakeCluster
from tests.support.register_cluster import (
    SETTINGS,
    Ended,
    get,
    linearizable,
    modify,
    operation_id,
    put,
)


def done(cluster: FakeCluster, ended: Ended) -> Ended:
    """Lets everything arrive."""
    cluster.flow()
    assert ended.outcome is Outcome.OK, ended.op.error
    return ended


def settle(cluster: FakeCluster, *all_ended: Ended) -> None:
    """Lets everything arrive, and what waits go on, for as long as it takes."""
    for _ in range(200):
        cluster.flow()
        if all(ended.ends for ended in all_ended):
            return
        cluster.wait(0.005)
    raise AssertionError("not all ended")


# --- what it does


def test_a_read_sees_what_was_put_and_its_version() -> None:
    cluster = linearizable()
    written = done(cluster, put(cluster.sidecar, b"v"))
    read = done(cluster, get(cluster.sidecar))
    assert read.value == b"v"
    assert read.op.version == written.op.version


def test_a_key_never_written_has_no_version() -> None:
    cluster = linearizable()
    read = done(cluster, get(cluster.sidecar))
    assert read.value is None
    assert read.op.version == b""


def test_a_delete_says_whether_there_was_something() -> None:
    cluster = linearizable()
    assert not done(cluster, put(cluster.sidecar, None)).op.existed
    done(cluster, put(cluster.sidecar, b"v"))
    assert done(cluster, put(cluster.sidecar, None)).op.existed
    assert done(cluster, get(cluster.sidecar)).value is None


def test_an_uncontended_read_asks_a_majority_once() -> None:
    cluster = linearizable()
    done(cluster, put(cluster.sidecar, b"v"))
    get(cluster.sidecar)
    sent = [len(cluster.link(number).commands) for number in (1, 2, 3)]
    assert sorted(sent) == [0, 1, 1]


def test_two_compare_and_sets_of_one_version_do_not_both_apply() -> None:
    cluster = linearizable()
    other = cluster.new_sidecar("b")
    version = done(cluster, put(cluster.sidecar, b"1")).op.version
    first = modify(cluster.sidecar, compare_and_set(b"a", expected_version=version))
    second = modify(other, compare_and_set(b"b", expected_version=version))
    settle(cluster, first, second)
    applied = [one for one in (first, second) if not one.op.refused]
    assert len(applied) == 1
    [lost] = [one for one in (first, second) if one.op.refused]
    assert lost.op.current.value == done(cluster, get(other)).value


def test_fifty_increments_of_one_sidecar_take_turns_in_order() -> None:
    cluster = linearizable()
    all_ended = [modify(cluster.sidecar) for _ in range(50)]
    cluster.flow()
    assert [ended.op.result for ended in all_ended] == list(range(1, 51))
    assert cluster.sidecar.core.counters.outbid == 0
    assert cluster.sidecar.core.active == 0


def test_increments_of_two_sidecars_all_count() -> None:
    cluster = linearizable()
    sidecars = [cluster.sidecar, cluster.new_sidecar("b")]
    all_ended = [modify(sidecars[turn % 2]) for turn in range(20)]
    settle(cluster, *all_ended)
    assert sorted(ended.op.result for ended in all_ended) == list(range(1, 21))


def test_a_read_waits_behind_a_change_of_its_key() -> None:
    cluster = linearizable()
    change = modify(cluster.sidecar)
    read = get(cluster.sidecar)
    later = modify(cluster.sidecar)
    cluster.flow()
    assert change.op.result == 1
    assert read.value == b"1"
    assert later.op.result == 2


def test_what_waits_for_its_turn_and_never_gets_it_was_not_applied() -> None:
    cluster = linearizable()
    first, second = modify(cluster.sidecar), modify(cluster.sidecar)
    cluster.time_out()
    assert first.outcome is Outcome.NOT_APPLIED  # only promises were asked for
    assert second.outcome is Outcome.NOT_APPLIED
    assert "waited for earlier changes" in second.op.error.message
    cluster.flow()
    third = done(cluster, modify(cluster.sidecar))
    assert third.op.result == 1


def test_a_thousand_that_wait_and_fail_are_not_a_thousand_calls_deep() -> None:
    cluster = linearizable()
    all_ended = [modify(cluster.sidecar) for _ in range(2000)]
    for number in (1, 2):
        cluster.link(number).cut()
    assert {ended.reason for ended in all_ended} == {Reason.NOT_ENOUGH_REPLICAS}
    assert cluster.sidecar.core.active == 0


# --- outcomes


def test_nothing_sent_to_a_majority_is_not_applied() -> None:
    cluster = linearizable()
    for number in (1, 2):
        cluster.link(number).cut()
    write = put(cluster.sidecar, b"v")
    assert write.outcome is Outcome.NOT_APPLIED
    assert write.reason is Reason.NOT_ENOUGH_REPLICAS
    assert "n1 its connection broke" in write.op.error.message


def test_accepts_lost_on_their_way_are_unknown_and_carry_the_id() -> None:
    cluster = linearizable()
    write = put(cluster.sidecar, b"v")
    for number in (1, 2, 3):
        cluster.link(number).flow()  # promises
    for number in (1, 2):
        cluster.link(number).cut()
    assert write.outcome is Outcome.UNKNOWN
    assert len(write.op.error.operation_id) == 16


def test_accepts_that_never_left_are_not_applied() -> None:
    cluster = linearizable()
    write = put(cluster.sidecar, b"v")
    for number in (1, 2):
        cluster.link(number).deliver()
    for number in (1, 2, 3):
        cluster.link(number).full = True
    for number in (1, 2):
        cluster.link(number).answer()
    settle(cluster, write)
    assert write.outcome is Outcome.NOT_APPLIED


def test_a_deadline_after_the_accepts_were_sent_is_unknown() -> None:
    cluster = linearizable()
    write = put(cluster.sidecar, b"v")
    for number in (1, 2):
        cluster.link(number).flow()
    cluster.time_out()
    assert write.outcome is Outcome.UNKNOWN
    assert write.reason is Reason.TIMEOUT
    cluster.flow()  # late answers find nobody
    assert write.ends == 1


def test_an_unknown_change_repeated_with_its_id_happens_once() -> None:
    cluster = linearizable()
    id_ = operation_id()
    lost = modify(cluster.sidecar, operation_id=id_)
    for number in (1, 2, 3):
        cluster.link(number).flow()
    for number in (1, 2, 3):
        cluster.link(number).deliver(len(cluster.link(number).commands))
    for number in (1, 2, 3):
        cluster.link(number).cut()
    assert lost.outcome is Outcome.UNKNOWN
    assert lost.op.error.operation_id == id_
    for number in (1, 2, 3):
        cluster.sidecar.connect(number)
    again = done(cluster, modify(cluster.sidecar, operation_id=id_))
    assert again.op.repeated
    assert again.op.result is None
    assert done(cluster, get(cluster.sidecar)).value == b"1"


def test_a_repeat_that_reaches_nobody_stays_unknown() -> None:
    cluster = linearizable()
    for number in (1, 2):
        cluster.link(number).cut()
    assert modify(cluster.sidecar, operation_id=operation_id()).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("id_", [b"short", bytes(16)])
def test_an_id_that_the_key_could_not_remember_is_refused(id_: bytes) -> None:
    cluster = linearizable()
    refused = modify(cluster.sidecar, operation_id=id_)
    assert refused.outcome is Outcome.NOT_APPLIED
    assert refused.reason is Reason.OPERATION_ID_INVALID


def test_an_id_from_the_future_is_refused_but_a_faster_sidecar_may_have_applied_it() -> None:
    cluster = linearizable()
    refused = modify(cluster.sidecar, operation_id=operation_id(at_ms=2_000_000_000_000))
    assert refused.reason is Reason.OPERATION_ID_INVALID
    assert refused.outcome is Outcome.UNKNOWN
    assert refused.op.error.operation_id == refused.op.operation_id
    assert not cluster.link(1).commands


def test_an_id_older_than_what_the_key_remembers_is_not_applied_again() -> None:
    cluster = linearizable()
    old = operation_id(1, cluster.wall_ms - 5)
    for _ in range(17):
        cluster.wall_ms += 1
        done(cluster, modify(cluster.sidecar))
    expired = modify(cluster.sidecar, operation_id=old)
    cluster.flow()
    assert expired.outcome is Outcome.UNKNOWN
    assert expired.reason is Reason.OPERATION_EXPIRED
    assert done(cluster, get(cluster.sidecar)).value == b"17"


# --- replicas that come and go


def test_one_owner_down_changes_nothing() -> None:
    cluster = linearizable()
    cluster.link(2).cut()
    done(cluster, put(cluster.sidecar, b"v"))
    assert done(cluster, get(cluster.sidecar)).value == b"v"


def test_a_read_does_not_wait_for_a_frozen_owner() -> None:
    cluster = linearizable()
    done(cluster, put(cluster.sidecar, b"v"))
    reads = [get(cluster.sidecar) for _ in range(3)]
    for number in (1, 2):
        cluster.link(number).flow()  # 3 is frozen
    cluster.tick()
    cluster.wait(0.11)
    for _ in range(3):
        for number in (1, 2):
            cluster.link(number).flow()
    assert [read.value for read in reads] == [b"v"] * 3


def test_a_restarted_owner_whose_life_is_not_trusted_counts_in_nothing() -> None:
    cluster = linearizable()
    cluster.link(3).cut()
    cluster.crash(1, empty=True)
    cluster.sidecar.connect(1)
    write = put(cluster.sidecar, b"v")
    assert write.outcome is Outcome.NOT_APPLIED
    assert "not trusted" in write.op.error.message
    assert not cluster.link(1).commands  # and is sent nothing


def test_a_stale_sidecar_learns_the_epoch_and_goes_on() -> None:
    cluster = linearizable()
    done(cluster, put(cluster.sidecar, b"1"))
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    change = modify(cluster.sidecar)
    settle(cluster, change)
    assert change.op.result == 2
    assert cluster.sidecar.core.route_of("default", b"key").epoch == 2  # type: ignore[union-attr]


def test_a_stale_sidecar_that_learns_nothing_ends_at_its_deadline() -> None:
    cluster = linearizable()
    cluster.sidecar.learns = False
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    change = modify(cluster.sidecar)
    cluster.flow()
    assert not change.ends
    cluster.wait(TIMEOUT_S + 0.01)
    cluster.tick()
    assert change.outcome is Outcome.NOT_APPLIED
    assert change.reason is Reason.TIMEOUT


def test_an_epoch_that_moves_before_the_end_asks_the_owners_again() -> None:
    cluster = linearizable()
    change = modify(cluster.sidecar)
    for number in (1, 2):
        cluster.link(number).flow()  # promises
    for number in (1, 2):
        cluster.link(number).deliver()  # accepted, not heard yet
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    cluster.sidecar.adopt(cluster.map)
    settle(cluster, change)
    assert change.outcome is Outcome.OK
    assert change.op.result == 1
    assert cluster.sidecar.core.counters.restarts == 1
    assert done(cluster, get(cluster.sidecar)).value == b"1"


def test_an_owner_that_is_not_durable_does_not_count_where_it_has_to_be() -> None:
    durable = replace(SETTINGS, durability=Durability.FSYNC)
    cluster = FakeCluster(settings=durable)
    refused = put(cluster.sidecar, b"v")
    assert refused.reason is Reason.NOT_ENOUGH_REPLICAS
    assert "appendfsync always" in refused.op.error.message
    for number in (1, 2):
        link = cluster.sidecar.connect(number)
        cluster.sidecar.core.peers[number].connected(link, link.life, durable=True)
    done(cluster, put(cluster.sidecar, b"v"))
    assert done(cluster, get(cluster.sidecar)).value == b"v"
    assert not cluster.link(3).commands


# --- what is refused


@pytest.mark.parametrize("level", [Consistency.ONE, Consistency.QUORUM, Consistency.ANY])
def test_levels_are_refused_by_name(level: Consistency) -> None:
    cluster = linearizable()
    for refused in (get(cluster.sidecar, level), put(cluster.sidecar, b"v", level=level)):
        assert refused.reason is Reason.CONSISTENCY_INVALID
        assert level.name in refused.op.error.message


def test_a_tunable_keyspace_refuses_what_reads_before_it_writes() -> None:
    cluster = FakeCluster()
    refused = modify(cluster.sidecar)
    assert refused.reason is Reason.NEEDS_LINEARIZABLE
    assert refused.outcome is Outcome.NOT_APPLIED


def test_a_repeat_in_the_other_modes_way_is_refused() -> None:
    assert put(linearizable().sidecar, b"v", version=b"v" * 16).reason is Reason.VERSION_INVALID
    tunable = put(FakeCluster().sidecar, b"v", operation_id=operation_id())
    assert tunable.reason is Reason.OPERATION_ID_INVALID


def test_a_record_of_the_other_mode_is_neither_read_nor_replaced() -> None:
    cluster = linearizable()
    tunable = FakeCluster()
    tunable.put(b"key", b"tunable")
    tunable.flow()
    for number in (1, 2, 3):
        record = tunable.record(number, b"key")
        assert record is not None
        cluster.fields(number)[b"kkey"] = record.raw
    read, write = get(cluster.sidecar), put(cluster.sidecar, b"v")
    settle(cluster, read, write)
    assert read.reason is Reason.NOT_ENOUGH_REPLICAS
    assert write.outcome is Outcome.NOT_APPLIED
    assert "WRONG_MODE" in write.op.error.message


def test_a_value_that_would_grow_too_large_is_refused() -> None:
    cluster = linearizable()
    large = b"x" * (SETTINGS.max_value_bytes + 1)
    refused = modify(cluster.sidecar, lambda _: Propose(large))
    cluster.flow()
    assert refused.reason is Reason.VALUE_TOO_LARGE
    assert refused.outcome is Outcome.NOT_APPLIED


def test_the_result_of_a_refusal_that_somebody_else_finished_is_known() -> None:
    cluster = linearizable()
    other = cluster.new_sidecar("b")
    refused = modify(cluster.sidecar, lambda _: Refuse("no", "answer"))
    for number in (1, 2, 3):
        cluster.link(number).flow()  # promises
    cluster.link(1).deliver()  # one accepts ...
    reads = get(other)
    other.links[1].flow()
    settle(cluster, reads, refused)
    assert refused.op.refused
    assert refused.op.result == "answer"
    assert refused.op.version == ZERO_VERSION
