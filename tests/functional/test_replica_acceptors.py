"""Every rule of prepare and accept, on the fake, on Valkey and on Redis alike."""

import dataclasses
import time
from collections.abc import Iterator

import pytest

from buckets.bucket_map import Stage
from replicas.acceptor import NOTHING, Acceptor, Content, Decided, decode_acceptor, encode_acceptor
from replicas.commands import (
    create_fence,
    pack_command,
    pack_limits,
    prepare_prefix,
    prepare_suffix,
    raise_fence,
    read_command,
    read_prefix,
    release_fence,
    write_prefix,
    write_suffix,
)
from replicas.digest import parse_promises, promises_command
from replicas.fence import Fence, Role, decode_fence, fence_prefix
from replicas.layout import FENCE_FIELD, MAP_FIELD, bucket_keys, user_field
from replicas.record import decode_record, encode_record
from replicas.replies import (
    Code,
    Refusal,
    Verdict,
    parse_accept,
    parse_acceptor_read,
    parse_prepare,
    parse_read,
    parse_refusal,
    parse_write,
)
from replicas.scripts import SCRIPTS
from replicas.version import ZERO_VERSION
from tests.support.replica_records import flip, sealed, version_at
from tests.support.replica_subjects import FakeSubject, ServerSubject, Subject
from tests.support.servers import start_redis, start_valkey, stopped_after

KEYS = bucket_keys("orders", 17)
KEY = b"order-42"
FIELD = user_field(KEY)
FENCE = Fence(epoch=5, stage=Stage.OLD, role=Role.OWNER, incarnation=9)
ENTRY = b"the map entry"
LIMITS = pack_limits(500, 1 << 20)
HOUR_MS = 3_600_000
# Ballots follow no clock: these lie long before every server's TIME, and far behind it.
B1, B2, B3, B4 = (version_at(number) for number in (1, 2, 3, 1 << 47))


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
def replica(subject: Subject) -> Subject:
    """An owner of the bucket."""
    subject.clear()
    assert subject.execute(create_fence(KEYS, FENCE.encode(), ENTRY)) == 1
    return subject


def prepare(
    replica: Subject, ballot: bytes, *, epoch: int = 5, incarnation: int = 9
) -> Acceptor | Refusal | None:
    prefix = prepare_prefix(KEYS, epoch, incarnation)
    return parse_prepare(replica.execute(prefix + prepare_suffix(KEY, ballot)), ballot)


def offer(
    replica: Subject, record: bytes, *, epoch: int = 5, incarnation: int = 9
) -> bool | Refusal | None:
    prefix = write_prefix(KEYS, epoch, incarnation, script=SCRIPTS["accept"])
    return parse_accept(replica.execute(prefix + write_suffix(KEY, record, LIMITS)))


def accept(replica: Subject, ballot: bytes, value: bytes | None = b"x") -> bool | Refusal | None:
    return offer(replica, encode_acceptor(ballot, Content(value, changed=ballot)))


def put_fence(replica: Subject, **changed: object) -> None:
    fence = dataclasses.replace(FENCE, **changed)  # type: ignore[arg-type]
    replica.poke(KEYS.data, FENCE_FIELD, fence.encode())
    replica.poke(KEYS.data, MAP_FIELD, ENTRY)


def everything(replica: Subject) -> object:
    return replica.fields(KEYS.data), replica.log(KEYS.log)


def stored(replica: Subject) -> Acceptor:
    acceptor = decode_acceptor(replica.fields(KEYS.data)[FIELD])
    assert acceptor is not None
    return acceptor


def code(outcome: object) -> Code:
    assert isinstance(outcome, Refusal), outcome
    return outcome.code


def low(bar: bytes) -> Refusal:
    return Refusal(Code.LOW_BALLOT, FENCE, None, bar)


