"""Playbooks: what an operation on a register asks, one answer at a time."""

from random import Random

import pytest

from replicas.acceptor import (
    MAX_IDS,
    NOTHING,
    REFUSED,
    UNTOUCHED,
    Acceptor,
    Content,
    Decided,
    decode_acceptor,
    encode_acceptor,
    encode_promise,
)
from replicas.changes import Current, compare_and_set, delete, increment, put
from replicas.quorum import Group
from replicas.register import (
    EXPIRED_ID,
    MAX_BACKOFF_MS,
    NOT_SENT,
    Again,
    Ask,
    CasPaxos,
    Done,
    Outcome,
    Route,
    Step,
    Why,
    backoff_ms,
)
from replicas.replies import Code, Refusal
from replicas.version import ZERO_VERSION, HybridClock
from tests.support.register_world import majority_of
from tests.support.replica_records import version_at

NOW_MS = 1_763_700_000_000
THREE = Route(majority_of(0b111), majority_of(0b111), (0, 1, 2))
OLD, NEW = 0b00111, 0b11100  # slot 2 is in both
MOVING = Route((Group(OLD, 2), Group(NEW, 2)), (Group(OLD, 2),), (0, 1, 2, 3, 4))
B1, B2 = version_at(NOW_MS - 2000), version_at(NOW_MS - 1000)
ID = NOW_MS.to_bytes(6, "big") + b"operation1"
UNAVAILABLE = Again(Why.UNAVAILABLE, 1)


def clock() -> HybridClock:
    return HybridClock(b"myself!!")


def low(bar: bytes) -> Refusal:
    return Refusal(Code.LOW_BALLOT, detail=bar)


def holding(content: Content, accepted: bytes, promise: bytes = b"") -> Acceptor:
    acceptor = decode_acceptor(encode_acceptor(accepted, content))
    assert acceptor is not None
    return promised(acceptor, promise) if promise else acceptor


def promised(acceptor: Acceptor, ballot: bytes) -> Acceptor:
    after = decode_acceptor(encode_promise(acceptor, ballot))
    assert after is not None
    return after


VALUE = holding(Content(b"v1", changed=B1), B1)


def asked(action: object, step: Step, slots: int) -> Ask:
    assert isinstance(action, Ask), action
    assert (action.step, action.slots) == (step, slots)
    return action


def offered(ask: Ask) -> Content:
    acceptor = decode_acceptor(ask.payload)
    assert acceptor is not None
    assert acceptor.accepted == acceptor.promise
    return acceptor.content


def prepared(operation: CasPaxos, ask: Ask, *acceptors: Acceptor) -> object:
    """Answers of slots 0, 1, ... to a prepare; what came of the last one."""
    action: object = None
    for slot, acceptor in enumerate(acceptors):
        assert action is None
        action = operation.on_answer(ask.round, slot, promised(acceptor, ask.payload), NOW_MS)
    return action


def accepted(operation: CasPaxos, ask: Ask, slots: int = 2) -> object:
    action: object = None
    for slot in range(slots):
        assert action is None
        action = operation.on_answer(ask.round, slot, True, NOW_MS)
    return action


def proposing(operation: CasPaxos, *acceptors: Acceptor) -> Ask:
    """Through prepare, to the ask to accept."""
    prepare = asked(operation.start(NOW_MS), Step.PREPARE, 0b111)
    return asked(prepared(operation, prepare, *acceptors), Step.ACCEPT, 0b111)


