"""The frames of HTTP/2 as bytes: numbers of RFC 9113, how a frame is written, and the two ways a
peer can be wrong.

A frame is 24 bits of length, 8 of type, 8 of flags, 32 of stream id (highest bit reserved), then
the payload.
"""

from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Length is read as 16 + 8 bits: one C call for the whole header.
FRAME_HEADER: Final = Struct(">HBBBL")
FRAME_HEADER_BYTES: Final = 9
UINT32: Final = Struct(">L")
SETTING: Final = Struct(">HL")

# Frame types (section 6).
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

# Flags.
ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

# Settings (section 6.5.2).
SETTINGS_HEADER_TABLE_SIZE: Final = 0x1
SETTINGS_ENABLE_PUSH: Final = 0x2
SETTINGS_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTINGS_INITIAL_WINDOW_SIZE: Final = 0x4
SETTINGS_MAX_FRAME_SIZE: Final = 0x5
SETTINGS_MAX_HEADER_LIST_SIZE: Final = 0x6

# Error codes (section 7).
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

DEFAULT_WINDOW_BYTES: Final = 65_535
DEFAULT_MAX_FRAME_BYTES: Final = 16_384
LARGEST_WINDOW_BYTES: Final = 2**31 - 1
LARGEST_MAX_FRAME_BYTES: Final = 2**24 - 1
LARGEST_STREAM_ID: Final = 2**31 - 1


class ConnectionFault(Exception):
    """The peer broke the connection's rules: GOAWAY with `code`, then close (section 5.4.1)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class StreamFault(Exception):
    """The peer broke one stream's rules: RST_STREAM with `code`; the other streams live on (section
    5.4.2).
    """

    def __init__(self, stream_id: int, code: int, text: str) -> None:
        super().__init__(text)
        self.stream_id = stream_id
        self.code = code
        self.text = text


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame. The caller keeps `payload` within the peer's SETTINGS_MAX_FRAME_SIZE."""
    size = len(payload)
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings_frame(settings: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*item) for item in settings.items()))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def window_update_frame(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, UINT32.pack(increment))


def rst_stream_frame(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, UINT32.pack(code))


def goaway_frame(last_stream_id: int, code: int, text: str = "") -> bytes:
    payload = UINT32.pack(last_stream_id) + UINT32.pack(code) + text.encode()[:200]
    return frame(GOAWAY, 0, 0, payload)


def ping_frame(opaque: bytes, flags: int = 0) -> bytes:
    return frame(PING, flags, 0, opaque)


def strip_padding(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without padding and priority fields (sections 6.1,
    6.2).
    """
    start, stop = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ConnectionFault(FRAME_SIZE_ERROR, "padded frame without a pad length")
        start, stop = 1, stop - payload[0]
    if flags & HAS_PRIORITY:
        start += 5
    if start > stop:
        raise ConnectionFault(PROTOCOL_ERROR, "padding is longer than the frame's payload")
    return payload[start:stop]
