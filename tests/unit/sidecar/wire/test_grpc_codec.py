"""Messages, timeouts, metadata and status as bytes."""

from base64 import b64decode
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.grpc_codec import (
    INTERNAL,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    MessageFault,
    MessageReader,
    read_binary_metadata,
    read_timeout,
    status_trailers,
)
from tests.support.http2_playbook import fields_of, message


@given(st.lists(st.binary(max_size=50), max_size=20), st.data())
def test_messages_are_cut_out_of_any_split(bodies: list[bytes], split: st.DataObject) -> None:
    stream = b"".join(message(body) for body in bodies)
    reader = MessageReader(50, b"")
    received: list[bytes] = []
    while stream:
        size = split.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        stream = stream[size:]
        received += reader.take()
        assert reader.held_bytes < 55
    assert received == bodies
    assert reader.is_between_messages
    assert reader.held_bytes == 0


def test_what_is_held_counts_untaken_messages_and_the_start_of_the_next() -> None:
    reader = MessageReader(50, b"")
    reader.feed(message(b"12345") + message(b"678")[:6])
    assert reader.held_bytes == 5 + 6
    assert not reader.is_between_messages


@pytest.mark.parametrize(
    ("start", "encoding", "status"),
    [
        (b"\0\xff\xff\xff\xff", b"", RESOURCE_EXHAUSTED),
        (b"\0\0\0\0\x33", b"", RESOURCE_EXHAUSTED),
        (b"\1\0\0\0\1", b"snappy", UNIMPLEMENTED),
        (b"\1\0\0\0\1", b"", INTERNAL),
        (b"\1\0\0\0\1", b"identity", INTERNAL),
        (b"\2\0\0\0\1", b"gzip", INTERNAL),
    ],
)
def test_a_prefix_is_judged_before_its_message_comes(
    start: bytes, encoding: bytes, status: int
) -> None:
    reader = MessageReader(50, encoding)
    with pytest.raises(MessageFault) as caught:
        reader.feed(start)
    assert caught.value.status == status


def test_an_uncompressed_message_is_taken_whatever_encoding_is_named() -> None:
    reader = MessageReader(50, b"gzip")
    reader.feed(message(b"plain"))
    assert reader.take() == [b"plain"]


@pytest.mark.parametrize(
    ("value", "expected_ns"),
    [
        (b"1H", 3_600 * 10**9),
        (b"2M", 120 * 10**9),
        (b"3S", 3 * 10**9),
        (b"99999999m", 99_999_999 * 10**6),
        (b"5u", 5_000),
        (b"0n", 0),
    ],
)
def test_timeouts_are_read(value: bytes, expected_ns: int) -> None:
    assert read_timeout(value) == expected_ns


@pytest.mark.parametrize(
    "value", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"100000000n", b"\xb2S"]
)
def test_a_timeout_of_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        read_timeout(value)


def test_binary_metadata_with_and_without_padding_and_joined() -> None:
    assert read_binary_metadata(b"AAH/") == [b"\x00\x01\xff"]
    assert read_binary_metadata(b"AA==,AA, AQ") == [b"\0", b"\0", b"\1"]
    assert read_binary_metadata(b"") == [b""]
    with pytest.raises(ValueError, match="base64"):
        read_binary_metadata(b"A*")


def _trailers(status: int, text: str, details: bytes = b"") -> dict[str, str]:
    return fields_of(status_trailers(status, text, details))


@given(st.text(max_size=300))
def test_any_message_survives_its_trip(text: str) -> None:
    quoted = _trailers(3, text).get("grpc-message", "")
    assert unquote(quoted, errors="replace") == text.encode(errors="replace").decode()
    assert quoted == quoted.strip()
    assert quoted.isascii()
    assert quoted.isprintable()


def test_long_messages_and_details_stay_below_what_clients_take() -> None:
    block = status_trailers(3, "ы" * 100_000, b"d" * 3_000)
    assert len(block) < 8_192
    assert fields_of(block)["grpc-message"].endswith("%8B")
    assert "grpc-status-details-bin" not in _trailers(3, "x", b"d" * 3_001)


def test_details_are_base64_without_padding() -> None:
    sent = _trailers(3, "", b"\x08\x03\xff\xfe")["grpc-status-details-bin"]
    assert b64decode(sent + "==") == b"\x08\x03\xff\xfe"
    assert "=" not in sent
