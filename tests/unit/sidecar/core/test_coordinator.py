"""What the coordinator refuses, keeps waiting, sheds and ends, whatever replicas do."""

import gc
from typing import Any

import pytest

from buckets.bucket_map import Consistency
from replicas.record import MAX_TIME_MS
from sidecar.core import coordinator, sweep
from sidecar.core.location import Location
from sidecar.core.operation import Read, Write
from sidecar.core.write import WriteRun
from sidecar.errors import DataError, Fault, Outcome, Reason
from tests.support.fake_cluster import KEYSPACE, TIMEOUT_S, FakeCluster, FakeLink

pytestmark = pytest.mark.usefixtures("lane")  # on both ways of a read

KEY = b"key"
MIB = 1 << 20


def test_without_a_map_operations_wait_for_it() -> None:
    cluster = FakeCluster(with_map=False)
    write, read = cluster.put(KEY, b"v"), cluster.get(b"other")
    cluster.wait(TIMEOUT_S / 2)
    assert not write.ended
    assert not read.ended
    cluster.publish()
    cluster.flow()
    assert write.outcome is Outcome.OK
    assert read.value is None


def test_without_a_map_they_end_at_their_deadline_as_no_map() -> None:
    cluster = FakeCluster(with_map=False)
    write, read = cluster.put(KEY, b"v"), cluster.get(KEY)
    cluster.time_out()
    assert (write.outcome, write.reason) == (Outcome.NOT_APPLIED, Reason.NO_MAP)
    assert (read.ends, read.reason) == (1, Reason.NO_MAP)
    cluster.publish()
    cluster.flow()
    assert (write.ends, read.ends) == (1, 1)
    assert not cluster.values(1)


def test_an_unknown_keyspace_names_the_nearest_one() -> None:
    cluster = FakeCluster()
    read = cluster.sidecar.get(KEY, keyspace="defalt")
    write = cluster.put(KEY, b"v", keyspace="other")
    assert read.reason is write.reason is Reason.KEYSPACE_UNKNOWN
    assert read.op.error is not None
    assert "Did you mean default?" in read.op.error.message
    assert write.outcome is Outcome.NOT_APPLIED


@pytest.mark.parametrize("key", [b"", b"k" * 1025])
def test_a_key_out_of_bounds_is_refused(key: bytes) -> None:
    cluster = FakeCluster()
    assert cluster.get(key).reason is Reason.KEY_INVALID
    write = cluster.put(key, b"v")
    assert (write.outcome, write.reason) == (Outcome.NOT_APPLIED, Reason.KEY_INVALID)


@pytest.mark.parametrize("key", [b"k", b"\x00", b"a\r\nb", b"\xff{}\x00", b"{", b"k" * 1024])
@pytest.mark.parametrize("value", [b"", b"\x00", b"\r\n$5\r\n", b"\xff\xfe", b"v" * MIB])
def test_any_key_and_value_within_bounds_come_back(key: bytes, value: bytes) -> None:
    cluster = FakeCluster()
    write = cluster.put(key, value)
    cluster.flow()
    read = cluster.get(key)
    cluster.flow()
    assert write.outcome is Outcome.OK
    assert read.value == value


def test_a_value_over_the_bound_is_refused() -> None:
    cluster = FakeCluster()
    write = cluster.put(KEY, b"v" * (MIB + 1))
    assert (write.outcome, write.reason) == (Outcome.NOT_APPLIED, Reason.VALUE_TOO_LARGE)


@pytest.mark.parametrize("expires_at_ms", [-1, MAX_TIME_MS + 1, 1 << 64])
def test_an_expiry_out_of_bounds_is_refused(expires_at_ms: int) -> None:
    write = FakeCluster().put(KEY, b"v", expires_at_ms=expires_at_ms)
    assert (write.outcome, write.reason) == (Outcome.NOT_APPLIED, Reason.EXPIRY_INVALID)