class TestPrepare:
    def test_promises_on_a_key_never_written(self, replica: Subject) -> None:
        promised = prepare(replica, B1)
        assert isinstance(promised, Acceptor)
        assert (promised.promise, promised.accepted, promised.content) == (
            B1,
            ZERO_VERSION,
            NOTHING,
        )
        assert stored(replica) == promised
        assert replica.log(KEYS.log) == []

    def test_reports_what_was_accepted_and_keeps_it(self, replica: Subject) -> None:
        content = Content(b"v", 0, False, B1, (Decided(b"i" * 16, B1),), 77)
        assert offer(replica, encode_acceptor(B1, content)) is True
        promised = prepare(replica, B2)
        assert isinstance(promised, Acceptor)
        assert (promised.promise, promised.accepted, promised.content) == (B2, B1, content)
        assert stored(replica) == promised

    def test_never_promises_below_a_promise(self, replica: Subject) -> None:
        prepare(replica, B2)
        before = everything(replica)
        assert prepare(replica, B1) == low(B2)
        assert everything(replica) == before

    def test_a_repeat_is_promised_again_and_changes_nothing(self, replica: Subject) -> None:
        first = prepare(replica, B1)
        before = everything(replica)
        assert prepare(replica, B1) == first
        assert everything(replica) == before

    def test_needs_no_clock(self, replica: Subject) -> None:
        assert isinstance(prepare(replica, B4), Acceptor)

    @pytest.mark.parametrize("bound", ["ballot_floor", "closed_through", "purged_through"])
    def test_stays_above_what_the_fence_says(self, replica: Subject, bound: str) -> None:
        put_fence(replica, **{bound: B2})
        for ballot in (B1, B2):
            refusal = prepare(replica, ballot)
            assert isinstance(refusal, Refusal)
            assert (refusal.code, refusal.detail) == (Code.LOW_BALLOT, B2)
        assert FIELD not in replica.fields(KEYS.data)
        assert isinstance(prepare(replica, B3), Acceptor)

    def test_nor_does_what_was_accepted_below_purged_through_change(self, replica: Subject) -> None:
        assert accept(replica, B1) is True
        put_fence(replica, purged_through=B2)
        assert code(prepare(replica, B2)) is Code.LOW_BALLOT
        assert isinstance(prepare(replica, B3), Acceptor)
        assert stored(replica).accepted == B1

    def test_operation_ids_that_may_have_been_purged_count_as_forgotten(
        self, replica: Subject
    ) -> None:
        put_fence(replica, purged_through=version_at(77))
        promised = prepare(replica, B4)
        assert isinstance(promised, Acceptor)
        assert promised.content == Content(forgotten_ms=77)

    @pytest.mark.parametrize(
        ("arguments", "detail"),
        [
            ([b"e" * 8, b"i" * 8, b"kx"], b"arity"),
            ([b"e" * 7, b"i" * 8, b"kx", b"b" * 16], b"epoch"),
            ([b"e" * 8, b"i" * 7, b"kx", b"b" * 16], b"incarnation"),
            ([b"e" * 8, b"i" * 8, b"fx", b"b" * 16], b"field"),
            ([b"e" * 8, b"i" * 8, b"kx", b"b" * 15], b"ballot"),
            ([b"e" * 8, b"i" * 8, b"kx", ZERO_VERSION], b"ballot"),
        ],
    )
    def test_malformed_arguments_are_named(
        self, replica: Subject, arguments: list[bytes], detail: bytes
    ) -> None:
        head = (b"EVALSHA", SCRIPTS["prepare"].sha, b"1", KEYS.data)
        outcome = parse_prepare(replica.execute(pack_command(*head, *arguments)), b"b" * 16)
        assert outcome == Refusal(Code.BAD_REQUEST, None, None, detail)


