"""The checkers of linearizable keys on histories made by hand."""

from typing import Any

import pytest

from buckets.bucket_map import Bucket, Consistency, Owner, Stage
from replicas.acceptor import REFUSED as REFUSED_BALLOT
from replicas.acceptor import Content, Decided, encode_acceptor
from tests.sim.checkers.applied_once import applied_once
from tests.sim.checkers.chosen import chosen
from tests.sim.checkers.counters import counters
from tests.sim.checkers.linearizable import linearizable
from tests.sim.checkers.never_denied import never_denied
from tests.sim.checkers.version_order import version_order
from tests.sim.history import FAILED, NOT_APPLIED, OK, UNKNOWN, Accept, History
from tests.sim.register_history import REFUSED, RegisterOp

OLD = tuple(Owner(number, 10 * number) for number in (1, 2, 3))
NEW = tuple(Owner(number, 10 * number) for number in (3, 4, 5))
BUCKET = Bucket(0, 4, OLD)
ID = b"operation-id-001"


def version(number: int) -> bytes:
    return number.to_bytes(8, "big") + b"writer-a"


def op(kind: str, at: tuple[int, int], value: bytes | None = None, **more: Any) -> RegisterOp:
    """Of a get `value` is what it found; of the others what they write."""
    made = RegisterOp(at[0], "c1", "s1", kind != "get", b"r0", Consistency.UNSPECIFIED, at[0])
    made.kind, made.first, made.ended, made.ends = kind, at[0], at[1], 1
    made.outcome, made.known, made.bucket, made.zone = OK, True, BUCKET, "a"
    made.version = version(at[0])
    if kind != "get":
        made.value = value
    made.found = value
    for name, given in more.items():
        setattr(made, name, given)
    bucket: Bucket = more.get("bucket", BUCKET)
    members = dict.fromkeys(bucket.owners + bucket.pending)
    made.zones = tuple("abcab"[owner.node - 1] for owner in members)
    return made


def run(*ops: RegisterOp, **more: Any) -> History:
    return History(ops=list(ops), linearizable=True, **more)


# --- linearizable


def test_answers_that_one_order_explains_are_fine() -> None:
    ops = [
        op("put", (1, 4), b"a"),
        op("get", (2, 3), None),
        op("compare", (5, 6), b"b", expected=b"a"),
        op("compare", (7, 8), b"c", expected=b"a", outcome=REFUSED, found=b"b"),
        op("delete", (9, 10), None, result=True),
        op("append", (11, 12), b"1,", found=b"1,", result=2),
        op("get", (13, 14), b"1,"),
    ]
    assert linearizable(run(*ops)) == []


@pytest.mark.parametrize(
    "last",
    [
        op("get", (5, 6), None),
        op("compare", (5, 6), b"b", expected=b"z"),
        op("compare", (5, 6), b"b", expected=b"a", outcome=REFUSED, found=b"a"),
        op("delete", (5, 6), None, result=False),
        op("append", (5, 6), b"1,", found=b"1,"),
        op("append", (5, 6), b"1,", known=False, result=2),
    ],
    ids=["lost", "applied", "refused", "a delete of nothing", "what stands", "its length"],
)
def test_an_answer_that_no_order_explains_is_found(last: RegisterOp) -> None:
    assert len(linearizable(run(op("put", (1, 2), b"a"), last))) == 1


def test_what_is_unknown_may_have_happened_at_any_time_since() -> None:
    lost = op("put", (1, 2), b"a", outcome=UNKNOWN)
    seen = [op("get", (3, 4), None), op("get", (5, 6), b"a")]
    assert linearizable(run(lost, *seen)) == []
    lost.outcome = NOT_APPLIED
    assert len(linearizable(run(lost, *seen))) == 1


def test_all_attempts_are_one_call() -> None:
    lost = op("append", (1, 2), b"1,", outcome=UNKNOWN)
    again = op("append", (5, 6), b"1,", first=1, known=False)
    assert linearizable(run(lost, op("get", (3, 4), b"1,"), again)) == []
    assert len(linearizable(run(lost, again, op("get", (7, 8), b"1,1,")))) == 1


def test_a_value_may_expire_once_it_was_written() -> None:
    short = op("put", (1, 2), b"a", expires_at_ms=5)
    assert linearizable(run(short, op("get", (3, 4), b"a"), op("get", (5, 6), None))) == []


# --- versions


def test_versions_in_the_order_of_time_are_fine() -> None:
    ops = [op("put", (1, 2), b"a"), op("get", (3, 4), b"a", version=version(1))]
    assert version_order(run(*ops, op("put", (5, 6), b"b"))) == []


@pytest.mark.parametrize(
    "later",
    [
        op("get", (5, 6), version=b""),
        op("put", (5, 6), b"b", version=version(3)),
        op("compare", (5, 6), b"b", version=version(2), outcome=REFUSED),
    ],
    ids=["a read of nothing", "a change of the same version", "a refusal for what stood before"],
)
def test_a_version_behind_an_earlier_one_is_found(later: RegisterOp) -> None:
    assert len(version_order(run(op("put", (3, 4), b"a"), later))) == 1


