"""Digests, lists, drops and overwritten fences: on the fake, on Valkey and on Redis alike."""

import time
from collections.abc import Iterator

import pytest

from buckets.bucket_map import Stage
from replicas.commands import (
    create_fence,
    pack_command,
    pack_limits,
    raise_fence,
    write_prefix,
    write_suffix,
)
from replicas.digest import (
    FIRST_CURSOR,
    NO_ORDER,
    DigestStep,
    EntriesStep,
    add_digests,
    digest_command,
    drop_command,
    entries_command,
    leaf_digests,
    leaf_of,
    order_of,
    overwrite_fence,
    parse_digest,
    parse_entries,
)
from replicas.fence import Fence, Role, decode_fence
from replicas.layout import FENCE_FIELD, IDENTITY_KEY, MAP_FIELD, bucket_keys, user_field
from replicas.record import encode_record
from replicas.replies import APPLIED, Code, Refusal, parse_refusal, parse_write
from replicas.scripts import SCRIPTS
from tests.support.replica_records import flip, version_at
from tests.support.replica_subjects import FakeSubject, ServerSubject, Subject
from tests.support.servers import start_redis, start_valkey, stopped_after

KEYS = bucket_keys("places", 17)
FENCE = Fence(epoch=5, stage=Stage.OLD, role=Role.OWNER, incarnation=9)
ENTRY = b"the map entry"
NEXT_LIFE = Fence(epoch=6, stage=Stage.OLD, role=Role.JOINING, incarnation=10)
LEAVES = 16
SOME = 600  # more than one step of 100, and more than a compact encoding holds


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


def records(count: int) -> dict[bytes, bytes]:
    made = {}
    for number in range(count):
        version = version_at(1_000 + number)
        value = b"" if number % 5 == 0 else b"value %d" % number
        made[user_field(b"key-%d" % number)] = encode_record(version, value, tombstone=not value)
    return made


def put_all(replica: Subject, these: dict[bytes, bytes]) -> None:
    for field, raw in these.items():
        replica.poke(KEYS.data, field, raw)


def put_fence(replica: Subject, fence: Fence) -> None:
    replica.poke(KEYS.data, FENCE_FIELD, fence.encode())
    replica.poke(KEYS.data, MAP_FIELD, ENTRY)


def whole_digest(replica: Subject, *, epoch: int = 5, incarnation: int = 9) -> tuple[int, bytes]:
    cursor, seen, digests = FIRST_CURSOR, 0, bytes(8 * LEAVES)
    while True:
        command = digest_command(KEYS, epoch, incarnation, cursor=cursor, count=100, leaves=LEAVES)
        step = parse_digest(replica.execute(command))
        assert isinstance(step, DigestStep), step
        cursor, seen = step.cursor, seen + step.records
        digests = add_digests(digests, step.leaves)
        if cursor == FIRST_CURSOR:
            return seen, digests


def listed(replica: Subject, wanted: list[int]) -> dict[bytes, bytes]:
    cursor, found = FIRST_CURSOR, dict[bytes, bytes]()
    while True:
        command = entries_command(
            KEYS, 5, 9, cursor=cursor, count=100, leaves=LEAVES, wanted=wanted
        )
        step = parse_entries(replica.execute(command))
        assert isinstance(step, EntriesStep), step
        found |= step.entries
        cursor = step.cursor
        if cursor == FIRST_CURSOR:
            return found


def refused(reply: object) -> Code:
    refusal = parse_refusal(reply)
    assert isinstance(refusal, Refusal), reply
    return refusal.code


class TestDigest:
    def test_is_that_of_all_records_and_of_nothing_else(self, replica: Subject) -> None:
        assert whole_digest(replica) == (0, bytes(8 * LEAVES))
        put_all(replica, records(SOME))
        assert whole_digest(replica) == (SOME, leaf_digests(records(SOME).items(), LEAVES))

    def test_an_epoch_or_a_place_of_the_fence_does_not_matter(self, replica: Subject) -> None:
        put_all(replica, records(3))
        before = whole_digest(replica)
        put_fence(replica, Fence(6, Stage.OLD, Role.JOINING, 9))
        assert whole_digest(replica, epoch=6) == before

    def test_a_flipped_byte_changes_its_leaf(self, replica: Subject) -> None:
        these = records(3)
        put_all(replica, these)
        before = whole_digest(replica)
        field, raw = next(iter(these.items()))
        replica.poke(KEYS.data, field, flip(raw, len(raw) - 1))
        assert whole_digest(replica) != before


