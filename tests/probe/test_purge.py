"""What comes late after a purge, and marks that a repair does away with: on real processes."""

import time
from collections.abc import Iterator

import grpc
import pytest

from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from tests.support.local_cluster import LocalCluster, local_cluster, second_sidecar, wait_until
from tests.support.replica_records import version_at

pytestmark = [pytest.mark.slow, pytest.mark.probe]

DAY_MS = 24 * 3_600_000
KEY = b"deleted-and-purged"
MARK_MARGIN_MS = 1_000


@pytest.fixture
def three() -> Iterator[LocalCluster]:
    with local_cluster("--data", "data", "--nodes", "3") as running:
        yield running


def days_ago(days: int) -> bytes:
    """Longer ago than the grace, so that nothing has to wait for it."""
    return version_at(now_ms() - days * DAY_MS)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def needs_repair(cluster: LocalCluster) -> list[dict[str, int]]:
    marks: list[dict[str, int]] = cluster.sidecar_page("hints")["needs_repair"]
    return marks


@pytest.mark.fault(16)
def test_a_late_hint_and_a_late_write_bring_nothing_back(three: LocalCluster) -> None:
    early = days_ago(25)
    put = data_pb2.PutRequest(key=KEY, value=b"old", retry_version=early)
    away = three.nodes[0]
    away.stop()
    wait_until(lambda: three.sidecar_health()["node-1"] == "unreachable", "it is missed")
    three.data().Put(put, timeout=5)
    wait_until(lambda: three.sidecar_page("hints")["nodes"], "its hint is kept")
    three.sidecar.kill()
    away.start()
    wait_until(lambda: three.node_health()["node-1"] == "up", "it is up")
    other = second_sidecar(three, "a")
    delete = data_pb2.DeleteRequest(
        key=KEY, retry_version=days_ago(20), consistency=data_pb2.CONSISTENCY_ALL
    )
    doors = data_pb2_grpc.DataStub(three.channel(other.address))

    def deleted() -> bool:
        try:
            doors.Delete(delete, timeout=5)
        except grpc.RpcError:
            return False
        return True

    wait_until(deleted, "it is deleted everywhere")
    job = three.dabba("compact", "default", "-o", "json").json
    assert (job["problem"], job["purged"]) == ("", 3)

    three.sidecar.start()
    three.wait_served()
    wait_until(
        lambda: three.sidecar_page("hints")["counters"]["purged"] == 1, "the hint is refused"
    )
    wait_until(lambda: not three.sidecar_page("hints")["nodes"], "and is gone")
    with pytest.raises(grpc.RpcError):
        three.data().Put(put, timeout=5)
    read = data_pb2.GetRequest(key=KEY, consistency=data_pb2.CONSISTENCY_ALL)
    assert not three.data().Get(read, timeout=5).found
    assert three.dabba("compact", "default", "-o", "json").json["purged"] == 0


@pytest.mark.fault(17)
def test_a_repair_does_away_with_the_marks_of_every_worker(three: LocalCluster) -> None:
    three.sidecar.stop()
    three.sidecar.start("--state-dir", "", "--workers", "2")  # no disk: every miss is a mark
    three.wait_served()
    away = three.nodes[0]
    away.stop()
    wait_until(lambda: three.sidecar_health()["node-1"] == "unreachable", "it is missed")
    for number in range(40):
        three.data().Put(data_pb2.PutRequest(key=b"k%d" % number, value=b"v"), timeout=5)
    wait_until(lambda: needs_repair(three), "its buckets are marked")
    away.start()
    three.wait_trusted()
    last_ms = max(mark["last_ms"] for mark in needs_repair(three))
    wait_until(lambda: now_ms() > last_ms + MARK_MARGIN_MS, "the repair begins clearly later")
    assert three.dabba("repair", "default").status == 0
    wait_until(lambda: not needs_repair(three), "no bucket is marked any more")
    assert "in need of repair" not in three.dabba("hints").out
