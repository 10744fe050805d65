"""The process `dabba-sidecar`: start, refusals, admin door, workers, drain, and how they end."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from redis.backoff import NoBackoff
from redis.retry import Retry

from control_plane.dev.die_with_parent import tied
from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from sidecar.stats import COMPILED
from tests.support.dev import Dev, dev_cluster, home
from tests.support.local_cluster import CHANNEL_OPTIONS
from tests.support.processes import ends_within
from tests.support.rich_errors import rich

pytestmark = [pytest.mark.slow, pytest.mark.probe]

DEADLINE_S = 20.0
BASE = ("--cluster", "dev", "--zone", "a")


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with home() as at, dev_cluster(at, "--nodes", "3") as started:
        yield started


@dataclass
class Sidecar:
    """One `dabba-sidecar` and the addresses it serves."""

    process: subprocess.Popen[bytes]
    ports: dict[str, Any]
    log: Path

    @property
    def redis_port(self) -> int:
        return int(self.ports["redis"].rpartition(":")[2])

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.redis_port, retry=Retry(NoBackoff(), 0), socket_timeout=5)

    def page(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://{self.ports['admin']}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.page("/stats")[1])
        return found

    def workers(self) -> list[int]:
        """Process ids of its further workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def until(self, true: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline, f"{what}: {self.log.read_text()[-2000:]}"
            time.sleep(0.02)


def cluster_of(dev: Dev) -> str:
    """The name that its own sidecar serves."""
    with urllib.request.urlopen(f"http://{dev.facts['sidecar']['admin']}/map") as answer:
        return str(orjson.loads(answer.read())["map"]["cluster"])


def command(*flags: str) -> list[str]:
    return tied([sys.executable, "-m", "sidecar", *flags])


@pytest.fixture
def start(dev: Dev, tmp_path: Path) -> Iterator[Callable[..., Sidecar]]:
    """Starts sidecars of the dev cluster, ready unless told otherwise; all end with the test."""
    started: list[Sidecar] = []

    def begin(*flags: str, ready: bool = True, served: bool = True) -> Sidecar:
        number = len(started)
        ports_file, log = tmp_path / f"ports-{number}", tmp_path / f"log-{number}"
        fixed = [*BASE, "--cluster", cluster_of(dev), "--ports-file", str(ports_file)]
        if served:
            fixed += ["--control-planes", str(dev.facts["control_plane"])]
        for door in ("grpc", "redis", "admin"):
            if f"--{door}" not in flags:
                fixed += [f"--{door}", "127.0.0.1:0"]
        with log.open("wb") as sink:
            process = subprocess.Popen(command(*fixed, *flags), stderr=sink)
        sidecar = Sidecar(process, {}, log)
        started.append(sidecar)
        sidecar.until(ports_file.exists, "it listens")
        sidecar.ports = orjson.loads(ports_file.read_bytes())
        if ready:
            sidecar.until(lambda: sidecar.page("/ready")[0] == 200, "it is ready")
        return sidecar

    yield begin
    for sidecar in started:
        if sidecar.process.poll() is None:
            sidecar.process.kill()
        sidecar.process.wait()


def refused(*flags: str) -> str:
    """The one line of a sidecar that does not start."""
    ended = subprocess.run(
        command(*BASE, *flags), capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("dabba-sidecar: ")
    return line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_one_line_and_status_2(workers: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        others = ("--redis", "127.0.0.1:0", "--admin", "127.0.0.1:0")
        line = refused("--grpc", address, *others, "--workers", workers)
    assert f"port {address.rpartition(':')[2]} on 127.0.0.1 is in use" in line


def test_a_second_sidecar_with_workers_does_not_share_the_ports_of_the_first(
    start: Callable[..., Sidecar],
) -> None:
    first = start("--workers", "2", ready=False)
    others = ("--redis", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2")
    assert "is in use" in refused("--grpc", first.ports["grpc"], *others)


def test_a_bad_configuration_is_one_line_and_status_2() -> None:
    assert "workers is 0; it may be 1 to 64" in refused("--workers", "0")


def test_unix_sockets_outlive_a_killed_sidecar_and_are_taken_over(
    start: Callable[..., Sidecar], tmp_path: Path
) -> None:
    path = tmp_path / "redis.sock"
    first = start("--redis-socket", str(path))
    with redis.Redis(unix_socket_path=str(path)) as client:
        assert client.ping()
    ports = ("--grpc", "127.0.0.1:0", "--redis", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert "a living process listens" in refused("--redis-socket", str(path), *ports)
    first.process.kill()
    first.process.wait()
    second = start("--redis-socket", str(path))
    with redis.Redis(unix_socket_path=str(path)) as client:
        assert client.ping()
    second.process.terminate()
    assert second.process.wait(DEADLINE_S) == 0
    assert not path.exists()


def test_without_a_map_it_is_alive_but_not_ready(start: Callable[..., Sidecar]) -> None:
    sidecar = start(ready=False, served=False)
    assert sidecar.page("/live")[0] == 200
    assert sidecar.page("/ready") == (503, b"not ready: no map yet\n")


@pytest.mark.parametrize("engine", ["own", "grpcio"])
def test_calls_wait_for_a_map_until_their_deadline_and_then_say_so(
    start: Callable[..., Sidecar], engine: str
) -> None:
    flags = ("--grpc-engine", engine, "--default-timeout-ms", "300")
    sidecar = start(*flags, ready=False, served=False)
    with (
        sidecar.client() as client,
        grpc.insecure_channel(sidecar.ports["grpc"], options=CHANNEL_OPTIONS) as channel,
    ):
        data = data_pb2_grpc.DataStub(channel)
        calls: list[tuple[Any, object, str]] = [
            (data.Get, data_pb2.GetRequest(key=b"k", timeout_ms=200), ""),
            (data.Put, data_pb2.PutRequest(key=b"k", timeout_ms=200), "NOT_APPLIED"),
            (data.Scan, data_pb2.ScanRequest(timeout_ms=200), ""),
        ]
        for call, request, outcome in calls:
            began = time.monotonic()
            with pytest.raises(grpc.RpcError) as failed:
                call(request, timeout=20)
            assert time.monotonic() - began >= 0.2
            error = rich(failed.value)
            assert (error.code.name, error.reason) == ("UNAVAILABLE", "NO_MAP")
            assert error.metadata.get("outcome", "") == outcome
            assert error.retry_ms is not None
        for words, said in ((("GET", "k"), "UNAVAILABLE"), (("SET", "k", "v"), "NOTAPPLIED")):
            began = time.monotonic()
            with pytest.raises(redis.ResponseError, match=f"^{said} this sidecar has no map yet"):
                client.execute_command(*words)
            assert time.monotonic() - began >= 0.3


def test_the_admin_door_shows_and_get_changes_nothing(start: Callable[..., Sidecar]) -> None:
    sidecar = start()
    with sidecar.client() as client:
        client.set("admin", "v")
        client.get("admin")
    for path in ("/", "/live", "/stats", "/config_dump", "/map", "/nodes"):
        assert sidecar.page(path)[0] == 200
    assert orjson.loads(sidecar.page("/config_dump")[1])["config"]["zone"] == "a"
    shown = orjson.loads(sidecar.page("/map")[1])
    assert {node["id"] for node in shown["map"]["nodes"]} == {"node-1", "node-2", "node-3"}
    assert all(node["health"] == "connected" for node in orjson.loads(sidecar.page("/nodes")[1]))
    for path in ("/drain", "/quitquitquit"):
        assert sidecar.page(path)[0] == 405
        assert sidecar.page(path, "HEAD")[0] == 405
    assert sidecar.page("/ready")[0] == 200
    stats = sidecar.stats()
    assert stats["counters"]["writes"] >= 1
    assert stats["compiled"] is COMPILED
    (line,) = [line for line in sidecar.log.read_text().splitlines() if '"serving"' in line]
    assert orjson.loads(line)["compiled"] is COMPILED


def test_the_metrics_parse_and_add_up(start: Callable[..., Sidecar]) -> None:
    sidecar = start()
    with sidecar.client() as client:
        for at in range(20):
            client.set(f"m{at}", "v")
            client.get(f"m{at}")
    text = sidecar.page("/stats/prometheus")[1].decode()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["dabbawala_writes_total", ()] == 20
    assert samples["dabbawala_write_seconds_count", ()] == 20
    assert samples["dabbawala_write_seconds_bucket", (("le", "+Inf"),)] == 20
    assert samples["dabbawala_workers", ()] == 1
    nodes = [key for key in samples if key[0] == "dabbawala_node_counts"]
    assert [samples[key] for key in nodes] == [1.0] * 3


def test_drain_closes_the_doors_of_every_worker_and_quit_ends_it(
    start: Callable[..., Sidecar],
) -> None:
    sidecar = start("--workers", "2")
    sidecar.until(lambda: sidecar.stats()["workers"] == 2, "both serve")
    assert sidecar.page("/drain", "POST")[0] == 200
    assert sidecar.page("/ready") == (503, b"not ready: draining\n")
    with pytest.raises(redis.ConnectionError), sidecar.client() as client:
        client.ping()
    assert sidecar.page("/drain", "POST")[0] == 200
    assert sidecar.page("/quitquitquit", "POST")[0] == 200
    assert sidecar.process.wait(DEADLINE_S) == 0


def test_two_workers_both_serve_and_their_counts_add_up(start: Callable[..., Sidecar]) -> None:
    sidecar = start("--workers", "2")
    sidecar.until(lambda: sidecar.stats()["workers"] == 2, "both serve")
    before = sidecar.stats()["counters"]["writes"]
    clients = [sidecar.client() for _ in range(32)]
    for at, client in enumerate(clients):
        client.set(f"w{at}", "v")
    sidecar.until(
        lambda: sidecar.stats()["counters"]["writes"] == before + len(clients), "counts add up"
    )
    sidecar.until(lambda: sidecar.stats()["redis"]["connections"] == 32, "connections add up")
    for client in clients:
        client.close()


def test_a_worker_imports_nothing_from_the_folder_it_is_started_in(
    start: Callable[..., Sidecar],
) -> None:
    sidecar = start("--workers", "2")
    sidecar.until(lambda: sidecar.stats()["workers"] == 2, "both serve")
    (worker,) = sidecar.workers()
    words = Path(f"/proc/{worker}/cmdline").read_text().split("\0")
    assert words[1:4] == ["-P", "-m", "sidecar.worker"]


def test_a_killed_worker_is_started_again_and_sigterm_ends_all(
    start: Callable[..., Sidecar],
) -> None:
    sidecar = start("--workers", "2")
    sidecar.until(lambda: sidecar.stats()["workers"] == 2, "both serve")
    (worker,) = sidecar.workers()
    os.kill(worker, signal.SIGKILL)
    sidecar.until(lambda: sidecar.stats()["workers"] == 1, "its end is noticed")
    sidecar.until(lambda: sidecar.stats()["workers"] == 2, "it is started again")
    (again,) = sidecar.workers()
    assert again != worker
    watched = os.pidfd_open(again)
    sidecar.process.terminate()
    assert sidecar.process.wait(DEADLINE_S) == 0
    assert ends_within(watched, 1_000)


def test_sigterm_while_a_worker_waits_to_be_started_again_does_not_wait_for_it(
    start: Callable[..., Sidecar],
) -> None:
    sidecar = start("--workers", "2")
    sidecar.until(lambda: sidecar.stats()["workers"] == 2, "both serve")
    (worker,) = sidecar.workers()
    os.kill(worker, signal.SIGKILL)
    sidecar.until(lambda: "worker died" in sidecar.log.read_text(), "its end is noticed")
    sidecar.process.terminate()
    assert sidecar.process.wait(5) == 0


def test_kill_9_of_the_first_process_ends_its_workers(start: Callable[..., Sidecar]) -> None:
    sidecar = start("--workers", "2")
    sidecar.until(lambda: sidecar.stats()["workers"] == 2, "both serve")
    (worker,) = sidecar.workers()
    watched = os.pidfd_open(worker)
    sidecar.process.kill()
    sidecar.process.wait()
    assert ends_within(watched, 15_000)


def test_a_drain_under_load_fails_nothing_for_a_client_that_repeats_once(
    start: Callable[..., Sidecar],
) -> None:
    draining, other = start(), start()
    failures: list[Exception] = []
    done: list[int] = []
    stop = threading.Event()

    def load(number: int) -> None:
        first, second = draining.client(), other.client()
        at = 0
        while not stop.is_set():
            at += 1
            for client in (first, second):
                try:
                    client.set(f"d{number}", str(at))
                    break
                except redis.RedisError as error:
                    if client is second:
                        failures.append(error)
        done.append(at)
        first.close()
        second.close()

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    draining.until(lambda: draining.stats()["counters"]["writes"] > 200, "there is load")
    draining.process.terminate()
    status = draining.process.wait(DEADLINE_S)
    stop.set()
    for thread in threads:
        thread.join()
    assert status == 0
    assert not failures
    assert sum(done) > 200
