"""Unmodified Redis clients on the door, over TCP and a Unix socket; and clients that mean harm."""

import asyncio
import csv
import io
import resource
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from sidecar.redis.limits import RespLimits
from tests.support.conversation import packed
from tests.support.redis_door import RunningDoor, running_door

DEADLINE_S = 10.0
ONCE = Retry(NoBackoff(), 0)
# Small, and about half a millisecond of work.
DEAR = packed("MGET", *["k"] * 100)
DEAR_REPLY = b"*100\r\n" + b"$-1\r\n" * 100


@pytest.fixture
def door(tmp_path: Path) -> Iterator[RunningDoor]:
    with running_door(tmp_path) as running:
        yield running


def connect(door: RunningDoor) -> socket.socket:
    return socket.create_connection((door.host, door.port), timeout=DEADLINE_S)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = sock.recv(min(262_144, size - len(data)))
        assert part, f"closed after {len(data)} bytes"
        data += part
    return bytes(data)


def read_to_end(sock: socket.socket) -> bytes:
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def execute(client: redis.Redis, *command: str) -> object:
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


# redis-py ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("unix", [False, True])
def test_redis_py(door: RunningDoor, protocol: int, unix: bool) -> None:
    where = {"unix_socket_path": str(door.path)} if unix else {"host": door.host, "port": door.port}
    with closing(redis.Redis(**where, protocol=protocol)) as client:
        assert client.ping()
        assert client.set("k", b"\x00\r\nv")
        assert client.get("k") == b"\x00\r\nv"
        assert client.get("nosuch") is None
        assert client.mset({"a": 1, "b": 2})
        assert client.mget("a", "nosuch", "b") == [b"1", None, b"2"]
        assert client.set("t", "v", ex=100)
        assert 99 <= client.ttl("t") <= 100
        assert client.exists("a", "b", "nosuch") == 2
        assert client.strlen("k") == 4
        assert client.getrange("k", 1, 2) == b"\r\n"
        assert client.type("a") == b"string"
        assert client.delete("a", "b", "nosuch") == 2
        assert client.config_get("save") == {"save": ""}
        assert client.info("replication")["role"] == "master"
        assert client.client_setname("me")
        assert client.client_getname() in ("me", b"me")  # by protocol
        assert [one["name"] for one in client.client_list()] == ["me"]
        assert client.command_count() > 40
        assert execute(client, "DABBA.CONSISTENCY", "ONE") in (b"OK", True)
        with pytest.raises(redis.ResponseError, match="needs a linearizable keyspace"):
            client.incr("n")
        with pytest.raises(redis.ResponseError, match="unknown command 'FOO'"):
            execute(client, "FOO")


def test_redis_py_pipelines_keep_order(door: RunningDoor) -> None:
    with closing(redis.Redis(door.host, door.port)) as client:
        pipeline = client.pipeline(transaction=False)
        for at in range(5000):
            pipeline.set(f"k{at}", at)
            pipeline.get(f"k{at}")
        answers = pipeline.execute()
    assert answers[1::2] == [b"%d" % at for at in range(5000)]


def test_redis_py_takes_maintenance_notifications_for_granted(door: RunningDoor) -> None:
    # With enabled=True it refuses to connect to a server that does not know the command.
    config = redis.maint_notifications.MaintNotificationsConfig(enabled=True)
    with closing(
        redis.Redis(door.host, door.port, protocol=3, maint_notifications_config=config)
    ) as client:
        assert client.ping()


