"""What an honest client notices while a hostile one attacks: python -m bench doors --under-attack.

For each attack two runs: one beside the attack, and one beside a process that takes as much of a
processor as the attacker took, and talks to nobody. What is left between the two is what the
sidecar itself does for the attacker at the expense of others.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import hiredis
import msgspec
from rich.console import Console
from rich.table import Table

from bench.attacker import ATTACKS
from bench.doors_cluster import Cluster, local_cluster
from bench.doors_product import compiled_product
from bench.doors_programs import BenchFailed, Usage, read_line, running
from bench.doors_wire import Conversation, conversation

REACH_RATIO = 2.0
_LARGE_BYTES = 1_000_000
_WIDTH = 120
_IDLE_S, _IDLE_SHARE, _IDLE_TRIES = 0.1, 0.25, 30
_VALUE = b"an honest value"


@dataclass(frozen=True, slots=True)
class Served:
    """What one honest client saw: it asks anew as soon as it is answered."""

    p50_ms: float
    p99_ms: float
    answers: int
    refused: int  # answered with a typed error, such as OVERLOADED


@dataclass(frozen=True, slots=True)
class Attacked:
    """One attack. `share`: of a processor, what the attacker took and the control burnt."""

    door: str
    name: str
    share: float
    sidecar_share: float
    beside: Served
    control: Served

    @property
    def ratio(self) -> float:
        """p99 beside the attack to p99 beside the control."""
        return self.beside.p99_ms / self.control.p99_ms


@dataclass(frozen=True, slots=True)
class Result:
    """All attacks, and the client alone."""

    alone: Served
    attacks: Sequence[Attacked]
    seconds: float


class Attacker:
    """The hostile process."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    def begin(self, *words: object) -> None:
        assert self._process.stdin is not None  # it was given a pipe
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self._process.stdin.flush()

    def cpu_s(self) -> float:
        """Waits for its end: the processor seconds it took."""
        return float(read_line(self._process, "the attacker", self._log))


def measure(talk: Conversation, seconds: float) -> Served:
    """GETs, one at a time. Raises BenchFailed when a value is wrong."""
    end = time.monotonic() + seconds
    took_ms: list[float] = []
    refused = 0
    while time.monotonic() < end:
        began = time.perf_counter()
        reply = talk.ask([(b"GET", b"honest")])[0]
        took_ms.append((time.perf_counter() - began) * 1e3)
        if isinstance(reply, hiredis.ReplyError):
            refused += 1
        elif reply != _VALUE:
            raise BenchFailed(f"an honest client was answered {reply!r}")
    took_ms.sort()
    count = len(took_ms)
    return Served(took_ms[count // 2], took_ms[count * 99 // 100], count, refused)


def chosen(only: Sequence[str]) -> Sequence[tuple[str, int]]:
    """Door and number of the attacks whose names contain one of these words; of all when there are
    none. Raises BenchFailed when there is no such attack.
    """
    found = [
        (door, number)
        for door, attacks in ATTACKS.items()
        for number, attack in enumerate(attacks)
        if not only or any(words in attack.name for words in only)
    ]
    if not found:
        raise BenchFailed(f"no attack is called {' or '.join(only)}; without --only all are made")
    return found


def run(
    seconds: float, only: Sequence[str], progress: Callable[[str], None], *, interpreted: bool
) -> Result:
    """The attacks in turn. Raises BenchFailed."""
    attacks = chosen(only)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dabba-doors-")))
        product = None if interpreted else compiled_product(progress)
        progress("starting servers")
        cluster = stack.enter_context(local_cluster(folder, product))
        command = [sys.executable, "-P", "-m", "bench.attacker"]
        root = Path(__file__).resolve().parent.parent
        process = stack.enter_context(
            running("attacker", command, folder, stdin=subprocess.PIPE, cwd=root)
        )
        attacker = Attacker(process, folder / "attacker.log")
        talk = stack.enter_context(conversation(cluster.redis_port))
        if talk.ask([(b"SET", b"honest", _VALUE), (b"SET", b"large", b"l" * _LARGE_BYTES)]) != [
            b"OK",
            b"OK",
        ]:
            raise BenchFailed("the keys could not be written")
        measure(talk, seconds)  # warms it up
        alone = measure(talk, 2 * seconds)
        attacked = [
            _one(cluster, attacker, door, number, seconds=seconds, progress=progress)
            for door, number in attacks
        ]
        return Result(alone, attacked, seconds)


def _one(
    cluster: Cluster,
    attacker: Attacker,
    door: str,
    number: int,
    *,
    seconds: float,
    progress: Callable[[str], None],
) -> Attacked:
    name = ATTACKS[door][number].name
    progress(f"{door}: {name}")
    port = cluster.grpc_port if door == "grpc" else cluster.redis_port
    sidecar = Usage(cluster.sidecar_pid)
    # A connection of its own for each: no attack may close it.
    with conversation(cluster.redis_port) as talk:
        before = sidecar.cpu_s()
        attacker.begin("attack", door, number, port, seconds)
        beside = measure(talk, seconds)
        share = attacker.cpu_s() / seconds
        sidecar_share = (sidecar.cpu_s() - before) / seconds
        _until_idle(sidecar)
        attacker.begin("burn", share, seconds)
        control = measure(talk, seconds)
        attacker.cpu_s()
    return Attacked(door, name, share, sidecar_share, beside, control)


def _until_idle(sidecar: Usage) -> None:
    """Until what was begun for the attacker has ended: it is none of the control's."""
    for _ in range(_IDLE_TRIES):
        before = sidecar.cpu_s()
        time.sleep(_IDLE_S)
        if sidecar.cpu_s() - before < _IDLE_SHARE * _IDLE_S:
            return


def publish(result: Result, json_to: str | None) -> None:
    """A table, unless the JSON goes to standard output ("-")."""
    if json_to == "-":
        print(as_json(result).decode())
        return
    table = Table(
        title=f"an honest GET, alone: p50 {result.alone.p50_ms:.2f} ms, p99"
        f" {result.alone.p99_ms:.2f} ms; each run {result.seconds} s",
        title_justify="left",
    )
    table.add_column("door")
    table.add_column("attack")
    for name in ("p99 ms", "control ms", "ratio", "refused", "attacker CPU", "sidecar CPU"):
        table.add_column(name, justify="right")
    for one in result.attacks:
        table.add_row(
            one.door,
            one.name,
            f"{one.beside.p99_ms:.2f}",
            f"{one.control.p99_ms:.2f}",
            f"{one.ratio:.1f}" + " !" * (one.ratio > REACH_RATIO),
            str(one.beside.refused or ""),
            f"{one.share:.0%}",
            f"{one.sidecar_share:.0%}",
        )
    console = Console()
    console.width = max(console.width, _WIDTH)  # a file has no width, and cuts nothing off
    console.print(table)
    worse = sum(one.ratio > REACH_RATIO for one in result.attacks)
    console.print(f"{worse} of {len(result.attacks)} above {REACH_RATIO} times the control")
    if json_to is not None:
        Path(json_to).write_bytes(as_json(result) + b"\n")


def as_json(result: Result) -> bytes:
    """One object: the worst ratio, the median, and every attack."""
    ratios = [one.ratio for one in result.attacks]
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "benchmark": "doors under attack",
                "median_ratio": round(statistics.median(ratios), 3),
                "worst_ratio": round(max(ratios), 3),
                "seconds": result.seconds,
                "alone": asdict(result.alone),
                "attacks": [asdict(one) | {"ratio": one.ratio} for one in result.attacks],
            }
        )
    )
