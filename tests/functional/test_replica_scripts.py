"""Every rule of the scripts, on the fake, on Valkey and on Redis alike."""

import time
from collections.abc import Callable, Iterator

import pytest

from buckets.bucket_map import Stage
from replicas.commands import (
    create_fence,
    pack_command,
    pack_limits,
    raise_fence,
    read_command,
    read_prefix,
    release_fence,
    set_identity,
    write_prefix,
    write_suffix,
)
from replicas.fence import Fence, Role, decode_fence
from replicas.layout import FENCE_FIELD, MAP_FIELD, bucket_keys, user_field
from replicas.record import (
    FLAG_LINEARIZABLE,
    Record,
    decode_record,
    encode_expired,
    encode_record,
)
from replicas.replies import (
    APPLIED,
    APPLIED_OVER_LIVE,
    SUPERSEDED,
    Code,
    Refusal,
    parse_refusal,
    parse_write,
)
from replicas.scripts import SCRIPTS
from replicas.version import ZERO_VERSION, HybridClock
from tests.support.replica_records import flip, sealed, version_at
from tests.support.replica_subjects import FakeSubject, ServerSubject, Subject
from tests.support.servers import start_redis, start_valkey, stopped_after

KEYS = bucket_keys("places", 17)
KEY = b"mumbai"
FIELD = user_field(KEY)
FENCE = Fence(epoch=5, stage=Stage.OLD, role=Role.OWNER, incarnation=9)
ENTRY = b"the map entry"
LIMITS = pack_limits(500, 1 << 20)
HOUR_MS = 3_600_000


@pytest.fixture(
    scope="module",
    params=["fake", "valkey", pytest.param("redis", marks=pytest.mark.peers)],
)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    if request.param == "fake":
        yield FakeSubject(int(time.time() * 1000))
        return
    start = start_valkey if request.param == "valkey" else start_redis
    with stopped_after(start(tmp_path_factory.mktemp(request.param))) as server:
        connected = ServerSubject(server)
        yield connected
        connected.close()


@pytest.fixture
def empty(subject: Subject) -> Subject:
    subject.clear()
    return subject


@pytest.fixture
def replica(empty: Subject) -> Subject:
    """An owner of the bucket."""
    assert empty.execute(create_fence(KEYS, FENCE.encode(), ENTRY)) == 1
    return empty


def write(
    replica: Subject,
    record: bytes,
    *,
    key: bytes = KEY,
    epoch: int = FENCE.epoch,
    incarnation: int = FENCE.incarnation,
    heal: bool = False,
) -> int | Refusal | None:
    script = SCRIPTS["heal" if heal else "write"]
    prefix = write_prefix(KEYS, epoch, incarnation, script=script)
    return parse_write(replica.execute(prefix + write_suffix(key, record, LIMITS)))


def refused(outcome: int | Refusal | None) -> Code:
    assert isinstance(outcome, Refusal), outcome
    return outcome.code


def put_fence(replica: Subject, fence: Fence) -> None:
    replica.poke(KEYS.data, FENCE_FIELD, fence.encode())
    replica.poke(KEYS.data, MAP_FIELD, ENTRY)


def everything(replica: Subject) -> object:
    return replica.fields(KEYS.data), replica.log(KEYS.log)


def now_version(replica: Subject, ahead_ms: int = 0) -> bytes:
    return version_at(replica.now_ms() + ahead_ms)