class TestReadOfOneRound:
    def reader(self) -> tuple[CasPaxos, Ask]:
        operation = CasPaxos(THREE, clock(), one_round=True)
        return operation, asked(operation.start(NOW_MS), Step.READ, 0b011)

    def test_answers_when_a_majority_agrees(self) -> None:
        operation, ask = self.reader()
        assert operation.on_answer(ask.round, 0, VALUE, NOW_MS) is None
        done = operation.on_answer(ask.round, 1, VALUE, NOW_MS)
        assert done == Done(Outcome.OK, "", B1, Current(b"v1", B1))

    def test_a_key_never_written_is_absent(self) -> None:
        operation, ask = self.reader()
        operation.on_answer(ask.round, 0, UNTOUCHED, NOW_MS)
        done = operation.on_answer(ask.round, 1, UNTOUCHED, NOW_MS)
        assert done == Done(Outcome.OK, "", ZERO_VERSION, Current(None))

    def test_asks_another_in_place_of_one_that_failed_or_lags(self) -> None:
        for answer in (None, UNTOUCHED):
            operation, ask = self.reader()
            operation.on_answer(ask.round, 0, VALUE, NOW_MS)
            more = asked(operation.on_answer(ask.round, 1, answer, NOW_MS), Step.READ, 0b100)
            done = operation.on_answer(more.round, 2, VALUE, NOW_MS)
            assert isinstance(done, Done)
            assert done.current == Current(b"v1", B1)

    @pytest.mark.parametrize(
        "other", [promised(VALUE, B2), holding(Content(b"v2", changed=B2), B2)]
    )
    def test_finishes_a_change_in_flight_before_it_answers(self, other: Acceptor) -> None:
        operation, ask = self.reader()
        operation.on_answer(ask.round, 0, VALUE, NOW_MS)
        operation.on_answer(ask.round, 1, other, NOW_MS)
        action = operation.on_answer(ask.round, 2, None, NOW_MS)
        prepare = asked(action, Step.PREPARE, 0b111)
        accept = asked(prepared(operation, prepare, VALUE, other), Step.ACCEPT, 0b111)
        assert offered(accept) == other.content
        done = accepted(operation, accept)
        assert isinstance(done, Done)
        assert done.version == other.content.changed  # an identity is no new version

    def test_uses_the_read_needs_of_a_move_and_finishing_the_write_needs(self) -> None:
        operation = CasPaxos(MOVING, clock(), one_round=True)
        ask = asked(operation.start(NOW_MS), Step.READ, 0b00011)
        operation.on_answer(ask.round, 0, VALUE, NOW_MS)
        more = asked(operation.on_answer(ask.round, 1, None, NOW_MS), Step.READ, 0b00100)
        action = operation.on_answer(more.round, 2, None, NOW_MS)
        asked(action, Step.PREPARE, 0b11111)


class TestMoves:
    def test_prepare_and_accept_need_a_majority_of_old_and_of_new(self) -> None:
        operation = CasPaxos(MOVING, clock(), put(b"x"), operation_id=ID)
        ask = asked(operation.start(NOW_MS), Step.PREPARE, 0b11111)
        for slot in (0, 1, 2):  # a majority of the union, and of the old ones
            assert (
                operation.on_answer(ask.round, slot, promised(VALUE, ask.payload), NOW_MS) is None
            )
        action = operation.on_answer(ask.round, 3, promised(VALUE, ask.payload), NOW_MS)
        accept = asked(action, Step.ACCEPT, 0b11111)
        for slot in (2, 3, 4):  # a majority of the union, and of the new ones
            assert operation.on_answer(accept.round, slot, True, NOW_MS) is None
        done = operation.on_answer(accept.round, 0, True, NOW_MS)
        assert isinstance(done, Done)
        assert done.outcome is Outcome.OK

    def test_a_change_begun_under_another_epoch_is_recognized(self) -> None:
        operation = CasPaxos(THREE, clock(), increment(1), operation_id=ID)
        accept = proposing(operation, UNTOUCHED, UNTOUCHED)
        assert isinstance(accepted(operation, accept), Done)
        after = holding(offered(accept), decode_ballot(accept))
        prepare = asked(operation.rerouted(MOVING, NOW_MS), Step.PREPARE, 0b11111)
        for slot in (0, 1, 2):
            operation.on_answer(prepare.round, slot, promised(after, prepare.payload), NOW_MS)
        action = operation.on_answer(prepare.round, 3, promised(UNTOUCHED, prepare.payload), NOW_MS)
        again = asked(action, Step.ACCEPT, 0b11111)
        assert offered(again) == after.content  # the identity: not incremented twice
        for slot in (0, 1, 2, 3):
            action = operation.on_answer(again.round, slot, True, NOW_MS)
        assert isinstance(action, Done)
        assert (action.outcome, action.result, action.repeated) == (Outcome.OK, 1, False)


def decode_ballot(ask: Ask) -> bytes:
    acceptor = decode_acceptor(ask.payload)
    assert acceptor is not None
    return acceptor.accepted