def test_redis_py_picks_keyspaces_by_number_and_by_name(door: RunningDoor) -> None:
    with closing(redis.Redis(door.host, door.port, db=1)) as client:
        client.set("k", "other")
    with closing(redis.Redis(door.host, door.port, username="other", password="x")) as client:
        assert client.get("k") == b"other"
    with closing(redis.Redis(door.host, door.port)) as client:
        assert client.get("k") is None
    with (
        closing(
            redis.Redis(door.host, door.port, username="nosuch", password="x", retry=ONCE)
        ) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
    with (
        closing(redis.Redis(door.host, door.port, db=7, retry=ONCE)) as client,
        pytest.raises(redis.ResponseError, match="DB index is out of range"),
    ):
        client.ping()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py_asyncio(door: RunningDoor, protocol: int) -> None:
    client = redis.asyncio.Redis(host=door.host, port=door.port, protocol=protocol)
    try:
        await asyncio.gather(*(client.set(f"k{at}", at) for at in range(80)))
        answers = await asyncio.gather(*(client.get(f"k{at}") for at in range(80)))
        assert answers == [b"%d" % at for at in range(80)]
        assert await client.delete("k0", "k1") == 2
    finally:
        await client.aclose()


# redis-cli and redis-benchmark -------------------------------------------------------------------


def run_program(*command: str, stdin: str = "") -> str:
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("version", ["-2", "-3"])
def test_redis_cli(door: RunningDoor, version: str) -> None:
    tcp = ("redis-cli", version, "-h", door.host, "-p", str(door.port))
    assert run_program(*tcp, "SET", "k", "hello") == "OK\n"
    assert run_program("redis-cli", version, "-s", str(door.path), "GET", "k") == "hello\n"
    assert run_program(*tcp, stdin="GET k\nTTL k\nDEL k\nGET k\n") == "hello\n-1\n1\n\n"
    assert "role:master" in run_program(*tcp, "INFO", "replication")
    assert "unknown command 'FOO'" in run_program(*tcp, "FOO", "bar")
    assert run_program(*tcp, "-n", "1", "GET", "k") == "\n"


def test_redis_cli_pipe(door: RunningDoor) -> None:
    commands = b"".join(packed("SET", f"k{at}", str(at)) for at in range(1000)).decode()
    out = run_program("redis-cli", "-h", door.host, "-p", str(door.port), "--pipe", stdin=commands)
    assert "errors: 0, replies: 1000" in out
    assert run_program("redis-cli", "-p", str(door.port), "GET", "k999") == "999\n"


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["1", "16"])
@pytest.mark.parametrize("unix", [False, True])
def test_redis_benchmark(door: RunningDoor, depth: str, unix: bool) -> None:
    where = ("-s", str(door.path)) if unix else ("-h", door.host, "-p", str(door.port))
    out = run_program(
        "redis-benchmark", *where, "-t", "set,get,mset", "-n", "5000", "-c", "20", "-P", depth,
        "-r", "1000", "--csv",
    )  # fmt: skip
    rows = list(csv.reader(io.StringIO(out)))
    assert [row[0] for row in rows[1:]] == ["SET", "GET", "MSET (10 keys)"]
    assert door.door.counters.errors == 0


# The door itself ---------------------------------------------------------------------------------


def test_the_unix_socket_is_closed_to_strangers(door: RunningDoor) -> None:
    assert stat.S_IMODE(door.path.stat().st_mode) == 0o660


def test_a_unix_socket_in_use_is_not_taken_over(door: RunningDoor) -> None:
    with pytest.raises(OSError, match="in use"):
        door.run(door.door.listen_unix(door.path))
    assert run_program("redis-cli", "-s", str(door.path), "PING") == "PONG\n"


def test_a_file_that_a_dead_process_left_is_replaced(door: RunningDoor, tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    door.run(door.door.listen_unix(path))
    assert run_program("redis-cli", "-s", str(path), "PING") == "PONG\n"


def test_a_client_that_half_closes_gets_its_answers(door: RunningDoor) -> None:
    door.call(door.coordinator.hold)
    with connect(door) as sock:
        sock.sendall(packed("GET", "a") + packed("PING"))
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: len(door.coordinator.held or []) == 1)
        door.call(door.coordinator.release)
        assert read_to_end(sock) == b"$-1\r\n+PONG\r\n"
    eventually(lambda: door.door.connections == 0)


@pytest.mark.parametrize("size", [1, 100_000])
def test_who_half_closes_after_one_get_is_answered_and_let_go(door: RunningDoor, size: int) -> None:
    with connect(door) as sock:
        sock.sendall(packed("SET", "k", b"v" * size))
        assert read_exactly(sock, 5) == b"+OK\r\n"
        door.call(door.coordinator.hold)
        sock.sendall(packed("GET", "k"))
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: len(door.coordinator.held or []) == 1)
        door.call(door.coordinator.release)
        assert read_to_end(sock) == b"$%d\r\n%b\r\n" % (size, b"v" * size)
    eventually(lambda: door.door.connections == 0)


def test_drain_answers_what_is_in_flight_and_closes_the_idle(door: RunningDoor) -> None:
    door.call(door.coordinator.hold)
    with connect(door) as busy, connect(door) as idle:
        busy.sendall(packed("GET", "a"))
        eventually(lambda: len(door.coordinator.held or []) == 1)
        eventually(lambda: door.door.connections == 2)
        draining = asyncio.run_coroutine_threadsafe(door.door.drain(10), door.loop)
        assert read_to_end(idle) == b""
        assert not draining.done()
        door.call(door.coordinator.release)
        assert read_to_end(busy) == b"$-1\r\n"
        draining.result(DEADLINE_S)
        with pytest.raises(ConnectionRefusedError):
            connect(door)


def test_drain_cuts_off_what_does_not_end(door: RunningDoor) -> None:
    door.call(door.coordinator.hold)
    with connect(door) as busy:
        busy.sendall(packed("GET", "a"))
        eventually(lambda: len(door.coordinator.held or []) == 1)
        door.run(door.door.drain(0.1))
        assert read_to_end(busy) == b""
    assert door.door.connections == 0