class TestEntries:
    def test_list_the_wanted_leaves_with_their_orders(self, replica: Subject) -> None:
        these = records(SOME)
        put_all(replica, these)
        assert listed(replica, list(range(LEAVES))) == {f: order_of(r) for f, r in these.items()}
        wanted = [0, 7]
        expected = {f: order_of(r) for f, r in these.items() if leaf_of(f, LEAVES) in wanted}
        assert listed(replica, wanted) == expected
        assert listed(replica, []) == {}

    def test_a_record_that_fails_its_checksum_has_no_order(self, replica: Subject) -> None:
        field, raw = next(iter(records(1).items()))
        replica.poke(KEYS.data, field, flip(raw, 30 if len(raw) > 30 else 10))
        assert listed(replica, list(range(LEAVES))) == {field: NO_ORDER}


def steps(
    epoch: int = 5, incarnation: int = 9, cursor: bytes = b"0", count: int = 10, leaves: int = 4
) -> list[bytes]:
    step = {"cursor": cursor, "count": count, "leaves": leaves}
    digest = digest_command(KEYS, epoch, incarnation, **step)  # type: ignore[arg-type]
    wanted = range(min(leaves, 8))
    listing = entries_command(KEYS, epoch, incarnation, wanted=wanted, **step)  # type: ignore[arg-type]
    return [digest, listing]


class TestAStepIsJudgedLikeAWrite:
    @pytest.mark.parametrize(
        ("fence", "code"),
        [
            (Fence(6, Stage.OLD, Role.OWNER, 9), Code.STALE_EPOCH),
            (Fence(5, Stage.OLD, Role.OWNER, 8), Code.WRONG_INCARNATION),
            (Fence(5, Stage.OLD, Role.RELEASED, 9), Code.RELEASED),
            (Fence(5, Stage.OLD, Role.READ_REPLICA, 9), Code.WRONG_ROLE),
        ],
    )
    def test_by_the_fence(self, replica: Subject, fence: Fence, code: Code) -> None:
        put_fence(replica, fence)
        assert [refused(replica.execute(step)) for step in steps()] == [code, code]
        drop = drop_command(KEYS, 5, 9, b"kx")
        assert refused(replica.execute(drop)) is code

    def test_without_a_fence(self, empty: Subject) -> None:
        put_all(empty, records(3))
        assert [refused(empty.execute(step)) for step in steps()] == [Code.NO_FENCE] * 2

    @pytest.mark.parametrize(
        ("wrong", "detail"),
        [
            ({"cursor": b"x"}, b"cursor"),
            ({"count": 0}, b"count"),
            ({"count": 1_000_001}, b"count"),
            ({"leaves": 0}, b"leaves"),
            ({"leaves": 65_537}, b"leaves"),
        ],
    )
    def test_by_its_arguments(self, replica: Subject, wrong: dict[str, int], detail: bytes) -> None:
        for step in steps(**wrong):  # type: ignore[arg-type]
            refusal = parse_refusal(replica.execute(step))
            assert refusal is not None
            assert (refusal.code, refusal.detail) == (Code.BAD_REQUEST, detail)


