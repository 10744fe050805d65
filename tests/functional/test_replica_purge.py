"""Purging tombstones, and what comes late: on the fake, on Valkey and on Redis alike."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from buckets.bucket_map import Stage
from replicas.acceptor import Content, Decided, encode_acceptor
from replicas.commands import (
    copy_command,
    create_fence,
    pack_command,
    pack_limits,
    prepare_prefix,
    prepare_suffix,
    write_prefix,
    write_suffix,
)
from replicas.fence import Fence, Role, decode_fence
from replicas.layout import FENCE_FIELD, bucket_keys, user_field
from replicas.purge import Purged, PurgeStep, What, parse_purge, purge_command
from replicas.record import decode_record, encode_expired, encode_record
from replicas.replies import (
    APPLIED,
    SUPERSEDED,
    Code,
    Refusal,
    parse_accept,
    parse_refusal,
    parse_write,
)
from replicas.scripts import SCRIPTS
from tests.support.replica_records import flip, version_at
from tests.support.replica_subjects import FakeSubject, ServerSubject, Subject
from tests.support.servers import start_redis, start_valkey, stopped_after

KEYS = bucket_keys("places", 17)
FENCE = Fence(epoch=5, stage=Stage.OLD, role=Role.OWNER, incarnation=9)
LIMITS = pack_limits(500, 1 << 20)
HOUR_MS = 3_600_000
GRACE_MS = 10 * HOUR_MS
NOW_MS = int(time.time() * 1000)
MANY = 600  # more than one step of 100, and more than a compact encoding holds


@pytest.fixture(
    scope="module",
    params=["fake", "valkey", pytest.param("redis", marks=pytest.mark.peers)],
)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    if request.param == "fake":
        yield FakeSubject(NOW_MS)
        return
    start = start_valkey if request.param == "valkey" else start_redis
    with stopped_after(start(tmp_path_factory.mktemp(request.param))) as server:
        connected = ServerSubject(server)
        yield connected
        connected.close()


@pytest.fixture
def replica(subject: Subject) -> Subject:
    """An owner of the bucket."""
    subject.clear()
    assert subject.execute(create_fence(KEYS, FENCE.encode(), b"the map entry")) == 1
    return subject


def ago(hours: float, writer: bytes = bytes(8)) -> bytes:
    return version_at(NOW_MS - int(hours * HOUR_MS), 0, writer)


def deleted(version: bytes) -> bytes:
    return encode_record(version, b"", tombstone=True)


def write(replica: Subject, key: bytes, record: bytes) -> int | Refusal | None:
    command = write_prefix(KEYS, 5, 9) + write_suffix(key, record, LIMITS)
    return parse_write(replica.execute(command))


def copy(replica: Subject, key: bytes, record: bytes, seen: bytes) -> int | Refusal | None:
    return parse_write(
        replica.execute(copy_command(KEYS, 5, 9, key, record, limits=LIMITS, seen=seen))
    )


def purge(replica: Subject, what: What, bound: bytes, **changed: int) -> Purged | Refusal:
    """All steps of one kind, or the first refusal."""
    total, cursor = Purged(), b""
    while cursor != b"0":
        command = purge_command(
            KEYS,
            changed.get("epoch", 5),
            changed.get("incarnation", 9),
            what=what,
            bound=bound,
            grace_ms=changed.get("grace_ms", GRACE_MS),
            cursor=cursor or b"0",
            count=100,
        )
        step = parse_purge(replica.execute(command))
        if isinstance(step, Refusal):
            return step
        assert isinstance(step, PurgeStep)
        total.add(step.seen)
        cursor = step.cursor
    return total


def close_and_drop(replica: Subject, bound: bytes) -> Purged:
    assert isinstance(purge(replica, What.CLOSE, bound), Purged)
    dropped = purge(replica, What.DROP, bound)
    assert isinstance(dropped, Purged)
    return dropped


def held(replica: Subject) -> set[bytes]:
    return {name[1:] for name in replica.fields(KEYS.data) if name.startswith(b"k")}


def purged_through(replica: Subject) -> bytes:
    fence = decode_fence(replica.fields(KEYS.data)[FENCE_FIELD])
    assert fence is not None
    return fence.purged_through


def code(outcome: object) -> Code:
    assert isinstance(outcome, Refusal), outcome
    return outcome.code


def test_old_tombstones_go_and_values_stay(replica: Subject) -> None:
    bound = ago(20)
    write(replica, b"value", encode_record(ago(30), b"x"))
    write(replica, b"gone", deleted(ago(30)))
    write(replica, b"at the bound", deleted(bound))
    write(replica, b"above it", deleted(ago(20, b"writer-1")))
    assert close_and_drop(replica, bound) == Purged(
        4, 3, 2, 2 * (25 + 1) + len(b"goneat the bound")
    )
    assert held(replica) == {b"value", b"above it"}
    assert purged_through(replica) == bound[:-1] + b"\x01"


def test_looking_and_closing_remove_nothing(replica: Subject) -> None:
    bound = ago(20)
    write(replica, b"gone", deleted(ago(30)))
    assert purge(replica, What.LOOK, bound) == Purged(1, 1, 1, 25 + 5)
    assert purged_through(replica) == bytes(16)
    assert purge(replica, What.CLOSE, bound) == Purged()
    assert purged_through(replica) == bound
    assert held(replica) == {b"gone"}


def test_grace_counts_from_the_expiry(replica: Subject) -> None:
    now_ms = NOW_MS
    for name, hours in ((b"old", 11), (b"young", 9)):
        record = encode_record(ago(30), b"v", expires_at_ms=now_ms - hours * HOUR_MS)
        write(replica, name + b", never read", record)
        parsed = decode_record(record)
        assert parsed is not None
        write(replica, name + b", met", encode_expired(parsed))
    to_come = encode_record(ago(30), b"v", expires_at_ms=now_ms + HOUR_MS)
    write(replica, b"to come", to_come)
    dropped = close_and_drop(replica, ago(20))
    assert (dropped.records, dropped.tombstones, dropped.purged) == (5, 2, 2)
    assert held(replica) == {b"young, never read", b"young, met", b"to come"}


def test_a_corrupt_tombstone_stays(replica: Subject) -> None:
    replica.poke(KEYS.data, user_field(b"k"), flip(deleted(ago(30)), 3))
    replica.poke(KEYS.data, user_field(b"short"), b"no record")
    assert close_and_drop(replica, ago(20)).purged == 0
    assert held(replica) == {b"k", b"short"}


def test_what_comes_late_stays_away(replica: Subject) -> None:
    """Fault 16: of a key that is gone, of one that is there, and of one that never was."""
    bound, seen = ago(20), purged_through(replica)
    write(replica, b"gone", deleted(ago(30)))
    write(replica, b"there", encode_record(ago(40), b"x"))
    close_and_drop(replica, bound)
    for key in (b"gone", b"there", b"never was"):
        late = encode_record(ago(31), b"late")
        assert code(write(replica, key, late)) is Code.PURGED
        assert code(copy(replica, key, late, seen)) is Code.PURGED
    assert held(replica) == {b"there"}
    assert write(replica, b"gone", encode_record(ago(19), b"new")) == APPLIED


def test_a_copy_of_what_another_owner_holds_is_taken_below_purged_through(
    replica: Subject,
) -> None:
    purge(replica, What.CLOSE, ago(20))
    held_elsewhere = encode_record(ago(30), b"x")
    assert copy(replica, b"k", held_elsewhere, purged_through(replica)) == APPLIED
    older = encode_record(ago(31), b"w")
    assert copy(replica, b"k", older, purged_through(replica)) == SUPERSEDED


def test_a_copy_read_before_the_drop_is_refused_after_it(replica: Subject) -> None:
    """A leader that slept since the bucket was closed holds what the tombstone covered."""
    purge(replica, What.CLOSE, ago(20))
    seen = purged_through(replica)
    write(replica, b"k", deleted(ago(15)))
    purge(replica, What.CLOSE, ago(14))
    copied = encode_record(ago(31), b"late")
    purge(replica, What.DROP, ago(14))
    assert held(replica) == set()
    assert code(copy(replica, b"k", copied, seen)) is Code.PURGED
    assert code(copy(replica, b"k", copied, ago(14))) is Code.PURGED


def test_purged_through_never_falls(replica: Subject) -> None:
    close_and_drop(replica, ago(20))
    high = purged_through(replica)
    close_and_drop(replica, ago(21))
    assert purged_through(replica) == high


def test_a_bound_within_the_grace_is_refused(replica: Subject) -> None:
    for what in What.LOOK, What.CLOSE, What.DROP:
        assert code(purge(replica, what, ago(9))) is Code.SKEWED
    assert purged_through(replica) == bytes(16)


def test_nothing_is_dropped_before_it_is_closed(replica: Subject) -> None:
    write(replica, b"gone", deleted(ago(30)))
    assert code(purge(replica, What.DROP, ago(20))) is Code.NOT_CLOSED
    purge(replica, What.CLOSE, ago(21))
    assert code(purge(replica, What.DROP, ago(20))) is Code.NOT_CLOSED
    assert held(replica) == {b"gone"}


@pytest.mark.parametrize(
    ("fence", "expected"),
    [
        (replace(FENCE, epoch=6), Code.STALE_EPOCH),
        (replace(FENCE, incarnation=10), Code.WRONG_INCARNATION),
        (replace(FENCE, role=Role.JOINING), Code.WRONG_ROLE),
        (replace(FENCE, role=Role.READ_REPLICA), Code.WRONG_ROLE),
        (replace(FENCE, role=Role.RELEASED), Code.RELEASED),
        (None, Code.NO_FENCE),
    ],
)
def test_steps_are_judged_by_the_fence(
    replica: Subject, fence: Fence | None, expected: Code
) -> None:
    write(replica, b"gone", deleted(ago(30)))
    if fence is None:
        replica.execute(pack_command(b"DEL", KEYS.data))
        replica.poke(KEYS.data, user_field(b"gone"), deleted(ago(30)))
    else:
        replica.poke(KEYS.data, FENCE_FIELD, fence.encode())
    for what in What.LOOK, What.CLOSE, What.DROP:
        assert code(purge(replica, what, ago(20))) is expected
    assert held(replica) == {b"gone"}


@pytest.mark.parametrize(
    ("place", "argument", "detail"),
    [
        (2, b"x", b"cursor"),
        (3, b"0", b"count"),
        (4, b"b" * 16, b"bound"),
        (4, b"", b"bound"),
        (5, b"-1", b"grace_ms"),
        (6, b"purge", b"what"),
        (7, b"", b"arity"),
    ],
)
def test_malformed_arguments_are_named(
    replica: Subject, place: int, argument: bytes, detail: bytes
) -> None:
    arguments = [bytes(7) + b"\x05", bytes(7) + b"\x09", b"0", b"1", bytes(16), b"0", b"drop"]
    arguments[place : place + 1] = [argument]
    head = (b"EVALSHA", SCRIPTS["purge"].sha, b"1", KEYS.data)
    outcome = parse_refusal(replica.execute(pack_command(*head, *arguments)))
    assert outcome == Refusal(Code.BAD_REQUEST, None, None, detail)


def test_many_go_step_by_step(replica: Subject) -> None:
    version = ago(30)
    for number in range(MANY):
        write(replica, b"%d" % number, deleted(version))
    for number in range(20):
        write(replica, b"value %d" % number, encode_record(version, b"x"))
    dropped = close_and_drop(replica, ago(20))
    assert dropped.purged == MANY
    assert held(replica) == {b"value %d" % number for number in range(20)}


class TestRegisters:
    """The linearizable mode."""

    def put(self, replica: Subject, key: bytes, ballot: bytes, content: Content) -> object:
        prefix = write_prefix(KEYS, 5, 9, script=SCRIPTS["accept"])
        suffix = write_suffix(key, encode_acceptor(ballot, content), LIMITS)
        return parse_accept(replica.execute(prefix + suffix))

    def promise(self, replica: Subject, key: bytes, ballot: bytes) -> object:
        prefix = prepare_prefix(KEYS, 5, 9)
        return replica.execute(prefix + prepare_suffix(key, ballot))

    def test_old_tombstones_go_and_values_stay(self, replica: Subject) -> None:
        ballot, now_ms = ago(30), NOW_MS
        id_ = version_at(now_ms - 30 * HOUR_MS)
        known = (Decided(id_, ballot),)
        self.put(replica, b"value", ballot, Content(b"x", changed=ballot))
        self.put(replica, b"expires", ballot, Content(b"x", now_ms - 12 * HOUR_MS, changed=ballot))
        self.put(replica, b"gone", ballot, Content(None, changed=ballot, decided=known))
        for key, hours in ((b"expired", 12), (b"expired lately", 9)):
            gone = Content(None, now_ms - hours * HOUR_MS, expired=True, changed=ballot)
            self.put(replica, key, ballot, gone)
        assert close_and_drop(replica, ago(20)).purged == 2
        assert held(replica) == {b"value", b"expires", b"expired lately"}

    def test_one_with_a_promise_pending_stays(self, replica: Subject) -> None:
        """Its proposer may have read, from this promise, that nothing is to be kept."""
        ballot = ago(30)
        self.put(replica, b"k", ballot, Content(None, changed=ballot))
        self.promise(replica, b"k", ago(29))
        assert close_and_drop(replica, ago(20)).purged == 0
        assert held(replica) == {b"k"}

    def test_one_that_remembers_a_late_operation_stays(self, replica: Subject) -> None:
        """Ballots follow no clock: this one is old, and a repeat of its change is still to come."""
        ballot = ago(30)
        late = Decided(version_at(NOW_MS - HOUR_MS), ballot)
        early = Decided(version_at(NOW_MS - 30 * HOUR_MS), ballot)
        self.put(replica, b"k", ballot, Content(None, changed=ballot, decided=(late, early)))
        assert close_and_drop(replica, ago(20)).purged == 0

    def test_a_proposer_that_prepared_before_the_purge_is_refused(self, replica: Subject) -> None:
        old, newer = ago(40), ago(30)
        self.promise(replica, b"k", old)
        self.put(replica, b"k", newer, Content(None, changed=newer))
        close_and_drop(replica, ago(20))
        assert held(replica) == set()
        assert code(self.put(replica, b"k", old, Content(b"late", changed=old))) is Code.LOW_BALLOT
        assert held(replica) == set()