def test_calls_at_the_same_time_may_have_versions_in_any_order() -> None:
    ops = [op("put", (1, 6), b"a", version=version(9)), op("get", (2, 5), version=b"")]
    assert version_order(run(*ops)) == []


# --- counters, lists


def adds(*outcomes: str) -> list[RegisterOp]:
    return [
        op("add", (2 * n + 1, 2 * n + 2), b"1", outcome=outcome, key=b"c0")
        for n, outcome in enumerate(outcomes)
    ]


@pytest.mark.parametrize(("said", "fine"), [(0, False), (1, True), (2, True), (3, False)])
def test_a_counter_is_between_what_was_acknowledged_and_what_may_be(said: int, fine: bool) -> None:
    read = op("get", (9, 10), b"%d" % said, key=b"c0")
    history = run(*adds(OK, UNKNOWN, NOT_APPLIED), read)
    assert (counters(history) == []) is fine


@pytest.mark.parametrize(
    ("found", "fine"),
    [
        (b"1,", True),
        (b"1,3,", True),
        (b"3,", False),
        (b"1,1,", False),
        (b"1,3,3,", False),
        (b"1,5,", False),
    ],
    ids=["it", "an unknown one", "missing", "twice", "an unknown one twice", "a denied one"],
)
def test_a_list_holds_each_operation_at_most_once(found: bytes, fine: bool) -> None:
    ops = [
        op("append", (n, n + 1), b"%d," % n, outcome=outcome, key=b"l0")
        for n, outcome in ((1, OK), (3, UNKNOWN), (5, NOT_APPLIED))
    ]
    history = run(*ops, op("get", (9, 10), found, key=b"l0"))
    assert (applied_once(history) == []) is fine


# --- never denied


def test_what_somebody_wrote_may_be_read() -> None:
    ops = [op("put", (1, 2), b"a", outcome=UNKNOWN), op("get", (3, 4), b"a")]
    assert never_denied(run(*ops, op("get", (5, 6), None, outcome=FAILED))) == []


@pytest.mark.parametrize("outcome", [NOT_APPLIED, REFUSED])
def test_what_was_denied_may_not_be_read(outcome: str) -> None:
    ops = [op("compare", (1, 2), b"a", outcome=outcome, known=False), op("get", (3, 4), b"a")]
    assert len(never_denied(run(*ops))) == 1


def test_what_nobody_wrote_may_not_be_read() -> None:
    assert len(never_denied(run(op("get", (3, 4), b"a")))) == 1


def test_a_repeat_can_not_be_proved_unapplied() -> None:
    again = op("put", (3, 4), b"a", first=1, fresh=False, outcome=NOT_APPLIED)
    assert len(never_denied(run(again))) == 1


# --- chosen

TRUSTED = {b"life%d" % number: 0 for number in range(1, 6)}


def accepts(*nodes: int, ballot: int = 1, epoch: int = 4, refused: bool = False) -> list[Accept]:
    decided = (Decided(ID, REFUSED_BALLOT if refused else version(ballot)),)
    raw = encode_acceptor(version(ballot), Content(b"v", changed=version(1), decided=decided))
    return [Accept(1, n, b"life%d" % n, epoch, 10 * n, b"r0", raw) for n in nodes]


def verdict(taken: list[Accept], **more: Any) -> list[str]:
    change = op("put", (1, 9), b"v", operation_id=ID, **more)
    return chosen(run(change, accepts=taken, trusted=TRUSTED))


def test_a_majority_under_one_ballot_has_chosen() -> None:
    assert verdict(accepts(1, 3)) == []
    assert verdict(accepts(2, 3, refused=True), outcome=REFUSED) == []
    assert verdict([], outcome=UNKNOWN) == []


@pytest.mark.parametrize(
    "taken",
    [
        accepts(1),
        accepts(1) + accepts(2, ballot=2),
        accepts(1) + accepts(2, epoch=3),
        accepts(1, 4, 5),
        [*accepts(1), accepts(2)[0]._replace(step=10)],
        [*accepts(1), accepts(2)[0]._replace(life=b"other")],
        [*accepts(1), accepts(2)[0]._replace(incarnation=19)],
    ],
    ids=["one", "two ballots", "two epochs", "no owners", "late", "a life", "an incarnation"],
)
def test_less_has_chosen_nothing(taken: list[Accept]) -> None:
    assert len(verdict(taken)) == 1


@pytest.mark.parametrize(
    ("nodes", "fine"), [((1, 2, 4, 5), True), ((1, 2), False), ((4, 5), False)]
)
def test_a_move_needs_both_majorities(nodes: tuple[int, ...], fine: bool) -> None:
    bucket = Bucket(0, 4, OLD, Stage.WRITE_BOTH_READ_NEW, NEW)
    assert (verdict(accepts(*nodes), bucket=bucket) == []) is fine
