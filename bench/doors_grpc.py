"""The gRPC calls of the doors' benchmark: made, tried once each, compared, by grpcio's client."""

import random
from collections.abc import Sequence
from pathlib import Path

import grpc

from bench.doors_load import GrpcCall
from bench.doors_programs import BenchFailed
from bench.doors_wire import VALUE_BYTES, key_of, value_of
from bench.grpc_echo import PATH as ECHO_PATH
from protos.dabbawala.v1 import data_pb2
from sidecar.wire.grpc_codec import PREFIX

GET_PATH, PUT_PATH = "/dabbawala.v1.Data/Get", "/dabbawala.v1.Data/Put"
_TIMEOUT_S = 10.0
_OPTIONS = (("grpc.enable_http_proxy", 0),)


def get_requests(keys: int, count: int, level: "data_pb2.Consistency.ValueType") -> list[bytes]:
    """Gets of `count` random keys of the keyspace `default`."""
    drawn = random.sample(range(keys), min(count, keys))
    return [
        data_pb2.GetRequest(key=key_of(n), consistency=level).SerializeToString() for n in drawn
    ]


def put_requests(count: int) -> list[bytes]:
    """Puts at QUORUM that leave the loaded keys as they are."""
    level = data_pb2.CONSISTENCY_QUORUM
    return [
        data_pb2.PutRequest(
            key=b"put:%012d" % number, value=b"w" * VALUE_BYTES, consistency=level
        ).SerializeToString()
        for number in range(count)
    ]


def make_calls(
    folder: Path, name: str, port: int, path: str, requests: Sequence[bytes]
) -> list[GrpcCall]:
    """Files for h2load. Each request is sent once, to know how long its answer is."""
    calls = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        for number, request in enumerate(requests):
            answer = call(request, timeout=_TIMEOUT_S, wait_for_ready=True)
            _compare(path, request, answer)
            body = folder / f"{name}-{number}.body"
            body.write_bytes(PREFIX.pack(0, len(request)) + request)
            calls.append(GrpcCall(path, body, PREFIX.size + len(answer)))
    return calls


def _compare(path: str, request: bytes, answer: bytes) -> None:
    """What is not OK has been raised by the client; here are the values."""
    if path == GET_PATH:
        number = int(data_pb2.GetRequest.FromString(request).key.rpartition(b":")[2])
        got = data_pb2.GetResponse.FromString(answer)
        right = got.found and got.value == value_of(number)
    elif path == PUT_PATH:
        right = len(data_pb2.PutResponse.FromString(answer).version) == 16
    else:
        right = path == ECHO_PATH and answer == request
    if not right:
        raise BenchFailed(f"{path} answered {answer!r} to {request!r}")


def check_gets(port: int, keys: int, sample: int) -> None:
    """Compares the values of random keys read at QUORUM. Raises BenchFailed."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(GET_PATH)
        for request in get_requests(keys, sample, data_pb2.CONSISTENCY_QUORUM):
            _compare(GET_PATH, request, call(request, timeout=_TIMEOUT_S))
