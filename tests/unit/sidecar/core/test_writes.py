"""Writes: what is sent to whom, what counts, and which of three ends each one has."""

import pytest
from hiredis import ReplyError

from buckets.bucket_map import Consistency, KeyspaceSettings, Stage
from replicas.fence import Fence, Role
from replicas.version import physical_ms
from sidecar.errors import Outcome, Reason
from tests.support.fake_cluster import KEYSPACE, START_MS, Asked, FakeCluster
from tests.support.replica_records import version_at

KEY = b"key"
NEWER = START_MS + 400  # ahead of every clock here, but not too far for the replicas


def ended(asked: Asked) -> tuple[Outcome | None, Reason | None]:
    assert asked.ends <= 1
    return asked.outcome, asked.reason


def test_a_write_goes_to_all_owners_and_ends_with_the_majority() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v")
    assert [len(cluster.link(n).commands) for n in (1, 2, 3)] == [1, 1, 1]
    cluster.link(1).flow()
    assert not write.ended
    cluster.link(3).flow()
    assert ended(write) == (Outcome.OK, None)
    assert write.op.acks == 2
    cluster.flow()
    assert write.ends == 1
    assert cluster.holders(KEY, write.op.version) == {1, 2, 3}


def test_a_quorum_that_can_not_be_reached_any_more_is_answered_at_once() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v")
    cluster.link(1).cut()
    assert not write.ended
    cluster.link(2).cut()
    assert ended(write) == (Outcome.UNKNOWN, Reason.NOT_ENOUGH_REPLICAS)


def test_with_too_few_owners_connected_nothing_is_sent_and_the_write_is_not_applied() -> None:
    cluster = FakeCluster()
    cluster.link(1).cut()
    cluster.link(2).cut()
    write = cluster.put(KEY, b"v")
    assert ended(write) == (Outcome.NOT_APPLIED, Reason.NOT_ENOUGH_REPLICAS)
    assert not cluster.link(3).commands
    assert write.op.error is not None
    assert write.op.error.version == b""


def refused_by_two() -> tuple[FakeCluster, Asked]:
    """A write that owners 1 and 2 refused; owner 3 has not answered."""
    cluster = FakeCluster()
    for number in (1, 2):
        cluster.set_fence(number, Fence(1, Stage.OLD, Role.OWNER, 7).encode())
    write = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.link(2).flow()
    return cluster, write


def test_refused_by_a_majority_it_waits_for_the_last_owner_which_may_prove_it_not_applied() -> None:
    cluster, write = refused_by_two()
    assert not write.ended
    cluster.set_fence(3, Fence(1, Stage.OLD, Role.OWNER, 7).encode())
    cluster.link(3).flow()
    assert ended(write) == (Outcome.NOT_APPLIED, Reason.NOT_ENOUGH_REPLICAS)


def test_refused_by_a_majority_and_applied_by_the_last_owner_it_is_unknown() -> None:
    cluster, write = refused_by_two()
    cluster.link(3).flow()
    assert ended(write) == (Outcome.UNKNOWN, Reason.NOT_ENOUGH_REPLICAS)


def test_refused_by_a_majority_it_waits_for_the_last_owner_no_longer_than_its_deadline() -> None:
    cluster, write = refused_by_two()
    cluster.time_out()
    assert ended(write) == (Outcome.UNKNOWN, Reason.NOT_ENOUGH_REPLICAS)


@pytest.mark.parametrize("first", ["applied", "lost"])
def test_what_can_not_be_proved_not_applied_any_more_ends_at_once(first: str) -> None:
    cluster = FakeCluster()
    cluster.set_fence(2, Fence(1, Stage.OLD, Role.OWNER, 7).encode())
    write = cluster.put(KEY, b"v", Consistency.ALL)
    if first == "applied":
        cluster.link(1).flow()
    else:
        cluster.link(1).cut()
    cluster.link(2).flow()
    assert ended(write) == (Outcome.UNKNOWN, Reason.NOT_ENOUGH_REPLICAS)


def test_where_nobody_has_refused_it_there_is_no_proof_to_wait_for() -> None:
    cluster = FakeCluster()
    cluster.link(1).full = cluster.link(2).full = True
    write = cluster.put(KEY, b"v")
    assert ended(write) == (Outcome.UNKNOWN, Reason.NOT_ENOUGH_REPLICAS)


def test_a_retry_that_may_have_been_applied_before_does_not_wait_for_a_proof() -> None:
    cluster = FakeCluster()
    for number in (1, 2):
        cluster.set_fence(number, Fence(1, Stage.OLD, Role.OWNER, 7).encode())
    write = cluster.put(KEY, b"v", version=version_at(START_MS))
    cluster.link(1).flow()
    cluster.link(2).flow()
    assert ended(write) == (Outcome.UNKNOWN, Reason.NOT_ENOUGH_REPLICAS)


