"""Valkeys at their memory limit: nothing is evicted, refusals are typed, reads go on."""

import grpc
import pytest
import redis

from protos.dabbawala.v1 import data_pb2
from tests.support.fault_table import Judged
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, Part, wait_until
from tests.support.rich_errors import rich

pytestmark = [pytest.mark.slow, pytest.mark.probe]


def limit_memory(node: Part, limit: str) -> None:
    host, _, port = node.address.rpartition(":")
    with redis.Redis(host, int(port)) as direct:
        direct.config_set("maxmemory", limit)


@pytest.mark.fault(18)
def test_one_full_node_costs_no_operation(cluster: LocalCluster, judged: Judged) -> None:
    with load_on(cluster) as load:
        limit_memory(cluster.nodes[0], "1")
        load.run_for(1_000)
        limit_memory(cluster.nodes[0], "0")
        load.run_for(500)
        history = load.stop()
        load.read_all()
    assert history.failures == []
    judged(history)


@pytest.mark.fault(18)
def test_when_all_are_full_writes_are_refused_and_reads_go_on(cluster: LocalCluster) -> None:
    data, client = cluster.data(), redis.Redis(port=cluster.redis_port)
    client.set("k", "v")
    for node in cluster.nodes:
        limit_memory(node, "1")
    with pytest.raises(grpc.RpcError) as failed:
        data.Put(data_pb2.PutRequest(key=b"k", value=b"never"), timeout=5)
    error = rich(failed.value)
    assert error.reason == "NOT_ENOUGH_REPLICAS"
    assert "OOM" in error.message
    with pytest.raises(redis.ResponseError, match=r"^(UNKNOWN|NOTAPPLIED) .*OOM"):
        client.set("k", "never")
    assert client.get("k") == b"v"
    for node in cluster.nodes:
        limit_memory(node, "0")
    client.set("k", "w")
    assert client.get("k") == b"w"
    client.close()


def set_policy(node: Part, policy: str) -> None:
    host, _, port = node.address.rpartition(":")
    with redis.Redis(host, int(port)) as direct:
        direct.config_set("maxmemory-policy", policy)


@pytest.mark.fault(18)
def test_a_node_that_may_evict_now_is_quarantined_until_somebody_takes_it_back(
    cluster: LocalCluster, judged: Judged
) -> None:
    with load_on(cluster) as load:
        set_policy(cluster.nodes[0], "allkeys-lru")
        wait_until(lambda: cluster.sidecar_health()["node-1"] == "suspect", "it is not counted")
        assert "maxmemory-policy" in cluster.dabba("node", "list").out
        assert any("node-1" in problem for problem in cluster.status().problems)
        load.run_for(500)
        set_policy(cluster.nodes[0], "noeviction")
        load.run_for(500)  # what it evicted meanwhile nobody knows
        assert cluster.sidecar_health()["node-1"] == "suspect"
        recovered = cluster.dabba("node", "recover", "node-1")
        assert recovered.status == 0, recovered.err
        cluster.wait_trusted()
        load.run_for(500)
        history = load.stop()
        load.read_all()
    assert [str(event) for event in history.failures] == []
    judged(history)
