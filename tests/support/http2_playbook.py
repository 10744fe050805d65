"""HTTP/2 as readable lines: frames a client may send, and what a server sent, one line a frame.

peer = Peer(routes)
peer.says(request(1, "/t.T/Echo"), data(1, message(b"x"), end=True))
assert peer.hears() == ["HEADERS 1 200", "DATA 1 b'\\0\\0\\0\\0\\1x'", "TRAILERS 1 grpc-status=0"]
"""

from collections.abc import Callable
from typing import Final

from hpack import Decoder

from sidecar.wire import http2_frames as h2
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes
from sidecar.wire.grpc_codec import PREFIX
from sidecar.wire.grpc_server import GrpcConnection
from sidecar.wire.http2_limits import SECOND_NS, Counters

CODES: Final = {
    value: name
    for name, value in vars(h2).items()
    if name in ("NO_ERROR", "REFUSED_STREAM", "STREAM_CLOSED", "CANCEL", "ENHANCE_YOUR_CALM")
    or (name.endswith("_ERROR") and isinstance(value, int))
}
Fields = list[tuple[str, str]]


def echo(call: Call, body: bytes) -> None:
    """A handler that answers with what it was given."""
    call.respond(body)


def message(body: bytes, compressed: int = 0) -> bytes:
    return PREFIX.pack(compressed, len(body)) + body


def head(path: str = "/t.T/Echo", **changes: str) -> Fields:
    """A gRPC request's fields; `changes` by name, with _ for -, and "" to leave one out."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for name, value in changes.items():
        name = name.replace("_", "-")
        fields[f":{name}" if f":{name}" in fields else name] = value
    return [(name, value) for name, value in fields.items() if value]


def headers(stream: int, fields: Fields, *, end: bool = False) -> bytes:
    payload = b"".join(_literal(name.encode(), value.encode()) for name, value in fields)
    flags = h2.END_HEADERS | (h2.END_STREAM if end else 0)
    return h2.frame(h2.HEADERS, flags, stream, payload)


def _literal(name: bytes, value: bytes) -> bytes:
    """A field that leaves the table alone; short names and values only."""
    assert len(name) < 127
    assert len(value) < 127
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def request(stream: int, path: str = "/t.T/Echo", *, end: bool = False, **changes: str) -> bytes:
    return headers(stream, head(path, **changes), end=end)


def data(stream: int, body: bytes = b"", *, end: bool = False) -> bytes:
    return h2.frame(h2.DATA, h2.END_STREAM if end else 0, stream, body)


def call(stream: int, path: str = "/t.T/Echo", body: bytes = b"x") -> bytes:
    return request(stream, path) + data(stream, message(body), end=True)


def fields_of(block: bytes, decoder: Decoder | None = None) -> dict[str, str]:
    """The fields of a block of the server's."""
    fields = (decoder or Decoder()).decode(block, raw=True)
    return {bytes(name).decode(): bytes(value).decode() for name, value in fields}


HELLO: Final = h2.PREFACE + h2.settings_frame({})


class Peer:
    """A client in front of one connection; time moves only when told to."""

    def __init__(
        self,
        routes: GrpcRoutes,
        limits: GrpcLimits | None = None,
        hello: bytes = HELLO,
        counters: Counters | None = None,
    ) -> None:
        """`counters`: those of a door that it shares with others."""
        self.now_ns = 1_000 * SECOND_NS
        self.counters = counters or Counters()
        self.flushes_asked = 0
        self.server = GrpcConnection(
            routes, limits or GrpcLimits(), self.counters, self._on_output, self.now_ns
        )
        self.http = self.server.http
        self._decoder = Decoder()
        self._answering: set[int] = set()
        self._received = b""
        if hello:
            self.says(hello)
            assert self.hears()[0].startswith("SETTINGS")

    def _on_output(self) -> None:
        self.flushes_asked += 1

    def says(self, *frames: bytes) -> None:
        self.http.receive(b"".join(frames), self.now_ns)
        self._received += self.http.take_output()

    def waits(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)
        self.http.sweep(self.now_ns)

    def hears(self) -> list[str]:
        """All that has come since the last time, a line for each frame."""
        while True:
            self._received += self.http.take_output()
            if not self.http.out.has_more:
                break
        lines = []
        while self._received:
            lines.append(self._next_line())
        return lines

    def _next_line(self) -> str:
        high, low, kind, flags, stream = h2.FRAME_HEADER.unpack_from(self._received)
        size = high << 8 | low
        payload = self._received[9 : 9 + size]
        assert len(payload) == size
        self._received = self._received[9 + size :]
        describe: dict[int, Callable[[int, int, bytes], str]] = {
            h2.DATA: self._data,
            h2.HEADERS: self._headers,
            h2.RST_STREAM: lambda _, stream, payload: f"RST_STREAM {stream} {_code(payload)}",
            h2.SETTINGS: lambda flags, *_: "SETTINGS ACK" if flags & h2.ACK else "SETTINGS",
            h2.PING: lambda flags, _, payload: (
                f"PING {'ACK ' * (flags & h2.ACK)}{payload.decode()}"
            ),
            h2.GOAWAY: lambda _, __, payload: f"GOAWAY {_id(payload)} {_code(payload[4:8])}",
            h2.WINDOW_UPDATE: lambda _, stream, payload: f"WINDOW_UPDATE {stream} {_id(payload)}",
        }
        return describe[kind](flags, stream, payload)

    def _data(self, flags: int, stream: int, payload: bytes) -> str:
        shown = repr(payload) if len(payload) < 64 else f"{len(payload)} bytes"
        return f"DATA {stream} {shown}{' END' * (flags & h2.END_STREAM)}"

    def _headers(self, flags: int, stream: int, payload: bytes) -> str:
        fields = fields_of(payload, self._decoder)
        status = fields.pop(":status", None)
        ended = bool(flags & h2.END_STREAM)
        assert (status is None) == (stream in self._answering)
        self._answering.add(stream)
        shown = [] if status is None else [str(status)]
        shown += [f"{name}={value}" for name, value in fields.items() if name != "content-type"]
        name = "HEADERS" if status is not None else "TRAILERS"
        return " ".join([name, str(stream), *shown] + ["END"] * (ended and status is not None))


def _id(payload: bytes) -> int:
    return int(h2.UINT32.unpack_from(payload)[0])


def _code(payload: bytes) -> str:
    return CODES[_id(payload)]
