"""A sidecar under attack: what it pays for, and whether another client is served meanwhile."""

import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc
import orjson

from bench.attacks import Attack, Fought, connect, fight
from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from tests.support.conversation import packed
from tests.support.local_cluster import (
    CHANNEL_OPTIONS,
    LocalCluster,
    second_sidecar,
    wait_until,
)

MIB = 1 << 20
SECOND_NS = 1_000_000_000
# A machine that is busy with something else is no failure: what is not served at all takes longer.
ANSWER_TIMEOUT_S = 10.0
VALUE = b"an honest value"
LARGE_BYTES = 1_000_000
# The work of one hostile frame, and of one hostile KiB, beside that of one honest request.
DEARER = 3
MOST_WORK = 4_000  # of a connection that is closed for its floods
# What the process does by itself in the meantime, the collector, probes, pings: once, and in each
# second, of which more go by on a busy machine.
SLACK_NS = SECOND_NS // 2
SLACK_NS_A_SECOND = SECOND_NS // 20
# A machine that stalls the sidecar's loop makes it shed load, typed: whoever repeats is served.
SHED = b"-OVERLOADED"
MOST_REPEATS = 20


@dataclass(frozen=True)
class Usage:
    """What the kernel says of a process."""

    pid: int

    def cpu_ns(self) -> int:
        """Processor time of all its threads that live."""
        tasks = Path(f"/proc/{self.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"process {self.pid} has ended")

    def files(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


class HonestClient(threading.Thread):
    """Asks both doors, over and over, and compares what they answer. Stop it with `close`."""

    def __init__(self, target: "Target") -> None:
        super().__init__(daemon=True)
        self._target = target
        self._over = threading.Event()
        self.served = 0
        self.slowest_s = 0.0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            with self._target.redis() as talk, self._target.grpc() as stub:
                while not self._over.wait(0.005):
                    began = time.monotonic()
                    self._ask(talk, stub)
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                    self.served += 2
        except (OSError, grpc.RpcError) as error:
            self.wrong.append(repr(error))

    def _ask(self, talk: "Talk", stub: data_pb2_grpc.DataStub) -> None:
        answers = [_repeated(lambda: talk.ask("GET", "honest")), _repeated(lambda: _get(stub))]
        self.wrong += [repr(answer) for answer in answers if answer != VALUE]

    def close(self) -> None:
        """Asserts that it was served until now, and right."""
        self._over.set()
        self.join(3 * ANSWER_TIMEOUT_S)
        assert not self.wrong, f"an honest client was answered {self.wrong[:3]}"
        assert self.served, "an honest client was not served"


def _get(stub: data_pb2_grpc.DataStub) -> bytes:
    request = data_pb2.GetRequest(keyspace="default", key=b"honest")
    try:
        return stub.Get(request, timeout=ANSWER_TIMEOUT_S).value
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return SHED
        raise


def _repeated(ask: Callable[[], bytes | None]) -> bytes | None:
    answer = ask()
    for _ in range(MOST_REPEATS):
        if answer is None or not answer.startswith(SHED):
            break
        time.sleep(0.01)
        answer = ask()
    return answer


class Talk:
    """A plain Redis conversation, a command at a time, with a port of this host or through a
    connected socket.
    """

    def __init__(self, through: int | socket.socket) -> None:
        if isinstance(through, int):
            through = socket.create_connection(("127.0.0.1", through), ANSWER_TIMEOUT_S)
        self.socket = through
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def ask(self, *args: bytes | str) -> bytes | None:
        """Its answer: bytes of a bulk or of a line with its sign, None for nil."""
        self.socket.sendall(packed(*args))
        return self.answer()

    def answer(self) -> bytes | None:
        """The next one."""
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the connection was closed before the answer had come")
        if line[:1] != b"$":
            return line[:-2]
        size = int(line[1:])
        return None if size < 0 else self._stream.read(size + 2)[:-2]


@dataclass
class Target:
    """A running sidecar: its process and its doors. `honest_ns` is what an honest GET costs it."""

    pid: int
    grpc_port: int
    redis_port: int
    admin: str  # host:port
    honest_ns: int = 0
    usage: Usage = field(init=False)

    def __post_init__(self) -> None:
        self.usage = Usage(self.pid)

    @classmethod
    def of(cls, cluster: LocalCluster) -> Self:
        """The sidecar of `dabba dev`."""
        port = int(cluster.grpc_targets[0].rpartition(":")[2])
        admin = str(cluster.facts["sidecar"]["admin"])
        return cls(cluster.sidecar.pid, port, cluster.redis_port, admin)

    @classmethod
    def second(cls, cluster: LocalCluster, **settings: object) -> Self:
        """Another sidecar with these settings, started now."""
        part = second_sidecar(cluster, "a", **settings)
        bound = orjson.loads((cluster.folder / "sidecar-2" / "ports.json").read_bytes())
        grpc_port, redis_port = (int(bound[door].rpartition(":")[2]) for door in ("grpc", "redis"))
        target = cls(part.pid, grpc_port, redis_port, bound["admin"])
        wait_until(target.serves, "the second sidecar serves")
        return target

    def serves(self) -> bool:
        with self.redis() as talk:
            return (talk.ask("GET", "anybody") or b"")[:1] != b"-"

    def stat(self, name: str, door: str = "grpc") -> int:
        """A number of `/stats` of one of the doors."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.admin}/stats", timeout=ANSWER_TIMEOUT_S) as answer:
            return int(orjson.loads(answer.read())[door][name])

    def redis(self) -> Talk:
        return Talk(self.redis_port)

    @contextmanager
    def grpc(self) -> Iterator[data_pb2_grpc.DataStub]:
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}", options=CHANNEL_OPTIONS) as own:
            yield data_pb2_grpc.DataStub(own)

    def prepare(self) -> Self:
        """Writes what the attacks ask for, and takes the price of an honest GET."""
        with self.redis() as talk:
            assert talk.ask("SET", "honest", VALUE) == b"+OK"
            assert talk.ask("SET", "large", b"l" * LARGE_BYTES) == b"+OK"
        self.price(300)  # warms it up
        self.honest_ns = self.price(1_000)
        return self

    def price(self, count: int) -> int:
        """What an honest GET costs it now, of so many: nanoseconds of processor time."""
        with self.redis() as talk:
            before = self.usage.cpu_ns()
            for _ in range(count):
                assert talk.ask("GET", "honest") == VALUE
            return (self.usage.cpu_ns() - before) // count

    @contextmanager
    def attacked(self, *, grows_bytes: int = 48 * MIB) -> Iterator["Bill"]:
        """What is done to it within costs what `Bill` says, and an honest client is served.

        `grows_bytes`: how much larger it may be at any moment, and afterwards.
        """
        bill = Bill()
        resident_before = self.usage.resident_bytes()
        peak = _Peak(self.usage)
        honest = HonestClient(self)
        honest.start()
        wait_until(lambda: honest.served or honest.wrong, "an honest client is served")
        honest_before, cpu_before = honest.served, self.usage.cpu_ns()
        began = time.monotonic()
        peak.start()
        try:
            yield bill
            # Served afterwards, too.
            done = honest.served
            wait_until(lambda: honest.served > done + 2 or honest.wrong, "still served")
            cpu_ns = self.usage.cpu_ns() - cpu_before
            took_s = time.monotonic() - began
        finally:
            peak.close()
            honest.close()
        allowed = bill.work * DEARER + (honest.served - honest_before) * 2 * DEARER
        grown = peak.bytes - resident_before
        bill.told = (
            f"{bill.work} units of work, {cpu_ns / 1e6:.0f} ms"
            f" ({cpu_ns / max(bill.work, 1) / 1e3:.1f} us each, an honest GET"
            f" {self.honest_ns / 1e3:.1f} us), {grown / MIB:.0f} MiB more, slowest honest answer"
            f" {honest.slowest_s * 1e3:.0f} ms"
        )
        slack_ns = SLACK_NS + int(took_s * SLACK_NS_A_SECOND)
        if cpu_ns > allowed * self.honest_ns + slack_ns:  # has the machine become slower?
            self.honest_ns = max(self.honest_ns, self.price(300))
        assert cpu_ns <= allowed * self.honest_ns + slack_ns, bill.told
        assert grown <= grows_bytes, bill.told

    def fight(self, attack: Attack, port: int, bill: "Bill", *, for_s: float = 5.0) -> Fought:
        """One connection of this attack, until it is closed, `for_s` have passed, or half a second
        in which nothing moved.
        """
        with connect(("127.0.0.1", port)) as sock:
            fought = fight(attack, sock, for_s=for_s, quiet_s=0.5)
        bill.work += fought.work
        return fought

    def fight_to_the_end(self, attack: Attack, port: int, bill: "Bill") -> Fought:
        """The same; asserts that it is closed."""
        with connect(("127.0.0.1", port)) as sock:
            fought = fight(attack, sock, for_s=ANSWER_TIMEOUT_S if attack.reads else 1)
            if not attack.reads:
                fought.heard += until_closed(sock)
            else:
                assert fought.closed, "it was let go on"
        # No budget lets more through; what was sent beyond was never looked at.
        bill.work += min(fought.work, MOST_WORK)
        return fought


@dataclass
class Bill:
    """Frames and KiB that the sidecar was made to look at; `told` says what they cost."""

    work: int = 0
    told: str = ""


class _Peak(threading.Thread):
    """The most memory that a process has had."""

    def __init__(self, usage: Usage) -> None:
        super().__init__(daemon=True)
        self._usage = usage
        self._over = threading.Event()
        self.bytes = usage.resident_bytes()

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.bytes = max(self.bytes, self._usage.resident_bytes())

    def close(self) -> None:
        self._over.set()
        self.join()
        self.bytes = max(self.bytes, self._usage.resident_bytes())


def until_closed(sock: socket.socket, most_bytes: int = 1 << 62) -> bytes:
    """All that is said until the end, or so much of it; an end must come in time."""
    sock.settimeout(ANSWER_TIMEOUT_S)
    heard = bytearray()
    try:
        while len(heard) < most_bytes and (data := sock.recv(1 << 18)):
            heard += data
    except ConnectionResetError:
        pass
    return bytes(heard)
