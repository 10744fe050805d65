"""python -m bench linearizable: what a linearizable keyspace costs beside a tunable one at QUORUM.

Both stand on the same `dabba dev`, with the same copies, buckets and durability (memory), and are
asked in turn through the Redis door. A compare-and-set is SET with IFEQ.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hiredis import ReplyError

from bench.doors_cluster import Cluster, local_cluster
from bench.doors_programs import BenchFailed, wait_until
from bench.doors_wire import Conversation, answers, conversation, key_of, load_keys, value_of
from bench.report import Figure, Report, publish

KEYS = 1000
PIPELINE = 16
DATABASE = 12
MOST_OF_A_QUORUM_READ = 1.3
_CREATE = "from control_plane.cli.main import main; main()"
Command = tuple[bytes, ...]


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
        figures = measure(cluster.redis_port, chosen.rounds)
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


def measure(port: int, rounds: int) -> list[Figure]:
    """Latency one at a time, throughput with 16 in a pipeline; the two modes in turn."""
    for database in (0, DATABASE):
        load_keys(port, database, KEYS)
    kinds: dict[str, tuple[int, list[Command]]] = {
        "read, tunable QUORUM": (0, [(b"GET", key_of(n)) for n in range(KEYS)]),
        "read, linearizable": (DATABASE, [(b"GET", key_of(n)) for n in range(KEYS)]),
        "put, tunable QUORUM": (0, [(b"SET", key_of(n), value_of(n)) for n in range(KEYS)]),
        "put, linearizable": (DATABASE, [(b"SET", key_of(n), value_of(n)) for n in range(KEYS)]),
        "compare-and-set": (DATABASE, [_swap(n) for n in range(KEYS)]),
        "increment": (DATABASE, [(b"INCR", b"counter:%d" % n) for n in range(KEYS)]),
        "increment of one key": (DATABASE, [(b"INCR", b"counter")] * KEYS),
    }
    latencies = _latencies(port, kinds, rounds)
    figures: list[Figure] = []
    for name, (database, commands) in kinds.items():
        p50_us = statistics.median(latencies[name]) * 1e6
        p99_us = statistics.quantiles(latencies[name], n=100)[98] * 1e6
        figures += [Figure(f"{name}, p50", p50_us, "us"), Figure(f"{name}, p99", p99_us, "us")]
        figures.append(Figure(f"{name}, throughput", _rate(port, database, commands, rounds), "/s"))
    by_name = {name: statistics.median(found) for name, found in latencies.items()}
    ratio = by_name["read, linearizable"] / by_name["read, tunable QUORUM"]
    title = "uncontended linearizable read over QUORUM read, p50"
    return [*figures, Figure(title, ratio, "x", MOST_OF_A_QUORUM_READ)]


def _swap(number: int) -> Command:
    value = value_of(number)
    return (b"SET", key_of(number), value, b"IFEQ", value)


def _latencies(
    port: int, kinds: dict[str, tuple[int, list[Command]]], rounds: int
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in kinds}
    with conversation(port) as tunable, conversation(port, DATABASE) as linearizable:
        for turn in range(rounds):
            for name, (database, commands) in kinds.items():
                talk = linearizable if database else tunable
                began = time.perf_counter()
                _asked(talk, [commands[turn % KEYS]])
                found[name].append(time.perf_counter() - began)
    return found


def _rate(port: int, database: int, commands: list[Command], rounds: int) -> float:
    with conversation(port, database) as talk:
        began = time.perf_counter()
        for first in range(0, rounds, PIPELINE):
            at = first % (KEYS - PIPELINE)
            _asked(talk, commands[at : at + PIPELINE])
        return rounds / (time.perf_counter() - began)


def _asked(talk: Conversation, commands: list[Command]) -> None:
    for reply in talk.ask(commands):
        if reply is None or isinstance(reply, ReplyError):
            raise BenchFailed(f"{commands[0]!r} was answered {reply!r}")
