"""The fast lane: when a batch is answered as one, when not, and that it is then as if by itself."""

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from hiredis import ReplyError

from buckets.bucket_map import Consistency, KeyspaceSettings, Mode
from replicas.layout import MAX_KEY_BYTES, user_field
from replicas.record import FLAG_LINEARIZABLE
from sidecar.core import health
from sidecar.core.fast_lane import ReadBatch
from sidecar.core.operation import Read
from tests.support.fake_cluster import (
    KEYSPACE,
    START_MS,
    TIMEOUT_S,
    FakeCluster,
    Move,
)
from tests.support.replica_records import flip, sealed, version_at

LEVELS = (Consistency.ONE, Consistency.QUORUM, Consistency.ALL)
A, B, C = b"a", b"b", b"c"


class Batch:
    """One batch and how it ended."""

    def __init__(self, cluster: FakeCluster, keys: Iterable[bytes], level: int) -> None:
        self.ends = 0
        self.reads: list[Read] = []  # what it became
        deadline = cluster.now_s + TIMEOUT_S
        self.batch = ReadBatch(self, KEYSPACE, list(keys), level, deadline)
        self.begun = cluster.sidecar.core.read_batch(self.batch)

    def batch_read(self, batch: ReadBatch) -> None:
        self.ends += 1

    def batch_dissolved(self, batch: ReadBatch, reads: list[Read]) -> None:
        assert not self.reads
        self.reads = reads
        for read in reads:
            read.done = self._read_done

    def _read_done(self, read: Read) -> None:
        self.ends += 1

    @property
    def values(self) -> list[bytes | None]:
        """Of a batch that was answered as one."""
        assert self.ends == 1
        assert not self.reads
        return self.batch.values

    @property
    def dissolved(self) -> bool:
        return bool(self.reads)

    @property
    def single_values(self) -> list[bytes | None]:
        """Of one that was not."""
        assert self.ends == len(self.reads)
        return [read.record.value if read.record else None for read in self.reads]


@pytest.fixture
def cluster() -> FakeCluster:
    """Three replicas hold A and B, nothing is known of C; their fences have been seen."""
    made = FakeCluster()
    for key in (A, B):
        made.put(key, key * 2, Consistency.ALL)
    made.flow()
    made.get(A, Consistency.ALL)
    made.flow()
    return made


def commands(cluster: FakeCluster) -> int:
    return sum(len(link.commands) for link in cluster.sidecar.links.values())


# --- answered as one


@pytest.mark.parametrize(("level", "asked"), [*zip(LEVELS, (1, 2, 3), strict=True)])
def test_each_key_is_asked_of_as_many_replicas_as_its_level_needs(
    cluster: FakeCluster, level: int, asked: int
) -> None:
    batch = Batch(cluster, (A, C, B), level)
    assert commands(cluster) == 3 * asked
    cluster.flow()
    assert batch.values == [A * 2, None, B * 2]
    assert cluster.sidecar.core.active == 0
    assert cluster.sidecar.core.counters.reads == 4
    assert sum(cluster.sidecar.core.read_latency.counts) == 4


def test_a_fence_that_was_not_seen_before_is_judged_and_known_then() -> None:
    cluster = FakeCluster()
    cluster.put(A, b"v")
    cluster.flow()
    batch = Batch(cluster, (A, A), Consistency.QUORUM)
    cluster.flow()
    assert batch.values == [b"v", b"v"]


def test_tombstones_and_what_has_expired_read_as_absent(cluster: FakeCluster) -> None:
    cluster.sidecar.delete(A, Consistency.ALL)
    cluster.put(B, b"short", Consistency.ALL, expires_at_ms=START_MS + 5)
    cluster.put(C, b"long", Consistency.ALL, expires_at_ms=START_MS + 5000)
    cluster.flow()
    cluster.wait(0.01)
    batch = Batch(cluster, (A, B, C), Consistency.QUORUM)
    cluster.flow()
    assert batch.values == [None, None, b"long"]


