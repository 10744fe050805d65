"""Attacks on the gRPC door: floods, bombs and half requests of HTTP/2, as bytes."""

import gzip
from collections.abc import Callable

from bench.attacks import Attack, always
from protos.dabbawala.v1 import data_pb2
from sidecar.wire import http2_frames as h2
from sidecar.wire.grpc_codec import PREFIX
from sidecar.wire.http2_headers import encode_field

GET_PATH = b"/dabbawala.v1.Data/Get"
BATCH_PATH = b"/dabbawala.v1.Data/BatchGet"
PUT_PATH = b"/dabbawala.v1.Data/Put"
REFLECTION_PATH = b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
PIPELINE_PATH = b"/dabbawala.v1.Data/Pipeline"
OPENING = h2.PREFACE + h2.settings_frame({})
READS_NOTHING = h2.PREFACE + h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 0})
MIB = 1 << 20
WINDOW_BYTES = 256 << 10  # of a stream, as the door announces it


def head(path: bytes = GET_PATH, *fields: tuple[bytes, bytes]) -> bytes:
    """The header block of a call."""
    request = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    return b"".join(encode_field(*field) for field in (*request, *fields))


def headers(stream: int, block: bytes, flags: int = h2.END_HEADERS) -> bytes:
    """A HEADERS frame that does not end its stream."""
    return h2.frame(h2.HEADERS, flags, stream, block)


