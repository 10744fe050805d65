"""From a DataError to the words of a Redis error."""

import pytest

from sidecar.errors import DataError, Fault, Outcome, Reason
from sidecar.redis import replies


@pytest.mark.parametrize(
    ("outcome", "fault", "word"),
    [
        (Outcome.UNKNOWN, Fault.TIMEOUT, "UNKNOWN"),
        (Outcome.UNKNOWN, Fault.CALLER, "UNKNOWN"),
        (Outcome.NOT_APPLIED, Fault.UNAVAILABLE, "NOTAPPLIED"),
        (Outcome.NOT_APPLIED, Fault.TIMEOUT, "NOTAPPLIED"),
        (Outcome.NOT_APPLIED, Fault.OVERLOADED, "NOTAPPLIED"),
        (Outcome.NOT_APPLIED, Fault.DATA, "NOTAPPLIED"),
        (Outcome.NOT_APPLIED, Fault.CALLER, "ERR"),
        (Outcome.NOT_APPLIED, Fault.PRECONDITION, "ERR"),
        (None, Fault.CALLER, "ERR"),
        (None, Fault.PRECONDITION, "ERR"),
        (None, Fault.UNAVAILABLE, "UNAVAILABLE"),
        (None, Fault.TIMEOUT, "TIMEOUT"),
        (None, Fault.OVERLOADED, "OVERLOADED"),
        (None, Fault.DATA, "BADDATA"),
    ],
)
def test_the_first_word_says_what_became_of_the_data(
    outcome: Outcome | None, fault: Fault, word: str
) -> None:
    assert replies.first_word(DataError(Reason.TIMEOUT, fault, "x", outcome)) == word


def test_every_fault_has_a_word() -> None:
    words = {replies.first_word(DataError(Reason.TIMEOUT, fault, "x")) for fault in Fault}
    assert len(words) == 7


def test_an_unknown_write_carries_what_a_repeat_needs() -> None:
    failure = DataError(
        Reason.NOT_ENOUGH_REPLICAS,
        Fault.TIMEOUT,
        "1 of 2 acknowledged",
        Outcome.UNKNOWN,
        keyspace="places",
        bucket=17,
        epoch=3,
        acks_had=1,
        acks_needed=2,
        version=bytes(range(16)),
    )
    assert replies.data_error(failure) == (
        b"-UNKNOWN 1 of 2 acknowledged (reason=NOT_ENOUGH_REPLICAS keyspace=places bucket=17 "
        b"epoch=3 acks=1/2 version=000102030405060708090a0b0c0d0e0f)\r\n"
    )


def test_a_message_can_not_forge_a_reply() -> None:
    failure = DataError(Reason.KEY_INVALID, Fault.CALLER, "bad\r\n+OK", keyspace="a\r\nb")
    assert replies.data_error(failure) == b"-ERR bad  +OK (reason=KEY_INVALID keyspace=a  b)\r\n"


def test_a_key_is_shown_short_and_in_ascii() -> None:
    assert replies.shown_key(b"a\r\n\xff") == "'a\\r\\n\\xff'"
    assert len(replies.shown_key(b"k" * 1024)) < 60