def test_more_operations_than_the_bound_are_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "MAX_ACTIVE", 2)
    cluster = FakeCluster()
    cluster.put(KEY, b"1")
    read = cluster.get(KEY)
    shed_read, shed_write = cluster.get(KEY), cluster.put(KEY, b"2")
    assert shed_read.reason is Reason.OVERLOADED
    assert (shed_write.outcome, shed_write.reason) == (Outcome.NOT_APPLIED, Reason.OVERLOADED)
    cluster.flow()
    assert read.value == b"1"
    assert cluster.sidecar.core.active == 0
    again = cluster.put(KEY, b"3")
    cluster.flow()
    assert again.outcome is Outcome.OK


def test_waiting_for_the_first_map_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "MAX_ACTIVE", 2)
    cluster = FakeCluster(with_map=False)
    reads = [cluster.get(KEY) for _ in range(3)]
    assert [read.reason for read in reads] == [None, None, Reason.OVERLOADED]


def test_after_the_first_map_operations_wait_for_the_first_connections() -> None:
    cluster = FakeCluster(with_map=False)
    write, read = cluster.put(KEY, b"v"), cluster.get(b"other")
    cluster.sidecar.core.adopt(cluster.map)
    assert not write.ended
    assert not read.ended
    cluster.sidecar.connect(1)
    assert not write.ended
    cluster.sidecar.connect(2)
    cluster.flow()
    assert write.outcome is Outcome.OK
    assert read.value is None


def test_operations_that_wait_for_a_first_connection_end_at_their_deadline() -> None:
    cluster = FakeCluster(with_map=False)
    cluster.sidecar.core.adopt(cluster.map)
    write, read = cluster.put(KEY, b"v"), cluster.get(KEY)
    cluster.time_out()
    assert (write.outcome, write.reason) == (Outcome.NOT_APPLIED, Reason.TIMEOUT)
    assert read.reason is Reason.TIMEOUT


def test_once_every_owner_was_tried_too_few_of_them_end_an_operation_at_once() -> None:
    cluster = FakeCluster(with_map=False)
    core = cluster.sidecar.core
    core.adopt(cluster.map)
    write, read = cluster.put(KEY, b"v"), cluster.get(KEY)
    cluster.sidecar.connect(1)
    for number in (2, 3):
        core.peers[number].tried = True
    core.health_changed()
    assert (write.outcome, write.reason) == (Outcome.NOT_APPLIED, Reason.NOT_ENOUGH_REPLICAS)
    assert read.reason is Reason.NOT_ENOUGH_REPLICAS


@pytest.mark.parametrize("when", ["under way", "parked", "slow"])
def test_a_cancelled_operation_ends_quietly(when: str) -> None:
    cluster = FakeCluster(with_map=when != "parked")
    read, write = cluster.get(KEY), cluster.put(KEY, b"v")
    if when == "slow":
        cluster.wait(TIMEOUT_S / 2)
    for asked in (read, write):
        cluster.sidecar.core.cancel(asked.op)
    cluster.publish()
    cluster.flow()
    cluster.time_out()
    assert (read.ends, write.ends) == (0, 0)
    assert cluster.sidecar.core.active == 0
    assert cluster.values(1) == {b"v"}  # what was sent is not undone


def test_deadlines_are_swept_in_their_order_whatever_the_order_of_asking() -> None:
    cluster = FakeCluster()
    reads = []
    for seconds in (4.0, 2.0, 3.0, 1.0):
        cluster.sidecar.timeout_s = seconds
        reads.append(cluster.get(KEY))
    cluster.tick()
    ended = []
    cluster.on_end = lambda asked: ended.append(reads.index(asked))
    for _ in range(5):
        cluster.wait(1.0001)
    assert ended == [3, 1, 2, 0]


def test_ended_operations_do_not_wait_in_memory_for_far_deadlines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "COMPACT_ABOVE", 10)
    cluster = FakeCluster()
    blocker = cluster.get(KEY)  # never answered: first in the heap all the while
    for link in cluster.sidecar.links.values():
        link.commands.clear()
    for _ in range(50):
        asked = cluster.put(KEY, b"v" * 1000)
        asked.op.deadline += 3600
        cluster.tick()  # slow enough to be sorted by deadline
        cluster.flow()
        del asked
    cluster.tick()
    gc.collect()
    assert sum(isinstance(thing, WriteRun) for thing in gc.get_objects()) <= 14
    assert not blocker.ended