def test_refused_by_all_that_were_contacted_is_not_applied() -> None:
    cluster = FakeCluster()
    cluster.link(3).cut()
    for number in (1, 2):
        cluster.set_fence(number, Fence(1, Stage.OLD, Role.OWNER, 7).encode())
    write = cluster.put(KEY, b"v", Consistency.ONE)
    cluster.flow()
    assert ended(write) == (Outcome.NOT_APPLIED, Reason.NOT_ENOUGH_REPLICAS)


def test_an_acknowledgement_beside_refusals_is_unknown() -> None:
    cluster = FakeCluster()
    for number in (1, 2):
        cluster.set_fence(number, Fence(1, Stage.OLD, Role.OWNER, 7).encode())
    write = cluster.put(KEY, b"v")
    cluster.link(3).flow()
    cluster.flow()
    assert ended(write)[0] is Outcome.UNKNOWN
    assert write.op.error is not None
    assert write.op.error.version == write.op.version != b""
    assert (write.op.error.acks_had, write.op.error.acks_needed) == (1, 2)


def test_a_connection_that_breaks_after_the_first_byte_leaves_the_outcome_unknown() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v", Consistency.ONE)
    lost = cluster.link(1)
    for number in (1, 2, 3):
        cluster.link(number).cut()
    assert ended(write)[0] is Outcome.UNKNOWN
    lost.arrive_late()
    assert b"v" in cluster.values(1)


def test_a_connection_that_breaks_before_the_first_byte_proves_that_nothing_was_applied() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v", Consistency.ONE)
    for number in (1, 2, 3):
        cluster.link(number).cut(unsent=1)
    assert ended(write) == (Outcome.NOT_APPLIED, Reason.NOT_ENOUGH_REPLICAS)


def test_a_full_connection_is_no_acknowledgement_and_was_sent_nothing() -> None:
    cluster = FakeCluster()
    for number in (1, 2, 3):
        cluster.link(number).full = True
    write = cluster.put(KEY, b"v", Consistency.ONE)
    assert ended(write) == (Outcome.NOT_APPLIED, Reason.NOT_ENOUGH_REPLICAS)


def test_a_deadline_leaves_the_outcome_unknown() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.time_out()
    assert ended(write) == (Outcome.UNKNOWN, Reason.TIMEOUT)
    cluster.flow()
    assert write.ends == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("NOSCRIPT No matching script.", Outcome.NOT_APPLIED),
        ("LOADING Redis is loading the dataset in memory", Outcome.NOT_APPLIED),
        ("READONLY You can't write against a read only replica.", Outcome.NOT_APPLIED),
        ("OOM command not allowed when used memory > 'maxmemory'.", Outcome.UNKNOWN),
        ("ERR something inside the script", Outcome.UNKNOWN),
    ],
)
def test_a_server_error_proves_only_what_its_word_says(error: str, outcome: Outcome) -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v", Consistency.ONE)
    for number in (1, 2, 3):
        cluster.link(number).answer_with(ReplyError(error))
    assert write.outcome is outcome


@pytest.mark.parametrize("reply", [None, b"OK", [], [None, None, None, b""], 0, 4, True])
def test_a_reply_that_no_script_gives_is_neither_acknowledgement_nor_proof(reply: object) -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v", Consistency.ONE)
    for number in (1, 2, 3):
        cluster.link(number).answer_with(reply)
    assert write.outcome is Outcome.UNKNOWN


def test_a_suspect_owner_is_sent_the_write_but_never_counted() -> None:
    cluster = FakeCluster()
    cluster.suspect(1)
    cluster.publish()
    write = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    assert b"v" in cluster.values(1)
    cluster.link(2).flow()
    assert not write.ended
    cluster.link(3).flow()
    assert write.outcome is Outcome.OK
    assert write.op.acks == 2


def test_what_a_suspect_owner_holds_says_nothing_about_the_write() -> None:
    cluster = FakeCluster()
    cluster.put(KEY, b"old", version=version_at(NEWER))
    cluster.link(1).flow()
    for number in (2, 3):
        cluster.link(number).cut()
        cluster.sidecar.connect(number)
    cluster.suspect(1)
    cluster.publish()
    write = cluster.put(KEY, b"v")
    cluster.flow()
    assert write.outcome is Outcome.OK
    assert not write.write.superseded
    assert not write.write.existed


def test_a_restarted_owner_does_not_count_until_the_map_trusts_its_life() -> None:
    cluster = FakeCluster()
    cluster.crash(1)
    cluster.sidecar.connect(1)
    write = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.link(2).flow()
    assert not write.ended
    cluster.change_node(1, run_id=cluster.life(1))
    cluster.publish()
    assert not write.ended
    cluster.link(3).flow()
    assert write.outcome is Outcome.OK
    after = cluster.put(KEY, b"w")
    cluster.link(1).flow()
    cluster.link(2).flow()
    assert after.outcome is Outcome.OK