class TestWrite:
    def test_stores_the_record_and_logs_key_and_version(self, replica: Subject) -> None:
        version = now_version(replica)
        record = encode_record(version, b"tiffin")
        assert write(replica, record) == APPLIED
        assert replica.fields(KEYS.data)[FIELD] == record
        assert replica.log(KEYS.log) == [version + KEY]

    def test_says_whether_something_live_was_there(self, replica: Subject) -> None:
        clock = HybridClock(b"writer-1", replica.now_ms() - 1000)
        expired_at = replica.now_ms() - HOUR_MS
        records = [
            (encode_record(clock.next(0), b"a"), APPLIED),
            (encode_record(clock.next(0), b"b"), APPLIED_OVER_LIVE),
            (encode_record(clock.next(0), b"", tombstone=True), APPLIED_OVER_LIVE),
            (encode_record(clock.next(0), b"", tombstone=True), APPLIED),
            (encode_record(clock.next(0), b"c", expires_at_ms=expired_at), APPLIED),
            (encode_record(clock.next(0), b"d", expires_at_ms=expired_at + 2 * HOUR_MS), APPLIED),
            (encode_record(clock.next(0), b"e"), APPLIED_OVER_LIVE),
        ]
        assert [write(replica, record) for record, _ in records] == [
            outcome for _, outcome in records
        ]
        assert len(replica.log(KEYS.log)) == len(records)

    def test_an_older_version_is_superseded_and_changes_nothing(self, replica: Subject) -> None:
        now_ms = replica.now_ms()
        assert write(replica, encode_record(version_at(now_ms), b"new")) == APPLIED
        before = everything(replica)
        assert write(replica, encode_record(version_at(now_ms - 5), b"old")) == SUPERSEDED
        assert everything(replica) == before

    def test_the_same_record_again_is_acknowledged_but_not_logged(self, replica: Subject) -> None:
        record = encode_record(now_version(replica), b"once")
        assert write(replica, record) == APPLIED
        before = everything(replica)
        assert write(replica, record) == APPLIED
        assert everything(replica) == before

    def test_replicas_converge_when_one_version_is_written_with_two_values(
        self, replica: Subject
    ) -> None:
        version = now_version(replica)
        low, high = sorted(
            (encode_record(version, value) for value in (b"one", b"two")), key=lambda raw: raw[:8]
        )
        assert write(replica, low) == APPLIED
        assert write(replica, high) == APPLIED_OVER_LIVE
        assert write(replica, low) == SUPERSEDED
        assert replica.fields(KEYS.data)[FIELD] == high

    def test_an_expiry_leaves_a_tombstone_just_above_its_own_version(
        self, replica: Subject
    ) -> None:
        version = now_version(replica, -10)
        record = encode_record(version, b"x", expires_at_ms=replica.now_ms() - 1)
        tombstone = encode_expired(decoded(record))
        assert write(replica, record) == APPLIED
        assert write(replica, tombstone) == APPLIED
        assert write(replica, record) == SUPERSEDED
        assert write(replica, encode_record(now_version(replica, -9), b"later")) == APPLIED

    def test_the_tombstone_of_an_expiry_to_come_is_refused(self, replica: Subject) -> None:
        expires_at_ms = replica.now_ms() + HOUR_MS
        record = encode_record(now_version(replica), b"x", expires_at_ms=expires_at_ms)
        assert write(replica, record) == APPLIED
        assert refused(write(replica, encode_expired(decoded(record)))) is Code.SKEWED
        assert replica.fields(KEYS.data)[FIELD] == record

    def test_a_version_too_far_ahead_of_the_servers_clock_is_refused(
        self, replica: Subject
    ) -> None:
        before = everything(replica)
        outcome = write(replica, encode_record(now_version(replica, 60_000), b"poison"))
        assert refused(outcome) is Code.SKEWED
        assert isinstance(outcome, Refusal)
        assert isinstance(outcome.detail, int)
        assert abs(outcome.detail - replica.now_ms()) < 10_000
        assert everything(replica) == before

    def test_a_version_within_the_bound_is_accepted(self, replica: Subject) -> None:
        assert write(replica, encode_record(now_version(replica, 300), b"x")) == APPLIED

    @pytest.mark.parametrize("damage", [0, 10, 24, -1])
    def test_a_record_damaged_on_its_way_is_refused(self, replica: Subject, damage: int) -> None:
        before = everything(replica)
        record = encode_record(now_version(replica), b"value")
        assert refused(write(replica, flip(record, damage))) is Code.BAD_REQUEST
        assert everything(replica) == before

    @pytest.mark.parametrize("damage", [0, 10, 24, -1])
    def test_a_stored_record_that_fails_its_checksum_is_never_overwritten(
        self, replica: Subject, damage: int
    ) -> None:
        broken = flip(encode_record(now_version(replica, -1000), b"value"), damage)
        replica.poke(KEYS.data, FIELD, broken)
        before = everything(replica)
        outcome = write(replica, encode_record(now_version(replica), b"newer"))
        assert refused(outcome) is Code.CORRUPT
        assert everything(replica) == before

    def test_a_record_of_the_other_mode_is_refused(self, replica: Subject) -> None:
        offered = sealed(now_version(replica) + bytes([FLAG_LINEARIZABLE]) + b"x")
        assert refused(write(replica, offered)) is Code.WRONG_MODE

    def test_a_stored_record_of_the_other_mode_is_not_overwritten(self, replica: Subject) -> None:
        stored = sealed(now_version(replica, -1000) + bytes([FLAG_LINEARIZABLE]) + b"x")
        replica.poke(KEYS.data, FIELD, stored)
        outcome = write(replica, encode_record(now_version(replica), b"x"))
        assert refused(outcome) is Code.WRONG_MODE
        assert replica.fields(KEYS.data)[FIELD] == stored

    def test_an_absent_key_is_not_written_at_or_below_purged_through(
        self, replica: Subject
    ) -> None:
        purged = now_version(replica, -1000)
        put_fence(replica, fence_with(purged_through=purged))
        before = everything(replica)
        assert refused(write(replica, encode_record(purged, b"x"))) is Code.PURGED
        late = encode_record(now_version(replica, -2000), b"x")
        assert refused(write(replica, late)) is Code.PURGED
        assert everything(replica) == before
        assert write(replica, encode_record(now_version(replica, -999), b"x")) == APPLIED

    def test_nor_is_a_key_that_is_there_changed_at_or_below_it(self, replica: Subject) -> None:
        stored = encode_record(now_version(replica, -3000), b"x")
        assert write(replica, stored) == APPLIED
        put_fence(replica, fence_with(purged_through=now_version(replica, -1000)))
        before = everything(replica)
        outcome = write(replica, encode_record(now_version(replica, -2000), b"y"))
        assert refused(outcome) is Code.PURGED
        assert write(replica, stored) == APPLIED  # it is there
        older = encode_record(now_version(replica, -4000), b"w")
        assert write(replica, older) == SUPERSEDED
        assert everything(replica) == before
        assert write(replica, encode_record(now_version(replica), b"z")) == APPLIED_OVER_LIVE

    def test_nothing_new_is_written_at_or_below_closed_through(self, replica: Subject) -> None:
        known = encode_record(now_version(replica, -3000), b"x")
        assert write(replica, known) == APPLIED
        closed = now_version(replica, -1000)
        put_fence(replica, fence_with(closed_through=closed))
        before = everything(replica)
        assert refused(write(replica, encode_record(closed, b"y"))) is Code.CLOSED
        older = encode_record(now_version(replica, -4000), b"y")
        assert refused(write(replica, older)) is Code.CLOSED
        assert refused(write(replica, older, key=b"absent")) is Code.CLOSED
        assert write(replica, known) == APPLIED  # not new
        assert everything(replica) == before
        assert write(replica, encode_record(now_version(replica), b"z")) == APPLIED_OVER_LIVE

    @pytest.mark.parametrize(
        ("arguments", "detail"),
        [
            ([], b"arity"),
            ([b"e" * 7, b"i" * 8, b"kx", b"r", b"l" * 8], b"epoch"),
            ([b"e" * 8, b"i" * 9, b"kx", b"r", b"l" * 8], b"incarnation"),
            ([b"e" * 8, b"i" * 8, b"k", b"r", b"l" * 8], b"field"),
            ([b"e" * 8, b"i" * 8, b"f", b"r", b"l" * 8], b"field"),
            ([b"e" * 8, b"i" * 8, b"fence", b"r", b"l" * 8], b"field"),
            ([b"e" * 8, b"i" * 8, b"k" * 1026, b"r", b"l" * 8], b"field"),
            ([b"e" * 8, b"i" * 8, b"kx", b"r", b"l" * 7], b"limits"),
            ([b"e" * 8, b"i" * 8, b"kx", b"r", b"l" * 8], b"record"),
            ([b"e" * 8, b"i" * 8, b"kx", b"r", b"l" * 8, b"more"], b"arity"),
        ],
    )
    def test_malformed_arguments_are_named(
        self, replica: Subject, arguments: list[bytes], detail: bytes
    ) -> None:
        before = everything(replica)
        head = (b"EVALSHA", SCRIPTS["write"].sha, b"2", KEYS.data, KEYS.log)
        outcome = parse_write(replica.execute(pack_command(*head, *arguments)))
        assert outcome == Refusal(Code.BAD_REQUEST, None, None, detail)
        assert everything(replica) == before

    def test_the_zero_version_is_no_version(self, replica: Subject) -> None:
        outcome = write(replica, encode_record(ZERO_VERSION, b"x"))
        assert outcome == Refusal(Code.BAD_REQUEST, None, None, b"record")


