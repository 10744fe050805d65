"""python -m bench linearizable: what a linearizable keyspace costs beside a tunable one at QUORUM.

Both stand on the same `dabba dev`, with the same copies, buckets and durability (memory), and are
asked in turn through the Redis door. A compare-and-set is SET with IFEQ. What one read costs is
what its caller waits. What many in a pipeline cost is shown beside it, without a bound: reads at
QUORUM that arrive together are one batch, which is half the work; those of registers are not yet.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hiredis import ReplyError

from bench.doors_cluster import Cluster, local_cluster
from bench.doors_programs import BenchFailed, Usage, wait_until
from bench.doors_wire import Conversation, answers, conversation, key_of, load_keys, value_of
from bench.report import Figure, Report, publish

KEYS = 1000
PIPELINE = 16
DATABASE = 12
MOST_OF_A_QUORUM_READ = 1.3
_CREATE = "from control_plane.cli.main import main; main()"
TURNS = 9
READ_AT_QUORUM, READ_LINEARIZABLE = "read, tunable QUORUM", "read, linearizable"
Command = tuple[bytes, ...]
Kinds = dict[str, tuple[int, list[Command]]]


def main(arguments: Sequence[str]) -> int:
    """Status 1 when a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench linearizable", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000, help="operations of each kind")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    chosen = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="dabba-bench-") as folder,
        local_cluster(Path(folder)) as cluster,
    ):
        _create(cluster)
        figures = measure(cluster, chosen.rounds)
    publish(Report("linearizable", figures), chosen.json)
    return int(any(figure.reached is False for figure in figures))


def _create(cluster: Cluster) -> None:
    arguments = ["keyspace", "create", "ledger", "--mode", "linearizable", "--durability", "memory"]
    arguments += ["--redis-db", str(DATABASE), "--control-plane", cluster.control_plane]
    command = [sys.executable, "-P", "-c", _CREATE, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=cluster.environment, timeout=60, check=False
    )
    if done.returncode:
        raise BenchFailed(f"keyspace ledger was not created: {done.stderr or done.stdout}")
    wait_until(_served(cluster.redis_port), "keyspace ledger is served", timeout_s=60)


def _served(port: int) -> Callable[[], bool]:
    asked = answers(port, DATABASE)

    def served() -> bool:
        try:
            return asked()
        except BenchFailed:  # the map that has the keyspace is not there yet
            return False

    return served


def measure(cluster: Cluster, rounds: int) -> list[Figure]:
    """Latency one at a time; throughput, and what the sidecar spends, with 16 in a pipeline."""
    port = cluster.redis_port
    for database in (0, DATABASE):
        load_keys(port, database, KEYS)
    reads: list[Command] = [(b"GET", key_of(n)) for n in range(KEYS)]
    writes: list[Command] = [(b"SET", key_of(n), value_of(n)) for n in range(KEYS)]
    kinds: Kinds = {
        READ_AT_QUORUM: (0, reads),
        READ_LINEARIZABLE: (DATABASE, reads),
        "put, tunable QUORUM": (0, writes),
        "put, linearizable": (DATABASE, writes),
        "compare-and-set": (DATABASE, [_swap(n) for n in range(KEYS)]),
        "increment": (DATABASE, [(b"INCR", b"counter:%d" % n) for n in range(KEYS)]),
        "increment of one key": (DATABASE, [(b"INCR", b"counter")] * KEYS),
    }
    latencies = _latencies(port, kinds, rounds)
    paces = _paces(port, Usage(cluster.sidecar_pid), kinds, rounds)
    figures: list[Figure] = []
    for name in kinds:
        found_us = [latency_s * 1e6 for latency_s in latencies[name]]
        figures.append(Figure(f"{name}, p50", statistics.median(found_us), "us"))
        figures.append(Figure(f"{name}, p99", statistics.quantiles(found_us, n=100)[98], "us"))
        figures.append(Figure(f"{name}, throughput", paces[name].per_s(), "/s"))
        figures.append(Figure(f"{name}, CPU of the sidecar", paces[name].cpu_us(), "us"))
    p50_s = {name: statistics.median(found) for name, found in latencies.items()}
    tunable, linearizable = paces[READ_AT_QUORUM], paces[READ_LINEARIZABLE]
    for what, ratio, reach in (
        ("p50", p50_s[READ_LINEARIZABLE] / p50_s[READ_AT_QUORUM], MOST_OF_A_QUORUM_READ),
        ("time in pipelines", tunable.per_s() / linearizable.per_s(), None),
        ("CPU in pipelines", linearizable.cpu_us() / tunable.cpu_us(), None),
    ):
        title = f"uncontended linearizable read over QUORUM read, {what}"
        figures.append(Figure(title, ratio, "x", reach))
    return figures


def _swap(number: int) -> Command:
    value = value_of(number)
    return (b"SET", key_of(number), value, b"IFEQ", value)


def _latencies(port: int, kinds: Kinds, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in kinds}
    with conversation(port) as tunable, conversation(port, DATABASE) as linearizable:
        for turn in range(rounds):
            for name, (database, commands) in kinds.items():
                talk = linearizable if database else tunable
                began = time.perf_counter()
                _asked(talk, [commands[turn % KEYS]])
                found[name].append(time.perf_counter() - began)
    return found


@dataclass(slots=True)
class _Pace:
    """What one kind of operation took in pipelines: seconds per operation of each turn, and CPU."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    operations: int = 0

    def per_s(self) -> float:
        return 1 / statistics.median(self.seconds)

    def cpu_us(self) -> float:
        return self.cpu_s / self.operations * 1e6


def _paces(port: int, sidecar: Usage, kinds: Kinds, rounds: int) -> dict[str, _Pace]:
    """All kinds in turn, several times: what else the machine does falls on all of them."""
    paces = {name: _Pace() for name in kinds}
    with conversation(port) as tunable, conversation(port, DATABASE) as linearizable:
        for _ in range(TURNS):
            for name, (database, commands) in kinds.items():
                pace, talk = paces[name], linearizable if database else tunable
                began, spent = time.perf_counter(), sidecar.cpu_s()
                for first in range(0, rounds, PIPELINE):
                    at = first % (KEYS - PIPELINE)
                    _asked(talk, commands[at : at + PIPELINE])
                done = -(-rounds // PIPELINE) * PIPELINE
                pace.seconds.append((time.perf_counter() - began) / done)
                pace.cpu_s += sidecar.cpu_s() - spent
                pace.operations += done
    return paces


def _asked(talk: Conversation, commands: list[Command]) -> None:
    for reply in talk.ask(commands):
        if reply is None or isinstance(reply, ReplyError):
            raise BenchFailed(f"{commands[0]!r} was answered {reply!r}")
