"""Which owners get a hint for a write, and level ANY, as playbooks."""

from collections.abc import Callable

import pytest
from hiredis import ReplyError

from buckets.bucket_map import Consistency, KeyspaceSettings
from replicas.record import decode_record
from replicas.version import physical_ms
from sidecar.core.hints import ONLY_COPY, Hint
from sidecar.errors import Outcome, Reason
from tests.support.fake_cluster import KEYSPACE, START_MS, FakeCluster, Move

ANY = Consistency.ANY
KEY = b"key"


class Kept:
    """Keeps hints in memory; what a log would say to an only copy, the test says."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.hints: list[Hint] = []
        self.only_copies: list[tuple[Hint, Callable[[str], None]]] = []
        self.refusal = ""
        cluster.sidecar.core.hints = self

    def keep(self, hint: Hint) -> None:
        self.hints.append(hint)

    def keep_only_copy(self, hint: Hint, done: Callable[[str], None]) -> str:
        if not self.refusal:
            self.only_copies.append((hint, done))
        return self.refusal

    @property
    def nodes(self) -> list[int]:
        return [hint.node for hint in self.hints]


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def kept(cluster: FakeCluster) -> Kept:
    return Kept(cluster)


def test_when_all_owners_acknowledge_there_is_no_hint(cluster: FakeCluster, kept: Kept) -> None:
    cluster.put(KEY, b"v")
    cluster.flow()
    cluster.time_out()
    assert kept.nodes == []


def test_an_owner_that_is_away_gets_a_hint_with_the_version(
    cluster: FakeCluster, kept: Kept
) -> None:
    cluster.link(3).cut()
    asked = cluster.put(KEY, b"v")
    assert kept.nodes == []  # nobody has acknowledged yet
    cluster.flow()
    assert asked.outcome is Outcome.OK
    [hint] = kept.hints
    assert hint == Hint(KEYSPACE, 0, KEY, hint.record, 3, START_MS)
    record = decode_record(hint.record)
    assert record is not None
    assert (record.version, record.value) == (asked.write.version, b"v")


def test_a_delete_is_kept_as_its_tombstone(cluster: FakeCluster, kept: Kept) -> None:
    cluster.link(3).cut()
    cluster.sidecar.delete(KEY)
    cluster.flow()
    record = decode_record(kept.hints[0].record)
    assert record is not None
    assert record.is_tombstone


def test_an_owner_whose_connection_breaks_after_the_answer_gets_one(
    cluster: FakeCluster, kept: Kept
) -> None:
    asked = cluster.put(KEY, b"v")
    for number in (1, 2):
        cluster.link(number).flow()
    assert asked.outcome is Outcome.OK
    assert kept.nodes == []  # the third may still acknowledge
    cluster.link(3).cut()
    assert kept.nodes == [3]


def test_a_late_acknowledgement_makes_a_hint_needless(cluster: FakeCluster, kept: Kept) -> None:
    cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.link(2).flow()
    cluster.time_out()
    cluster.link(3).flow()
    assert kept.nodes == []


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "reply", [[b"CORRUPT", None, None, b"record"], ReplyError("OOM"), ReplyError("ERR?"), 7]
)
def test_an_owner_that_does_not_take_it_gets_one(
    cluster: FakeCluster, kept: Kept, reply: object, late: bool
) -> None:
    cluster.put(KEY, b"v")
    order = (1, 2, 3) if late else (3, 1, 2)
    for number in order:
        if number == 3:
            cluster.link(3).answer_with(reply)
        else:
            cluster.link(number).flow()
    assert kept.nodes == [3]


def test_an_owner_whose_connection_is_full_gets_one(cluster: FakeCluster, kept: Kept) -> None:
    cluster.link(2).full = True
    cluster.put(KEY, b"v")
    cluster.flow()
    assert kept.nodes == [2]


def test_at_one_all_that_missed_it_get_one(cluster: FakeCluster, kept: Kept) -> None:
    cluster.link(1).cut()
    cluster.link(3).cut()
    cluster.put(KEY, b"v", Consistency.ONE)
    cluster.flow()
    assert kept.nodes == [1, 3]


def test_a_suspect_owner_that_takes_it_needs_none(cluster: FakeCluster, kept: Kept) -> None:
    cluster.suspect(3)
    cluster.publish()
    cluster.put(KEY, b"v")
    cluster.flow()
    assert kept.nodes == []


def test_a_write_that_was_not_applied_leaves_no_hint(cluster: FakeCluster, kept: Kept) -> None:
    cluster.link(2).cut()
    cluster.link(3).cut()
    asked = cluster.put(KEY, b"v")
    cluster.flow()
    cluster.time_out()
    assert asked.outcome is Outcome.NOT_APPLIED
    assert kept.nodes == []


def test_a_write_refused_by_all_leaves_no_hint(cluster: FakeCluster, kept: Kept) -> None:
    asked = cluster.put(KEY, b"v")
    for number in (1, 2, 3):
        cluster.link(number).answer_with([b"SKEWED", None, None, 5])
    assert asked.reason is Reason.CLOCK_SKEW
    assert kept.nodes == []


def test_an_unknown_write_that_never_meets_its_level_leaves_no_hint(
    cluster: FakeCluster, kept: Kept
) -> None:
    asked = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.link(2).cut()
    cluster.link(3).cut()
    assert asked.outcome is Outcome.UNKNOWN
    cluster.time_out()
    assert kept.nodes == []


def test_an_unknown_write_that_meets_its_level_later_leaves_hints(
    cluster: FakeCluster, kept: Kept
) -> None:
    asked = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.link(3).cut()
    cluster.time_out()
    assert asked.outcome is Outcome.UNKNOWN
    assert kept.nodes == []
    cluster.link(2).flow()
    assert kept.nodes == [3]


def test_in_a_move_a_joining_owner_that_missed_it_gets_one(kept: Kept) -> None:
    cluster = FakeCluster(nodes=4)
    kept = Kept(cluster)
    Move(cluster, (2, 3, 4)).write_both_read_old()
    cluster.publish()
    cluster.link(4).cut()
    cluster.put(KEY, b"v")
    cluster.flow()
    assert kept.nodes == [4]


# --- level ANY


def test_at_any_one_owner_is_enough_and_the_others_get_hints(
    cluster: FakeCluster, kept: Kept
) -> None:
    cluster.link(1).cut()
    cluster.link(3).cut()
    asked = cluster.put(KEY, b"v", ANY)
    cluster.flow()
    assert asked.outcome is Outcome.OK
    assert asked.write.acks == 1
    assert kept.only_copies == []
    assert kept.nodes == [1, 3]


def all_away(cluster: FakeCluster) -> None:
    for number in (1, 2, 3):
        cluster.link(number).cut()


def test_at_any_without_an_owner_the_answer_waits_for_the_disk(
    cluster: FakeCluster, kept: Kept
) -> None:
    all_away(cluster)
    asked = cluster.put(KEY, b"v", ANY)
    assert not asked.ended
    [(hint, done)] = kept.only_copies
    assert hint.node == ONLY_COPY
    done("")
    assert asked.outcome is Outcome.OK
    assert asked.write.acks == 0
    assert asked.write.version
    assert kept.nodes == []


def test_an_only_copy_is_as_old_as_the_version_it_repeats(cluster: FakeCluster, kept: Kept) -> None:
    """A purge that waits for younger hints only would have its owners refuse it."""
    all_away(cluster)
    version = cluster.put(KEY, b"v", ANY).write.version
    cluster.wait(60.0)
    cluster.put(KEY, b"v", ANY, version=version)
    (first, _), (repeated, _) = kept.only_copies
    assert first.created_ms == repeated.created_ms == physical_ms(version)


def test_at_any_a_log_at_its_bound_refuses_and_nothing_was_applied(
    cluster: FakeCluster, kept: Kept
) -> None:
    all_away(cluster)
    kept.refusal = "the hint log is at its bound of 5 bytes"
    asked = cluster.put(KEY, b"v", ANY)
    assert asked.outcome is Outcome.NOT_APPLIED
    assert asked.reason is Reason.NOT_ENOUGH_REPLICAS
    assert asked.op.error is not None
    assert "no hint: the hint log is at its bound" in asked.op.error.message


def test_at_any_a_disk_that_fails_leaves_it_unknown(cluster: FakeCluster, kept: Kept) -> None:
    all_away(cluster)
    asked = cluster.put(KEY, b"v", ANY)
    kept.only_copies[0][1]("the disk refused")
    assert asked.outcome is Outcome.UNKNOWN  # it may be on the disk all the same
    assert asked.op.error is not None
    assert asked.op.error.version
    assert "the disk refused" in asked.op.error.message


def test_at_any_a_disk_that_is_slow_leaves_it_unknown(cluster: FakeCluster, kept: Kept) -> None:
    all_away(cluster)
    asked = cluster.put(KEY, b"v", ANY)
    cluster.time_out()
    assert asked.outcome is Outcome.UNKNOWN
    kept.only_copies[0][1]("")
    assert asked.ends == 1


def test_at_any_owners_that_break_after_the_sending_are_replaced_by_the_disk(
    cluster: FakeCluster, kept: Kept
) -> None:
    asked = cluster.put(KEY, b"v", ANY)
    all_away(cluster)
    assert not asked.ended
    kept.only_copies[0][1]("")
    assert asked.outcome is Outcome.OK
    assert kept.nodes == []


def test_at_any_owners_that_do_not_answer_are_replaced_by_the_disk(
    cluster: FakeCluster, kept: Kept
) -> None:
    asked = cluster.put(KEY, b"v", ANY)
    cluster.tick()
    assert kept.only_copies == []
    cluster.wait(0.11)
    [(_, done)] = kept.only_copies
    done("")
    assert asked.outcome is Outcome.OK


def test_at_any_an_owner_that_answers_before_the_disk_is_the_answer(
    cluster: FakeCluster, kept: Kept
) -> None:
    asked = cluster.put(KEY, b"v", ANY)
    cluster.tick()
    cluster.wait(0.11)
    cluster.link(2).flow()
    assert asked.outcome is Outcome.OK
    all_away(cluster)
    assert kept.nodes == []  # the log has it for all owners ...
    kept.only_copies[0][1]("the disk refused")
    assert kept.nodes == [1, 3]  # ... or does not


def test_at_any_a_log_that_refuses_leaves_the_owners_their_time(
    cluster: FakeCluster, kept: Kept
) -> None:
    kept.refusal = "the hint log is at its bound"
    asked = cluster.put(KEY, b"v", ANY)
    cluster.tick()
    cluster.wait(0.2)
    assert not asked.ended
    cluster.link(1).flow()
    assert asked.outcome is Outcome.OK


def test_where_history_is_kept_any_is_refused() -> None:
    cluster = FakeCluster(settings=KeyspaceSettings(KEYSPACE, buckets=1, retention_ms=1000))
    asked = cluster.put(KEY, b"v", ANY)
    assert asked.reason is Reason.CONSISTENCY_INVALID
    assert asked.outcome is Outcome.NOT_APPLIED


def test_a_read_at_any_is_refused(cluster: FakeCluster) -> None:
    assert cluster.get(KEY, ANY).reason is Reason.CONSISTENCY_INVALID


def test_a_hint_at_quorum_counts_for_nothing(cluster: FakeCluster, kept: Kept) -> None:
    cluster.link(2).cut()
    asked = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.link(3).cut()
    cluster.time_out()
    assert asked.outcome is Outcome.UNKNOWN
    assert asked.op.error is not None
    assert asked.op.error.acks_had == 1