def test_errors_are_counted_by_reason_and_outcome() -> None:
    cluster = FakeCluster()
    cluster.put(b"", b"v")
    cluster.put(KEY, b"v")
    cluster.time_out()
    counters = cluster.sidecar.core.counters
    assert (counters.not_applied, counters.unknown) == (1, 1)
    assert counters.errors[Reason.KEY_INVALID] == 1
    assert counters.errors[Reason.TIMEOUT] == 1


def test_an_error_names_the_bucket_and_what_each_replica_said() -> None:
    cluster = FakeCluster()
    cluster.set_fence(1, None)
    cluster.link(2).cut()
    write = cluster.put(KEY, b"v")
    cluster.link(1).flow()
    cluster.time_out()
    error = write.op.error
    assert error is not None
    assert (error.bucket, error.epoch, error.keyspace) == (0, 1, KEYSPACE)
    assert (error.acks_had, error.acks_needed) == (0, 2)
    assert "n1 refused it: NO_FENCE, n2 its connection broke, n3 no answer yet" in error.message


def test_an_overload_is_told_apart_by_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "MAX_ACTIVE", 0)
    error = FakeCluster().get(KEY).op.error
    assert error is not None
    assert error.fault is Fault.OVERLOADED
    assert error.retryable


# --- where


def test_locate_names_the_owners_and_the_one_nearest() -> None:
    cluster = FakeCluster()
    found = cluster.sidecar.core.locate(KEYSPACE, KEY, Consistency.ONE)
    assert isinstance(found, Location)
    assert [owner.node for owner in found.owners] == ["n1", "n2", "n3"]
    assert found.target == "n1"  # the one in the sidecar's zone
    assert (found.bucket, found.epoch, found.field) == (0, 1, b"kkey")
    cluster.link(1).cut()
    nearest_is_gone = cluster.sidecar.core.locate(KEYSPACE, KEY, Consistency.ONE)
    assert isinstance(nearest_is_gone, Location)
    assert nearest_is_gone.target in ("n2", "n3")
    assert nearest_is_gone.owners[0].health == "unreachable"


def test_locate_refuses_what_a_read_refuses() -> None:
    core = FakeCluster().sidecar.core
    for keyspace, key, level, reason in (
        ("none", KEY, 0, Reason.KEYSPACE_UNKNOWN),
        (KEYSPACE, b"", 0, Reason.KEY_INVALID),
        (KEYSPACE, KEY, Consistency.ANY, Reason.CONSISTENCY_INVALID),
    ):
        error = core.locate(keyspace, key, level)
        assert isinstance(error, DataError)
        assert error.reason is reason
    nothing = FakeCluster(with_map=False).sidecar.core.locate(KEYSPACE, KEY, 0)
    assert isinstance(nothing, DataError)
    assert nothing.reason is Reason.NO_MAP


def test_a_redis_database_names_its_keyspace() -> None:
    core = FakeCluster().sidecar.core
    assert core.keyspace_for_db(0) == KEYSPACE
    assert core.keyspace_for_db(1) is None
    assert FakeCluster(with_map=False).sidecar.core.keyspace_for_db(0) is None


def test_reads_are_spread_over_replicas_that_are_equally_near() -> None:
    cluster = FakeCluster(zones=1)
    for _ in range(60):
        cluster.get(KEY, Consistency.ONE)
        cluster.flow()
    reads = [cluster.sidecar.core.peers[number].reads for number in (1, 2, 3)]
    assert sum(reads) == 60
    assert min(reads) >= 15


def test_a_far_slower_replica_is_read_last() -> None:
    cluster = FakeCluster(zones=1)
    cluster.sidecar.core.peers[2].latency_s = 0.2
    cluster.sidecar.core.health_changed()
    for _ in range(10):
        cluster.get(KEY, Consistency.ONE)
        cluster.flow()
    assert cluster.sidecar.core.peers[2].reads == 0


