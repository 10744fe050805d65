import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicas.acceptor import (
    ACCEPTOR_BYTES,
    MAX_IDS,
    NOTHING,
    REFUSED,
    UNTOUCHED,
    Content,
    Decided,
    decode_acceptor,
    decode_standing,
    encode_acceptor,
    encode_promise,
    id_time_ms,
)
from replicas.record import MAX_TIME_MS, decode_record, encode_record
from replicas.version import ZERO_VERSION
from tests.support.replica_records import flip, sealed, version_at

BALLOT = version_at(1000)
LATER = version_at(2000)
FULL = Content(b"value", 5000, False, version_at(900), (Decided(b"i" * 16, version_at(900)),), 7)


def id_at(ms: int, tail: int = 0) -> bytes:
    return ms.to_bytes(6, "big") + tail.to_bytes(10, "big")


ids = st.binary(min_size=16, max_size=16)
decided = st.lists(st.builds(Decided, ids, ids), max_size=MAX_IDS).map(tuple)
times = st.integers(1, MAX_TIME_MS)


@st.composite
def contents(draw: st.DrawFn) -> Content:
    value = draw(st.none() | st.binary(max_size=40))
    expired = value is None and draw(st.booleans())
    expires = expired or (value is not None and draw(st.booleans()))
    expires_at_ms = draw(times) if expires else 0
    changed = draw(st.sampled_from([ZERO_VERSION, version_at(1), BALLOT]))
    return Content(value, expires_at_ms, expired, changed, draw(decided), draw(times))


@given(contents())
def test_what_was_accepted_comes_back(content: Content) -> None:
    acceptor = decode_acceptor(encode_acceptor(BALLOT, content))
    assert acceptor is not None
    assert (acceptor.promise, acceptor.accepted, acceptor.content) == (BALLOT, BALLOT, content)


@given(contents())
def test_a_promise_changes_nothing_else(content: Content) -> None:
    accepted = decode_acceptor(encode_acceptor(BALLOT, content))
    assert accepted is not None
    promised = decode_acceptor(encode_promise(accepted, LATER))
    assert promised is not None
    assert (promised.promise, promised.accepted) == (LATER, BALLOT)
    assert promised.content == content
    assert promised != accepted


@given(contents(), times)
def test_what_stands_is_what_is_accepted_until_it_is_due(content: Content, now_ms: int) -> None:
    standing = decode_standing(encode_acceptor(BALLOT, content), now_ms)
    if content.due(now_ms):
        assert standing is None
    else:
        expires_at_ms = content.expires_at_ms if content.value is not None else 0
        assert standing == (content.value, content.changed, expires_at_ms, BALLOT)


@given(contents())
def test_beside_a_later_promise_nothing_is_said_to_stand(content: Content) -> None:
    accepted = decode_acceptor(encode_acceptor(BALLOT, content))
    assert accepted is not None
    assert decode_standing(encode_promise(accepted, LATER), 0) is None


def test_the_first_promise_says_that_nothing_was_accepted() -> None:
    raw = encode_promise(UNTOUCHED, BALLOT)
    assert len(raw) == ACCEPTOR_BYTES
    promised = decode_acceptor(raw)
    assert promised is not None
    assert (promised.promise, promised.accepted, promised.content) == (
        BALLOT,
        ZERO_VERSION,
        NOTHING,
    )


@given(st.integers(0, len(encode_acceptor(BALLOT, FULL)) - 1))
def test_a_flipped_bit_anywhere_makes_it_none(position: int) -> None:
    raw = flip(encode_acceptor(BALLOT, FULL), position)
    assert decode_standing(raw, 0) is None
    assert decode_acceptor(raw) is None
    assert decode_record(raw) is None


def test_the_tunable_mode_sees_that_it_is_not_its_own_and_no_value() -> None:
    record = decode_record(encode_acceptor(BALLOT, FULL))
    assert record is not None
    assert record.is_linearizable
    assert (record.version, record.value, record.live(0)) == (BALLOT, b"", False)