def message(body: bytes, *, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return PREFIX.pack(compressed, len(body)) + body


def data(stream: int, body: bytes = b"", *, ended: bool = False) -> bytes:
    """A DATA frame."""
    return h2.frame(h2.DATA, h2.END_STREAM if ended else 0, stream, body)


def get_call(stream: int, key: bytes = b"honest") -> bytes:
    """A whole Get."""
    body = data_pb2.GetRequest(keyspace="default", key=key).SerializeToString()
    return headers(stream, head()) + data(stream, message(body), ended=True)


def on_each_stream(make: Callable[[int], bytes], streams: int) -> Callable[[int], bytes]:
    """A burst of `make(id)` for so many new streams."""

    def burst(number: int) -> bytes:
        first = 1 + 2 * streams * number
        return b"".join(make(stream) for stream in range(first, first + 2 * streams, 2))

    return burst


def _flood(name: str, frame: bytes, opening: bytes = b"", *, reads: bool = True) -> Attack:
    return Attack(
        name=name, opening=OPENING + opening, burst=always(frame * 500), frames=500, reads=reads
    )


def _reset(stream: int, code: int = h2.CANCEL) -> bytes:
    return h2.rst_stream_frame(stream, code)


_HEAD = head()
_OPEN = headers(1, _HEAD)
# A name and value of nearly the whole table, and then one byte for each time it is repeated.
_BOMB_FIELD = b"\x40" + encode_field(b"x", b"b" * 4_000)[1:]
BOMB = b"\xbe" * 1_000
_CONTINUED = headers(1, _HEAD, 0)


def _half_requests(number: int) -> bytes:
    """Streams that promise 4 MiB each, and send none of it."""
    make = on_each_stream(lambda s: headers(s, _HEAD) + data(s, PREFIX.pack(0, 4 * MIB)), 300)
    return make(number)


def _batch(stream: int) -> bytes:
    keys = [b"k%d" % key for key in range(10_000)]
    body = message(data_pb2.BatchGetRequest(keyspace="default", keys=keys).SerializeToString())
    return _in_frames(stream, body, ended=True)


def _talk(path: bytes, said: bytes) -> Callable[[int], bytes]:
    """A streaming call on which so much is said, and which stays open."""
    return lambda stream: headers(stream, head(path)) + _in_frames(stream, said)


def _in_frames(stream: int, body: bytes, *, ended: bool = False) -> bytes:
    step = h2.DEFAULT_MAX_FRAME_BYTES
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    return b"".join(data(stream, part, ended=ended and part is parts[-1]) for part in parts)


def _zipped(stream: int) -> bytes:
    bomb = message(_GZIPPED, compressed=1)
    block = head(GET_PATH, (b"grpc-encoding", b"gzip"))
    return headers(stream, block) + data(stream, bomb, ended=True)


_GZIPPED = gzip.compress(bytes(8 * MIB))
# As many requests as a window takes.
_SMALL_REQUEST = message(
    data_pb2.PipelineRequest(locate=data_pb2.LocateRequest(key=b"k" * 190)).SerializeToString()
)
_SMALL_REQUESTS = _SMALL_REQUEST * (WINDOW_BYTES // len(_SMALL_REQUEST))
# file_containing_symbol: 25 bytes ask for 13,000.
_QUESTION = message(b"\x22\x11dabbawala.v1.Data")
_QUESTIONS = _QUESTION * (WINDOW_BYTES // len(_QUESTION))
_MIDDLING = data_pb2.PutRequest(keyspace="default", key=b"middling", value=bytes(60_000))
_GET = data_pb2.GetRequest(
    keyspace="default", key=b"middling", consistency=data_pb2.CONSISTENCY_ONE, timeout_ms=10_000
)
# As many as are begun at once.
_GETS = b"".join(
    message(data_pb2.PipelineRequest(id=number, get=_GET).SerializeToString())
    for number in range(64)
)


def _pipelines_of_gets(number: int) -> bytes:
    """200 Pipelines first, all open before anything is queued; then requests on 16 of them."""
    if not number:
        put = headers(1, head(PUT_PATH)) + _in_frames(
            1, message(_MIDDLING.SerializeToString()), ended=True
        )
        return put + b"".join(headers(3 + 2 * at, head(PIPELINE_PATH)) for at in range(200))
    first = 32 * number - 29
    return b"".join(_in_frames(stream, _GETS) for stream in range(first, first + 32, 2))


def _reflections(number: int) -> bytes:
    """Ten streams, and then their questions."""
    if not number:
        return b"".join(headers(stream, head(REFLECTION_PATH)) for stream in range(1, 21, 2))
    return _in_frames(2 * number - 1, _QUESTIONS)


# Each is answered by GOAWAY ENHANCE_YOUR_CALM.
FLOODS = (
    Attack(
        name="Rapid Reset",
        opening=OPENING,
        burst=on_each_stream(lambda s: get_call(s) + _reset(s), 100),
        frames=300,
    ),
    Attack(
        name="Rapid Reset of half requests",
        opening=OPENING,
        burst=on_each_stream(lambda s: headers(s, _HEAD) + _reset(s), 200),
        frames=400,
    ),
    Attack(
        name="MadeYouReset by WINDOW_UPDATE of 0",
        opening=OPENING,
        burst=on_each_stream(lambda s: headers(s, _HEAD) + h2.window_update_frame(s, 0), 200),
        frames=400,
    ),
    Attack(
        name="MadeYouReset by malformed headers",
        opening=OPENING,
        burst=on_each_stream(lambda s: headers(s, encode_field(b"no", b"path")), 200),
        frames=200,
    ),
    _flood("CONTINUATION flood, empty", h2.frame(h2.CONTINUATION, 0, 1), _CONTINUED),
    Attack(
        name="CONTINUATION flood, full",
        opening=OPENING + _CONTINUED,
        burst=always(h2.frame(h2.CONTINUATION, 0, 1, encode_field(b"x", b"y" * 16_000))),
        frames=1,
    ),
    _flood("SETTINGS flood", h2.settings_frame({h2.SETTINGS_HEADER_TABLE_SIZE: 4_096})),
    _flood("SETTINGS flood whose answers are not read", h2.settings_frame({}), reads=False),
    _flood("SETTINGS ACK flood", h2.SETTINGS_ACK),
    _flood("PING flood", h2.ping_frame(b"12345678")),
    _flood("PING flood whose answers are not read", h2.ping_frame(b"12345678"), reads=False),
    _flood("PING ACK flood", h2.ping_frame(b"12345678", h2.ACK)),
    _flood("PRIORITY flood", h2.frame(h2.PRIORITY, 0, 1, bytes(5))),
    _flood("GOAWAY flood", h2.goaway_frame(0, 0)),
    _flood("unknown frame flood", h2.frame(0xFA, 0, 1, b"?")),
    _flood("WINDOW_UPDATE flood of the connection", h2.window_update_frame(0, 1)),
    _flood("WINDOW_UPDATE flood of a stream", h2.window_update_frame(1, 1), _OPEN),
    _flood("empty DATA flood", data(1), _OPEN),
    _flood(
        "DATA flood of padding alone",
        h2.frame(h2.DATA, h2.PADDED, 1, b"\xff" + bytes(255)),
        _OPEN,
    ),
    Attack(
        name="HPACK bomb",
        opening=OPENING,
        burst=on_each_stream(lambda s: headers(s, _HEAD + _BOMB_FIELD + BOMB), 1),
        frames=1,
    ),
    Attack(
        name="header list too large",
        opening=OPENING,
        burst=on_each_stream(lambda s: headers(s, _HEAD + encode_field(b"x", b"y" * 16_100)), 1),
        frames=1,
    ),
    Attack(
        name="requests that are not for us",
        opening=OPENING,
        burst=on_each_stream(
            lambda s: headers(s, head(b"/no.such/Method")) + data(s, message(b"x"), ended=True), 100
        ),
        frames=200,
    ),
)

# Taken, or refused stream by stream, for as long as they like.
GRINDS = (
    Attack(
        name="tables that change with every request",
        opening=OPENING,
        burst=on_each_stream(
            lambda s: headers(
                s, _HEAD + b"\x40" + encode_field(b"x-%d" % s, b"y" * 3_000)[1:], 0x5
            ),
            20,
        ),
        frames=20,
        bursts=60,
    ),
    Attack(
        name="requests of 400 fields",
        opening=OPENING,
        burst=on_each_stream(
            lambda s: headers(s, _HEAD + encode_field(b"a", b"b") * 400) + data(s, ended=True), 10
        ),
        frames=20,
        bursts=60,
    ),
    Attack(
        name="gzip bombs",
        opening=OPENING,
        burst=on_each_stream(_zipped, 2),
        frames=4,
        bursts=60,
    ),
    Attack(
        name="messages of 4 GiB announced",
        opening=OPENING,
        burst=on_each_stream(
            lambda s: headers(s, _HEAD) + data(s, PREFIX.pack(0, 0xFFFFFFFF), ended=True), 50
        ),
        frames=100,
        bursts=30,
    ),
    Attack(name="half requests", opening=OPENING, burst=_half_requests, frames=600, bursts=3),
    Attack(
        name="answers behind a window of 0",
        opening=READS_NOTHING,
        burst=on_each_stream(lambda s: get_call(s, b"large"), 4),
        frames=8,
        bursts=60,
        pace_s=0.02,
    ),
    Attack(
        name="answers of Pipelines behind a window of 0",
        opening=READS_NOTHING,
        burst=_pipelines_of_gets,
        frames=1_040,
        bursts=13,
        pace_s=0.2,
    ),
    Attack(
        name="answers of reflection behind a window of 0",
        opening=READS_NOTHING,
        burst=_reflections,
        frames=10_000,
        bursts=11,
    ),
    Attack(
        name="requests that pile up in Pipelines",
        opening=READS_NOTHING,
        burst=on_each_stream(_talk(PIPELINE_PATH, _SMALL_REQUESTS), 1),
        frames=17,
        bursts=300,
    ),
    Attack(
        name="answers that are not read",
        opening=h2.PREFACE
        + h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: h2.LARGEST_WINDOW_BYTES})
        + h2.window_update_frame(0, h2.LARGEST_WINDOW_BYTES - h2.DEFAULT_WINDOW_BYTES),
        burst=on_each_stream(lambda s: get_call(s, b"large"), 4),
        frames=8,
        bursts=60,
        reads=False,
        pace_s=0.02,
    ),
    Attack(
        name="as many keys as a batch may have",
        opening=OPENING,
        burst=on_each_stream(lambda s: headers(s, head(BATCH_PATH)) + _batch(s), 1),
        frames=10_000,
        bursts=3,
    ),
)
ATTACKS = (*FLOODS, *GRINDS)