def test_a_look_that_finds_nothing_new_leaves_the_plans_as_they_are() -> None:
    core = FakeCluster(zones=1).sidecar.core
    core.health_changed()
    age = core.health_age
    core.peers[2].latency_s = 0.0005  # as fast as the others
    core.health_changed()
    assert core.health_age == age


@pytest.mark.parametrize("what", ["link", "counts", "demoted", "latency"])
def test_what_decides_who_is_asked_makes_plans_anew(what: str) -> None:
    cluster = FakeCluster(zones=1)
    core = cluster.sidecar.core
    core.health_changed()
    age = core.health_age
    peer = core.peers[2]
    if what == "link":
        peer.link = FakeLink(cluster, 2)
    elif what == "counts":
        peer.counts = False
    elif what == "demoted":
        peer.breaker.watch(cluster.now_s, cluster.now_s - 1.0)
    else:
        peer.latency_s = 0.2
    core.health_changed()
    assert core.health_age > age


def test_nodes_that_join_and_leave_the_map_are_told() -> None:
    cluster = FakeCluster()
    core = cluster.sidecar.core
    cluster.change_node(1, port=9999)
    joined, left = core.adopt(cluster.map)
    assert [node.port for node in joined] == [9999]
    assert [node.port for node in left] == [7001]
    fewer = {number: node for number, node in cluster.map.nodes.items() if number != 3}
    joined, left = core.adopt(type(cluster.map)("test", 9, fewer, {}))
    assert (joined, [node.number for node in left]) == ([], [3])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": b""}, Reason.KEY_INVALID),
        ({"value": b"x" * ((1 << 20) + 1)}, Reason.VALUE_TOO_LARGE),
        ({"expires_at_ms": -1}, Reason.EXPIRY_INVALID),
        ({"keyspace": "nosuch"}, Reason.KEYSPACE_UNKNOWN),
        ({"level": Consistency.BOUNDED}, Reason.CONSISTENCY_INVALID),
        ({}, None),
    ],
)
def test_what_is_wrong_with_a_write_in_itself_is_told_before_it_is_sent(
    changes: dict[str, Any], reason: Reason | None
) -> None:
    cluster = FakeCluster()
    core = cluster.sidecar.core
    words: dict[str, Any] = {"keyspace": KEYSPACE, "key": KEY, "value": b"v", "level": 0}
    op = Write(**(words | changes), deadline=cluster.now_s + 1, done=_never)
    error = core.check_write(op)
    assert (error.reason if error is not None else None) is reason
    assert error is None or error.outcome is Outcome.NOT_APPLIED
    assert not any(link.commands for link in cluster.sidecar.links.values())


def test_a_level_that_some_bucket_has_no_owner_for_is_told_before_it_is_sent() -> None:
    cluster = FakeCluster()
    elsewhere = cluster.new_sidecar(zone="z")
    level = Consistency.LOCAL_QUORUM
    op = Write(KEYSPACE, KEY, b"v", level=level, deadline=cluster.now_s + 1, done=_never)
    error = elsewhere.core.check_write(op)
    assert error is not None
    assert error.reason is Reason.NO_OWNER_IN_ZONE


def test_what_is_wrong_with_a_read_in_itself_is_told_before_it_is_sent() -> None:
    core = FakeCluster().sidecar.core

    def problem(keyspace: str, key: bytes) -> Reason | None:
        error = core.check_read(Read(keyspace, key, level=0, deadline=0.0, done=_never))
        return error.reason if error is not None else None

    assert problem(KEYSPACE, b"") is Reason.KEY_INVALID
    assert problem("nosuch", KEY) is Reason.KEYSPACE_UNKNOWN
    assert problem(KEYSPACE, KEY) is None


def test_before_the_first_map_nothing_is_known_to_be_wrong() -> None:
    core = FakeCluster(with_map=False).sidecar.core
    assert core.check_read(Read("nosuch", KEY, level=0, deadline=0.0, done=_never)) is None
    write = Write("nosuch", KEY, b"v", level=0, deadline=0.0, done=_never)
    assert core.check_write(write) is None


def _never(op: object) -> None:
    raise AssertionError("it was not begun")