class TestChange:
    def test_builds_on_the_highest_accepted_ballot(self) -> None:
        operation = CasPaxos(THREE, clock(), increment(1), operation_id=ID)
        older, newer = (
            holding(Content(value, changed=ballot), ballot)
            for value, ballot in ((b"10", B1), (b"20", B2))
        )
        accept = proposing(operation, newer, older)
        content, ballot = offered(accept), decode_ballot(accept)
        assert (content.value, content.changed) == (b"21", ballot)
        assert content.decided == (Decided(ID, ballot),)
        done = accepted(operation, accept)
        assert done == Done(Outcome.OK, "", ballot, Current(b"21", ballot), 21)

    def test_one_promise_is_not_enough_and_a_repeat_of_it_neither(self) -> None:
        operation = CasPaxos(THREE, clock(), delete(), operation_id=ID)
        ask = asked(operation.start(NOW_MS), Step.PREPARE, 0b111)
        for _ in range(3):
            assert operation.on_answer(ask.round, 0, promised(VALUE, ask.payload), NOW_MS) is None

    def test_the_next_ballot_is_above_the_highest_seen_and_needs_no_clock(self) -> None:
        ahead = version_at(NOW_MS * 2)
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
        ask = asked(operation.start(0), Step.PREPARE, 0b111)
        operation.on_answer(ask.round, 0, low(ahead), 0)
        assert operation.on_answer(ask.round, 1, low(B1), 0) == Again(Why.OUTBID, 1)
        ask = asked(operation.again(0), Step.PREPARE, 0b111)
        assert int.from_bytes(ask.payload[:8], "big") == int.from_bytes(ahead[:8], "big") + 1

    def test_a_refused_one_is_accepted_as_it_stands_before_it_is_answered(self) -> None:
        change = compare_and_set(b"new", expected_value=b"other")
        operation = CasPaxos(THREE, clock(), change, operation_id=ID)
        accept = proposing(operation, VALUE, VALUE)
        content = offered(accept)
        assert (content.value, content.changed) == (b"v1", B1)
        assert content.decided == (Decided(ID, REFUSED),)
        done = accepted(operation, accept)
        assert isinstance(done, Done)
        assert (done.outcome, done.decided) == (Outcome.NOT_APPLIED, True)
        assert done.current == Current(b"v1", B1)

    def test_what_was_refused_once_is_not_applied_later(self) -> None:
        refused = holding(Content(b"v1", changed=B1, decided=(Decided(ID, REFUSED),)), B2)
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID, fresh=False)
        accept = proposing(operation, refused, VALUE)
        assert offered(accept) == refused.content
        done = accepted(operation, accept)
        assert isinstance(done, Done)
        assert (done.outcome, done.decided) == (Outcome.NOT_APPLIED, True)

    def test_a_repeat_of_what_was_applied_is_ok_once_that_is_certain(self) -> None:
        applied = holding(Content(b"1", changed=B2, decided=(Decided(ID, B2),)), B2)
        operation = CasPaxos(THREE, clock(), increment(1), operation_id=ID, fresh=False)
        accept = proposing(operation, applied, VALUE)
        assert offered(accept) == applied.content
        done = accepted(operation, accept)
        assert done == Done(Outcome.OK, "", B2, Current(b"1", B2), repeated=True)

    def test_after_a_refused_accept_it_looks_for_its_id(self) -> None:
        operation = CasPaxos(THREE, clock(), increment(1), operation_id=ID)
        accept = proposing(operation, UNTOUCHED, UNTOUCHED)
        operation.on_answer(accept.round, 0, low(version_at(NOW_MS + 5)), NOW_MS)
        action = operation.on_answer(accept.round, 1, low(version_at(NOW_MS + 5)), NOW_MS)
        assert action == Again(Why.OUTBID, 1)
        mine = holding(offered(accept), decode_ballot(accept))
        again = proposing(operation, UNTOUCHED, mine)
        assert offered(again) == mine.content
        done = accepted(operation, again)
        assert isinstance(done, Done)
        assert (done.outcome, done.result) == (Outcome.OK, 1)

    def test_why_an_attempt_failed(self) -> None:
        for answers, why in (
            ([None, NOT_SENT], Why.UNAVAILABLE),
            ([Refusal(Code.CORRUPT), None], Why.UNAVAILABLE),
            ([Refusal(Code.STALE_EPOCH), low(B2)], Why.STALE),
            ([Refusal(Code.RELEASED), None], Why.STALE),
            ([None, low(B2)], Why.OUTBID),
        ):
            operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
            ask = asked(operation.start(NOW_MS), Step.PREPARE, 0b111)
            assert operation.on_answer(ask.round, 0, answers[0], NOW_MS) is None
            assert operation.on_answer(ask.round, 2, answers[1], NOW_MS) == Again(why, 1)

    @pytest.mark.parametrize(("change", "id_"), [(put(b"x"), b""), (put(b"x"), b"i"), (None, ID)])
    def test_changes_and_nothing_else_have_an_id(self, change: object, id_: bytes) -> None:
        with pytest.raises(ValueError, match="operation id"):
            CasPaxos(THREE, clock(), change, operation_id=id_)  # type: ignore[arg-type]