class TestAccept:
    def test_stores_the_record_and_logs_it_once(self, replica: Subject) -> None:
        prepare(replica, B1)
        record = encode_acceptor(B1, Content(b"v", changed=B1))
        assert offer(replica, record) is True
        assert replica.fields(KEYS.data)[FIELD] == record
        assert replica.log(KEYS.log) == [B1 + KEY]
        before = everything(replica)
        assert offer(replica, record) is True
        assert everything(replica) == before

    def test_one_that_missed_the_prepare_accepts_too(self, replica: Subject) -> None:
        assert accept(replica, B1) is True
        assert stored(replica).promise == B1
        assert prepare(replica, version_at(0, 1)) == low(B1)

    def test_is_refused_below_a_promise(self, replica: Subject) -> None:
        prepare(replica, B2)
        before = everything(replica)
        assert accept(replica, B1) == low(B2)
        assert everything(replica) == before

    def test_is_refused_below_what_was_accepted(self, replica: Subject) -> None:
        assert accept(replica, B2) is True
        assert accept(replica, B1) == low(B2)
        assert stored(replica).accepted == B2

    def test_a_repeat_after_a_later_promise_keeps_the_promise(self, replica: Subject) -> None:
        assert accept(replica, B1) is True
        prepare(replica, B2)
        before = everything(replica)
        assert accept(replica, B1) is True  # it did accept it
        assert everything(replica) == before

    @pytest.mark.parametrize("bound", ["ballot_floor", "closed_through", "purged_through"])
    def test_stays_above_what_the_fence_says(self, replica: Subject, bound: str) -> None:
        prepare(replica, B1)
        put_fence(replica, **{bound: B2})
        before = everything(replica)
        for ballot in (B1, B2):
            refusal = accept(replica, ballot)
            assert isinstance(refusal, Refusal)
            assert (refusal.code, refusal.detail) == (Code.LOW_BALLOT, B2)
        assert everything(replica) == before
        assert accept(replica, B3) is True

    def test_an_expiry_is_refused_before_this_servers_own_time(self, replica: Subject) -> None:
        early = replica.now_ms() + HOUR_MS
        assert offer(replica, encode_acceptor(B1, Content(b"v", early, changed=B1))) is True
        before = everything(replica)
        tombstone = Content(None, early, expired=True, changed=B2)
        refusal = offer(replica, encode_acceptor(B2, tombstone))
        assert code(refusal) is Code.SKEWED
        assert isinstance(refusal, Refusal)
        assert isinstance(refusal.detail, int)
        assert abs(refusal.detail - replica.now_ms()) < 10_000
        assert everything(replica) == before

    def test_there_is_no_tolerance_for_an_expiry_ahead_of_time(self, replica: Subject) -> None:
        soon = Content(None, replica.now_ms() + 400, expired=True, changed=B1)  # below max_skew
        assert code(offer(replica, encode_acceptor(B1, soon))) is Code.SKEWED
        past = Content(None, replica.now_ms() - 1, expired=True, changed=B1)
        assert offer(replica, encode_acceptor(B1, past)) is True

    @pytest.mark.parametrize(
        "record",
        [
            b"",
            sealed(B1 + b"\x08"),
            flip(encode_acceptor(B1, Content(b"v")), 30),
            encode_acceptor(ZERO_VERSION, NOTHING),
            sealed(B1 + b"\x09" + bytes(8) + B2 + bytes(25)),  # promise above the ballot
        ],
    )
    def test_what_is_no_state_is_refused(self, replica: Subject, record: bytes) -> None:
        assert offer(replica, record) == Refusal(Code.BAD_REQUEST, None, None, b"record")

    def test_malformed_arguments_are_named(self, replica: Subject) -> None:
        head = (b"EVALSHA", SCRIPTS["accept"].sha, b"2", KEYS.data, KEYS.log)
        record = encode_acceptor(B1, NOTHING)
        bad = {
            b"arity": (b"e" * 8, b"i" * 8, b"kx", record),
            b"limits": (b"e" * 8, b"i" * 8, b"kx", record, b"l" * 7),
        }
        for detail, arguments in bad.items():
            outcome = parse_accept(replica.execute(pack_command(*head, *arguments)))
            assert outcome == Refusal(Code.BAD_REQUEST, None, None, detail)


