"""gRPC over HTTP/2 as bytes: messages and their prefix, timeouts, metadata, status (the gRPC
protocol page, "PROTOCOL-HTTP2").

A message is a flag byte (1: compressed), 32 bits of length, then the bytes.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from struct import Struct
from typing import Final
from urllib.parse import quote

from sidecar.wire.grpc_inflate import GZIP, Bomb, inflate
from sidecar.wire.http2_headers import encode_field, status_field

PREFIX: Final = Struct(">BL")
PREFIX_BYTES: Final = 5

# Status codes that this layer gives by itself.
CANCELLED: Final = 1
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13

CONTENT_TYPE: Final = b"application/grpc"
_CONTENT_TYPE_FIELD: Final = encode_field(b"content-type", CONTENT_TYPE)
# Told to clients that compress in another way.
_ACCEPT_FIELD: Final = encode_field(b"grpc-accept-encoding", b"identity,gzip")

ANSWER_HEAD: Final = status_field(200) + _CONTENT_TYPE_FIELD
OK_TRAILERS: Final = encode_field(b"grpc-status", b"0")

# Together they stay below the smallest frame size a client can set, and below what clients accept
# as trailers (8 KiB).
MAX_STATUS_MESSAGE_BYTES: Final = 2_048
MAX_STATUS_DETAILS_BYTES: Final = 3_000

_UNIT_NS: Final = {
    b"H": 3_600_000_000_000,
    b"M": 60_000_000_000,
    b"S": 1_000_000_000,
    b"m": 1_000_000,
    b"u": 1_000,
    b"n": 1,
}
_UNQUOTED: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class MessageFault(Exception):
    """The request's body is no sequence of messages that we take: the call fails with `status`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class MessageReader:
    """Cuts one request's body into messages. The prefix is checked before any memory is taken for
    its message.
    """

    __slots__ = ("_buffer", "_encoding", "_max_bytes", "_needed", "_whole_bytes", "messages")

    def __init__(self, max_bytes: int, encoding: bytes) -> None:
        self.messages: list[bytes] = []  # complete, for the owner to take
        self._max_bytes = max_bytes
        self._encoding = encoding
        self._buffer = bytearray()
        self._needed = PREFIX_BYTES  # bytes of the prefix, or of the prefix and its message
        self._whole_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Memory held: complete messages that were not taken, and the start of the next."""
        return self._whole_bytes + len(self._buffer)

    @property
    def is_between_messages(self) -> bool:
        return not self._buffer

    def feed(self, data: bytes) -> None:
        """More of the body; complete messages appear in `messages`. Raises MessageFault."""
        buffer = self._buffer
        buffer += data
        start = 0  # cut once at the end: many small messages in one frame stay linear
        while len(buffer) - start >= PREFIX_BYTES:
            compressed, size = PREFIX.unpack_from(buffer, start)
            check_prefix(compressed, size, self._max_bytes, self._encoding)
            stop = start + PREFIX_BYTES + size
            if stop > len(buffer):
                break
            message = bytes(buffer[start + PREFIX_BYTES : stop])
            if compressed:
                message = _inflated(message, self._max_bytes)
            self.messages.append(message)
            self._whole_bytes += len(message)
            start = stop
        del buffer[:start]

    def take(self) -> list[bytes]:
        messages, self.messages = self.messages, []
        self._whole_bytes = 0
        return messages


def check_prefix(compressed: int, size: int, max_bytes: int, encoding: bytes) -> None:
    """Raises MessageFault unless the prefix announces a message of at most `max_bytes`, plain or
    compressed with gzip.
    """
    if size > max_bytes:
        raise MessageFault(
            RESOURCE_EXHAUSTED,
            f"a message of {size} bytes is larger than the limit of {max_bytes}; send less at once",
        )
    if not compressed:
        return
    if compressed != 1 or encoding in (b"", b"identity"):
        raise MessageFault(
            INTERNAL,
            f"a message has the compressed flag {compressed}, but grpc-encoding names no encoding",
        )
    if encoding != GZIP:
        name = encoding[:32].decode("ascii", "replace")
        raise MessageFault(
            UNIMPLEMENTED,
            f"messages compressed with {name!r} are not supported; use gzip, or none",
        )


def _inflated(message: bytes, max_bytes: int) -> bytes:
    try:
        return inflate(message, max_bytes)
    except Bomb as fault:
        raise MessageFault(RESOURCE_EXHAUSTED, str(fault)) from fault
    except ValueError as fault:
        raise MessageFault(INTERNAL, str(fault)) from fault


def read_timeout(value: bytes) -> int:
    """`grpc-timeout` in nanoseconds; raises ValueError."""
    unit = _UNIT_NS.get(value[-1:])
    digits = value[:-1]
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise ValueError("grpc-timeout is not 1 to 8 digits and one of H, M, S, m, u, n")
    return int(digits) * unit


def read_binary_metadata(value: bytes) -> list[bytes]:
    """The values of a `-bin` field, which may be joined by commas and lack padding; raises
    ValueError.
    """
    try:
        return [
            b64decode(part + b"=" * (-len(part) % 4), validate=True)
            for part in (piece.strip(b" ") for piece in value.split(b","))
        ]
    except Base64Error as fault:
        raise ValueError("is not base64") from fault


def status_trailers(status: int, message: str, details: bytes) -> bytes:
    """The block of fields that ends a call. `details` is a google.rpc.Status; left out when too
    large for a header.
    """
    block = encode_field(b"grpc-status", b"%d" % status)
    if message:
        block += encode_field(b"grpc-message", _quote_message(message))
    if details and len(details) <= MAX_STATUS_DETAILS_BYTES:
        block += encode_field(b"grpc-status-details-bin", b64encode(details).rstrip(b"="))
    if status == UNIMPLEMENTED:
        block += _ACCEPT_FIELD
    return block


def _quote_message(message: str) -> bytes:
    """Percent-encoded UTF-8; spaces at the ends too, which a header value may not have."""
    quoted = quote(message[:MAX_STATUS_MESSAGE_BYTES], safe=_UNQUOTED, errors="replace")
    if len(quoted) > MAX_STATUS_MESSAGE_BYTES:
        quoted = quoted[:MAX_STATUS_MESSAGE_BYTES]
        cut = quoted.rfind("%", -2)  # not through the middle of an escape
        quoted = quoted[:cut] if cut >= 0 else quoted
    inner = quoted.strip(" ")
    leading = len(quoted) - len(quoted.lstrip(" "))
    trailing = len(quoted) - len(inner) - leading
    return ("%20" * leading + inner + "%20" * trailing).encode()


def http_refusal(status: int, *fields: tuple[bytes, bytes]) -> bytes:
    """A block that answers what is no gRPC request at all with an HTTP status."""
    return status_field(status) + b"".join(encode_field(*field) for field in fields)