def test_a_record_of_the_tunable_mode_is_none() -> None:
    assert decode_acceptor(encode_record(BALLOT, b"x" * 100)) is None


def state(
    *,
    accepted: bytes = BALLOT,
    flags: int = 8,
    expires: int = 0,
    promise: bytes = BALLOT,
    changed: bytes = BALLOT,
    forgotten: int = 0,
    count: int = 0,
    rest: bytes = b"",
) -> bytes:
    middle = bytes([flags]) + expires.to_bytes(8, "big") + promise + changed
    return sealed(accepted + middle + forgotten.to_bytes(8, "big") + bytes([count]) + rest)


WRONG_FORMS = [
    state()[:-1],
    sealed(b""),
    state(flags=9, rest=b"value"),  # a tombstone with a value
    state(flags=10),  # an expiry without its time
    state(expires=1),
    state(flags=15),
    state(flags=12),
    state(flags=24),
    state(flags=10, expires=MAX_TIME_MS + 1),
    state(flags=10, expires=(1 << 64) - 1),
    state(forgotten=MAX_TIME_MS + 1),
    state(promise=version_at(999)),  # accepted what it had promised not to
    state(changed=version_at(1001)),
    state(count=1, rest=bytes(31)),
    state(count=MAX_IDS + 1, rest=bytes(32 * (MAX_IDS + 1))),
    state(accepted=ZERO_VERSION, changed=ZERO_VERSION),  # a value never accepted
    state(accepted=ZERO_VERSION, changed=ZERO_VERSION, flags=9, count=1, rest=bytes(32)),
]


@pytest.mark.parametrize("raw", WRONG_FORMS)
def test_a_wrong_form_is_no_answer_even_with_a_right_checksum(raw: bytes) -> None:
    assert decode_acceptor(state()) is not None
    assert decode_acceptor(raw) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Content(None, 5), "tombstone of an expiry"),
        (Content(None, 0, expired=True), "tombstone of an expiry"),
        (Content(b"x", 5, expired=True), "has no value"),
        (Content(b"x", MAX_TIME_MS + 1), "times"),
        (Content(b"x", changed=LATER), "promise"),
        (Content(b"x", changed=b"short"), "versions"),
        (Content(b"x", decided=(Decided(b"short", BALLOT),)), "ids"),
    ],
)
def test_what_is_no_state_is_not_encoded(content: Content, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_acceptor(BALLOT, content)


def test_a_value_is_due_from_its_expiry_on() -> None:
    assert [Content(b"x", 1000).due(now_ms) for now_ms in (999, 1000)] == [False, True]
    assert not Content(b"x").due(MAX_TIME_MS)
    assert not Content(None, 1000, expired=True).due(2000)


def test_it_remembers_the_last_ids_and_how_far_it_forgot() -> None:
    content = NOTHING
    for number in range(MAX_IDS):
        ids, forgotten_ms = content.remember(Decided(id_at(100 + number), BALLOT))
        content = dataclasses.replace(content, decided=ids, forgotten_ms=forgotten_ms)
    assert content.forgotten_ms == 0
    ids, forgotten_ms = content.remember(Decided(id_at(50), REFUSED))
    assert len(ids) == MAX_IDS
    assert forgotten_ms == id_time_ms(id_at(100)) == 100
    content = dataclasses.replace(content, decided=ids, forgotten_ms=forgotten_ms)
    assert content.find(id_at(100)) is None
    assert content.find(id_at(50)) == Decided(id_at(50), REFUSED)
    # An id that came late does not lower the time below which some were forgotten.
    for number in range(MAX_IDS):
        ids, forgotten_ms = content.remember(Decided(id_at(10 + number), BALLOT))
        content = dataclasses.replace(content, decided=ids, forgotten_ms=forgotten_ms)
    assert content.forgotten_ms == 100 + MAX_IDS - 1