class TestBoth:
    """What prepare and accept judge alike."""

    def outcomes(self, replica: Subject, **where: int) -> list[object]:
        record = encode_acceptor(B2, Content(b"v", changed=B2))
        return [prepare(replica, B1, **where), offer(replica, record, **where)]

    def test_without_a_fence_everything_is_refused(self, replica: Subject) -> None:
        replica.clear()
        assert self.outcomes(replica) == [Refusal(Code.NO_FENCE)] * 2
        assert everything(replica) == ({}, [])

    def test_an_older_epoch_is_refused_with_fence_and_map_entry(self, replica: Subject) -> None:
        before = everything(replica)
        assert self.outcomes(replica, epoch=4) == [Refusal(Code.STALE_EPOCH, FENCE, ENTRY)] * 2
        assert everything(replica) == before

    def test_another_incarnation_is_refused(self, replica: Subject) -> None:
        wanted = Refusal(Code.WRONG_INCARNATION, FENCE, ENTRY)
        assert self.outcomes(replica, incarnation=8) == [wanted] * 2

    @pytest.mark.parametrize(
        ("role", "refusal"),
        [
            (Role.OWNER, None),
            (Role.JOINING, None),
            (Role.READ_REPLICA, Code.WRONG_ROLE),
            (Role.RELEASED, Code.RELEASED),
        ],
    )
    def test_only_owners_and_those_who_join_take_part(
        self, replica: Subject, role: Role, refusal: Code | None
    ) -> None:
        put_fence(replica, role=role)
        got = self.outcomes(replica)
        assert [out.code if isinstance(out, Refusal) else None for out in got] == [refusal] * 2

    @pytest.mark.parametrize("floor", [ZERO_VERSION, B4])
    def test_a_fence_that_fails_its_checksum_admits_nobody(
        self, replica: Subject, floor: bytes
    ) -> None:
        fence = dataclasses.replace(FENCE, ballot_floor=floor).encode()
        replica.poke(KEYS.data, FENCE_FIELD, flip(fence, -9))
        wanted = Refusal(Code.CORRUPT, None, None, b"fence")
        assert self.outcomes(replica) == [wanted] * 2

    @pytest.mark.parametrize("damage", [0, 10, 24, 35, 73, -1])
    def test_a_record_that_fails_its_checksum_is_no_answer_and_stays(
        self, replica: Subject, damage: int
    ) -> None:
        replica.poke(KEYS.data, FIELD, flip(encode_acceptor(B1, Content(b"v")), damage))
        before = everything(replica)
        wanted = Refusal(Code.CORRUPT, FENCE, None, b"record")
        assert self.outcomes(replica) == [wanted] * 2
        assert everything(replica) == before

    def test_so_is_one_of_a_wrong_form(self, replica: Subject) -> None:
        replica.poke(KEYS.data, FIELD, sealed(B1 + b"\x08" + b"state"))
        wanted = Refusal(Code.CORRUPT, FENCE, None, b"record")
        assert self.outcomes(replica) == [wanted] * 2


class TestTheModesNeverMeet:
    def test_what_the_other_mode_stored_is_refused_and_stays(self, replica: Subject) -> None:
        replica.poke(KEYS.data, FIELD, encode_record(B1, b"tunable"))
        before = everything(replica)
        wanted = Refusal(Code.WRONG_MODE, FENCE, None, b"stored")
        assert [prepare(replica, B2), accept(replica, B2)] == [wanted] * 2
        assert everything(replica) == before

    def test_what_the_other_mode_offers_is_refused(self, replica: Subject) -> None:
        assert code(offer(replica, encode_record(B1, b"x" * 80))) is Code.WRONG_MODE

    @pytest.mark.parametrize("script", ["write", "heal"])
    @pytest.mark.parametrize("value", [b"v", None])
    def test_a_tunable_write_refuses_a_register(
        self, replica: Subject, script: str, value: bytes | None
    ) -> None:
        assert accept(replica, B1, value) is True
        before = everything(replica)
        prefix = write_prefix(KEYS, 5, 9, script=SCRIPTS[script])
        record = encode_record(version_at(replica.now_ms()), b"y")
        outcome = parse_write(replica.execute(prefix + write_suffix(KEY, record, LIMITS)))
        assert outcome == Refusal(Code.WRONG_MODE, FENCE, None, b"stored")
        assert everything(replica) == before

    def test_reads_of_each_mode_tell_the_other(self, replica: Subject) -> None:
        expected = fence_prefix(5, Stage.OLD, Role.OWNER, 9)
        command = read_command(read_prefix(KEYS), KEY)
        assert accept(replica, B1) is True
        reply = replica.execute(command)
        assert parse_read(reply, expected, 5, 9) == (Verdict.WRONG_MODE, None)
        assert parse_acceptor_read(reply, expected, 5, 9) == (Verdict.ANSWER, stored(replica))
        raw = encode_record(B1, b"tunable")
        replica.poke(KEYS.data, FIELD, raw)
        reply = replica.execute(command)
        assert parse_read(reply, expected, 5, 9) == (Verdict.ANSWER, decode_record(raw))
        assert parse_acceptor_read(reply, expected, 5, 9) == (Verdict.WRONG_MODE, None)