class TestFenceOfAWrite:
    def test_without_a_fence_everything_is_refused(self, empty: Subject) -> None:
        outcome = write(empty, encode_record(now_version(empty), b"x"))
        assert outcome == Refusal(Code.NO_FENCE)
        assert everything(empty) == ({}, [])

    def test_an_older_epoch_is_refused_with_fence_and_map_entry(self, replica: Subject) -> None:
        before = everything(replica)
        outcome = write(replica, encode_record(now_version(replica), b"x"), epoch=4)
        assert outcome == Refusal(Code.STALE_EPOCH, FENCE, ENTRY)
        assert everything(replica) == before

    @pytest.mark.parametrize(
        ("fence_epoch", "writer_epoch", "accepted"),
        [
            (5, 6, True),
            (255, 256, True),
            (256, 255, False),
            ((1 << 53) + 1, 1 << 53, False),  # one number to a double
            (1 << 53, (1 << 53) + 1, True),
            ((1 << 63) + 1, 1 << 63, False),
        ],
    )
    def test_epochs_are_compared_as_64_bit_numbers(
        self, replica: Subject, fence_epoch: int, writer_epoch: int, accepted: bool
    ) -> None:
        put_fence(replica, fence_with(epoch=fence_epoch))
        outcome = write(replica, encode_record(now_version(replica), b"x"), epoch=writer_epoch)
        assert (outcome == APPLIED) is accepted
        if not accepted:
            assert refused(outcome) is Code.STALE_EPOCH

    def test_another_incarnation_is_refused(self, replica: Subject) -> None:
        before = everything(replica)
        outcome = write(replica, encode_record(now_version(replica), b"x"), incarnation=10)
        assert outcome == Refusal(Code.WRONG_INCARNATION, FENCE, ENTRY)
        assert everything(replica) == before

    @pytest.mark.parametrize(
        ("role", "outcome"),
        [
            (Role.OWNER, APPLIED),
            (Role.JOINING, APPLIED),
            (Role.READ_REPLICA, Code.WRONG_ROLE),
            (Role.RELEASED, Code.RELEASED),
        ],
    )
    def test_only_owners_and_those_who_join_take_writes(
        self, replica: Subject, role: Role, outcome: int | Code
    ) -> None:
        put_fence(replica, fence_with(role=role))
        got = write(replica, encode_record(now_version(replica), b"x"))
        assert (got.code if isinstance(got, Refusal) else got) == outcome
        if isinstance(got, Refusal):
            assert got.entry == ENTRY

    def test_who_comes_late_to_a_gravestone_is_told_of_the_successors(
        self, replica: Subject
    ) -> None:
        grave = fence_with(epoch=6, role=Role.RELEASED)
        put_fence(replica, grave)
        outcome = write(replica, encode_record(now_version(replica), b"x"))
        assert outcome == Refusal(Code.STALE_EPOCH, grave, ENTRY)

    @pytest.mark.parametrize("damage", [0, 3, 10, 12, 20, 40, -1])
    def test_a_fence_that_fails_its_checksum_admits_nobody(
        self, replica: Subject, damage: int
    ) -> None:
        replica.poke(KEYS.data, FENCE_FIELD, flip(FENCE.encode(), damage))
        outcome = write(replica, encode_record(now_version(replica), b"x"))
        assert outcome == Refusal(Code.CORRUPT, None, None, b"fence")


