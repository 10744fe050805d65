"""Scan of the gRPC door."""

from collections.abc import Callable

from google.protobuf.message import DecodeError
from xxhash import xxh3_64_digest

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.core.coordinator import Coordinator
from sidecar.core.scan import Scan, Scanner
from sidecar.core.walk import Cursor, decode_cursor, start_of, start_of_prefix
from sidecar.net.grpc_errors import bad_request, fail_call, garbled
from sidecar.net.register_service import DEFAULT_KEYSPACE
from sidecar.wire.grpc import Call

CURSOR_BYTES = 16
PAGE_SIZE = 100
MAX_PREFIX_BYTES = 1024


class ScanCalls:
    """The handler. `deadline` gives loop time for a call and its timeout_ms."""

    def __init__(
        self, core: Coordinator, scanner: Scanner, deadline: Callable[[Call, int], float]
    ) -> None:
        self._core = core
        self._scanner = scanner
        self._deadline = deadline

    def scan(self, call: Call, message: bytes) -> None:
        """Scan: one page."""
        try:
            request = pb.ScanRequest.FromString(message)
        except DecodeError:
            garbled(call, "ScanRequest")
            return
        request.keyspace = request.keyspace or DEFAULT_KEYSPACE
        cursor = self._cursor(call, request)
        if cursor is None:
            return
        op = Scan(
            request.keyspace,
            cursor,
            level=request.consistency,
            deadline=self._deadline(call, request.timeout_ms),
            done=_answer_keys if request.keys_only else _answer_entries,
            prefix=request.prefix,
            bucket=request.bucket if request.HasField("bucket") else None,
            limit=request.page_size or PAGE_SIZE,
            tag=(call, request),
        )
        self._scanner.scan(op)

    def _cursor(self, call: Call, request: pb.ScanRequest) -> Cursor | None:
        """Where the page begins; None: the call was refused."""
        if len(request.prefix) > MAX_PREFIX_BYTES:
            text = (
                f"it has {len(request.prefix)} bytes, and no key has more than {MAX_PREFIX_BYTES}"
            )
            bad_request(call, "prefix", text)
            return None
        if request.cursor:
            cursor = decode_scan_cursor(request)
            if cursor is None:
                text = (
                    "this is no cursor of this keyspace, prefix and bucket; give the next_cursor of"
                    " the page before with the same of each, or none to begin anew"
                )
                bad_request(call, "cursor", text)
            return cursor
        if request.HasField("bucket"):
            return self._start_of_bucket(call, request)
        return start_of_prefix(request.prefix)

    def _start_of_bucket(self, call: Call, request: pb.ScanRequest) -> Cursor | None:
        bucket_map = self._core.map
        keyspace = bucket_map.keyspaces.get(request.keyspace) if bucket_map is not None else None
        if keyspace is None:
            return Cursor()  # the scan says what is missing
        count = len(keyspace.buckets)
        if request.bucket >= count:
            text = (
                f"it is {request.bucket}; keyspace {request.keyspace} has buckets 0 to {count - 1}"
            )
            bad_request(call, "bucket", text)
            return None
        return start_of(request.bucket, count)


def encode_scan_cursor(request: pb.ScanRequest, cursor: Cursor) -> bytes:
    """What a client gives back: opaque, and bound to what it walks over."""
    number = cursor.encode().to_bytes(8, "big")
    return number + _check(request, number)


def decode_scan_cursor(request: pb.ScanRequest) -> Cursor | None:
    """The request's cursor; None: it was changed, or belongs to another walk."""
    number, check = request.cursor[:8], request.cursor[8:]
    if len(request.cursor) != CURSOR_BYTES or check != _check(request, number):
        return None
    return decode_cursor(int.from_bytes(number, "big"))


def _check(request: pb.ScanRequest, number: bytes) -> bytes:
    bucket = request.bucket if request.HasField("bucket") else -1
    place = f"{len(request.keyspace)} {request.keyspace} {bucket} ".encode()
    return xxh3_64_digest(number + place + request.prefix)


def _answer_entries(op: Scan) -> None:
    _answer(op, [pb.ScanEntry(**found._asdict()) for found in op.found])


def _answer_keys(op: Scan) -> None:
    _answer(op, [pb.ScanEntry(key=found.key, version=found.version) for found in op.found])


def _answer(op: Scan, entries: list[pb.ScanEntry]) -> None:
    call, request = op.tag
    if op.error is not None:
        fail_call(call, op.error)
        return
    following = encode_scan_cursor(request, op.next) if op.next is not None else b""
    call.respond(pb.ScanResponse(entries=entries, next_cursor=following).SerializeToString())
