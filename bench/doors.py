"""The doors beside real proxies (D1 to D7): python -m bench doors.

Starts a local cluster with the sidecar as `dabba dev` configures it and as it is shipped, compiled;
another one with the sidecar as a checkout runs it; Envoy, twemproxy, HAProxy, plain Valkeys and two
gRPC echo servers; loads the same keys everywhere; drives all in turn. See
docs/benchmarks.md for how to read what it prints. Nothing that it started outlives it.
"""

import argparse
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console

from bench import doors_attacked, doors_grpc
from bench.doors_cluster import ONE_DATABASE, WIDE_DATABASE, Cluster, local_cluster
from bench.doors_load import GrpcLoad, RedisLoad, get_command, set_command
from bench.doors_peers import Peer, Peers, peers
from bench.doors_product import compiled_product
from bench.doors_programs import BenchFailed, Usage, require_all
from bench.doors_report import Outcome, publish_outcome
from bench.doors_rounds import Contender, Workload, proxy_ratios, ratios, run_rounds
from bench.doors_wire import VALUE_BYTES, check_keys, load_keys
from bench.grpc_echo import PATH as ECHO_PATH
from protos.dabbawala.v1 import data_pb2
from sidecar.stats import COMPILED

EXIT_FAILED = 2
INTERPRETED = "interpreted"
# h2load sends one request over and over; each of its runs takes the next of so many.
GRPC_KEYS = 32
CHECKED_IN_FULL = 5_000