# Hostile clients ---------------------------------------------------------------------------------


def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    with running_door(tmp_path, replace(RespLimits(), connections=2)) as door:
        with connect(door) as one, connect(door) as two, connect(door) as three:
            assert read_to_end(three) == b"-ERR max number of clients reached\r\n"
            for sock in (one, two):
                sock.sendall(packed("PING"))
                assert read_exactly(sock, 7) == b"+PONG\r\n"
        eventually(lambda: door.door.connections == 0)
        with connect(door) as again:
            again.sendall(packed("PING"))
            assert read_exactly(again, 7) == b"+PONG\r\n"


@pytest.mark.slow
def test_a_slow_reader_stops_being_read_and_is_then_closed(tmp_path: Path) -> None:
    limits = replace(RespLimits(), output_soft_bytes=64 << 10, stalled_reader_ms=300)
    with running_door(tmp_path, limits) as door, connect(door) as slow, connect(door) as other:
        slow.sendall(packed("SET", "big", b"v" * 500_000))
        assert read_exactly(slow, 5) == b"+OK\r\n"
        slow.setblocking(False)
        sent = 0
        asking = packed("GET", "big") * 100
        end = time.monotonic() + DEADLINE_S
        while door.door.counters.closed_stalled == 0 and time.monotonic() < end:
            try:
                sent += slow.send(asking)
            except BlockingIOError:
                time.sleep(0.01)
            except (ConnectionResetError, BrokenPipeError):
                break
        eventually(lambda: door.door.counters.closed_stalled == 1)
        assert door.door.counters.pauses >= 1
        assert door.door.counters.bytes_out < 200_000_000
        # Read no further than the first chunks, whatever the client goes on sending.
        assert door.door.counters.bytes_in < 2_000_000
        other.sendall(packed("PING"))
        assert read_exactly(other, 7) == b"+PONG\r\n"


@pytest.mark.slow
def test_a_reader_who_is_merely_late_gets_everything(tmp_path: Path) -> None:
    limits = replace(RespLimits(), output_soft_bytes=64 << 10)
    with running_door(tmp_path, limits) as door, connect(door) as sock:
        value = b"v" * 300_000
        sock.sendall(packed("SET", "big", value))
        assert read_exactly(sock, 5) == b"+OK\r\n"
        sock.sendall(packed("GET", "big") * 100)
        eventually(lambda: door.door.counters.pauses >= 1)
        answer = read_exactly(sock, 100 * 300_011)
        # Compared outside the assert: a difference of 30 MB is not to be printed.
        same = answer == (b"$300000\r\n" + value + b"\r\n") * 100
        assert same
        sock.sendall(packed("PING"))
        assert read_exactly(sock, 7) == b"+PONG\r\n"


def test_unsent_replies_beyond_the_hard_bound_end_the_connection(tmp_path: Path) -> None:
    limits = replace(RespLimits(), output_soft_bytes=64 << 10, output_hard_bytes=1 << 20)
    with running_door(tmp_path, limits) as door, connect(door) as slow:
        slow.sendall(packed("SET", "big", b"v" * 1_000_000))
        assert read_exactly(slow, 5) == b"+OK\r\n"
        door.call(door.coordinator.hold)
        slow.sendall(packed("GET", "big") * 30)
        eventually(lambda: bool(door.coordinator.held))
        door.call(door.coordinator.release)  # one turn's replies
        eventually(lambda: door.door.counters.closed_output == 1)
        eventually(lambda: door.door.connections == 0)


def test_clients_beyond_the_open_files_are_shed_and_the_rest_served(tmp_path: Path) -> None:
    with running_door(tmp_path) as door:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with connect(door) as early:
            early.sendall(packed("PING"))
            assert read_exactly(early, 7) == b"+PONG\r\n"
            crowd = [socket.socket() for _ in range(40)]
            try:
                # The door accepts in this process: one number for both ends.
                resource.setrlimit(resource.RLIMIT_NOFILE, (crowd[-1].fileno() + 5, hard))
                for sock in crowd:
                    sock.settimeout(DEADLINE_S)
                    sock.connect((door.host, door.port))
                shed = [read_to_end(sock) for sock in crowd[10:]]
                early.sendall(packed("PING"))
                assert read_exactly(early, 7) == b"+PONG\r\n"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for sock in crowd:
                    sock.close()
        assert shed == [b""] * 30
        with connect(door) as late:
            late.sendall(packed("PING"))
            assert read_exactly(late, 7) == b"+PONG\r\n"