class TestOutcomeAtTheDeadline:
    def test_before_anything_was_proposed_it_is_not_applied(self) -> None:
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
        operation.start(NOW_MS)
        assert operation.give_up("deadline") == Done(Outcome.NOT_APPLIED, "deadline")

    def test_an_id_of_the_clients_proves_nothing(self) -> None:
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID, fresh=False)
        operation.start(NOW_MS)
        assert operation.give_up("deadline").outcome is Outcome.UNKNOWN

    def test_one_accept_that_was_not_refused_makes_it_unknown(self) -> None:
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
        accept = proposing(operation, UNTOUCHED, UNTOUCHED)
        operation.on_answer(accept.round, 0, low(B2), NOW_MS)
        operation.on_answer(accept.round, 1, None, NOW_MS)
        done = operation.give_up("deadline")
        assert (done.outcome, done.version) == (Outcome.UNKNOWN, decode_ballot(accept))

    def test_accepts_that_were_all_refused_or_not_sent_prove_that_it_is_not(self) -> None:
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
        accept = proposing(operation, UNTOUCHED, UNTOUCHED)
        for slot, answer in enumerate((low(B2), NOT_SENT, low(B2))):
            operation.on_answer(accept.round, slot, answer, NOW_MS)  # the last comes late
        assert operation.give_up("deadline").outcome is Outcome.NOT_APPLIED


class TestForgottenIds:
    FORGOT = holding(Content(b"v", changed=B1, forgotten_ms=NOW_MS), B1)

    def test_an_id_too_old_to_tell_is_unknown_and_not_applied(self) -> None:
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID, fresh=False)
        prepare = asked(operation.start(NOW_MS), Step.PREPARE, 0b111)
        done = prepared(operation, prepare, self.FORGOT, VALUE)
        assert done == Done(Outcome.UNKNOWN, EXPIRED_ID)

    def test_a_fresh_one_that_was_never_proposed_gets_another_time(self) -> None:
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
        accept = proposing(operation, self.FORGOT, VALUE)
        renewed = (NOW_MS + 1).to_bytes(6, "big") + ID[6:]
        assert offered(accept).decided[-1].id == operation.operation_id == renewed

    def test_one_that_was_proposed_does_not(self) -> None:
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
        accept = proposing(operation, UNTOUCHED, UNTOUCHED)
        for slot in (0, 1):
            operation.on_answer(accept.round, slot, None, NOW_MS)
        prepare = asked(operation.again(NOW_MS), Step.PREPARE, 0b111)
        done = prepared(operation, prepare, self.FORGOT, VALUE)
        assert isinstance(done, Done)
        assert (done.outcome, done.reason) == (Outcome.UNKNOWN, EXPIRED_ID)

    def test_the_record_keeps_the_last_ids(self) -> None:
        kept = tuple(Decided(bytes([n]) * 16, B1) for n in range(MAX_IDS))
        full = holding(Content(b"v", changed=B1, decided=kept), B1)
        operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
        content = offered(proposing(operation, full, full))
        assert [past.id for past in content.decided] == [past.id for past in kept[1:]] + [ID]


