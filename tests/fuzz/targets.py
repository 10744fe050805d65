"""What is fuzzed: each target takes bytes in pieces and says what was understood of them.

An answer must not depend on where the pieces were cut. A target raises nothing, whatever it is fed.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from google.protobuf.message import DecodeError

from protos.dabbawala.v1 import data_pb2 as pb
from replicas.version import HybridClock
from sidecar.core.coordinator import Coordinator
from sidecar.core.sessions import SessionKeys
from sidecar.core.walk import decode_cursor
from sidecar.errors import DataError
from sidecar.net.data_service import DataService
from sidecar.net.get_messages import LEARN_EACH, GetForms
from sidecar.net.get_service import level_reached
from sidecar.redis.limits import RespLimits
from sidecar.wire import http2_frames as h2
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes
from sidecar.wire.grpc_codec import MessageFault, MessageReader
from sidecar.wire.grpc_request import read_request
from sidecar.wire.grpc_server import GrpcConnection
from sidecar.wire.http2_frames import ConnectionFault
from sidecar.wire.http2_headers import HeaderBlocks, MalformedHeaders
from sidecar.wire.http2_limits import Counters
from sidecar.wire.resp_parser import RequestParser
from tests.support.conversation import Conversation

Target = Callable[[Sequence[bytes]], object]

NOW_MS = 1_763_700_000_000
PATH = b"/t.T/Note"


def http2(pieces: Sequence[bytes]) -> object:
    """Calls that a gRPC connection makes of them, and its judgement of the rest."""
    calls: list[tuple[bytes, bytes]] = []

    def note(call: Call, message: bytes) -> None:
        calls.append((call.method, message))
        call.finish()  # without a body: nothing of the answer waits for a window

    counters = Counters()
    limits = GrpcLimits(max_concurrent_streams=8, max_message_bytes=4_096)
    connection = GrpcConnection(GrpcRoutes({PATH: note}), limits, counters, lambda: None, 1)
    said = b""
    for piece in pieces:
        connection.http.receive(piece, 1)
        said += connection.http.take_output()
    finished = connection.http.finished
    connection.http.lost()
    assert connection.http.streams == {}
    assert connection.held_bytes == counters.held_bytes == counters.queued_bytes == 0
    assert counters.calls_started == counters.calls_ended
    return calls, finished, said


def hpack(pieces: Sequence[bytes]) -> object:
    """One block, twice: what is remembered must not differ from what is decoded."""
    block = b"".join(pieces)
    blocks = HeaderBlocks(lambda head: read_request(head, GrpcRoutes()), 16_384)
    understood: list[object] = []
    for _ in range(2):
        try:
            understood.append(blocks.request(block)[0].method)
        except (ConnectionFault, MalformedHeaders) as fault:
            understood.append(type(fault))
    return understood


def messages(pieces: Sequence[bytes]) -> object:
    """The body of a gRPC request, whose messages may be compressed."""
    reader = MessageReader(65_536, b"gzip")
    try:
        for piece in pieces:
            reader.feed(piece)
    except MessageFault as fault:
        return reader.messages, fault.status, fault.text
    return reader.messages, reader.is_between_messages


def resp(pieces: Sequence[bytes], *, inline: bool = False) -> object:
    """Commands of the Redis protocol."""
    parser = RequestParser(max_args=64, max_bulk_bytes=4_096, max_query_bytes=8_192, inline=inline)
    commands: list[list[bytes]] = []
    for piece in pieces:
        lone, keys = parser.lone_get(piece), parser.gets(piece)
        if lone is not None:  # its key may be two lines
            assert keys in (None, [lone])
            keys = [lone]
        commands += parser.feed(piece) if keys is None else [[piece[8:11], key] for key in keys]
    assert parser.error is not None or parser.held_bytes <= 8_192 + 64 * 1024
    return commands, parser.error, parser.in_command and parser.error is None


def resp_inline(pieces: Sequence[bytes]) -> object:
    """The same, where a command may be a line of words."""
    return resp(pieces, inline=True)


def conversation(pieces: Sequence[bytes]) -> object:
    """What a Redis client is answered."""
    talk = Conversation(RespLimits(args=64, bulk_bytes=4_096, query_bytes=8_192))
    heard = b"".join([talk.send_bytes(piece) for piece in pieces])
    return heard, talk.session.finished


class _Noted(Call):
    """Keeps how it ended."""

    def __init__(self) -> None:
        super().__init__(method=PATH, metadata=(), timeout_ns=None)
        self.endings: list[tuple[int, str]] = []

    @property
    def cancelled(self) -> bool:
        return False

    def respond(self, message: bytes) -> None:
        self.endings.append((0, ""))

    def finish(self, status: int = 0, message: str = "", details: bytes = b"") -> None:
        self.endings.append((status, message))


def requests(pieces: Sequence[bytes]) -> object:
    """A message of any of the service's methods, the first byte says which; there is no map yet."""
    body = b"".join(pieces)
    core = Coordinator(
        zone="a",
        clock=HybridClock(b"writer-a"),
        wall_ms=lambda: NOW_MS,
        monotonic=lambda: 0.0,
        dice=Random(1),
        default_timeout_ms=1000,
    )
    handlers = list(DataService(core, lambda: 0.0, lambda act: None).handlers().values())
    call = _Noted()
    handlers[(body[0] if body else 0) % len(handlers)](call, body[1:])
    assert len(call.endings) <= 1
    return call.endings, _plain_get(body[1:])