@pytest.mark.slow
def test_half_a_command_is_not_waited_for_forever(tmp_path: Path) -> None:
    with (
        running_door(tmp_path, replace(RespLimits(), half_command_ms=200)) as door,
        connect(door) as sock,
        connect(door) as idle,
    ):
        sock.sendall(packed("GET", "a")[:-3])
        assert read_to_end(sock) == b""
        assert door.door.counters.closed_half_commands == 1
        idle.sendall(packed("PING"))
        assert read_exactly(idle, 7) == b"+PONG\r\n"


def test_half_commands_of_all_connections_are_bounded_together(tmp_path: Path) -> None:
    with running_door(tmp_path, replace(RespLimits(), door_query_bytes=1 << 20)) as door:
        half = b"*2\r\n$3\r\nGET\r\n$900000\r\n" + b"v" * 600_000
        with connect(door) as one, connect(door) as two:
            one.sendall(half)
            eventually(lambda: door.door.held_bytes > 600_000)
            two.sendall(half)
            assert read_to_end(two) == b""
            assert door.door.counters.closed_query == 1
            one.sendall(b"v" * 300_000 + b"\r\n")
            assert read_exactly(one, 4) == b"-ERR"
        eventually(lambda: door.door.held_bytes == 0)


def test_replies_that_pile_up_are_bounded_over_all_connections(tmp_path: Path) -> None:
    with running_door(tmp_path, replace(RespLimits(), door_output_bytes=1 << 20)) as door:
        large = b"l" * 500_000
        with connect(door) as reader:
            reader.sendall(packed("SET", "large", large))
            assert read_exactly(reader, 5) == b"+OK\r\n"
            crowd = [connect(door) for _ in range(20)]
            for sock in crowd:
                sock.sendall(packed("GET", "large") * 30)
            eventually(lambda: door.door.counters.closed_output > 0)
            reader.sendall(packed("PING"))
            assert read_exactly(reader, 7) == b"+PONG\r\n"
            for sock in crowd:
                sock.close()


def test_a_flood_on_one_connection_does_not_starve_another(door: RunningDoor) -> None:
    flood = packed("PING") * 20_000
    with connect(door) as loud, connect(door) as quiet:
        loud.setblocking(False)
        for _ in range(20):
            try:
                loud.send(flood)
            except BlockingIOError:
                break
        began = time.monotonic()
        quiet.sendall(packed("PING"))
        assert read_exactly(quiet, 7) == b"+PONG\r\n"
        assert time.monotonic() - began < 5


def test_dear_commands_of_one_connection_wait_for_the_turns_of_others(door: RunningDoor) -> None:
    with connect(door) as loud, connect(door) as quiet:
        loud.sendall(packed("PING") * 5)
        assert read_exactly(loud, 35) == b"+PONG\r\n" * 5
        stopped = threading.Event()
        door.loop.call_soon_threadsafe(stopped.wait, DEADLINE_S)
        sending = threading.Thread(target=loud.sendall, args=(DEAR * 500,))
        sending.start()
        eventually(lambda: _unread_bytes(door, loud) > 50 * len(DEAR))
        quiet.sendall(packed("INFO", "stats"))
        stopped.set()
        served = int(quiet.recv(65_536).split(b"total_commands_processed:")[1].split(b"\r")[0])
        assert 5 < served < 40
        assert read_exactly(loud, 500 * len(DEAR_REPLY)) == DEAR_REPLY * 500
        sending.join(DEADLINE_S)


def _unread_bytes(door: RunningDoor, client: socket.socket) -> int:
    """What `client` has sent and the door has not read, where its loop stands still."""
    port = client.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        ends = int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16)
        if ends == (door.port, port):
            return int(queues.rpartition(":")[2], 16)
    return 0


def test_a_drain_answers_what_was_cut_into_turns(door: RunningDoor) -> None:
    with connect(door) as sock:
        sock.sendall(DEAR * 50)
        eventually(lambda: door.door.counters.bytes_in == 50 * len(DEAR))
        door.run(door.door.drain(DEADLINE_S))
        assert read_to_end(sock) == DEAR_REPLY * 50


def test_a_client_that_half_closes_gets_the_answers_of_a_long_pipeline(door: RunningDoor) -> None:
    with connect(door) as sock:
        sock.sendall(DEAR * 300)
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock) == DEAR_REPLY * 300


def test_a_protocol_error_is_answered_then_closed(door: RunningDoor) -> None:
    with connect(door) as sock:
        sock.sendall(packed("PING") + b"*1\r\n$-1\r\n")
        assert read_to_end(sock) == b"+PONG\r\n-ERR Protocol error: invalid bulk length\r\n"
    assert door.door.counters.closed_protocol == 1


def test_a_browser_is_hung_up_on(door: RunningDoor) -> None:
    with connect(door) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n*1\r\n$4\r\nPING\r\n")
        assert read_to_end(sock) == b""
