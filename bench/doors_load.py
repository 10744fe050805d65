"""The generators of load: redis-benchmark for the Redis protocol, h2load for gRPC.

Both run as they come from Debian. Neither compares values, so every run ends with a look at what
they say about errors and bytes, and `check` compares real values afterwards.
"""

import csv
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.doors_programs import BenchFailed, find
from bench.doors_wire import check_keys

CHECKED_AFTER_A_RUN = 500
_TIMEOUT_S = 300.0
_PATTERN = "__rand_int__"  # what redis-benchmark replaces by 12 digits


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of a generator. `p50_ms` is 0 where the generator does not say."""

    operations: int
    per_s: float
    p50_ms: float


class Load(Protocol):
    """Drives one server."""

    def run(self, operations: int) -> Ran:
        """Does so many operations. Raises BenchFailed if one fails."""

    def check(self) -> None:
        """Compares what the server answers with what it must. Raises BenchFailed."""


@dataclass(frozen=True, slots=True)
class RedisLoad:
    """redis-benchmark with `command` over `keys` random keys, on loopback."""

    port: int
    database: int
    keys: int
    command: Sequence[str]
    connections: int = 50
    pipeline: int = 1

    def run(self, operations: int) -> Ran:
        operations = max(operations, self.connections * self.pipeline)
        command = [find("redis-benchmark"), "-p", str(self.port), "--csv", "--precision", "3"]
        command += ["-c", str(self.connections), "-P", str(self.pipeline), "-n", str(operations)]
        command += ["-r", str(self.keys)]
        if self.database:  # proxies have no SELECT
            command += ["--dbnum", str(self.database)]
        printed = _printed([*command, *self.command])
        names, *values = csv.reader(line for line in printed.splitlines() if line[:1] == '"')
        if "Error from server" in printed or not values:
            raise BenchFailed(f"redis-benchmark on port {self.port} failed: {printed[-300:]}")
        row = dict(zip(names, values[0], strict=True))
        return Ran(operations, float(row["rps"]), float(row["p50_latency_ms"]))

    def check(self) -> None:
        check_keys(self.port, self.database, self.keys, CHECKED_AFTER_A_RUN)


def get_command() -> list[str]:
    """A GET of a key that was loaded."""
    return ["GET", f"key:{_PATTERN}"]


def set_command(value_bytes: int) -> list[str]:
    """A SET that leaves the loaded keys as they are, so that they can still be compared."""
    return ["SET", f"written:{_PATTERN}", "w" * value_bytes]


@dataclass(frozen=True, slots=True)
class GrpcCall:
    """A unary call as bytes: a file with the framed request, and how long the answer is."""

    path: str
    body: Path
    answer_bytes: int  # with the five bytes before it


@dataclass(slots=True)
class GrpcLoad:
    """h2load with one connection and 64 streams. Each run takes the next call of `calls`."""

    port: int
    calls: Sequence[GrpcCall]
    streams: int = 64
    runs: int = 0

    def run(self, operations: int) -> Ran:
        call = self.calls[self.runs % len(self.calls)]
        self.runs += 1
        streams = min(self.streams, operations)
        command = [find("h2load"), "-n", str(operations), "-c", "1", "-m", str(streams)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += ["-d", str(call.body), f"http://127.0.0.1:{self.port}{call.path}"]
        printed = _printed(command)
        # A failed call has status 200, too, but no message: all bytes there, none has failed.
        whole = f"({operations * call.answer_bytes}) data"
        rate = re.search(r"([\d.]+) req/s", printed)
        if rate is None or f"{operations} succeeded" not in printed or whole not in printed:
            raise BenchFailed(f"h2load on port {self.port}: calls failed:\n{printed[-900:]}")
        return Ran(operations, float(rate[1]), 0.0)

    def check(self) -> None:
        """Nothing: every run counts its bytes, and `doors_grpc` has compared the answers."""


def _printed(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise BenchFailed(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr}")
    return done.stdout