class TestExpiry:
    DUE = holding(Content(b"7", NOW_MS, changed=B1), B1)

    def test_a_read_says_absent_only_after_the_tombstone_is_accepted(self) -> None:
        operation = CasPaxos(THREE, clock(), one_round=True)
        ask = asked(operation.start(NOW_MS), Step.READ, 0b011)
        operation.on_answer(ask.round, 0, self.DUE, NOW_MS)
        prepare = asked(operation.on_answer(ask.round, 1, self.DUE, NOW_MS), Step.PREPARE, 0b111)
        accept = asked(prepared(operation, prepare, self.DUE, self.DUE), Step.ACCEPT, 0b111)
        content, ballot = offered(accept), decode_ballot(accept)
        assert content == Content(None, NOW_MS, expired=True, changed=ballot)
        assert accepted(operation, accept) == Done(Outcome.OK, "", ballot, Current(None, ballot))

    def test_a_change_sees_absent_only_after_the_tombstone_is_accepted(self) -> None:
        operation = CasPaxos(THREE, clock(), increment(1), operation_id=ID)
        accept = proposing(operation, self.DUE, self.DUE)
        gone = holding(offered(accept), decode_ballot(accept))
        assert gone.content.expired
        prepare = asked(accepted(operation, accept), Step.PREPARE, 0b111)
        accept = asked(prepared(operation, prepare, gone, gone), Step.ACCEPT, 0b111)
        content = offered(accept)
        assert (content.value, content.expires_at_ms, content.expired) == (b"1", 0, False)

    def test_where_the_replicas_clocks_say_not_yet_the_value_stands(self) -> None:
        operation = CasPaxos(THREE, clock(), increment(1), operation_id=ID)
        accept = proposing(operation, self.DUE, self.DUE)
        skewed = Refusal(Code.SKEWED, detail=NOW_MS - 50)
        operation.on_answer(accept.round, 0, skewed, NOW_MS)
        assert operation.on_answer(accept.round, 1, skewed, NOW_MS) == Again(Why.OUTBID, 1)
        content = offered(proposing(operation, self.DUE, self.DUE))
        assert (content.value, content.expires_at_ms) == (b"8", NOW_MS)

    def test_the_identity_of_an_expired_one_stays_expired(self) -> None:
        gone = holding(Content(None, NOW_MS - 5, expired=True, changed=B2), B2)
        operation = CasPaxos(THREE, clock())
        assert offered(proposing(operation, gone, self.DUE)) == gone.content


def test_an_identity_change_passes_on_what_stands() -> None:
    operation = CasPaxos(THREE, clock())
    accept = proposing(operation, VALUE, UNTOUCHED)
    assert offered(accept) == VALUE.content
    assert decode_ballot(accept) > B1
    assert accepted(operation, accept) == Done(Outcome.OK, "", B1, Current(b"v1", B1))


def test_the_identity_of_nothing_is_accepted_too() -> None:
    assert offered(proposing(CasPaxos(THREE, clock()), UNTOUCHED, UNTOUCHED)) == NOTHING


def test_late_answers_of_an_earlier_round_do_not_count() -> None:
    operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
    first = asked(operation.start(NOW_MS), Step.PREPARE, 0b111)
    operation.on_answer(first.round, 0, None, NOW_MS)
    assert operation.on_answer(first.round, 1, None, NOW_MS) == UNAVAILABLE
    second = asked(operation.again(NOW_MS), Step.PREPARE, 0b111)
    late = promised(VALUE, first.payload)
    assert operation.on_answer(first.round, 2, late, NOW_MS) is None
    operation.on_answer(second.round, 0, promised(VALUE, second.payload), NOW_MS)
    assert operation.on_answer(first.round, 1, late, NOW_MS) is None
    action = operation.on_answer(second.round, 1, promised(VALUE, second.payload), NOW_MS)
    asked(action, Step.ACCEPT, 0b111)


def test_backoff_grows_to_a_bound_and_is_never_the_same_for_all() -> None:
    dice = Random(1)
    assert backoff_ms(1, dice) == 0
    waits = [[backoff_ms(attempt, dice) for _ in range(50)] for attempt in (2, 5, 500)]
    assert max(waits[0]) < max(waits[1]) < max(waits[2]) <= MAX_BACKOFF_MS
    assert len({wait for some in waits for wait in some}) == 150


def test_the_first_answer_of_a_slot_is_the_one_that_counts() -> None:
    operation = CasPaxos(THREE, clock(), put(b"x"), operation_id=ID)
    ask = asked(operation.start(NOW_MS), Step.PREPARE, 0b111)
    answers = [(0, promised(VALUE, ask.payload)), (0, None), (1, None)]
    for slot, answer in answers:
        assert operation.on_answer(ask.round, slot, answer, NOW_MS) is None
    action = operation.on_answer(ask.round, 2, promised(VALUE, ask.payload), NOW_MS)
    asked(action, Step.ACCEPT, 0b111)


def test_a_promise_that_was_read_is_overbid_at_once() -> None:
    ahead = version_at(NOW_MS * 2)
    operation = CasPaxos(THREE, clock(), one_round=True)
    ask = asked(operation.start(NOW_MS), Step.READ, 0b011)
    other = promised(VALUE, ahead)
    asked(operation.on_answer(ask.round, 0, other, NOW_MS), Step.READ, 0b100)
    # Nothing that slot 2 could say would make a majority: it is not waited for.
    prepare = asked(operation.on_answer(ask.round, 1, other, NOW_MS), Step.PREPARE, 0b111)
    assert prepare.payload > ahead
