"""What a request's header block asks for, decided once for every distinct block of a connection."""

from dataclasses import dataclass
from typing import Final

from sidecar.wire.grpc import GrpcRoutes, StreamHandler, UnaryHandler
from sidecar.wire.grpc_codec import (
    ANSWER_HEAD,
    CONTENT_TYPE,
    INTERNAL,
    UNIMPLEMENTED,
    http_refusal,
    read_binary_metadata,
    read_timeout,
    status_trailers,
)
from sidecar.wire.hpack_decoder import Field
from sidecar.wire.http2_headers import RequestHead

# Not metadata: these belong to HTTP/2 and gRPC. grpcio's servers hide the same.
_RESERVED: Final = frozenset(
    (
        b"te",
        b"content-type",
        b"content-length",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
    )
)


@dataclass(slots=True)
class GrpcRequest:
    """A request that is understood. Exactly one of `unary`, `stream` and `refusal` is given."""

    method: bytes
    metadata: tuple[Field, ...] = ()
    timeout_ns: int | None = None
    encoding: bytes = b""
    unary: UnaryHandler | None = None
    stream: StreamHandler | None = None
    refusal: bytes = b""  # the header block that ends it


def read_request(head: RequestHead, routes: GrpcRoutes) -> GrpcRequest:
    """Checks a head by the rules of gRPC and finds its handler."""
    request = GrpcRequest(head.path)
    content_type = b""
    metadata: list[Field] = []
    try:
        for name, value in head.fields:
            if name == b"content-type":
                content_type = value
            elif name == b"grpc-timeout":
                request.timeout_ns = read_timeout(value)
            elif name == b"grpc-encoding":
                request.encoding = value
            elif name not in _RESERVED:
                metadata += _metadata(name, value)
    except ValueError as fault:
        request.refusal = ANSWER_HEAD + status_trailers(INTERNAL, str(fault), b"")
    request.metadata = tuple(metadata)
    _find_handler(request, routes)
    if head.method != b"POST":
        request.refusal = http_refusal(405, (b"allow", b"POST"))
    elif content_type[:16] != CONTENT_TYPE or content_type[16:17] not in (b"", b"+", b";"):
        request.refusal = http_refusal(415)
    if request.refusal:
        request.unary = request.stream = None
    return request


def _find_handler(request: GrpcRequest, routes: GrpcRoutes) -> None:
    request.unary = routes.unary.get(request.method)
    request.stream = routes.stream.get(request.method)
    if request.unary is None and request.stream is None and not request.refusal:
        name = request.method[:256].decode("utf-8", "replace")
        request.refusal = ANSWER_HEAD + status_trailers(
            UNIMPLEMENTED, f"unknown method {name}", b""
        )


def _metadata(name: bytes, value: bytes) -> list[Field]:
    if not name.endswith(b"-bin"):
        return [(name, value)]
    try:
        return [(name, part) for part in read_binary_metadata(value)]
    except ValueError as fault:
        raise ValueError(f"metadata {name.decode()} {fault}") from fault
