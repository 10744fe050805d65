"""GetRequest and GetResponse as bytes, for the usual Get.

Protobuf's own classes take 2 us for each of the two, a third of what is left of a Get by now.

What is read here is only the form in which protobuf itself writes a request: keyspace, key, and
what follows the key. The bytes before and after the key are looked up: they are known once they
were what protobuf would write for the request that it had read. Whatever has another form is
protobuf's to read, so nothing can mean one thing here and another there.
"""

from typing import Final

from protos.dabbawala.v1 import data_pb2 as pb
from replicas.record import (
    CHECKSUM_BYTES,
    EXPIRY_BYTES,
    FLAGS_AT,
    HEADER_BYTES,
    VERSION_BYTES,
)
from sidecar.wire.varint import varint

_KEYSPACE: Final = 0x0A  # the tag of field 1, which has a length
_KEY: Final = 0x12  # of field 2
_REMEMBERED: Final = 128
_REMEMBERED_BYTES: Final = 64
LEARN_EACH: Final = 16  # learning takes as long as reading twice, perhaps in vain
_VERSION_END: Final = CHECKSUM_BYTES + VERSION_BYTES
_EXPIRY_END: Final = HEADER_BYTES + EXPIRY_BYTES


class GetForms:
    """The forms of requests that a door has met. Those of sessions are not among them."""

    __slots__ = ("_before", "_behind", "_unknown")

    def __init__(self) -> None:
        self._before: dict[bytes, str] = {}  # what stands before the key: the keyspace
        self._behind: dict[bytes, tuple[int, int]] = {}  # level and timeout_ms
        self._unknown = 0  # requests that were none of these

    @property
    def count(self) -> int:
        """How much is remembered."""
        return len(self._before) + len(self._behind)

    def read(self, message: bytes) -> tuple[str, bytes, int, int] | None:
        """Keyspace (perhaps empty), key, level, timeout_ms; None: protobuf has to read it."""
        cut = _find_key(message)
        if cut is None:
            return None
        start, end = cut
        keyspace = self._before.get(message[: start - 2])
        level_and_timeout = self._behind.get(message[end:])
        if keyspace is None or level_and_timeout is None:
            return None
        return keyspace, message[start:end], *level_and_timeout

    def learn(self, message: bytes, request: pb.GetRequest) -> None:
        """Protobuf has read `request` in `message`."""
        self._unknown += 1
        cut = _find_key(message)
        if cut is None or self._unknown % LEARN_EACH:
            return
        start, end = cut
        before, behind = message[: start - 2], message[end:]
        level, timeout_ms = request.consistency, request.timeout_ms
        plain = pb.GetRequest(consistency=level, timeout_ms=timeout_ms)
        if (
            len(before) + len(behind) <= _REMEMBERED_BYTES
            and before == pb.GetRequest(keyspace=request.keyspace).SerializeToString()
            and behind == plain.SerializeToString()
        ):
            if len(self._before) >= _REMEMBERED or len(self._behind) >= _REMEMBERED:
                self._before.clear()  # clients that never repeat themselves
                self._behind.clear()
            self._before[before] = request.keyspace
            self._behind[behind] = level, timeout_ms


def _find_key(message: bytes) -> tuple[int, int] | None:
    """Where a key of less than 128 bytes begins and ends, if a name is all that is before it."""
    if len(message) < 2:
        return None
    start = 2 if message[0] != _KEYSPACE else message[1] + 4
    if start > len(message) or message[start - 2] != _KEY:
        return None
    size = message[start - 1]
    end = start + size
    return (start, end) if size < 0x80 and end <= len(message) else None


def encode_get_response(raw: bytes | None, value: bytes | None, level: bytes) -> bytes:
    """A GetResponse. `raw` is a valid record or nothing, `value` what a reader is given of it."""
    if raw is None:
        return level
    version = raw[CHECKSUM_BYTES:_VERSION_END]
    if value is None:
        return b"\x1a\x10%b%b" % (version, level)
    if raw[FLAGS_AT]:  # a live value has one flag at most: that it expires
        level += b"\x28" + varint(int.from_bytes(raw[HEADER_BYTES:_EXPIRY_END], "big"))
    if not value:
        return b"\x08\x01\x1a\x10%b%b" % (version, level)
    size = len(value)
    length = varint(size)
    return b"\x08\x01\x12%b%b\x1a\x10%b%b" % (length, value, version, level)


def encode_level(level: int) -> bytes:
    """The level that was reached, as `encode_get_response` takes it."""
    return b"\x20" + varint(level)