def test_what_was_read_moves_the_clock_on(cluster: FakeCluster) -> None:
    other = cluster.new_sidecar()
    other.put(A, b"later", Consistency.ALL, version=version_at(START_MS + 400))
    other.put(B, b"sooner", Consistency.ALL, version=version_at(START_MS + 100))
    cluster.flow()
    Batch(cluster, (A, B, C), Consistency.ONE)
    cluster.flow()
    assert cluster.sidecar.core.clock.last_ms == START_MS + 400


def test_replicas_that_are_equally_good_are_asked_in_turn() -> None:
    cluster = FakeCluster(zones=1)
    for _ in range(3):
        Batch(cluster, [A] * 4, Consistency.ONE)
    assert [len(link.commands) for link in cluster.sidecar.links.values()] == [4, 4, 4]
    assert [peer.reads for peer in cluster.sidecar.core.peers.values()] == [4, 4, 4]


def test_who_reads_seldom_does_not_begin_with_the_same_replica_each_time() -> None:
    cluster = FakeCluster(zones=1)
    core = cluster.sidecar.core
    for turn in range(6):
        for peer in core.peers.values():
            peer.latency_s = 0.01 * (turn % 2)
        core.health_changed()
        Batch(cluster, [A], Consistency.ONE)
    assert [len(link.commands) for link in cluster.sidecar.links.values()] == [2, 2, 2]


# --- not begun


@pytest.mark.parametrize("key", [b"", bytes(MAX_KEY_BYTES + 1)])
def test_a_batch_with_a_bad_key_is_not_begun(cluster: FakeCluster, key: bytes) -> None:
    assert not Batch(cluster, (A, key), Consistency.ONE).begun
    assert commands(cluster) == 0


@pytest.mark.parametrize("level", [Consistency.ANY, Consistency.BOUNDED, Consistency.SESSION, 99])
def test_a_level_that_agreement_does_not_settle_is_not_begun(
    cluster: FakeCluster, level: int
) -> None:
    assert not Batch(cluster, (A,), level).begun


def test_nothing_is_begun_above_the_bound_of_what_may_be_under_way(cluster: FakeCluster) -> None:
    cluster.sidecar.core.admission.limit = 2
    assert not Batch(cluster, (A, B, C), Consistency.ONE).begun
    assert Batch(cluster, (A, B), Consistency.ONE).begun


def test_registers_are_not_read_in_batches() -> None:
    settings = KeyspaceSettings(KEYSPACE, buckets=1, mode=Mode.LINEARIZABLE)
    assert not Batch(FakeCluster(settings=settings), (A,), Consistency.QUORUM).begun


def test_without_a_map_nothing_is_begun() -> None:
    assert not Batch(FakeCluster(with_map=False), (A,), Consistency.ONE).begun


def test_too_few_replicas_that_count_are_not_asked(cluster: FakeCluster) -> None:
    for number in (1, 2):
        cluster.suspect(number)
    cluster.publish()
    assert not Batch(cluster, (A,), Consistency.QUORUM).begun
    one = Batch(cluster, (A,), Consistency.ONE)
    assert one.begun
    assert [number for number, link in cluster.sidecar.links.items() if link.commands] == [3]


@pytest.mark.parametrize("level", [Consistency.QUORUM, Consistency.ALL])
def test_agreement_is_not_enough_while_writes_need_more(level: int) -> None:
    cluster = FakeCluster(nodes=6)
    Move(cluster, new=(4, 5, 6)).write_both_read_old()
    cluster.publish()
    assert not Batch(cluster, (A,), level).begun
    assert Batch(cluster, (A,), Consistency.ONE).begun


# --- dissolved

Fault = Callable[[FakeCluster], None]


def no_fence(cluster: FakeCluster) -> None:
    cluster.set_fence(1, None)


def bad_record(cluster: FakeCluster) -> None:
    fields = cluster.fields(1)
    fields[user_field(A)] = flip(fields[user_field(A)], -1)


def short_record(cluster: FakeCluster) -> None:
    cluster.fields(1)[user_field(A)] = sealed(b"short")


def register_record(cluster: FakeCluster) -> None:
    version = version_at(START_MS + 1)
    cluster.fields(1)[user_field(A)] = sealed(version + bytes((FLAG_LINEARIZABLE,)))


def error_reply(cluster: FakeCluster) -> None:
    cluster.link(1).answer_with(ReplyError("LOADING"))