class TestBallotFloorOfAFence:
    def test_never_falls(self, replica: Subject) -> None:
        floored = dataclasses.replace(FENCE, epoch=6, ballot_floor=B3)
        assert replica.execute(raise_fence(KEYS, floored.encode(), ENTRY)) == 1
        lower = dataclasses.replace(FENCE, epoch=7, ballot_floor=B2, closed_through=B1)
        assert replica.execute(raise_fence(KEYS, lower.encode(), ENTRY)) == 1
        kept = dataclasses.replace(lower, ballot_floor=B3)
        assert decode_fence(replica.fields(KEYS.data)[FENCE_FIELD]) == kept
        grave = dataclasses.replace(FENCE, epoch=8, role=Role.RELEASED)
        assert replica.execute(release_fence(KEYS, grave.encode(), ENTRY)) == 1
        kept = dataclasses.replace(grave, ballot_floor=B3, closed_through=B1)
        assert decode_fence(replica.fields(KEYS.data)[FENCE_FIELD]) == kept

    def test_may_be_set_under_the_epoch_there_and_repeated(self, replica: Subject) -> None:
        floored = dataclasses.replace(FENCE, ballot_floor=B3)
        for fence in (floored, FENCE, floored):
            assert replica.execute(raise_fence(KEYS, fence.encode(), ENTRY)) == 1
        assert decode_fence(replica.fields(KEYS.data)[FENCE_FIELD]) == floored

    def test_does_not_concern_the_tunable_mode(self, replica: Subject) -> None:
        put_fence(replica, ballot_floor=B4)
        record = encode_record(version_at(replica.now_ms()), b"y")
        prefix = write_prefix(KEYS, 5, 9)
        assert parse_write(replica.execute(prefix + write_suffix(KEY, record, LIMITS))) == 1


def heal(replica: Subject, ballot: bytes, value: bytes | None = b"x") -> object:
    record = encode_acceptor(ballot, Content(value, changed=ballot))
    prefix = write_prefix(KEYS, 5, 9, script=SCRIPTS["heal_acceptor"])
    reply = replica.execute(prefix + write_suffix(KEY, record, LIMITS))
    return reply if isinstance(reply, int) else parse_refusal(reply)


class TestHeal:
    def damage(self, replica: Subject) -> None:
        raw = replica.fields(KEYS.data)[FIELD]
        replica.poke(KEYS.data, FIELD, flip(raw, len(raw) - 1))

    def test_replaces_what_fails_its_checksum_which_nothing_else_does(
        self, replica: Subject
    ) -> None:
        assert accept(replica, B1, b"old") is True
        self.damage(replica)
        assert code(prepare(replica, B2)) is Code.CORRUPT
        assert code(accept(replica, B2)) is Code.CORRUPT
        assert heal(replica, B2, b"chosen") == 1
        assert (stored(replica).promise, stored(replica).content.value) == (B2, b"chosen")

    def test_leaves_what_is_valid_or_absent(self, replica: Subject) -> None:
        before = everything(replica)
        assert heal(replica, B3) == 3
        assert everything(replica) == before
        assert accept(replica, B1, b"old") is True
        before = everything(replica)
        assert heal(replica, B3) == 3
        assert everything(replica) == before

    def test_is_judged_by_the_fence_and_its_floor(self, replica: Subject) -> None:
        assert accept(replica, B1) is True
        self.damage(replica)
        put_fence(replica, ballot_floor=B3)
        refusal = heal(replica, B2)
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.detail) == (Code.LOW_BALLOT, B3)
        put_fence(replica, epoch=6)
        assert code(heal(replica, B4)) is Code.STALE_EPOCH

    def test_is_of_its_mode(self, replica: Subject) -> None:
        replica.poke(KEYS.data, FIELD, encode_record(B1, b"tunable"))
        assert code(heal(replica, B2)) is Code.WRONG_MODE


def test_the_highest_promise_of_a_bucket_is_found_beside_damaged_records(
    replica: Subject,
) -> None:
    command = promises_command(KEYS, 5, 9, cursor=b"0", count=100)
    assert parse_promises(replica.execute(command)) == (b"0", 0, ZERO_VERSION)
    assert accept(replica, B2) is True
    assert isinstance(prepare(replica, B3), Acceptor)
    replica.poke(KEYS.data, user_field(b"damaged"), b"not a record")
    assert parse_promises(replica.execute(command)) == (b"0", 2, B3)
    put_fence(replica, epoch=6)
    assert code(parse_promises(replica.execute(command))) is Code.STALE_EPOCH
