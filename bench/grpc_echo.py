"""The gRPC door's engine against grpc.aio: the same unary echo, side by side, rounds in turn.

Both servers run on uvloop in processes of their own; h2load keeps 64 streams of one connection
busy. That nothing failed and that every byte of every answer came is checked in each round, what
the answers say by a grpcio client beforehand. Needs h2load (Debian: nghttp2-client).
"""

import argparse
import asyncio
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from hpack import Encoder

from bench.report import Figure, Report, publish
from sidecar.net.grpc_door import GrpcDoor
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes
from sidecar.wire.grpc_codec import PREFIX
from sidecar.wire.http2_headers import HeaderBlocks, RequestHead

PATH = "/bench.Echo/Echo"
MESSAGE = b"m" * 32
STREAMS = 64
CLOCK_TICKS_PER_S = 100


def _respond(call: Call, message: bytes) -> None:
    call.respond(message)


async def serve_door(listener: socket.socket) -> None:
    """Our engine."""
    door = GrpcDoor(GrpcRoutes({PATH.encode(): _respond}), GrpcLimits(), time.monotonic_ns)
    server = await asyncio.get_running_loop().create_server(door, sock=listener)
    print(listener.getsockname()[1], flush=True)
    await server.serve_forever()


async def serve_grpcio(listener: socket.socket) -> None:
    """grpc.aio; it wants to bind by itself."""
    listener.close()
    service, method = PATH[1:].split("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_echo)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def _echo(request: bytes, context: object) -> bytes:
    return request


ENGINES: dict[str, Callable[[socket.socket], Coroutine[None, None, None]]] = {
    "door": serve_door,
    "grpc.aio": serve_grpcio,
}


@dataclass
class Engine:
    """One server process and what was measured of it."""

    process: "subprocess.Popen[str]"
    port: int
    calls_per_s: list[float]
    cpu_s_per_100k: list[float]

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S


@contextmanager
def started(name: str) -> Iterator[Engine]:
    """A server, gone afterwards."""
    command = [sys.executable, "-m", "bench.grpc_echo", "--serve", name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Engine(process, int(process.stdout.readline()), [], [])
    finally:
        process.kill()
        process.communicate()


def check_answer(engine: Engine) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{engine.port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PATH)
        if call(MESSAGE, timeout=5) != MESSAGE:
            raise SystemExit("grpc-echo: an answer is not what was sent")


def load(engine: Engine, calls: int, streams: int, body: Path) -> str:
    """Runs h2load and answers what it printed; ends the benchmark if one call failed."""
    command = ["h2load", "-n", str(calls), "-c", "1", "-m", str(streams), "-d", str(body)]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command.append(f"http://127.0.0.1:{engine.port}{PATH}")
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    whole = f"({calls * (len(MESSAGE) + 5)}) data"
    if (
        f"{calls} succeeded, 0 failed, 0 errored" not in printed.stdout
        or whole not in printed.stdout
    ):
        raise SystemExit(f"grpc-echo: calls failed:\n{printed.stdout}")
    return printed.stdout


def measure(engine: Engine, calls: int, body: Path) -> None:
    """One round."""
    before = engine.cpu_s()
    printed = load(engine, calls, STREAMS, body)
    rate = re.search(r"([\d.]+) req/s", printed)
    assert rate is not None
    engine.calls_per_s.append(float(rate[1]))
    engine.cpu_s_per_100k.append((engine.cpu_s() - before) * 100_000 / calls)


def header_block_us() -> tuple[float, float]:
    """Microseconds for a block seen before, and for one that must be decoded and checked."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", "localhost"),
    ]
    fields += [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "x/1.0")]
    encoder = Encoder()
    blocks = HeaderBlocks(lambda head: head, 16_384)
    fresh = [encoder.encode([*fields, ("grpc-timeout", f"{n}u")]) for n in range(10_000, 12_000)]
    decoded_us = _each_us(blocks, fresh)
    blocks.request(encoder.encode(fields))
    return _each_us(blocks, [encoder.encode(fields)] * len(fresh)), decoded_us


def _each_us(blocks: HeaderBlocks[RequestHead], encoded: list[bytes]) -> float:
    began = time.perf_counter()
    for block in encoded:
        blocks.request(block)
    return (time.perf_counter() - began) / len(encoded) * 1e6


def run(rounds: int, calls: int) -> Report:
    """All rounds; grpc.aio gets a tenth of the calls."""
    with (
        started("door") as door,
        started("grpc.aio") as other,
        tempfile.TemporaryDirectory() as tmp,
    ):
        body = Path(tmp, "body")
        body.write_bytes(PREFIX.pack(0, len(MESSAGE)) + MESSAGE)
        for engine in (door, other):
            check_answer(engine)
            load(engine, calls // 20, STREAMS, body)
        for _ in range(rounds):
            measure(door, calls, body)
            measure(other, calls // 10, body)
    rates = [statistics.median(engine.calls_per_s) for engine in (door, other)]
    cpu = [statistics.median(engine.cpu_s_per_100k) for engine in (door, other)]
    known_us, decoded_us = header_block_us()
    return Report(
        "gRPC unary echo, 64 streams",
        [
            Figure("door", rates[0], "calls/s"),
            Figure("grpc.aio", rates[1], "calls/s"),
            Figure("door / grpc.aio", rates[0] / rates[1], "", 6.7, at_least=True),
            Figure("door, CPU", cpu[0], "s per 100,000"),
            Figure("grpc.aio, CPU", cpu[1], "s per 100,000"),
            Figure("header block, seen before", known_us, "us"),
            Figure("header block, decoded", decoded_us, "us"),
        ],
    )


def main(arguments: Sequence[str]) -> int:
    """Measures and publishes; with --serve, is one of the servers."""
    parser = argparse.ArgumentParser(prog="python -m bench grpc-echo")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=40_000, help="calls of a round")
    parser.add_argument("--json", nargs="?", const="-", help="write JSON to this file, or stdout")
    parser.add_argument("--serve", choices=sorted(ENGINES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        uvloop.run(ENGINES[options.serve](socket.create_server(("127.0.0.1", 0))))
        return 0
    if shutil.which("h2load") is None:
        parser.error("h2load is missing: install nghttp2-client")
    publish(run(options.rounds, options.calls), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