def odd_reply(cluster: FakeCluster) -> None:
    cluster.link(1).answer_with([cluster.fields(1)[b"f"]])


def lost(cluster: FakeCluster) -> None:
    cluster.link(1).cut()


FAULTS = (no_fence, bad_record, short_record, register_record, error_reply, odd_reply, lost)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("level", [Consistency.ONE, Consistency.QUORUM])
def test_one_that_gives_no_answer_is_replaced(
    cluster: FakeCluster, fault: Fault, level: int
) -> None:
    batch = Batch(cluster, (A, B), level)
    fault(cluster)
    cluster.flow()
    assert batch.dissolved
    assert batch.single_values == [A * 2, B * 2]
    assert cluster.sidecar.core.active == 0


def test_a_single_key_is_asked_of_another_when_the_link_is_full() -> None:
    cluster = FakeCluster(zones=1)
    cluster.put(A, b"v", Consistency.ALL)
    cluster.flow()
    for level in (Consistency.QUORUM, Consistency.ONE):  # the sample of this tick, fences are seen
        Batch(cluster, [A], level)
        cluster.flow()
    cluster.link(1).full = cluster.link(2).full = True
    batches = [Batch(cluster, [A], Consistency.ONE) for _ in range(6)]
    cluster.flow()
    assert sum(batch.dissolved for batch in batches) == 4
    for batch in batches:
        assert (batch.single_values if batch.dissolved else batch.values) == [b"v"]


def test_a_link_that_is_full_takes_no_part(cluster: FakeCluster) -> None:
    cluster.link(1).full = True
    batch = Batch(cluster, (A, B), Consistency.QUORUM)
    assert batch.begun
    cluster.flow()
    assert batch.dissolved
    assert batch.single_values == [A * 2, B * 2]


def test_replicas_that_differ_are_settled_before_the_answer(cluster: FakeCluster) -> None:
    newer = version_at(START_MS + 50)
    other = cluster.new_sidecar()
    other.put(B, b"newer", Consistency.ONE, version=newer)
    other.links[1].flow()
    for link in list(other.links.values()):
        link.cut()
    cluster.sidecars.remove(other)
    batch = Batch(cluster, (A, B), Consistency.QUORUM)
    cluster.flow()
    assert batch.dissolved
    assert batch.single_values == [A * 2, b"newer"]
    assert len(cluster.holders(B, newer)) >= 2


def test_only_what_was_sent_under_this_epoch_is_answered_by_it(cluster: FakeCluster) -> None:
    batch = Batch(cluster, (A, B), Consistency.ONE)
    cluster.link(1).deliver(2)
    cluster.change()
    cluster.fence_raised(1, 2, 3)
    cluster.publish()
    assert batch.dissolved
    cluster.link(1).answer(2)
    assert batch.ends == 0
    assert cluster.sidecar.core.counters.restarts == 2
    cluster.flow()
    assert batch.single_values == [A * 2, B * 2]


def test_what_has_been_heard_is_not_asked_again(cluster: FakeCluster) -> None:
    batch = Batch(cluster, (A, B), Consistency.QUORUM)
    cluster.link(1).flow()
    cluster.wait(TIMEOUT_S / 2)
    assert batch.dissolved
    assert not cluster.link(1).commands
    cluster.flow()
    assert batch.single_values == [A * 2, B * 2]


def test_a_slow_replica_holds_up_only_the_keys_that_wait_for_it(cluster: FakeCluster) -> None:
    for number in (1, 2):
        for _ in range(health.SAMPLES):
            cluster.sidecar.core.peers[number].breaker.observe(0.02)
    batch = Batch(cluster, (A, B), Consistency.ONE)
    cluster.link(1).deliver()
    cluster.link(1).answer()
    cluster.wait(0.015)
    assert batch.ends == 0
    cluster.wait(0.01)
    assert batch.ends == 1
    assert batch.reads[0].record is not None
    assert cluster.sidecar.core.counters.reads_hurried == 1
    cluster.flow()
    assert batch.single_values == [A * 2, B * 2]