class TestHeal:
    def test_replaces_a_record_that_fails_its_checksum(self, replica: Subject) -> None:
        replica.poke(KEYS.data, FIELD, flip(encode_record(now_version(replica), b"bad"), -1))
        good = encode_record(now_version(replica, -1000), b"good")
        assert write(replica, good, heal=True) == APPLIED
        assert replica.fields(KEYS.data)[FIELD] == good
        assert replica.log(KEYS.log) == [good[8:24] + KEY]

    def test_does_not_replace_a_newer_valid_record(self, replica: Subject) -> None:
        newer = encode_record(now_version(replica), b"newer")
        assert write(replica, newer) == APPLIED
        older = encode_record(now_version(replica, -1000), b"older")
        assert write(replica, older, heal=True) == SUPERSEDED
        assert replica.fields(KEYS.data)[FIELD] == newer

    def test_is_judged_by_the_fence_like_a_write(self, replica: Subject) -> None:
        broken = flip(encode_record(now_version(replica), b"bad"), -1)
        replica.poke(KEYS.data, FIELD, broken)
        good = encode_record(now_version(replica, -1000), b"good")
        assert refused(write(replica, good, heal=True, epoch=4)) is Code.STALE_EPOCH
        assert refused(write(replica, good, heal=True, incarnation=8)) is Code.WRONG_INCARNATION
        assert replica.fields(KEYS.data)[FIELD] == broken