def test_a_newer_version_makes_a_write_superseded_and_acknowledged() -> None:
    cluster = FakeCluster()
    cluster.put(KEY, b"newer", version=version_at(NEWER))
    cluster.flow()
    write = cluster.put(KEY, b"v")
    cluster.flow()
    assert write.outcome is Outcome.OK
    assert write.write.superseded
    assert cluster.get(KEY).op.error is None


def test_a_repeated_write_of_unknown_outcome_is_the_same_write() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.time_out()
    again = cluster.put(KEY, b"v", version=write.op.version)
    cluster.flow()
    assert again.outcome is Outcome.OK
    assert again.op.version == write.op.version
    assert not again.write.superseded


@pytest.mark.parametrize("connected", [0, 1])
def test_a_repeated_write_is_never_not_applied(connected: int) -> None:
    """Its first attempt may have been: whoever is told NOT_APPLIED must never meet the value."""
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.time_out()
    for number in (3, 2, 1)[: 3 - connected]:
        cluster.link(number).cut()
    again = cluster.put(KEY, b"v", version=write.op.version)
    assert again.outcome is Outcome.UNKNOWN
    assert again.op.error is not None
    assert again.op.error.version == write.op.version


def test_a_repeated_write_without_a_map_is_never_not_applied() -> None:
    cluster = FakeCluster(with_map=False)
    again = cluster.put(KEY, b"v", version=version_at(START_MS))
    cluster.time_out()
    assert ended(again) == (Outcome.UNKNOWN, Reason.NO_MAP)


def test_a_version_that_no_write_ever_had_is_refused() -> None:
    cluster = FakeCluster()
    for version in (b"short", bytes(16), bytes(6) + b"\x01" * 10):
        assert ended(cluster.put(KEY, b"v", version=version)) == (
            Outcome.NOT_APPLIED,
            Reason.VERSION_INVALID,
        )


def test_a_clock_too_far_ahead_is_said_to_be_that() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v", Consistency.ALL, version=version_at(START_MS + 501))
    cluster.flow()
    assert write.reason is Reason.CLOCK_SKEW
    assert all(not cluster.values(number) for number in (1, 2, 3))


def test_a_delete_says_whether_there_was_a_live_value() -> None:
    cluster = FakeCluster()
    nothing = cluster.sidecar.delete(KEY)
    cluster.flow()
    assert not nothing.write.existed
    cluster.put(KEY, b"v")
    cluster.flow()
    deleted = cluster.sidecar.delete(KEY)
    cluster.flow()
    assert deleted.write.existed


def test_a_delete_that_ran_again_under_a_later_epoch_remembers_that_there_was_a_value() -> None:
    cluster = FakeCluster()
    cluster.put(KEY, b"v")
    cluster.flow()
    deleted = cluster.sidecar.delete(KEY)
    for number in (1, 2, 3):
        cluster.link(number).deliver()
    cluster.change()
    cluster.publish()
    cluster.flow()
    assert deleted.outcome is Outcome.OK
    assert deleted.write.existed


def test_versions_grow_with_the_clock_and_without() -> None:
    cluster = FakeCluster()
    first = cluster.put(KEY, b"1").op.version
    second = cluster.put(KEY, b"2").op.version
    cluster.wall_ms -= 10_000
    third = cluster.put(KEY, b"3").op.version
    assert first < second < third
    assert physical_ms(third) == START_MS


def test_a_write_after_a_read_of_a_future_version_is_above_it() -> None:
    cluster = FakeCluster()
    ahead = cluster.put(KEY, b"ahead", version=version_at(NEWER, writer=b"\xff" * 8))
    cluster.flow()
    read = cluster.get(KEY)
    cluster.flow()
    assert read.value == b"ahead"
    write = cluster.put(KEY, b"after")
    cluster.flow()
    assert write.op.version > ahead.op.version
    assert not write.write.superseded


@pytest.mark.parametrize(
    ("level", "needed"),
    [
        (Consistency.ONE, 1),
        (Consistency.LOCAL_ONE, 1),
        (Consistency.QUORUM, 2),
        (Consistency.ALL, 3),
        (Consistency.UNSPECIFIED, 3),
    ],
)
def test_the_level_says_how_many_acknowledgements_are_waited_for(level: int, needed: int) -> None:
    settings = KeyspaceSettings(KEYSPACE, buckets=1, write_consistency=Consistency.ALL)
    cluster = FakeCluster(settings=settings)
    write = cluster.put(KEY, b"v", level)
    for at in range(needed):
        assert not write.ended
        cluster.link(at + 1).flow()
    assert write.outcome is Outcome.OK
    assert write.op.acks == needed
