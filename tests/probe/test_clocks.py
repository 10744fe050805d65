"""A sidecar whose clock is wrong, steps, and is earlier after a restart than before."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import redis

from buckets.bucket_map import Consistency
from protos.dabbawala.v1 import data_pb2
from replicas.record import decode_record
from replicas.version import physical_ms
from tests.support.fake_time import FakeTime
from tests.support.fault_table import Judged
from tests.support.history import OK
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, local_cluster, wait_until
from tests.support.rich_errors import rich

pytestmark = [pytest.mark.slow, pytest.mark.probe]

OFF_S = 30
MAX_SKEW_MS = 500
COUNTERS = "counters"


@pytest.fixture
def three() -> Iterator[LocalCluster]:
    """Three nodes, so each owns everything, with a linearizable keyspace beside the default one."""
    with local_cluster("--nodes", "3", "--data", "data") as running:
        arguments = ("keyspace", "create", COUNTERS, "--mode", "linearizable", "--redis-db", "7")
        made = running.dabba(*arguments, "--durability", "memory")
        assert made.status == 0, made
        yield running


def start_sidecar(cluster: LocalCluster, clock: FakeTime) -> None:
    cluster.sidecar.start(variables=clock.variables)
    cluster.wait_served()
    cluster.wait_served(COUNTERS)


def versions_ms(cluster: LocalCluster) -> list[int]:
    """Times in the versions of all tunable records, on all servers."""
    times: list[int] = []
    for node in cluster.nodes:
        host, _, port = node.address.rpartition(":")
        with redis.Redis(host, int(port)) as server:
            for name in server.scan_iter(b"dabba:{default:*:data", count=1000):
                for field, raw in server.hgetall(name).items():
                    record = decode_record(raw) if field[:1] == b"k" else None
                    times += [physical_ms(record.version)] if record is not None else []
    return times


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def skew_ms(cluster: LocalCluster) -> float:
    """As the sidecar says."""
    clock = cluster.sidecar_page("stats")["clock"]
    return float(clock["skew_ms"] or 0.0)


def put(cluster: LocalCluster, key: bytes, level: Consistency = Consistency.QUORUM) -> bytes:
    number = data_pb2.Consistency.ValueType(level)
    request = data_pb2.PutRequest(key=key, value=b"v", consistency=number)
    return cluster.data().Put(request, timeout=5).version


@pytest.mark.fault(12)
def test_a_clock_that_steps_under_load_poisons_nothing_and_is_shown(
    three: LocalCluster, tmp_path: Path, judged: Judged
) -> None:
    clock = FakeTime(tmp_path, OFF_S)
    three.sidecar.stop()
    start_sidecar(three, clock)
    with (
        load_on(three) as load,
        redis.Redis("127.0.0.1", three.redis_port, db=7) as counters,
    ):
        counted = 0
        for offset_s in (OFF_S, -OFF_S, 0, OFF_S, -OFF_S, 2, -2, OFF_S):
            clock.step(offset_s)
            for _ in range(20):
                counted += 1
                assert counters.incr("counter") == counted
            load.run_for(250)
            assert abs(skew_ms(three) - offset_s * 1000) < MAX_SKEW_MS / 2
        history = load.stop()
        load.read_all()
        latest_ms = max(versions_ms(three))
        assert latest_ms <= wall_ms() + MAX_SKEW_MS
    judged(history)
    assert {event.outcome for event in history.writes} == {OK}
    check_shown(three)


def check_shown(cluster: LocalCluster) -> None:
    wait_until(
        lambda: [s.clock_problem for s in cluster.status().sidecars] != [""],
        "the control plane has heard of it",
    )
    said = cluster.dabba("doctor", "-o", "json")
    assert "sidecar-clock" in {finding["id"] for finding in said.json["findings"]}
    assert "ahead of the replicas'" in cluster.dabba("status").out
    assert "+30000 ms" in cluster.dabba("sidecars").out


@pytest.mark.fault(13)
def test_after_a_restart_with_an_earlier_clock_versions_still_grow(
    three: LocalCluster, tmp_path: Path
) -> None:
    clock = FakeTime(tmp_path)
    last = put(three, b"k")
    for offset_s in (-OFF_S, -2 * OFF_S, OFF_S, -0.3):
        three.sidecar.kill()
        clock.step(offset_s)
        start_sidecar(three, clock)
        for _ in range(20):
            version = put(three, b"k")
            assert version > last
            last = version
        assert abs(physical_ms(last) - wall_ms()) < 2 * MAX_SKEW_MS


def takes_one(cluster: LocalCluster) -> bool:
    try:
        put(cluster, b"k", Consistency.ONE)
    except grpc.RpcError:
        return False
    return True


@pytest.mark.fault(12)
def test_a_clock_that_is_off_while_too_few_nodes_say_the_time_is_refused_typed(
    three: LocalCluster, tmp_path: Path
) -> None:
    clock = FakeTime(tmp_path)
    three.sidecar.stop()
    for node in three.nodes[1:]:
        node.stop()
    three.sidecar.start(variables=clock.variables)
    wait_until(lambda: takes_one(three), "it takes a write at ONE")
    clock.step(OFF_S)
    with pytest.raises(grpc.RpcError) as refused:
        put(three, b"k", Consistency.ONE)
    error = rich(refused.value)
    assert (error.reason, error.metadata["outcome"]) == ("CLOCK_SKEW", "NOT_APPLIED")
    assert "1 of 3 nodes" in error.message
    for node in three.nodes[1:]:
        node.start()
    three.wait_trusted()
    put(three, b"k")
