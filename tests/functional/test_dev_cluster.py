"""`dabba dev` with everything real: what it starts, what it leaves, what it refuses."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import redis

from control_plane.coordination.opening import open_store
from control_plane.dev.cities import Record
from control_plane.dev.load_cities import load
from control_plane.dev.load_report import LoadEvent, LoadPlan
from tests.support.dev import Dev, Home, dev_cluster, home
from tests.support.local_cluster import wait_until
from tests.support.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.probe]

DEADLINE_S = 20.0


@pytest.fixture
def at() -> Iterator[Home]:
    with home() as folders:
        yield folders


def client(dev: Dev) -> redis.Redis:
    return redis.Redis(port=dev.redis_port, decode_responses=True)


def until(deadline_s: float, what: str, *, of: Dev) -> None:
    """Waits for some words among those that it writes for people."""
    deadline = time.monotonic() + deadline_s
    while what not in of.err:
        assert time.monotonic() < deadline, f"{what!r} is not in: {of.err}"
        time.sleep(0.02)


def test_ctrl_c_ends_everything_and_leaves_nothing(at: Home) -> None:
    with dev_cluster(at) as dev:
        assert set(dev.pids) == {
            "sidecar", "control-plane", *(f"node-{number}" for number in range(1, 7))
        }  # fmt: skip
        assert at.context_file.exists()
        watched = dev.watch()
        assert dev.end(signal.SIGINT) == 0
        assert dev.survivors(watched, 0) == []
    assert at.temporary() == []
    assert not at.context_file.exists()


def test_sigterm_ends_everything_too(at: Home) -> None:
    with dev_cluster(at, "--nodes", "1") as dev:
        assert "1 Valkey server in 1 zone" in dev.err
        watched = dev.watch()
        assert dev.end(signal.SIGTERM) == 0
        assert dev.survivors(watched, 0) == []


def test_kill_9_ends_everything_and_the_next_run_removes_the_rest(at: Home) -> None:
    with dev_cluster(at, "--nodes", "3") as dev:
        watched = dev.watch()
        assert dev.end(signal.SIGKILL) == -signal.SIGKILL
        assert dev.survivors(watched) == []
    (left,) = at.temporary()
    answer = at.dabba("status")
    assert answer.status == 1
    assert "is gone" in answer.err
    long_ago = time.time() - 60
    os.utime(at.path / "tmp" / left, (long_ago, long_ago))
    with dev_cluster(at, "--nodes", "1") as dev:
        assert left not in at.temporary()


def test_ctrl_c_while_it_starts_leaves_nothing(at: Home) -> None:
    dev = at.start_dev()
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not list((at.path / "tmp").glob("*/node-6")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert dev.end(signal.SIGINT) == 130
    finally:
        dev.close()
    assert at.temporary() == []


def test_a_second_ctrl_c_does_not_wait(at: Home) -> None:
    with dev_cluster(at, "--nodes", "1") as dev:
        watched = dev.watch()
        os.kill(dev.pids["node-1"], signal.SIGSTOP)  # it will not end by itself
        dev.process.send_signal(signal.SIGINT)
        until(DEADLINE_S, "stopping", of=dev)
        began = time.monotonic()
        dev.end(signal.SIGINT)
        assert time.monotonic() - began < 5.0
        assert dev.survivors(watched, 0) == []
        assert "at once" in dev.err


def test_a_killed_node_is_reported_and_shown_and_costs_nothing(at: Home) -> None:
    with dev_cluster(at) as dev:
        applications = client(dev)
        for number in range(50):
            applications.set(f"k{number}", number)
        os.kill(dev.pids["node-2"], signal.SIGKILL)
        killed_ms = time.time() * 1000
        deadline = time.monotonic() + DEADLINE_S
        while True:
            nodes = at.dabba("status", "-o", "json").json["nodes"]
            health = {node["node"]["id"]: node["health"] for node in nodes}
            if health["node-2"] == "down":
                break
            assert time.monotonic() < deadline
        # When it was seen, and not when the last of our commands had started its interpreter.
        (since_ms,) = (n["since_ms"] for n in nodes if n["node"]["id"] == "node-2")
        assert since_ms - killed_ms < 3_000
        assert [name for name, state in health.items() if state != "up"] == ["node-2"]
        for number in range(50):
            assert applications.get(f"k{number}") == str(number)
            applications.set(f"k{number}", number + 1)
        until(DEADLINE_S, "node-2", of=dev)
        assert "was killed by SIGKILL" in dev.err
        assert "dabba status" in dev.err
        assert dev.process.poll() is None


def test_a_killed_control_plane_is_reported_and_reads_and_writes_go_on(at: Home) -> None:
    with dev_cluster(at, "--nodes", "3") as dev:
        applications = client(dev)
        applications.set("k", "before")
        os.kill(dev.pids["control-plane"], signal.SIGKILL)
        until(DEADLINE_S, "control-plane (pid", of=dev)
        assert applications.get("k") == "before"
        applications.set("k", "after")
        assert applications.get("k") == "after"
        answer = at.dabba("status")
        assert answer.status == 1
        assert "cannot reach the control plane" in answer.err
        assert dev.end(signal.SIGINT) == 0


def test_kept_data_is_served_by_the_next_run(at: Home) -> None:
    data = str(at.path / "data")
    with dev_cluster(at, "--data", data) as dev:
        applications, cluster = client(dev), dev.facts["cluster"]
        for number in range(100):
            applications.set(f"k{number}", number)
        owner = redis.Redis(port=int(dev.facts["nodes"][0]["address"].rpartition(":")[2]))
        assert owner.config_get("append*")["appendfsync"] == "always"
        owner.close()
        dev.end(signal.SIGINT)
    with dev_cluster(at, "--data", data) as dev:
        assert dev.facts["cluster"] == cluster
        assert dev.facts["problems"] == []
        applications = client(dev)
        assert [applications.get(f"k{number}") for number in range(100)] == [
            str(number) for number in range(100)
        ]
        second = at.dabba("dev", "--data", data)
        assert second.status == 1
        assert f"in use by the `dabba dev` with pid {dev.process.pid}" in second.err


def test_kept_data_survives_kill_9(at: Home) -> None:
    data = str(at.path / "data")
    with dev_cluster(at, "--data", data, "--nodes", "3") as dev:
        client(dev).set("k", "v")
        dev.end(signal.SIGKILL)
    with dev_cluster(at, "--data", data) as dev:
        assert client(dev).get("k") == "v"
        assert dev.facts["problems"] == []


def test_a_node_whose_kept_data_is_gone_is_shown_and_comes_back_repaired(at: Home) -> None:
    data = at.path / "data"
    with dev_cluster(at, "--data", str(data)) as dev:
        for number in range(100):
            client(dev).set(f"k{number}", number)
        dev.end(signal.SIGINT)
    shutil.rmtree(data / "node-4")
    with dev_cluster(at, "--data", str(data)) as dev:
        assert any("node-4" in problem for problem in dev.facts["problems"])
        assert "node-4" in dev.err
        applications = client(dev)
        assert [applications.get(f"k{number}") for number in range(100)] == [
            str(number) for number in range(100)
        ]
        wait_until(lambda: _node(at, "node-4")["state"] == "ACTIVE", "node-4 is back", 60)
        assert int(_node(at, "node-4")["incarnation"]) == 2


def _node(at: Home, node_id: str) -> dict[str, Any]:
    nodes = at.dabba("node", "list", "-o", "json").json["nodes"]
    (found,) = (node["node"] for node in nodes if node["node"]["id"] == node_id)
    return cast(dict[str, Any], found)


def test_a_kept_port_that_is_taken_is_refused_and_nothing_starts(at: Home) -> None:
    data = at.path / "data"
    with dev_cluster(at, "--data", str(data), "--nodes", "2") as dev:
        dev.end(signal.SIGINT)
    port = orjson.loads((data / "dabbawala.json").read_bytes())["nodes"][1]["port"]
    with socket.create_server(("127.0.0.1", port)):
        answer = at.dabba("dev", "--data", str(data))
    assert answer.status == 1
    for words in (f"port {port} of node-2", "used by another program", "ss -ltnp"):
        assert words in answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nodes", "0"], "--nodes is 0; give 1 to 64"),
        (["--zones", "9", "--nodes", "6"], "--zones is 9"),
        (["--zookeeper", "nowhere"], "HOST:PORT"),
        (["--load", "towns"], "give one of: cities"),
        (["--exit"], "--exit is about a load"),
        (["--for", "soon"], "--for"),
    ],
)
def test_bad_options_are_one_line_and_status_2(at: Home, arguments: list[str], words: str) -> None:
    answer = at.dabba("dev", *arguments)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert words in answer.err
    assert at.temporary() == []


def test_a_folder_of_something_else_is_refused(at: Home) -> None:
    (at.path / "data").mkdir()
    (at.path / "data" / "thesis.txt").write_text("mine")
    answer = at.dabba("dev", "--data", str(at.path / "data"))
    assert answer.status == 1
    assert "not a data folder" in answer.err


def test_a_zookeeper_that_is_not_there_is_an_error_with_its_address(at: Home) -> None:
    answer = at.dabba("dev", "--nodes", "1", "--zookeeper", "127.0.0.1:1")
    assert answer.status == 1
    assert "127.0.0.1:1" in answer.err
    assert at.temporary() == []


@pytest.mark.peers
async def test_with_zookeeper_it_leaves_no_znode(at: Home, zookeeper: Server) -> None:
    with dev_cluster(at, "--nodes", "3", "--zookeeper", zookeeper.address) as dev:
        cluster = dev.facts["cluster"]
        assert at.dabba("status", "-o", "json").json["store"] == "zookeeper"
        client(dev).set("k", "v")
        assert client(dev).get("k") == "v"
        async with await open_store(f"zookeeper://{zookeeper.address}") as store:
            assert cluster in await store.children("/dabbawala")
            assert dev.end(signal.SIGINT) == 0
            assert cluster not in await store.children("/dabbawala")


async def test_a_load_is_verified_and_its_reads_are_counted_by_node(at: Home) -> None:
    records = [Record(b"%d" % number, b"value %d" % number, number % 7) for number in range(3000)]
    events: list[LoadEvent] = []
    with dev_cluster(at) as dev:
        plan = LoadPlan(
            grpc=dev.facts["sidecar"]["grpc"],
            redis=dev.facts["sidecar"]["redis"],
            admin=dev.facts["sidecar"]["admin"],
            keyspace="places",
            redis_db=1,
            sidecar_pid=dev.pids["sidecar"],
            run_s=1.0,
            ready_seconds=dev.facts["ready_seconds"],
        )
        finished = await load(plan, records, events.append)
    assert finished.wrong == []
    report = finished.report
    assert (report.records_loaded, report.records_verified) == (3000, 3000)
    assert {node.id for node in report.nodes} == {f"node-{n}" for n in range(1, 7)}
    asked = report.doors.grpc.reads + report.doors.redis.reads
    assert sum(node.reads for node in report.nodes) >= asked
    assert report.max_over_mean >= 1.0
    assert report.sidecar_rss_bytes > 1 << 20


def loader_of(dev: Dev) -> int:
    """A pidfd of the loader, once `dabba dev` has started it."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        children = Path(f"/proc/{dev.process.pid}/task/{dev.process.pid}/children").read_text()
        for pid in children.split():
            if b"load_cities" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return os.pidfd_open(int(pid))
        time.sleep(0.02)
    raise AssertionError(f"no loader was started: {dev.err}")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_load_ends_with_its_cluster(at: Home, number: signal.Signals, status: int) -> None:
    with dev_cluster(at, "--nodes", "3", "--load", "cities", "--exit") as dev:
        watched = dev.watch() | {"loader": loader_of(dev)}
        assert dev.end(number) == status
        assert dev.survivors(watched) == []