def _plain_get(message: bytes) -> object:
    """What is read without protobuf is what protobuf reads; whatever was read before, too."""
    try:
        request = pb.GetRequest.FromString(message)
    except DecodeError:
        request = pb.GetRequest(key=b"k")
    forms = GetForms()
    for _ in range(LEARN_EACH):
        forms.learn(pb.GetRequest(key=b"k").SerializeToString(), pb.GetRequest(key=b"k"))
    for _ in range(LEARN_EACH):
        forms.learn(message, request)
    found = forms.read(message)
    if found is not None:
        keyspace, key, level, timeout_ms = found
        assert request == pb.GetRequest(
            keyspace=keyspace, key=key, consistency=level_reached(level), timeout_ms=timeout_ms
        )
    return found


def token(pieces: Sequence[bytes]) -> object:
    """A session token."""
    opened = SessionKeys("c", (b"a secret of some length",)).open(b"".join(pieces), NOW_MS)
    return opened.reason if isinstance(opened, DataError) else sorted(opened.versions)


def cursor(pieces: Sequence[bytes]) -> object:
    """A cursor of SCAN, as the eight bytes of Scan's; one that is taken must mean itself."""
    number = int.from_bytes(b"".join(pieces)[:9])
    found = decode_cursor(number)
    assert found is None or number == 0 or found.encode() == number
    return found


TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        http2, hpack, messages, resp, resp_inline, conversation, requests, token, cursor
    )
}  # fmt: skip
# What a mutation may put in: bytes that mean something to one of them.
WORDS = (
    b"\r\n", b"*1\r\n", b"*2\r\n", b"$3\r\nGET\r\n", b"$1\r\nk\r\n", b"$-1\r\n", b"*0\r\n",
    b"$4096\r\n", b"$4097\r\n", b"99999999999999999999", b"GET ", b"Host:", b'"', b"'", b"\\x41",
    b"\x00\x00\x00\x00\x05", b"\x01\x00\x00\x00\x02", b"\xff\xff\xff\xff", b"\x80", b"\x3f\xe1\x1f",
    h2.PREFACE, h2.settings_frame({}), h2.SETTINGS_ACK, h2.ping_frame(bytes(8)),
    h2.rst_stream_frame(1, 8), h2.window_update_frame(1, 1), h2.frame(h2.DATA, 1, 1),
    h2.frame(h2.CONTINUATION, 4, 1), h2.goaway_frame(0, 0),
)  # fmt: skip