class TestOverwrittenFence:
    def test_begins_a_new_life_over_an_old_dump(self, replica: Subject) -> None:
        put_all(replica, records(3))
        assert replica.execute(overwrite_fence(KEYS, NEXT_LIFE.encode(), b"new")) == 1
        fields = replica.fields(KEYS.data)
        assert decode_fence(fields[FENCE_FIELD]) == NEXT_LIFE
        assert fields[MAP_FIELD] == b"new"
        assert {f: r for f, r in fields.items() if f in records(3)} == records(3)

    def test_never_makes_anything_that_could_count(self, replica: Subject) -> None:
        for role in (Role.OWNER, Role.READ_REPLICA, Role.RELEASED):
            fence = Fence(6, Stage.OLD, role, 10)
            reply = replica.execute(overwrite_fence(KEYS, fence.encode(), b"new"))
            assert refused(reply) is Code.BAD_REQUEST
        assert decode_fence(replica.fields(KEYS.data)[FENCE_FIELD]) == FENCE

    @pytest.mark.parametrize("incarnation", [8, 9])
    def test_is_refused_over_this_or_a_later_life(self, replica: Subject, incarnation: int) -> None:
        fence = Fence(6, Stage.OLD, Role.JOINING, incarnation)
        reply = replica.execute(overwrite_fence(KEYS, fence.encode(), b"new"))
        assert refused(reply) is Code.WRONG_INCARNATION
        assert decode_fence(replica.fields(KEYS.data)[FENCE_FIELD]) == FENCE

    def test_is_refused_to_a_leader_that_slept(self, replica: Subject) -> None:
        put_fence(replica, Fence(7, Stage.OLD, Role.OWNER, 9))
        reply = replica.execute(overwrite_fence(KEYS, NEXT_LIFE.encode(), b"new"))
        assert refused(reply) is Code.STALE_EPOCH

    def test_may_be_repeated_even_once_it_owns(self, replica: Subject) -> None:
        command = overwrite_fence(KEYS, NEXT_LIFE.encode(), b"new")
        assert [replica.execute(command) for _ in range(2)] == [1, 1]
        owner = Fence(7, Stage.OLD, Role.OWNER, 10)
        assert replica.execute(raise_fence(KEYS, owner.encode(), b"owner")) == 1
        again = Fence(7, Stage.OLD, Role.JOINING, 10)
        assert replica.execute(overwrite_fence(KEYS, again.encode(), b"new")) == 1
        assert decode_fence(replica.fields(KEYS.data)[FENCE_FIELD]) == owner

    def test_replaces_a_damaged_fence_and_a_missing_one(self, empty: Subject) -> None:
        command = overwrite_fence(KEYS, NEXT_LIFE.encode(), b"new")
        assert refused(empty.execute(command)) is Code.NO_FENCE
        put_all(empty, records(1))
        assert empty.execute(command) == 1
        empty.poke(KEYS.data, FENCE_FIELD, flip(NEXT_LIFE.encode(), 3))
        assert empty.execute(command) == 1
        assert decode_fence(empty.fields(KEYS.data)[FENCE_FIELD]) == NEXT_LIFE

    def test_lets_writes_of_the_new_life_in_and_none_of_the_former(self, replica: Subject) -> None:
        assert replica.execute(overwrite_fence(KEYS, NEXT_LIFE.encode(), b"new")) == 1
        record = encode_record(version_at(replica.now_ms()), b"x")
        suffix = write_suffix(b"key", record, pack_limits(500, 1 << 20))
        old = parse_write(replica.execute(write_prefix(KEYS, 6, 9) + suffix))
        assert isinstance(old, Refusal)
        assert old.code is Code.WRONG_INCARNATION
        assert parse_write(replica.execute(write_prefix(KEYS, 6, 10) + suffix)) == APPLIED


class TestDrop:
    def test_takes_only_what_was_purged_or_is_corrupt(self, replica: Subject) -> None:
        purged_through = version_at(1_500)
        put_fence(replica, Fence(5, Stage.OLD, Role.JOINING, 9, purged_through))
        old, new = encode_record(purged_through, b"x"), encode_record(version_at(1_501), b"y")
        put_all(replica, {b"kold": old, b"knew": new, b"kbad": flip(new, 20)})
        fields = (b"kold", b"knew", b"kbad", b"kgone")
        replies = [replica.execute(drop_command(KEYS, 5, 9, field)) for field in fields]
        assert replies == [1, 3, 1, 1]
        assert {f for f in replica.fields(KEYS.data) if f[:1] == b"k"} == {b"knew"}

    def test_is_refused_by_an_owner(self, replica: Subject) -> None:
        replica.poke(KEYS.data, b"kbad", b"not a record")
        assert refused(replica.execute(drop_command(KEYS, 5, 9, b"kbad"))) is Code.WRONG_ROLE
        assert b"kbad" in replica.fields(KEYS.data)

    def test_takes_no_reserved_field(self, replica: Subject) -> None:
        put_fence(replica, Fence(5, Stage.OLD, Role.JOINING, 9))
        assert refused(replica.execute(drop_command(KEYS, 5, 9, b"f"))) is Code.BAD_REQUEST


def test_an_identity_is_replaced_only_by_who_saw_it(empty: Subject) -> None:
    def replaced(seen: bytes, new: bytes) -> object:
        sha = SCRIPTS["identity_replace"].sha
        return empty.execute(pack_command(b"EVALSHA", sha, b"1", IDENTITY_KEY, seen, new))

    assert replaced(b"", b"one") == b"one"
    assert replaced(b"", b"two") == b"one"
    assert replaced(b"one", b"two") == b"two"