def test_what_it_prints_for_people_names_doors_and_commands(at: Home) -> None:
    with dev_cluster(at, "--nodes", "2", "--zones", "2") as dev:
        for words in (
            "2 Valkey servers in 2 zones",
            f"redis-cli -p {dev.redis_port} SET hello world",
            "dabba get hello",
            "dabba where hello",
            "Ctrl-C stops everything",
        ):
            assert words in dev.err
        assert dev.facts["ready_seconds"] > 0


def test_without_a_place_for_the_addresses_the_flags_are_named(at: Home) -> None:
    (at.path / "run" / "dabbawala").write_text("in the way")
    with dev_cluster(at, "--nodes", "1") as dev:
        flags = ["--sidecar", dev.facts["sidecar"]["grpc"]]
        assert " ".join(flags) in dev.err
        assert at.dabba("put", "k", "v", *flags).status == 0
        assert dev.end(signal.SIGINT) == 0


def test_the_folder_of_data_may_have_a_long_path(at: Home) -> None:
    data = at.path / ("long" * 30)
    with dev_cluster(at, "--nodes", "1", "--data", str(data)) as dev:
        socket_path = Path(dev.facts["sidecar"]["redis_socket"])
        assert redis.Redis(unix_socket_path=str(socket_path)).ping()
        dev.end(signal.SIGINT)
    assert not socket_path.exists()
