"""The first session of a user, on both coordination stores."""

import subprocess
from collections.abc import Iterator

import pytest
import redis

from control_plane.coordination.opening import open_store
from protos.dabbawala.v1 import data_pb2
from tests.support.local_cluster import LocalCluster, local_cluster
from tests.support.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.peers]


@pytest.fixture(params=["embedded", "zookeeper"])
def cluster(request: pytest.FixtureRequest, zookeeper: Server) -> Iterator[LocalCluster]:
    options = ["--zookeeper", zookeeper.address] if request.param == "zookeeper" else []
    with local_cluster(*options) as running:
        assert running.status().store == request.param
        yield running


def test_a_first_session(cluster: LocalCluster) -> None:
    def redis_cli(*words: str) -> str:
        command = ["redis-cli", "-p", str(cluster.redis_port), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout

    assert redis_cli("SET", "k", "v") == "OK\n"
    assert redis_cli("GET", "k") == "v\n"
    answer = cluster.data().Get(data_pb2.GetRequest(key=b"k"), timeout=5)
    assert answer.value == b"v"
    found = cluster.dabba("where", "k", "-o", "json").json
    assert sorted(owner["zone"] for owner in found["owners"]) == ["a", "b", "c"]
    for owner in found["owners"]:
        host, _, port = owner["address"].rpartition(":")
        with redis.Redis(host, int(port)) as node:
            held = node.hget(found["data_key"], found["field"])
            assert isinstance(held, bytes)
            assert held.endswith(b"v")
    assert cluster.dabba("keyspace", "create", "mine", "--redis-db", "5").status == 0
    cluster.wait_served("mine", timeout_s=5.0)
    assert redis_cli("-n", "5", "SET", "k", "w") == "OK\n"
    assert cluster.dabba("get", "k", "-k", "mine").out == "w\n"
    assert cluster.dabba("doctor", "-o", "json").status == 0


async def test_no_znode_is_left(zookeeper: Server) -> None:
    async with await open_store(f"zookeeper://{zookeeper.address}") as store:
        with local_cluster("--zookeeper", zookeeper.address) as cluster:
            name = cluster.facts["cluster"]
            assert name in await store.children("/dabbawala")
        assert name not in await store.children("/dabbawala")


def test_kept_data_on_a_zookeeper_is_served_by_the_next_run(
    zookeeper: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = ["--zookeeper", zookeeper.address, "--data", str(tmp_path_factory.mktemp("d"))]
    with local_cluster(*options) as cluster, redis.Redis(port=cluster.redis_port) as client:
        client.set("k", "v")
    with local_cluster(*options) as cluster:
        assert cluster.facts["problems"] == []
        with redis.Redis(port=cluster.redis_port) as client:
            assert client.get("k") == b"v"
