"""Hint logs that a disk or another cluster has spoilt, on a real sidecar with several workers."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import orjson
import pytest

from protos.dabbawala.v1 import data_pb2
from tests.support.local_cluster import LocalCluster, local_cluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.probe]


@pytest.fixture
def three() -> Iterator[LocalCluster]:
    with local_cluster("--data", "data", "--nodes", "3") as running:
        yield running


def state_dir(cluster: LocalCluster) -> Path:
    config = orjson.loads((cluster.folder / "sidecar" / "config.json").read_bytes())
    return Path(config["state_dir"])


def post(cluster: LocalCluster, page: str) -> int:
    url = f"http://{cluster.facts['sidecar']['admin']}/{page}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, method="POST"), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def ready_text(cluster: LocalCluster) -> str:
    url = f"http://{cluster.facts['sidecar']['admin']}/ready"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return str(answer.read().decode())


@pytest.mark.fault(17)
def test_a_spoilt_hint_file_marks_all_buckets_and_the_sidecar_serves(three: LocalCluster) -> None:
    three.sidecar.stop()
    spoilt = state_dir(three) / "hints-0.db"
    spoilt.write_bytes(b"spoilt" * 1000)
    three.sidecar.start("--workers", "2")
    wait_until(three.serves, "it serves all the same")
    wait_until(lambda: three.sidecar_page("hints")["state"] == "on", "hints are kept again")
    [mark] = three.sidecar_page("hints")["needs_repair"]
    assert (mark["keyspace"], mark["bucket"], mark["durable"]) == ("", -1, True)
    shown = three.dabba("hints")
    assert "buckets in need of repair" in shown.out
    assert list(state_dir(three).glob("hints-0.db.aside-*"))
    before = mark["last_ms"]
    assert post(three, f"hints/repaired?keyspace=&bucket=-1&begun_ms={before}") == 200
    assert three.sidecar_page("hints")["needs_repair"]  # it was marked after the repair began
    assert post(three, "hints/repaired?keyspace=&bucket=x") == 400
    assert post(three, f"hints/repaired?keyspace=&bucket=-1&begun_ms={before + 1}") == 200
    wait_until(lambda: not three.sidecar_page("hints")["needs_repair"], "the mark is gone")


@pytest.mark.fault(17)
def test_without_a_state_dir_what_an_owner_misses_is_marked_and_any_is_refused(
    three: LocalCluster,
) -> None:
    three.sidecar.stop()
    three.sidecar.start("--state-dir", "")
    three.wait_served()
    assert "hints off: no state_dir" in ready_text(three)
    three.nodes[0].stop()
    wait_until(lambda: three.sidecar_health()["node-1"] == "unreachable", "it is missed")
    three.data().Put(data_pb2.PutRequest(key=b"k", value=b"v"), timeout=5)
    [mark] = three.sidecar_page("hints")["needs_repair"]
    assert mark["durable"] is False
    for node in three.nodes[1:]:
        node.stop()
    wait_until(lambda: set(three.sidecar_health().values()) == {"unreachable"}, "no owner is left")
    request = data_pb2.PutRequest(key=b"k", value=b"v", consistency=data_pb2.CONSISTENCY_ANY)
    with pytest.raises(grpc.RpcError) as refused:
        three.data().Put(request, timeout=5)
    assert "no hint: no state_dir" in (refused.value.details() or "")