class TestCreateFence:
    def test_makes_the_first_one_with_its_map_entry(self, empty: Subject) -> None:
        assert empty.execute(create_fence(KEYS, FENCE.encode(), ENTRY)) == 1
        assert empty.fields(KEYS.data) == {FENCE_FIELD: FENCE.encode(), MAP_FIELD: ENTRY}

    @pytest.mark.parametrize("epoch", [4, 5, 6])
    def test_is_refused_when_one_exists_whatever_its_epoch(
        self, replica: Subject, epoch: int
    ) -> None:
        other = fence_with(epoch=epoch, incarnation=10)
        reply = replica.execute(create_fence(KEYS, other.encode(), b"another entry"))
        assert parse_refusal(reply) == Refusal(Code.EXISTS, FENCE, ENTRY)
        assert stored_fence(replica) == FENCE

    def test_is_refused_over_a_gravestone(self, replica: Subject) -> None:
        put_fence(replica, fence_with(role=Role.RELEASED))
        reply = replica.execute(create_fence(KEYS, fence_with(epoch=8).encode(), ENTRY))
        assert code_of(reply) is Code.EXISTS

    def test_is_refused_where_records_of_an_earlier_life_are(self, empty: Subject) -> None:
        empty.poke(KEYS.data, FIELD, encode_record(now_version(empty), b"old"))
        reply = empty.execute(create_fence(KEYS, FENCE.encode(), ENTRY))
        assert parse_refusal(reply) == Refusal(Code.LEFTOVERS, None, None, KEYS.data)
        assert FENCE_FIELD not in empty.fields(KEYS.data)


