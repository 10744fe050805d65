"""Each checker on histories made by hand: what it must not mind, and what it must."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from buckets.bucket_map import Bucket, Consistency, Owner, Stage
from replicas.record import encode_record
from tests.sim.checkers import CHECKERS, violations
from tests.sim.checkers.acknowledged_by import acknowledged_by
from tests.sim.checkers.convergence import convergence
from tests.sim.checkers.ends import ends
from tests.sim.checkers.genuine import genuine
from tests.sim.checkers.growing_versions import growing_versions
from tests.sim.checkers.no_lost_writes import no_lost_writes
from tests.sim.checkers.no_time_travel import no_time_travel
from tests.sim.checkers.not_applied import not_applied
from tests.sim.checkers.sessions_monotonic import sessions_monotonic
from tests.sim.checkers.stay_deleted import stay_deleted
from tests.sim.history import FAILED, NOT_APPLIED, OK, PENDING, UNKNOWN, Ack, History, Op

KEY = b"key"
OLD = tuple(Owner(number, 10 * number) for number in (1, 2, 3))
NEW = tuple(Owner(number, 10 * number) for number in (3, 4, 5))
BUCKET = Bucket(0, 4, OLD)


def version(number: int) -> bytes:
    return number.to_bytes(8, "big") + b"writer-a"


def op(*, write: bool, at: tuple[int, int], number: int, **more: Any) -> Op:
    """An operation on KEY between two steps, of the `number`th version; 0: never written."""
    made = Op(
        number=more.pop("id", at[0]),
        client=more.pop("client", "c1"),
        sidecar="s1",
        write=write,
        key=KEY,
        level=more.pop("level", Consistency.QUORUM),
        began=at[0],
        ended=at[1],
        ends=1,
        outcome=OK,
        version=version(number) if number else b"",
        bucket=BUCKET,
        zone="a",
    )
    if write:
        made.value = b"v%d" % number
    elif number:
        made.found = b"v%d" % number
    for name, value in more.items():
        setattr(made, name, value)
    if made.bucket is not None:
        members = dict.fromkeys(made.bucket.owners + made.bucket.pending)
        made.zones = tuple("abcab"[owner.node - 1] for owner in members)
    return made


def put(at: tuple[int, int], number: int, **more: Any) -> Op:
    return op(write=True, at=at, number=number, **more)


def get(at: tuple[int, int], number: int, **more: Any) -> Op:
    return op(write=False, at=at, number=number, **more)


def acks(*nodes: int, number: int = 1, step: int = 1, epoch: int = 4) -> list[Ack]:
    return [Ack(step, n, b"life%d" % n, epoch, 10 * n, KEY, version(number)) for n in nodes]


TRUSTED = {b"life%d" % number: 0 for number in range(1, 6)}


def test_nothing_is_wrong_with_nothing() -> None:
    assert violations(History()) == []


def test_every_violation_names_its_checker() -> None:
    history = History(ops=[put((1, 2), 1), get((3, 4), 0)])
    said = violations(history)
    names = {checker.__name__ for checker in CHECKERS}
    assert {line.partition(":")[0] for line in said} <= names
    assert any(line.startswith("no_lost_writes:") for line in said)


# --- lost writes


@pytest.mark.parametrize("seen", [1, 2], ids=["itself", "a newer one"])
def test_an_acknowledged_write_that_is_seen_is_not_lost(seen: int) -> None:
    history = History(ops=[put((1, 2), 1), put((3, 9), 2), get((4, 5), seen)])
    assert no_lost_writes(history) == []


@pytest.mark.parametrize("seen", [0, 1], ids=["nothing", "an older one"])
def test_an_acknowledged_write_that_is_missed_is_lost(seen: int) -> None:
    history = History(ops=[put((1, 2), 1), put((3, 4), 2), get((5, 6), seen)])
    assert len(no_lost_writes(history)) == 1


def test_reads_that_overlap_a_write_may_miss_it() -> None:
    assert no_lost_writes(History(ops=[put((1, 4), 1), get((3, 6), 0)])) == []


def test_what_was_not_acknowledged_may_be_missed() -> None:
    assert no_lost_writes(History(ops=[put((1, 2), 1, outcome=UNKNOWN), get((3, 4), 0)])) == []


@pytest.mark.parametrize("weak", ["write", "read"])
def test_a_level_below_quorum_promises_no_overlap(weak: str) -> None:
    ops = [put((1, 2), 1), get((3, 4), 0)]
    ops[weak == "read"].level = Consistency.ONE
    assert no_lost_writes(History(ops=ops)) == []


def test_a_later_write_below_an_earlier_one_changes_nothing() -> None:
    ops = [put((1, 2), 5), put((3, 4), 1), get((5, 6), 1)]
    assert len(no_lost_writes(History(ops=ops))) == 1


# --- sessions


def met(*ops: Op, **more: Any) -> list[str]:
    """What the checker finds when all of these are of one session."""
    for one in ops:
        one.token = b"token"
    return sessions_monotonic(History(ops=list(ops), **more))


def test_a_session_that_goes_forward_is_fine() -> None:
    assert (
        met(put((1, 2), 1), get((3, 4), 1), get((5, 6), 2), put((7, 8), 3), get((9, 10), 3)) == []
    )


@pytest.mark.parametrize("earlier", [put, get], ids=["write", "read"])
@pytest.mark.parametrize("later", [0, 1])
def test_a_session_that_goes_back_is_found(earlier: Callable[..., Op], later: int) -> None:
    assert len(met(earlier((1, 2), 2), get((3, 4), later))) == 1


def test_what_failed_asks_for_nothing_in_a_session() -> None:
    assert met(put((1, 2), 2, outcome=UNKNOWN), get((3, 4), 1)) == []
    assert met(put((1, 2), 2), get((3, 4), 0, outcome=FAILED)) == []


def test_sessions_and_keys_have_nothing_to_do_with_each_other() -> None:
    assert met(put((1, 2), 2), get((3, 4), 1, client="c2")) == []
    assert met(put((1, 2), 2), get((3, 4), 1, key=b"else")) == []
    assert sessions_monotonic(History(ops=[put((1, 2), 2), get((3, 4), 1)])) == []


def test_what_was_deleted_since_and_purged_may_leave_no_trace() -> None:
    ops, purged = (
        [put((1, 2), 2), put((1, 2), 3, client="c2", value=None), get((3, 5), 0)],
        version(3),
    )
    assert met(*ops, purged=[(4, purged)]) == []
    assert len(met(*ops)) == 1
    ops[1].outcome = NOT_APPLIED
    assert len(met(*ops, purged=[(4, purged)])) == 1


# --- time travel


def test_reads_that_go_forward_are_fine() -> None:
    assert no_time_travel(History(ops=[get((1, 2), 0), get((3, 4), 1), get((5, 6), 1)])) == []


def test_a_read_that_goes_back_is_found() -> None:
    assert len(no_time_travel(History(ops=[get((1, 2), 2), get((3, 4), 1)]))) == 1


def test_reads_at_the_same_time_may_differ_either_way() -> None:
    assert no_time_travel(History(ops=[get((1, 4), 2), get((3, 6), 1)])) == []


@pytest.mark.parametrize("more", [{"outcome": FAILED}, {"level": Consistency.LOCAL_QUORUM}])
def test_reads_without_a_promise_do_not_bind_later_ones(more: dict[str, Any]) -> None:
    assert no_time_travel(History(ops=[get((1, 2), 2, **more), get((3, 4), 1)])) == []


# --- not applied


def test_what_was_not_applied_may_not_be_read() -> None:
    ops = [put((1, 2), 1, outcome=NOT_APPLIED), get((3, 4), 1)]
    assert len(not_applied(History(ops=ops))) == 1


def test_not_even_before_it_was_said_or_at_a_weak_level() -> None:
    ops = [put((1, 5), 1, outcome=NOT_APPLIED), get((2, 3), 1, level=Consistency.ONE)]
    assert len(not_applied(History(ops=ops))) == 1


def test_what_was_not_applied_may_not_stand_anywhere() -> None:
    raw = encode_record(version(1), b"v1")
    history = History(ops=[put((1, 2), 1, outcome=NOT_APPLIED)], stored={3: {KEY: raw}})
    assert len(not_applied(history)) == 1


def test_what_is_unknown_may_be_read_and_stand() -> None:
    raw = encode_record(version(1), b"v1")
    ops = [put((1, 2), 1, outcome=UNKNOWN), get((3, 4), 1)]
    assert not_applied(History(ops=ops, stored={3: {KEY: raw}})) == []


def test_a_repeat_is_never_not_applied() -> None:
    ops = [put((1, 2), 1, outcome=UNKNOWN), put((3, 4), 1, outcome=NOT_APPLIED, fresh=False)]
    assert len(not_applied(History(ops=ops))) == 1


# --- genuine


def test_a_read_of_what_was_written_is_genuine() -> None:
    ops = [put((1, 2), 1), get((3, 4), 1), get((5, 6), 0), get((7, 8), 1, found=None)]
    assert genuine(History(ops=ops)) == []


@pytest.mark.parametrize(
    "read",
    [get((3, 4), 2), get((3, 4), 1, found=b"v9"), get((3, 4), 0, found=b"v1")],
    ids=["another version", "another value", "no version"],
)
def test_a_read_of_anything_else_is_not(read: Op) -> None:
    assert len(genuine(History(ops=[put((1, 2), 1), read]))) == 1


# --- acknowledged by


@pytest.mark.parametrize(
    ("level", "nodes", "enough"),
    [
        (Consistency.ONE, (2,), True),
        (Consistency.ONE, (), False),
        (Consistency.LOCAL_ONE, (1,), True),
        (Consistency.LOCAL_ONE, (2, 3), False),
        (Consistency.QUORUM, (1, 3), True),
        (Consistency.QUORUM, (1,), False),
        (Consistency.LOCAL_QUORUM, (1,), True),
        (Consistency.LOCAL_QUORUM, (2, 3), False),
        (Consistency.EACH_QUORUM, (1, 2, 3), True),
        (Consistency.EACH_QUORUM, (1, 2), False),
        (Consistency.ALL, (1, 2, 3), True),
        (Consistency.ALL, (2, 3), False),
        (Consistency.QUORUM, (1, 4, 5), False),
    ],
)
def test_each_level_needs_its_owners(level: int, nodes: tuple[int, ...], enough: bool) -> None:
    history = History(ops=[put((0, 9), 1, level=level)], acks=acks(*nodes), trusted=TRUSTED)
    assert (acknowledged_by(history) == []) is enough


@pytest.mark.parametrize(
    ("stage", "nodes", "enough"),
    [
        (Stage.WRITE_BOTH_READ_OLD, (1, 2, 4, 5), True),
        (Stage.WRITE_BOTH_READ_OLD, (1, 3, 4), True),
        (Stage.WRITE_BOTH_READ_OLD, (1, 2, 3), False),
        (Stage.WRITE_BOTH_READ_NEW, (3, 4, 5), False),
        (Stage.NEW, (4, 5), True),
        (Stage.NEW, (1, 2, 3), False),
    ],
)
def test_a_move_needs_both_sets(stage: Stage, nodes: tuple[int, ...], enough: bool) -> None:
    bucket = Bucket(0, 4, OLD, stage, NEW)
    history = History(ops=[put((0, 9), 1, bucket=bucket)], acks=acks(*nodes), trusted=TRUSTED)
    assert (acknowledged_by(history) == []) is enough


@pytest.mark.parametrize(
    "ack",
    [
        Ack(9, 2, b"life2", 4, 20, KEY, version(1)),
        Ack(1, 2, b"life2", 3, 20, KEY, version(1)),
        Ack(1, 2, b"life2", 4, 19, KEY, version(1)),
        Ack(1, 2, b"other", 4, 20, KEY, version(1)),
        Ack(1, 2, b"life2", 4, 20, KEY, version(2)),
        Ack(1, 2, b"life2", 4, 20, b"another", version(1)),
    ],
    ids=["too late", "another epoch", "another incarnation", "a life", "a version", "a key"],
)
def test_an_acknowledgement_of_anything_else_does_not_count(ack: Ack) -> None:
    history = History(ops=[put((0, 5), 1)], acks=[*acks(1), ack], trusted=TRUSTED)
    assert len(acknowledged_by(history)) == 1


@pytest.mark.parametrize(("nodes", "kept", "enough"), [((2,), 0, 1), ((), 1, 1), ((), 0, 0)])
def test_any_needs_one_owner_or_the_hint_on_disk(
    nodes: tuple[int, ...], kept: bool, enough: bool
) -> None:
    op = put((0, 9), 1, level=Consistency.ANY)
    history = History(ops=[op], acks=acks(*nodes), trusted=TRUSTED)
    history.kept = {(KEY, version(1))} if kept else set()
    assert (acknowledged_by(history) == []) is bool(enough)


# --- ends


def test_an_operation_that_ends_once_in_time_is_fine() -> None:
    assert ends(History(ops=[put((1, 2), 1, due_s=2.0, ended_s=2.0)])) == []


@pytest.mark.parametrize(
    "more",
    [{"ends": 0, "outcome": PENDING}, {"ends": 2}, {"ended_s": 2.1}],
    ids=["never", "twice", "late"],
)
def test_any_other_end_is_found(more: dict[str, Any]) -> None:
    history = History(ops=[put((1, 2), 1, due_s=2.0, **more)], over_s=9.0)
    assert len(ends(history)) == 1


def test_what_need_not_have_ended_when_the_run_was_over_is_fine() -> None:
    assert ends(History(ops=[put((1, 0), 1, ends=0, outcome=PENDING, due_s=3.0)], over_s=2.5)) == []


def test_a_killed_sidecar_owes_no_end() -> None:
    orphan = put((1, 2), 1, ends=0, outcome=UNKNOWN, orphaned=True)
    assert ends(History(ops=[orphan], over_s=9.0)) == []


# --- versions


def test_versions_grow() -> None:
    assert growing_versions(History(issued={"s1": [version(1), version(2)]})) == []


@pytest.mark.parametrize("later", [1, 2], ids=["back", "the same"])
def test_versions_that_do_not_grow_are_found(later: int) -> None:
    another_writer = later.to_bytes(8, "big") + b"writer-b"
    history = History(issued={"s1": [version(2), another_writer], "s2": [version(1)]})
    assert len(growing_versions(history)) == 1


# --- convergence


def converged(*numbers: int, **more: Any) -> History:
    """A run at whose end owner n holds the nth of these versions; the judge has read version 2."""
    stored: dict[int, Mapping[bytes, bytes]] = {
        node: {KEY: encode_record(version(number), b"v")} if number else {}
        for node, number in enumerate(numbers, 1)
    }
    return History(
        ops=[get((1, 2), 2, client="judge")],
        stored=stored,
        final_owners=tuple(stored),
        owner_count=len(stored),
        read_at_quorum=frozenset({KEY}),
        **more,
    )


@pytest.mark.parametrize("numbers", [(2, 2, 2), (2, 2, 1), (2, 3, 0)])
def test_a_majority_is_enough_after_a_quorum_read(numbers: tuple[int, ...]) -> None:
    assert convergence(converged(*numbers)) == []


@pytest.mark.parametrize("numbers", [(2, 1, 1), (0, 2, 0), (0, 0, 0)])
def test_less_than_a_majority_is_found(numbers: tuple[int, ...]) -> None:
    assert len(convergence(converged(*numbers))) == 1


def test_after_a_read_at_all_everyone_is_equal() -> None:
    assert convergence(converged(2, 2, 2, read_at_all=frozenset({KEY}))) == []
    assert len(convergence(converged(2, 2, 1, read_at_all=frozenset({KEY})))) == 1


# --- purges


def deleted(at: tuple[int, int], number: int, **more: Any) -> Op:
    return put(at, number, value=None, **more)


@pytest.mark.parametrize(
    ("purged", "fine"),
    [
        ([(5, version(2))], True),
        ([(9, version(2))], False),
        ([(5, version(1))], False),
        ([], False),
    ],
    ids=["its tombstone is gone", "later", "below it", "never"],
)
def test_what_was_deleted_may_be_found_as_never_written_once_it_is_purged(
    purged: list[tuple[int, bytes]], fine: bool
) -> None:
    ops = [put((1, 2), 1), deleted((3, 4), 2), get((3, 4), 2, found=None), get((6, 7), 0)]
    history = History(ops=ops, purged=purged)
    assert (no_lost_writes(history) == []) is fine
    assert (no_time_travel(history) == []) is fine


def test_a_purge_does_not_explain_a_missing_value() -> None:
    history = History(ops=[put((1, 2), 1), get((6, 7), 0)], purged=[(5, version(1))])
    assert len(no_lost_writes(history)) == 1
    history.ops[0].expires_at_ms = 5
    assert no_lost_writes(history) == []


@pytest.mark.parametrize(
    ("number", "bound", "fine"), [(1, 2, False), (2, 2, True), (3, 2, True), (1, 1, True)]
)
def test_nothing_deleted_comes_back_once_the_tombstone_is_gone(
    number: int, bound: int, fine: bool
) -> None:
    history = History(
        ops=[put((1, 2), 1), deleted((3, 4), 2)],
        purged=[(5, version(bound))],
        stored={3: {KEY: encode_record(version(number), b"v")}},
        final_owners=(1, 2, 3),
    )
    assert (stay_deleted(history) == []) is fine
