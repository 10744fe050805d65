"""A Valkey that comes back without its data, or with another's: never read as "not found"."""

from typing import Any

import grpc
import pytest
import redis

from protos.dabbawala.v1 import data_pb2
from tests.support.fault_table import Judged
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, local_cluster, wait_until
from tests.support.rich_errors import rich

pytestmark = [pytest.mark.slow, pytest.mark.probe]


def restart_empty(cluster: LocalCluster, node_id: str) -> None:
    node = cluster.parts[node_id]
    node.kill()
    node.erase()
    node.start()


def suspect(cluster: LocalCluster, node_id: str) -> bool:
    return (
        cluster.node_health()[node_id] == "suspect"
        and cluster.sidecar_health()[node_id] == "suspect"
    )


@pytest.mark.fault(3)
def test_a_node_that_restarts_empty_beside_a_dead_one_stays_out_and_is_shown_so(
    cluster: LocalCluster,
) -> None:
    cluster.nodes[1].kill()  # some buckets have no majority left to repair it from
    restart_empty(cluster, "node-1")
    wait_until(lambda: suspect(cluster, "node-1"), "node-1 is suspect")
    wait_until(lambda: "no majority left" in detail(cluster, "node-1"), "its repair waits")
    assert suspect(cluster, "node-1")
    refused = cluster.dabba("node", "recover", "node-1")
    assert refused.status == 1
    assert "--accept-loss" in refused.err

    status = cluster.dabba("status", "-o", "json").json
    (node,) = [node for node in status["nodes"] if node["health"] == "suspect"]
    assert (node["node"]["id"], node["node"]["state"]) == ("node-1", "SUSPECT")
    assert "restarted empty" in node["detail"]
    assert any("restarted empty" in problem for problem in status["problems"])
    assert "restarted empty" in cluster.dabba("node", "list").out
    doctor = cluster.dabba("doctor", "-o", "json")
    assert doctor.status == 1
    assert [finding["subject"] for finding in findings(doctor.json, "node-suspect")] == ["node-1"]
    assert "restarted empty" in findings(doctor.json, "node-suspect")[0]["cause"]


def detail(cluster: LocalCluster, node_id: str) -> str:
    [node] = [node for node in cluster.status().nodes if node.node.id == node_id]
    return node.detail


def findings(doctor: dict[str, Any], name: str) -> list[dict[str, str]]:
    return [finding for finding in doctor["findings"] if finding["id"] == name]


@pytest.mark.fault(3)
def test_beside_an_empty_node_a_killed_one_makes_typed_errors_and_no_wrong_answer(
    cluster: LocalCluster,
) -> None:
    keys = [f"key-{number}".encode() for number in range(100)]
    data, client = cluster.data(), redis.Redis(port=cluster.redis_port)
    for key in keys:
        client.set(key, b"of " + key)
    owners = {key: cluster.owners(key) for key in keys}
    restart_empty(cluster, "node-1")
    cluster.nodes[1].kill()
    wait_until(lambda: cluster.sidecar_health()["node-1"] == "suspect", "node-1 is back, empty")
    unserved = [key for key in keys if {"node-1", "node-2"} <= owners[key]]
    assert 0 < len(unserved) < len(keys)
    for key in keys:
        if key not in unserved:
            assert client.get(key) == b"of " + key
            assert data.Get(data_pb2.GetRequest(key=key), timeout=5).value == b"of " + key
            continue
        with pytest.raises(redis.ResponseError, match="^UNAVAILABLE .*node-1"):
            client.get(key)
        with pytest.raises(grpc.RpcError) as failed:
            data.Get(data_pb2.GetRequest(key=key), timeout=5)
        error = rich(failed.value)
        assert error.code is grpc.StatusCode.UNAVAILABLE
        assert error.reason == "NOT_ENOUGH_REPLICAS"
        assert int(error.metadata["acks_had"]) < int(error.metadata["acks_needed"]) == 2
        assert error.retry_ms is not None
        with pytest.raises(redis.ResponseError, match="^NOTAPPLIED "):
            client.set(key, "never to be read")
        with pytest.raises(grpc.RpcError) as failed:
            data.Put(data_pb2.PutRequest(key=key, value=b"never to be read"), timeout=5)
        assert rich(failed.value).metadata["outcome"] == "NOT_APPLIED"
        one = data_pb2.GetRequest(key=key, consistency=data_pb2.CONSISTENCY_ONE)
        assert data.Get(one, timeout=5).value == b"of " + key
    client.close()


@pytest.mark.fault(19)
def test_a_flushed_node_is_never_read_as_not_found(cluster: LocalCluster, judged: Judged) -> None:
    with load_on(cluster) as load:
        host, _, port = cluster.nodes[0].address.rpartition(":")
        with redis.Redis(host, int(port)) as node:
            node.flushall()
        wait_until(lambda: suspect(cluster, "node-1"), "node-1 is suspect")
        assert "FLUSHALL" in cluster.dabba("node", "list").out
        load.run_for(1_000)
        cluster.wait_trusted()
        load.run_for(500)
        history = load.stop()
        load.read_all()
    assert history.failures == []
    judged(history)


@pytest.mark.fault(19)
def test_two_flushed_owners_make_typed_errors_and_no_wrong_answer(
    cluster: LocalCluster, judged: Judged
) -> None:
    with load_on(cluster) as load:
        for node in cluster.nodes[:2]:
            host, _, port = node.address.rpartition(":")
            with redis.Redis(host, int(port)) as direct:
                direct.flushall()
        wait_until(lambda: suspect(cluster, "node-1"), "node-1 is suspect")
        wait_until(lambda: suspect(cluster, "node-2"), "node-2 is suspect")
        load.run_for(1_000)
        history = load.stop()
        load.read_all()
    judged(history)
    assert history.failures
    assert {event.error.split(" ")[0] for event in history.failures if "grpc" in event.door} <= {
        "UNAVAILABLE",
        "ABORTED",
    }


@pytest.mark.fault(19)
def test_two_nodes_with_swapped_ports_are_not_counted_and_come_back_when_swapped_back(
    judged: Judged,
) -> None:
    # Both in zone a: no bucket has both, so all of them keep a majority.
    with local_cluster("--data", "data") as cluster, load_on(cluster) as load:
        first, second = cluster.parts["node-1"], cluster.parts["node-4"]
        for node in (first, second):
            node.stop()
        start_at_the_others_port(first, second)
        wait_until(
            lambda: {cluster.sidecar_health()[n] for n in ("node-1", "node-4")} == {"suspect"},
            "both are seen as what they are not",
        )
        load.run_for(1_000)
        wait_until(
            lambda: "up" not in {cluster.node_health()[n] for n in ("node-1", "node-4")},
            "the control plane sees it too",
        )
        for node in (first, second):
            node.stop()
        for node in (first, second):
            node.start()
        cluster.wait_trusted()
        load.run_for(500)
        history = load.stop()
        load.read_all()
    assert history.failures == []
    judged(history)


def start_at_the_others_port(first: Any, second: Any) -> None:
    ports = [node.address.rpartition(":")[2] for node in (first, second)]
    first.start("--port", ports[1])
    second.start("--port", ports[0])