class TestRaiseFence:
    def test_raises_epoch_stage_role_and_map_entry(self, replica: Subject) -> None:
        newer = fence_with(epoch=6, stage=Stage.WRITE_BOTH_READ_OLD)
        assert replica.execute(raise_fence(KEYS, newer.encode(), b"new entry")) == 1
        assert stored_fence(replica) == newer
        assert replica.fields(KEYS.data)[MAP_FIELD] == b"new entry"

    def test_never_makes_one(self, empty: Subject) -> None:
        reply = empty.execute(raise_fence(KEYS, FENCE.encode(), ENTRY))
        assert parse_refusal(reply) == Refusal(Code.NO_FENCE)
        assert empty.fields(KEYS.data) == {}

    def test_is_refused_in_another_incarnation(self, replica: Subject) -> None:
        newer = fence_with(epoch=6, incarnation=10)
        reply = replica.execute(raise_fence(KEYS, newer.encode(), ENTRY))
        assert parse_refusal(reply) == Refusal(Code.WRONG_INCARNATION, FENCE, ENTRY)
        assert stored_fence(replica) == FENCE

    def test_is_refused_below_the_epoch_there(self, replica: Subject) -> None:
        reply = replica.execute(raise_fence(KEYS, fence_with(epoch=4).encode(), b"old"))
        assert parse_refusal(reply) == Refusal(Code.STALE_EPOCH, FENCE, ENTRY)
        assert stored_fence(replica) == FENCE

    def test_one_epoch_means_one_thing(self, replica: Subject) -> None:
        same = replica.execute(raise_fence(KEYS, FENCE.encode(), ENTRY))
        other = fence_with(stage=Stage.WRITE_BOTH_READ_OLD)
        reply = replica.execute(raise_fence(KEYS, other.encode(), ENTRY))
        assert same == 1
        assert code_of(reply) is Code.STALE_EPOCH
        assert stored_fence(replica) == FENCE

    @pytest.mark.parametrize("role", [Role.RELEASED, Role.READ_REPLICA])
    def test_who_lacks_writes_must_join_before_it_owns(self, replica: Subject, role: Role) -> None:
        put_fence(replica, fence_with(role=role))
        owner = fence_with(epoch=6)
        assert code_of(replica.execute(raise_fence(KEYS, owner.encode(), ENTRY))) is Code.WRONG_ROLE
        joining = fence_with(epoch=6, role=Role.JOINING)
        assert replica.execute(raise_fence(KEYS, joining.encode(), ENTRY)) == 1
        assert replica.execute(raise_fence(KEYS, fence_with(epoch=7).encode(), ENTRY)) == 1


class TestReleaseFence:
    def test_leaves_a_gravestone_that_names_the_successors(self, replica: Subject) -> None:
        record = encode_record(now_version(replica), b"x")
        assert write(replica, record) == APPLIED
        grave = fence_with(epoch=6, role=Role.RELEASED)
        assert replica.execute(release_fence(KEYS, grave.encode(), b"successors")) == 1
        assert stored_fence(replica) == grave
        outcome = write(replica, encode_record(now_version(replica), b"y"), epoch=6)
        assert outcome == Refusal(Code.RELEASED, grave, b"successors")
        assert replica.fields(KEYS.data)[FIELD] == record

    def test_is_refused_when_the_fence_is_newer(self, replica: Subject) -> None:
        grave = fence_with(epoch=4, role=Role.RELEASED)
        reply = replica.execute(release_fence(KEYS, grave.encode(), b"successors"))
        assert parse_refusal(reply) == Refusal(Code.STALE_EPOCH, FENCE, ENTRY)
        assert stored_fence(replica) == FENCE

    def test_may_be_repeated(self, replica: Subject) -> None:
        grave = release_fence(KEYS, fence_with(epoch=6, role=Role.RELEASED).encode(), b"s")
        assert [replica.execute(grave), replica.execute(grave)] == [1, 1]

    def test_is_refused_without_a_fence_or_in_another_incarnation(self, replica: Subject) -> None:
        other = fence_with(epoch=6, role=Role.RELEASED, incarnation=10).encode()
        assert code_of(replica.execute(release_fence(KEYS, other, b"s"))) is Code.WRONG_INCARNATION
        replica.clear()
        assert code_of(replica.execute(release_fence(KEYS, other, b"s"))) is Code.NO_FENCE


