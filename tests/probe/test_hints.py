"""Owners that miss writes and come back; the sidecar that keeps their hints is killed meanwhile."""

import contextlib
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import grpc
import pytest
import redis

from buckets.bucket_map import Consistency
from protos.dabbawala.v1 import data_pb2
from replicas.layout import HINTS_KEY
from tests.support.local_cluster import (
    LocalCluster,
    Part,
    local_cluster,
    second_sidecar,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.probe]

WRITES = 10_000
AT_ONCE = 200
VALUE = b"v" * 100


@pytest.fixture
def three() -> Iterator[LocalCluster]:
    """Three nodes, so each owns everything, on kept data."""
    with local_cluster("--data", "data", "--nodes", "3") as running:
        yield running


def client(cluster: LocalCluster) -> redis.Redis:
    return redis.Redis("127.0.0.1", cluster.redis_port)


def write_all(cluster: LocalCluster, count: int = WRITES) -> None:
    with client(cluster) as door:
        for start in range(0, count, AT_ONCE):
            with door.pipeline(transaction=False) as pipeline:
                for number in range(start, start + AT_ONCE):
                    pipeline.set(b"key-%d" % number, VALUE)
                assert all(pipeline.execute())


def held(node: Part) -> dict[bytes, bytes]:
    """Every user's record on a node, by its key."""
    host, _, port = node.address.rpartition(":")
    records: dict[bytes, bytes] = {}
    with redis.Redis(host, int(port)) as server:
        for name in server.scan_iter(b"dabba:*:data", count=1000):
            fields = server.hgetall(name).items()
            records |= {key[1:]: raw for key, raw in fields if key.startswith(b"kkey-")}
    return records


def differing(left: Part, right: Part) -> int:
    """How many records two nodes hold that are not the same. (Texts of 10,000 take for ever.)"""
    mine, others = held(left), held(right)
    return sum(mine.get(key) != others.get(key) for key in mine.keys() | others.keys())


def waiting(cluster: LocalCluster) -> int:
    return sum(node["count"] for node in cluster.sidecar_page("hints")["nodes"])