@dataclass(slots=True)
class Field:
    """All that takes part, and the keys that all of them hold."""

    cluster: Cluster
    interpreted: Cluster | None  # measured beside `cluster`, which is then compiled
    peers: Peers
    folder: Path
    keys: int
    proxies: dict[str, Peer] = field(init=False)

    def __post_init__(self) -> None:
        self.proxies = {
            "envoy": self.peers.envoy,
            "twemproxy": self.peers.twemproxy,
            "haproxy": self.peers.haproxy,
            "straight": self.peers.straight,
        }

    def load(self) -> None:
        """The same keys everywhere, and a first look at what is answered."""
        doors = [(self.cluster.redis_port, database) for database in (0, ONE_DATABASE)]
        if self.interpreted is not None:
            doors.append((self.interpreted.redis_port, ONE_DATABASE))
        others = [self.peers.envoy, self.peers.twemproxy, self.peers.straight]
        for port, database in (*doors, *((peer.port, 0) for peer in others)):
            load_keys(port, database, self.keys)
        self.check()

    def check(self) -> None:
        """Compares values of every server."""
        sample = min(CHECKED_IN_FULL, self.keys)
        for database in (0, ONE_DATABASE):
            check_keys(self.cluster.redis_port, database, self.keys, sample)
        for peer in self.proxies.values():
            check_keys(peer.port, 0, self.keys, sample)
        doors_grpc.check_gets(self.cluster.grpc_port, self.keys, sample // 10)

    def workloads(self) -> list[Workload]:
        """Everything that is measured in a round."""
        get, write = get_command(), set_command(VALUE_BYTES)
        return [
            self._redis("get", get, ONE_DATABASE),
            self._redis("get, pipeline 16", get, ONE_DATABASE, pipeline=16),
            self._redis("get, one at a time", get, ONE_DATABASE, connections=1),
            self._redis("get at QUORUM", get, 0, alone=True),
            self._redis("set (sidecar: 3 copies, QUORUM)", write, 0),
            *self._grpc(),
        ]

    def _redis(
        self,
        name: str,
        command: Sequence[str],
        database: int,
        *,
        connections: int = 50,
        pipeline: int = 1,
        alone: bool = False,
    ) -> Workload:
        def contender(who: str, port: int, pid: int, database: int) -> Contender:
            load = RedisLoad(port, database, self.keys, command, connections, pipeline)
            return Contender(who, Usage(pid), load)

        def sidecar(who: str, cluster: Cluster) -> Contender:
            return contender(who, cluster.redis_port, cluster.sidecar_pid, database)

        ours = [sidecar("sidecar", self.cluster)]
        if self.interpreted is not None and database == ONE_DATABASE:
            ours.append(sidecar(INTERPRETED, self.interpreted))
        others = {} if alone else self.proxies
        return Workload(
            name, [*ours, *(contender(who, p.port, p.pid, 0) for who, p in others.items())]
        )

    def _grpc(self) -> list[Workload]:
        requests = {
            level: doors_grpc.get_requests(self.keys, GRPC_KEYS, level)
            for level in (data_pb2.CONSISTENCY_QUORUM, data_pb2.CONSISTENCY_ONE)
        }
        quorum, one = requests.values()
        sidecar = Peer(self.cluster.grpc_port, self.cluster.sidecar_pid)

        def contender(who: str, peer: Peer, path: str, bodies: Sequence[bytes]) -> Contender:
            name = f"{who}-{path.rpartition('/')[2]}-{id(bodies)}"
            calls = doors_grpc.make_calls(self.folder, name, peer.port, path, bodies)
            return Contender(who, Usage(peer.pid), GrpcLoad(peer.port, calls))

        get_path, put_path = doors_grpc.GET_PATH, doors_grpc.PUT_PATH
        puts = doors_grpc.put_requests(GRPC_KEYS)
        echoes = {"grpc.aio echo": self.peers.grpc_aio_echo, "door echo": self.peers.door_echo}
        return [
            Workload(
                "grpc get",
                [
                    contender("sidecar", sidecar, get_path, quorum),
                    *(contender(who, p, ECHO_PATH, quorum) for who, p in echoes.items()),
                ],
            ),
            Workload("grpc get at ONE", [contender("sidecar", sidecar, get_path, one)]),
            Workload("grpc put at QUORUM", [contender("sidecar", sidecar, put_path, puts)]),
        ]

    def resident_bytes(self) -> dict[str, int]:
        """Memory of every proxy now."""
        pids = {name: peer.pid for name, peer in self.proxies.items()}
        pids |= {
            "grpc.aio echo": self.peers.grpc_aio_echo.pid,
            "door echo": self.peers.door_echo.pid,
        }
        pids["sidecar"] = self.cluster.sidecar_pid
        if self.interpreted is not None:
            pids[INTERPRETED] = self.interpreted.sidecar_pid
        return {name: Usage(pid).resident_bytes() for name, pid in pids.items()}


def run(options: argparse.Namespace, progress: Callable[[str], None]) -> Outcome:
    """The whole benchmark. Raises BenchFailed."""
    require_all()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dabba-doors-")))
        product = None if options.interpreted else compiled_product(progress)
        progress("starting servers")
        cluster = stack.enter_context(local_cluster(folder, product))
        interpreted = None
        if product is not None:
            beside = folder / "i"  # short: the path of a Unix socket is
            beside.mkdir()
            interpreted = stack.enter_context(local_cluster(beside))
        everybody = stack.enter_context(peers(folder))
        field_ = Field(cluster, interpreted, everybody, folder, options.keys)
        progress(f"loading {options.keys:,} keys everywhere")
        field_.load()
        workloads = field_.workloads()
        run_rounds(workloads, options.rounds, options.seconds, progress)
        field_.check()
        resident = field_.resident_bytes()
        progress(f"a map of {options.map_buckets:,} buckets")
        cluster.create_keyspace("wide", WIDE_DATABASE, level="quorum", buckets=options.map_buckets)
        wide_bytes = Usage(cluster.sidecar_pid).resident_bytes()
        by_name = {workload.name: workload for workload in workloads}
        return Outcome(
            ratios(by_name) | {"D7": wide_bytes / 1e6},
            proxy_ratios(by_name, INTERPRETED) if interpreted is not None else {},
            workloads,
            resident | {"sidecar, wide map": wide_bytes},
            _settings(options, compiled=COMPILED or product is not None),
        )


def _settings(options: argparse.Namespace, *, compiled: bool) -> dict[str, object]:
    return {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "keys": options.keys,
        "value_bytes": VALUE_BYTES,
        "map_buckets": options.map_buckets,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "compiled": compiled,
    }


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does: what was started is stopped first."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str]) -> int:
    """Measures and publishes. Status 2: it could not be measured; 130: stopped."""
    parser = argparse.ArgumentParser(prog="python -m bench doors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run, about")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--map-buckets", type=int, default=4_096, help="of the map of D7")
    parser.add_argument(
        "--interpreted",
        action="store_true",
        help="measure the sidecar as the checkout runs it, without compiling its hot modules",
    )
    parser.add_argument(
        "--under-attack",
        action="store_true",
        help="the p99 of an honest client while hostile ones attack, beside a control run",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="WORDS",
        help="of the attacks those with these words in their name; may be given several times",
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it, too")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        with _ended_like_ctrl_c(), console.status("") as status:
            if options.under_attack:
                attacked = doors_attacked.run(
                    options.seconds, options.only, status.update, interpreted=options.interpreted
                )
                publish = partial(doors_attacked.publish, attacked, options.json)
            else:
                outcome = run(options, status.update)
                publish = partial(publish_outcome, outcome, options.json, options.plot)
    except BenchFailed as error:
        print(f"doors: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("doors: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    publish()
    return 0
