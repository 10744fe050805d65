"""Frames as bytes."""

import pytest

from sidecar.wire import http2_frames as h2
from sidecar.wire.http2_frames import ConnectionFault, strip_padding


def test_a_frame_is_length_type_flags_stream_and_payload() -> None:
    assert h2.frame(h2.DATA, h2.END_STREAM, 7, b"abc") == b"\0\0\3\0\1\0\0\0\7abc"
    assert h2.frame(h2.DATA, 0, 1, b"x" * 65_537)[:3] == b"\1\0\1"


def test_settings_and_goaway() -> None:
    assert h2.settings_frame({3: 100}) == b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0d"
    assert h2.goaway_frame(5, 11, "calm") == b"\0\0\x0c\7\0\0\0\0\0\0\0\0\5\0\0\0\x0bcalm"


@pytest.mark.parametrize(
    ("flags", "payload", "inner"),
    [
        (0, b"abc", b"abc"),
        (h2.PADDED, b"\2abc\0\0", b"abc"),
        (h2.PADDED, b"\0", b""),
        (h2.HAS_PRIORITY, b"\0\0\0\1\x10abc", b"abc"),
        (h2.PADDED | h2.HAS_PRIORITY, b"\1\0\0\0\1\x10abc\0", b"abc"),
    ],
)
def test_padding_and_priority_are_stripped(flags: int, payload: bytes, inner: bytes) -> None:
    assert strip_padding(flags, payload) == inner


@pytest.mark.parametrize(
    ("flags", "payload", "code"),
    [
        (h2.PADDED, b"", h2.FRAME_SIZE_ERROR),
        (h2.PADDED, b"\1", h2.PROTOCOL_ERROR),
        (h2.PADDED, b"\4abc", h2.PROTOCOL_ERROR),
        (h2.HAS_PRIORITY, b"\0\0\0\1", h2.PROTOCOL_ERROR),
    ],
)
def test_padding_longer_than_its_frame_is_a_fault(flags: int, payload: bytes, code: int) -> None:
    with pytest.raises(ConnectionFault) as caught:
        strip_padding(flags, payload)
    assert caught.value.code == code