def test_the_deadline_ends_every_key_that_is_not_answered(cluster: FakeCluster) -> None:
    batch = Batch(cluster, (A, B), Consistency.ALL)
    cluster.link(1).flow()
    cluster.time_out()
    assert batch.ends == 2
    assert all(read.error is not None for read in batch.reads)
    assert cluster.sidecar.core.active == 0


def test_the_end_of_a_cancelled_batch_is_quiet(cluster: FakeCluster) -> None:
    answered, slow = (Batch(cluster, (A, B), Consistency.ONE) for _ in range(2))
    for batch in (answered, slow):
        batch.batch.cancel()
    cluster.link(1).deliver(4)
    cluster.link(1).answer(3)
    cluster.time_out()
    cluster.flow()
    assert (answered.ends, slow.ends, slow.reads) == (0, 0, [])
    assert cluster.sidecar.core.active == 0


# --- lone keys


@dataclass
class Lone:
    """A key that somebody wants alone, and what became of it."""

    asker: "Crowd"
    key: bytes
    keyspace: str = KEYSPACE
    level: int = Consistency.ONE


class Crowd:
    """Many who each want one key, in one turn."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.answers: list[tuple[bytes, bytes | None]] = []
        self.together: list[list[bytes]] = []  # keys that were answered as one
        self.dissolved: list[bytes] = []

    def wants(
        self, key: bytes, level: int = Consistency.ONE, *, timeout_s: float = TIMEOUT_S
    ) -> bool:
        deadline = self.cluster.now_s + timeout_s
        return self.cluster.sidecar.core.join_batch(Lone(self, key, level=level), deadline)

    def end_turn(self) -> None:
        self.cluster.sidecar.core.end_turn()

    def batch_read(self, batch: ReadBatch) -> None:
        assert [lone.key for lone in batch.tag] == batch.keys
        self.together.append(list(batch.keys))
        self.answers += zip(batch.keys, batch.values, strict=True)

    def batch_dissolved(self, batch: ReadBatch, reads: list[Read]) -> None:
        assert [lone.key for lone in batch.tag] == [read.key for read in reads]
        self.dissolved += batch.keys
        for read in reads:
            read.done = self._read_done

    def _read_done(self, op: Read) -> None:
        self.answers.append((op.key, op.record.value if op.record else None))


@pytest.fixture
def crowd(cluster: FakeCluster) -> Crowd:
    return Crowd(cluster)


def test_lone_keys_of_one_turn_are_answered_replica_by_replica() -> None:
    """Nobody waits for a replica that was not asked for him."""
    cluster = FakeCluster(zones=1)
    crowd = Crowd(cluster)
    assert all(crowd.wants(key) for key in (A, B, C, A, B, C))
    crowd.end_turn()
    assert [len(cluster.link(number).commands) for number in (1, 2, 3)] == [2, 2, 2]
    assert cluster.sidecar.core.active == 6
    cluster.link(2).flow()
    assert [len(keys) for keys in crowd.together] == [2]
    cluster.flow()
    assert Counter(crowd.answers) == {(A, None): 2, (B, None): 2, (C, None): 2}
    assert [len(keys) for keys in crowd.together] == [2, 2, 2]
    assert cluster.sidecar.core.active == 0


@pytest.mark.parametrize("level", [Consistency.QUORUM, Consistency.ALL])
def test_who_is_asked_of_the_same_replicas_in_any_order_is_read_together(
    level: Consistency,
) -> None:
    """They take turns to be the first, but all are asked at once."""
    cluster = FakeCluster(zones=1)
    crowd = Crowd(cluster)
    assert all(crowd.wants(A, level) for _ in range(6))
    crowd.end_turn()
    cluster.flow()
    assert [len(keys) for keys in crowd.together] == (
        [2, 2, 2] if level is Consistency.QUORUM else [6]
    )


def test_keys_of_several_askers_are_kept_apart(cluster: FakeCluster, crowd: Crowd) -> None:
    others = Crowd(cluster)
    assert all(who.wants(key) for who, key in ((crowd, A), (others, B), (others, A), (crowd, C)))
    crowd.end_turn()
    cluster.flow()
    assert sorted(crowd.answers) == [(A, b"aa"), (C, None)]
    assert others.together == [[B, A]]


@pytest.mark.parametrize("timeouts", [(1.0, 0.003), (0.003, 1.0)])
def test_a_batch_of_lone_keys_dissolves_at_the_earliest_of_their_deadlines(
    cluster: FakeCluster, crowd: Crowd, timeouts: tuple[float, float]
) -> None:
    for key, timeout_s in zip((A, B), timeouts, strict=True):
        assert crowd.wants(key, timeout_s=timeout_s)
    crowd.end_turn()
    cluster.wait(0.005)
    assert crowd.dissolved == [A, B]


def test_of_what_clients_make_up_nothing_is_kept(cluster: FakeCluster, crowd: Crowd) -> None:
    assert crowd.wants(A)
    tracemalloc.start()
    for number in range(1000):
        made_up = Lone(crowd, A, keyspace=f"made-up-{number}")
        assert not cluster.sidecar.core.join_batch(made_up, 1.0)
        assert not crowd.wants(A, 1000 + number)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 50_000


def test_who_comes_in_the_next_turn_begins_anew(cluster: FakeCluster, crowd: Crowd) -> None:
    for keys in ((A, B), (C, A)):
        assert all(crowd.wants(key) for key in keys)
        crowd.end_turn()
    cluster.flow()
    assert crowd.together == [[A, B], [C, A]]


@pytest.mark.parametrize("level", [Consistency.QUORUM, Consistency.ALL])
def test_lone_keys_are_asked_of_as_many_replicas_as_their_level_needs(
    cluster: FakeCluster, crowd: Crowd, level: Consistency
) -> None:
    assert all(crowd.wants(key, level) for key in (A, B, C))
    crowd.end_turn()
    asked = sum(len(link.commands) for link in cluster.sidecar.links.values())
    assert asked == 3 * (2 if level is Consistency.QUORUM else 3)
    cluster.flow()
    assert dict(crowd.answers) == {A: b"aa", B: b"bb", C: None}
    assert not crowd.dissolved


def test_a_lone_key_whose_link_is_full_is_read_by_itself_and_so_are_those_with_it(
    cluster: FakeCluster, crowd: Crowd
) -> None:
    assert all(crowd.wants(A) for _ in range(3))
    for link in cluster.sidecar.links.values():
        link.full = True
    assert crowd.wants(B)
    assert crowd.dissolved == [A, A, A, B]
    for link in cluster.sidecar.links.values():
        link.full = False
    assert crowd.wants(B)  # what was dissolved is not joined
    crowd.end_turn()
    cluster.flow()
    cluster.time_out()
    cluster.flow()
    assert Counter(crowd.answers) == {(A, b"aa"): 3, (B, None): 1, (B, b"bb"): 1}
    assert cluster.sidecar.core.active == 0


@pytest.mark.parametrize("level", [Consistency.ANY, Consistency.BOUNDED, Consistency.SESSION, 99])
def test_at_a_level_that_agreement_does_not_settle_nobody_is_joined(
    crowd: Crowd, level: int
) -> None:
    assert not crowd.wants(A, level)


def test_where_too_few_replicas_count_nobody_is_joined(cluster: FakeCluster, crowd: Crowd) -> None:
    for number in (1, 2):
        cluster.suspect(number)
    cluster.publish()
    assert not crowd.wants(A, Consistency.QUORUM)
    assert crowd.wants(A)


@pytest.mark.parametrize("key", [b"", b"x" * (MAX_KEY_BYTES + 1)])
def test_a_bad_key_joins_nobody(crowd: Crowd, key: bytes) -> None:
    assert not crowd.wants(key)


def test_no_lone_key_is_begun_above_the_bound_of_what_may_be_under_way(
    cluster: FakeCluster, crowd: Crowd
) -> None:
    core = cluster.sidecar.core
    core.admission.limit = 2
    assert [crowd.wants(A) for _ in range(3)] == [True, True, False]


def test_a_new_map_dissolves_what_was_joined(cluster: FakeCluster, crowd: Crowd) -> None:
    assert crowd.wants(A)
    cluster.change()
    cluster.publish()
    assert crowd.dissolved == [A]
    assert crowd.wants(B)
    crowd.end_turn()
    cluster.flow()
    assert crowd.together == [[B]]