@pytest.mark.parametrize(
    ("build", "role"), [(raise_fence, Role.OWNER), (release_fence, Role.RELEASED)]
)
class TestChangeOfAFence:
    @pytest.mark.parametrize(("there", "offered"), [(2000, 1000), (1000, 2000)])
    def test_purged_and_closed_through_never_fall(
        self,
        replica: Subject,
        build: Callable[..., bytes],
        role: Role,
        there: int,
        offered: int,
    ) -> None:
        old, new = version_at(there), version_at(offered)
        put_fence(replica, fence_with(purged_through=old, closed_through=old))
        newer = fence_with(epoch=6, role=role, purged_through=new, closed_through=new)
        assert replica.execute(build(KEYS, newer.encode(), ENTRY)) == 1
        highest = version_at(2000)
        assert stored_fence(replica) == fence_with(
            epoch=6, role=role, purged_through=highest, closed_through=highest
        )

    def test_is_refused_when_the_stored_one_fails_its_checksum(
        self, replica: Subject, build: Callable[..., bytes], role: Role
    ) -> None:
        broken = flip(FENCE.encode(), 5)
        replica.poke(KEYS.data, FENCE_FIELD, broken)
        reply = replica.execute(build(KEYS, fence_with(epoch=6, role=role).encode(), ENTRY))
        assert code_of(reply) is Code.CORRUPT
        assert replica.fields(KEYS.data)[FENCE_FIELD] == broken


@pytest.mark.parametrize(
    ("build", "role"),
    [
        (create_fence, Role.RELEASED),
        (raise_fence, Role.RELEASED),
        (release_fence, Role.OWNER),
    ],
)
def test_each_fence_script_does_one_thing(
    empty: Subject, build: Callable[..., bytes], role: Role
) -> None:
    wrong = fence_with(epoch=6, role=role).encode()
    reply = empty.execute(build(KEYS, wrong, ENTRY))
    assert parse_refusal(reply) == Refusal(Code.BAD_REQUEST, None, None, b"fence")
    damaged = flip(FENCE.encode(), 4)
    assert code_of(empty.execute(build(KEYS, damaged, ENTRY))) is Code.BAD_REQUEST
    assert empty.fields(KEYS.data) == {}


def test_the_identity_given_first_stands(empty: Subject) -> None:
    assert empty.execute(set_identity(b"first")) == b"first"
    assert empty.execute(set_identity(b"second")) == b"first"


def test_a_read_sees_fence_and_record_together(replica: Subject) -> None:
    command = read_command(read_prefix(KEYS), KEY)
    assert replica.execute(command) == [FENCE.encode(), None]
    record = encode_record(now_version(replica), b"x")
    assert write(replica, record) == APPLIED
    assert replica.execute(command) == [FENCE.encode(), record]


def fence_with(
    *,
    epoch: int = FENCE.epoch,
    stage: Stage = FENCE.stage,
    role: Role = FENCE.role,
    incarnation: int = FENCE.incarnation,
    purged_through: bytes = ZERO_VERSION,
    closed_through: bytes = ZERO_VERSION,
) -> Fence:
    return Fence(epoch, stage, role, incarnation, purged_through, closed_through)


def stored_fence(replica: Subject) -> Fence | None:
    return decode_fence(replica.fields(KEYS.data)[FENCE_FIELD])


def code_of(reply: object) -> Code:
    refusal = parse_refusal(reply)
    assert refusal is not None, reply
    return refusal.code


def decoded(raw: bytes) -> Record:
    record = decode_record(raw)
    assert record is not None
    return record