@dataclass
class Reader:
    """Reads at QUORUM, one after the other, and keeps how long each took, in seconds."""

    cluster: LocalCluster
    latencies: list[float] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._thread.join()

    def _read(self) -> None:
        with client(self.cluster) as door:
            number = 0
            while not self.ended.is_set():
                number = (number + 7919) % WRITES
                begun = time.perf_counter()
                assert door.get(b"key-%d" % number) == VALUE
                self.latencies.append(time.perf_counter() - begun)
                time.sleep(0.001)

    def p99_ms(self) -> float:
        return sorted(self.latencies)[len(self.latencies) * 99 // 100] * 1000


@pytest.mark.fault(17)
@pytest.mark.timeout(300)
def test_a_node_that_missed_ten_thousand_writes_gets_them_all_from_two_lives_of_the_sidecar(
    three: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    away, other, _ = three.nodes
    write_all(three)
    with Reader(three) as quiet:
        time.sleep(1.0)
    away.stop()
    wait_until(lambda: three.sidecar_health()["node-1"] == "unreachable", "it is missed")
    write_all(three)
    wait_until(lambda: waiting(three) == WRITES, "every write is kept for it")
    shown = three.dabba("hints", "-o", "json").json
    assert [(node["node"], node["count"]) for node in shown["nodes"]] == [("node-1", WRITES)]
    assert shown["needs_repair"] == []

    away.start()
    began = time.monotonic()
    wait_until(lambda: waiting(three) < WRITES, "the replay is under way")
    three.sidecar.kill()
    three.sidecar.start()
    wait_until(three.serves, "the sidecar is back")
    wait_until(lambda: three.sidecar_page("hints")["state"] == "on", "it has found its hints")
    left = waiting(three)  # a fast machine may have been quicker than the kill
    with Reader(three) as busy:
        wait_until(lambda: waiting(three) == 0, "all are replayed")
    took_s = time.monotonic() - began
    assert differing(away, other) == 0
    assert len(held(away)) == WRITES
    with capsys.disabled():
        sys.stdout.write(
            f"\n{WRITES} hints in {took_s:.1f} s, {left} of them after the kill;"
            f" p99 of reads {quiet.p99_ms():.1f} ms before, {busy.p99_ms():.1f} ms meanwhile\n"
        )


@pytest.mark.fault(17)
def test_a_write_at_any_outlives_all_owners_and_the_sidecar(three: LocalCluster) -> None:
    for node in three.nodes:
        node.stop()
    wait_until(lambda: set(three.sidecar_health().values()) == {"unreachable"}, "no owner is left")
    request = data_pb2.PutRequest(
        key=b"key-0", value=VALUE, consistency=data_pb2.Consistency.ValueType(Consistency.ANY)
    )
    answer = three.data().Put(request, timeout=5)
    assert answer.version
    with pytest.raises(grpc.RpcError):
        three.data().Put(data_pb2.PutRequest(key=b"key-1", value=VALUE), timeout=5)
    assert waiting(three) == 1
    three.sidecar.kill()
    three.sidecar.start()
    for node in three.nodes:
        node.start()
    three.wait_served()
    wait_until(lambda: waiting(three) == 0, "it is handed over")
    three.wait_trusted()
    found = three.data().Get(data_pb2.GetRequest(key=b"key-0"), timeout=5)
    assert (found.value, found.version) == (VALUE, answer.version)
    wait_until(
        lambda: all(set(held(node)) == {b"key-0"} for node in three.nodes), "all owners have it"
    )


@pytest.mark.fault(17)
def test_what_a_sidecar_still_has_when_it_is_told_to_end_is_replayed_first(
    three: LocalCluster,
) -> None:
    away, other, _ = three.nodes
    away.stop()
    wait_until(lambda: three.sidecar_health()["node-1"] == "unreachable", "it is missed")
    write_all(three, 2000)
    wait_until(lambda: waiting(three) == 2000, "every write is kept for it")
    wait_until(lambda: reports(three) == 1, "the control plane has heard of them")
    away.start()
    wait_until(lambda: three.sidecar_health()["node-1"] != "unreachable", "it is back")
    three.sidecar.stop()
    assert differing(away, other) == 0
    assert reports(three) == 0


def reports(cluster: LocalCluster) -> int:
    """Sidecars of which the control plane knows that they have hints, which hold tombstones."""
    path = cluster.folder / "control-plane" / "store.sqlite3"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        [[count]] = store.execute("SELECT count(*) FROM entries WHERE path LIKE '%/hints/%'")
    return int(count)


@pytest.mark.fault(17)
def test_hints_outlive_the_disk_of_the_sidecar_that_made_them(three: LocalCluster) -> None:
    count = 2_000
    away, other, _ = three.nodes
    heir = second_sidecar(three, "b")
    away.stop()
    wait_until(lambda: three.sidecar_health()["node-1"] == "unreachable", "it is missed")
    write_all(three, count)
    wait_until(lambda: waiting(three) == count, "every write is kept for it")
    three.sidecar.stop()
    for path in (three.folder / "sidecar").glob("**/*.db*"):
        path.unlink()  # its pod is gone, and will not be back
    handed_over = sum(streamed(node) for node in three.nodes[1:])
    assert handed_over == count
    away.start()
    wait_until(lambda: held(away) == held(other), "the other sidecar has replayed them")
    assert len(held(away)) == count
    wait_until(lambda: sum(streamed(node) for node in three.nodes) == 0, "none is left behind")
    assert heir.child is not None
    assert heir.child.poll() is None


def streamed(node: Part) -> int:
    """Hints for others that lie on a node."""
    host, _, port = node.address.rpartition(":")
    with redis.Redis(host, int(port)) as server:
        length = server.xlen(HINTS_KEY)
    assert isinstance(length, int)
    return length
